//! PURE: success over batch size: up to where it held.

use std::collections::BTreeSet;

use super::axes::{self, Entry};
use super::canvas::{self, Canvas, LABEL, MARGIN, MARKS, Mark, Point, SMALL, Side, Stroke, WIDTH};
use super::scale::{Scale, count_of, sessions};
use super::theme::{GHOST, INK, MAIN, MUTED, SERIES};
use super::{Figure, Source, criterion, nothing, published_remark};

/// One infrastructure, mode or wait.
#[derive(Debug, Clone, PartialEq)]
pub struct ScalingLine {
    pub label: String,
    pub source: Source,
    /// In any order.
    pub points: Vec<ScalingPoint>,
}

/// One batch size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScalingPoint {
    pub batch_size: u64,
    /// Of all repetitions together, 0 to 1.
    pub success: f64,
    /// Of the worst and of the best repetition, 0 to 1.
    pub low: f64,
    pub high: f64,
}

const TITLE: &str = "Success by batch size";
/// So many lines can still be told apart in one panel.
const TOGETHER_MAX: usize = 6;

/// How many sessions succeeded, by batch size: one panel, or one for each line where there are more than six.
#[must_use]
pub fn scaling(lines: &[ScalingLine], min_success_rate: f64) -> Figure {
    let lines: Vec<ScalingLine> = lines.iter().map(usable).filter(|line| !line.points.is_empty()).collect();
    if lines.is_empty() {
        return nothing("scaling", TITLE);
    }
    let sizes: BTreeSet<u64> = lines.iter().flat_map(|line| &line.points).map(|point| point.batch_size).collect();
    let sizes: Vec<(f64, String)> = sizes.into_iter().map(|size| (as_f64(size), sessions(size))).collect();
    let together = lines.len() <= TOGETHER_MAX;
    let svg =
        if together { one_panel(&lines, &sizes, min_success_rate) } else { panels(&lines, &sizes, min_success_rate) };
    let criterion = criterion(min_success_rate);
    let caption = format!(
        "Share of a batch's sessions that succeeded, all repetitions together, by batch size on a logarithmic axis. \
         Whiskers: the worst and the best repetition. Dashed across: the criterion, {criterion}.{}{}",
        if !together {
            " Grey: the others, to compare."
        } else if lines.len() > 1 {
            " Marks of one size stand side by side, so that none hides another."
        } else {
            ""
        },
        published_remark(lines.iter().map(|line| line.source), "Hollow marks on dashed lines"),
    );
    Figure { name: "scaling".to_owned(), title: TITLE.to_owned(), caption, svg }
}

/// Without what is no number, in the order of sizes.
fn usable(line: &ScalingLine) -> ScalingLine {
    let mut points: Vec<ScalingPoint> = line.points.iter().filter(|point| point.success.is_finite()).copied().collect();
    points.sort_by_key(|point| point.batch_size);
    ScalingLine { points, ..line.clone() }
}

#[expect(clippy::cast_precision_loss, reason = "for a picture")]
fn as_f64(size: u64) -> f64 {
    size.max(1) as f64
}

fn per_cent(share: f64) -> f64 {
    share * 100.0
}

/// Where a panel is.
struct Panel<'a> {
    x: Scale,
    y: Scale,
    left: f64,
    right: f64,
    bottom: f64,
    sizes: &'a [(f64, String)],
}

impl<'a> Panel<'a> {
    fn new((left, right): Point, (top, bottom): Point, inset: f64, sizes: &'a [(f64, String)]) -> Self {
        let (from, to) = (sizes.first().map_or(1.0, |size| size.0), sizes.last().map_or(1.0, |size| size.0));
        Self {
            x: Scale::log(from, to, left + inset, right - inset),
            y: Scale::between(0.0, 100.0, bottom, top),
            left,
            right,
            bottom,
            sizes,
        }
    }

    fn axes(&self, canvas: &mut Canvas<'_>, steps: &[f64], min_success_rate: f64) {
        let line = per_cent(if min_success_rate.is_finite() { min_success_rate.clamp(0.0, 1.0) } else { 0.0 });
        // The criterion's own label comes first; others make room for it.
        let criterion = criterion(min_success_rate);
        let ticks: Vec<(f64, String)> = steps
            .iter()
            .filter(|step| (self.y.at(**step) - self.y.at(line)).abs() >= 15.0)
            .map(|step| (*step, format!("{step:.0} %")))
            .collect();
        for step in steps {
            let y = self.y.at(*step);
            canvas.line((self.left, y), (self.right, y), Stroke::new(super::theme::GRID, 1.0));
        }
        axes::across(canvas, &self.y, (self.left, self.right), &ticks);
        let y = self.y.at(line);
        canvas.line((self.left, y), (self.right, y), Stroke::new(MUTED, 1.2).dashed(6.0, 4.0));
        canvas.text((self.left - 8.0, y), &criterion, SMALL.side(Side::Right).colour(INK));
        axes::below(canvas, &self.x, self.bottom, self.sizes);
    }

    /// A line, its whiskers and marks, `shift` pixels aside. Where it ends.
    fn line(&self, canvas: &mut Canvas<'_>, line: &ScalingLine, mark: Mark, stroke: Stroke, shift: f64) -> Point {
        let at = |point: &ScalingPoint, share: f64| {
            (self.x.at(as_f64(point.batch_size)) + shift, self.y.at(per_cent(share)))
        };
        let points: Vec<Point> = line.points.iter().map(|point| at(point, point.success)).collect();
        canvas.path(&points, stroke);
        let whisker = Stroke::new(stroke.paint, 1.0);
        for point in &line.points {
            if point.low.is_finite() && point.high.is_finite() && point.low < point.high {
                let ((x, low), (_, high)) = (at(point, point.low), at(point, point.high));
                canvas.line((x, low), (x, high), whisker);
                for y in [low, high] {
                    canvas.line((x - 3.0, y), (x + 3.0, y), whisker);
                }
            }
        }
        for point in &points {
            canvas.mark(mark, *point, 4.0, stroke.paint.0, line.source == Source::Published);
        }
        points.last().copied().unwrap_or_default()
    }
}

fn stroke(line: &ScalingLine, colour: super::theme::Colour) -> Stroke {
    let stroke = Stroke::new(colour, 1.8);
    if line.source == Source::Published { stroke.dashed(5.0, 4.0) } else { stroke }
}

fn one_panel(lines: &[ScalingLine], sizes: &[(f64, String)], min_success_rate: f64) -> String {
    let room = axes::key_room(lines.iter().map(|line| (line.label.as_str(), axes::tag(line.source))));
    let right = WIDTH - MARGIN - room - 14.0;
    let (top, bottom) = (72.0, 400.0);
    canvas::draw(TITLE, bottom + 52.0, |canvas| {
        axes::title(canvas, (MARGIN, 48.0), "sessions that succeeded", Side::Left);
        let panel = Panel::new((66.0, right), (top, bottom), 24.0, sizes);
        panel.axes(canvas, &[0.0, 20.0, 40.0, 60.0, 80.0, 100.0], min_success_rate);
        axes::title(canvas, ((66.0 + right) / 2.0, bottom + 36.0), "batch size, sessions (log scale)", Side::Middle);
        let mut entries = Vec::new();
        for (n, line) in lines.iter().enumerate() {
            let (stroke, mark) = (stroke(line, SERIES[n % SERIES.len()]), MARKS[n % MARKS.len()]);
            // Side by side, so that lines of the same values do not hide each other's marks.
            let shift = (count_of(n) - (count_of(lines.len()) - 1.0) / 2.0) * 5.0;
            let end = panel.line(canvas, line, mark, stroke, shift);
            let mark = Some((mark, line.source == Source::Published));
            let tag = axes::tag(line.source);
            entries.push(Entry { label: line.label.clone(), tag, stroke, mark, end: (end.0 + 6.0, end.1) });
        }
        axes::key(canvas, right + 10.0, (top, bottom), &entries);
    })
}

fn panels(lines: &[ScalingLine], sizes: &[(f64, String)], min_success_rate: f64) -> String {
    const COLUMNS: usize = 3;
    const PITCH: f64 = 172.0;
    let rows = count_of(lines.len().div_ceil(COLUMNS));
    let first_top = 94.0;
    canvas::draw(TITLE, first_top + rows * PITCH - 32.0, |canvas| {
        axes::title(canvas, (MARGIN, 48.0), "sessions that succeeded, by batch size (sessions, log scale)", Side::Left);
        let width = (WIDTH - MARGIN * 2.0) / count_of(COLUMNS);
        for (n, line) in lines.iter().enumerate() {
            let left = MARGIN + width * count_of(n % COLUMNS) + 50.0;
            let top = first_top + PITCH * count_of(n / COLUMNS);
            let right = left - 50.0 + width - 14.0;
            let panel = Panel::new((left, right), (top, top + 106.0), 10.0, sizes);
            panel.axes(canvas, &[0.0, 50.0, 100.0], min_success_rate);
            for (_, other) in lines.iter().enumerate().filter(|(other, _)| *other != n) {
                let points: Vec<Point> = other
                    .points
                    .iter()
                    .map(|point| (panel.x.at(as_f64(point.batch_size)), panel.y.at(per_cent(point.success))))
                    .collect();
                canvas.path(&points, Stroke::new(GHOST, 1.0));
            }
            panel.line(canvas, line, Mark::Circle, stroke(line, MAIN), 0.0);
            let tag = axes::tag(line.source);
            let name = axes::named(&line.label, tag, right - left + 46.0);
            canvas.text((left - 36.0, top - 18.0), &name, LABEL);
        }
    })
}
