//! PURE: the figure of success by batch size.

use std::collections::BTreeSet;

use super::axes::{self, Entry};
use super::canvas::{self, Canvas, LABEL, MARGIN, MARKS, Mark, Point, SMALL, Side, Stroke, WIDTH};
use super::scale::{Scale, count_of, sessions};
use super::theme::{GHOST, INK, MAIN, MUTED, SERIES};
use super::{Figure, Source, criterion, nothing, published_remark};

/// One line of the figure: an infrastructure, mode or wait.
#[derive(Debug, Clone, PartialEq)]
pub struct ScalingLine {
    pub label: String,
    pub source: Source,
    /// The points in any order.
    pub points: Vec<ScalingPoint>,
}

/// The success at one batch size.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScalingPoint {
    pub batch_size: u64,
    /// Success over all repetitions, 0 to 1.
    pub success: f64,
    /// Success of the worst repetition; below it, of the best one, 0 to 1.
    pub low: f64,
    pub high: f64,
}

const TITLE: &str = "Success by batch size";
/// Most lines that can be told apart in one panel.
const TOGETHER_MAX: usize = 6;

/// Diameter of a mark with some space: closer marks are moved apart.
const MARK: f64 = 9.0;
/// Distance of marks that were moved apart: enough to tell them apart, too little to suggest another size.
const ASIDE: f64 = 7.0;
/// With this many sizes, labels have one row only.
const SIZES_MANY: usize = 17;

/// Success by batch size, in one panel, or in one panel per line if there are more than six.
///
/// `remark` ends the caption and says what the lines leave out; it may be empty.
#[must_use]
pub fn scaling(lines: &[ScalingLine], min_success_rate: f64, remark: &str) -> Figure {
    let lines: Vec<ScalingLine> = lines.iter().map(usable).filter(|line| !line.points.is_empty()).collect();
    if lines.is_empty() {
        return nothing("scaling", TITLE);
    }
    let sizes: BTreeSet<u64> = lines.iter().flat_map(|line| &line.points).map(|point| point.batch_size).collect();
    let sizes: Vec<(f64, String)> = sizes.into_iter().map(|size| (as_f64(size), sessions(size))).collect();
    let together = lines.len() <= TOGETHER_MAX;
    let (svg, shifted) = if together {
        one_panel(&lines, &sizes, min_success_rate)
    } else {
        (panels(&lines, &sizes, min_success_rate), false)
    };
    let criterion = criterion(min_success_rate);
    let caption = format!(
        "Share of a batch's sessions that succeeded, all repetitions together, by batch size on a logarithmic axis. \
         Whiskers: the worst and the best repetition. Dashed across: the criterion, {criterion}.{}{}{}{remark}",
        if !together {
            " Grey: the others, to compare."
        } else if shifted {
            " Marks that would lie on each other stand side by side, around their size."
        } else {
            ""
        },
        published_remark(lines.iter().map(|line| line.source), "Hollow marks on dashed lines"),
        if remark.is_empty() { "" } else { " " },
    );
    Figure { name: "scaling".to_owned(), title: TITLE.to_owned(), caption, svg }
}

/// The line without points that are no number, sorted by size.
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

/// The position and scales of a panel.
struct Panel<'a> {
    x: Scale,
    y: Scale,
    left: f64,
    right: f64,
    bottom: f64,
    sizes: &'a [(f64, String)],
    /// The row of each size's label; `None` leaves the label out.
    rows: Vec<Option<usize>>,
}

impl<'a> Panel<'a> {
    /// Uses up to `rows` rows of labels.
    fn new((left, right): Point, (top, bottom): Point, inset: f64, sizes: &'a [(f64, String)], rows: usize) -> Self {
        let (from, to) = (sizes.first().map_or(1.0, |size| size.0), sizes.last().map_or(1.0, |size| size.0));
        let x = Scale::log(from, to, left + inset, right - inset);
        Self {
            rows: axes::label_rows(&x, sizes, rows),
            x,
            y: Scale::between(0.0, 100.0, bottom, top),
            left,
            right,
            bottom,
            sizes,
        }
    }

    fn axes(&self, canvas: &mut Canvas<'_>, steps: &[f64], min_success_rate: f64) {
        let line = per_cent(if min_success_rate.is_finite() { min_success_rate.clamp(0.0, 1.0) } else { 0.0 });
        // The criterion's own label comes first; others give way to it.
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
        axes::below_in(canvas, &self.x, self.bottom, self.sizes, &self.rows);
    }

    /// Height of the labels below the first row.
    fn second_row(&self) -> f64 {
        if self.rows.contains(&Some(1)) { axes::LABEL_ROW } else { 0.0 }
    }

    fn at(&self, point: &ScalingPoint) -> Point {
        (self.x.at(as_f64(point.batch_size)), self.y.at(per_cent(point.success)))
    }

    /// How far each mark of each line is moved aside: only marks that would cover others of the same size are moved.
    fn shifts(&self, lines: &[ScalingLine]) -> Vec<Vec<f64>> {
        let mut shifts: Vec<Vec<f64>> = lines.iter().map(|line| vec![0.0; line.points.len()]).collect();
        let places: Vec<f64> = self.sizes.iter().map(|(size, _)| self.x.at(*size)).collect();
        let apart = |x: f64| {
            let others = places.iter().map(|other| (other - x).abs()).filter(|apart| *apart > 0.0);
            others.fold(f64::INFINITY, f64::min)
        };
        for (size, _) in self.sizes {
            let of_size = |(n, line): (usize, &ScalingLine)| -> Vec<(f64, usize, usize)> {
                let points = line.points.iter().enumerate();
                let points = points.filter(|(_, point)| as_f64(point.batch_size).total_cmp(size).is_eq());
                points.map(|(at, point)| (self.at(point).1, n, at)).collect()
            };
            let mut marks: Vec<(f64, usize, usize)> = lines.iter().enumerate().flat_map(of_size).collect();
            marks.sort_by(|a, b| a.0.total_cmp(&b.0));
            for heap in marks.chunk_by(|a, b| b.0 - a.0 < MARK) {
                // In the order of the lines, and if possible apart from the next size's marks.
                let mut heap: Vec<(usize, usize)> = heap.iter().map(|(_, line, point)| (*line, *point)).collect();
                heap.sort_unstable();
                let pitch = ASIDE.min(apart(self.x.at(*size)) * 0.8 / count_of(heap.len()));
                let first = -pitch * (count_of(heap.len()) - 1.0) / 2.0;
                for (n, (line, point)) in heap.into_iter().enumerate() {
                    shifts[line][point] = first + pitch * count_of(n);
                }
            }
        }
        shifts
    }

    /// The positions of a line's marks after the shifts.
    fn places(&self, line: &ScalingLine, shifts: &[f64]) -> Vec<Point> {
        let places = line.points.iter().map(|point| self.at(point)).zip(shifts);
        places.map(|((x, y), shift)| (x + shift, y)).collect()
    }

    /// Draws a line and its whiskers.
    fn line(&self, canvas: &mut Canvas<'_>, line: &ScalingLine, places: &[Point], stroke: Stroke) {
        canvas.path(places, stroke);
        let whisker = Stroke::new(stroke.paint, 1.0);
        for (point, (x, _)) in line.points.iter().zip(places) {
            if point.low.is_finite() && point.high.is_finite() && point.low < point.high {
                let [low, high] = [point.low, point.high].map(|share| self.y.at(per_cent(share)));
                canvas.line((*x, low), (*x, high), whisker);
                for y in [low, high] {
                    canvas.line((x - 3.0, y), (x + 3.0, y), whisker);
                }
            }
        }
    }
}

fn marks(canvas: &mut Canvas<'_>, places: &[Point], mark: Mark, stroke: Stroke, source: Source) {
    for place in places {
        canvas.mark(mark, *place, 4.0, stroke.paint.0, source == Source::Published);
    }
}

fn stroke(line: &ScalingLine, colour: super::theme::Colour) -> Stroke {
    let stroke = Stroke::new(colour, 1.8);
    if line.source == Source::Published { stroke.dashed(5.0, 4.0) } else { stroke }
}

/// Draws one panel; `true` if any mark was moved aside.
fn one_panel(lines: &[ScalingLine], sizes: &[(f64, String)], min_success_rate: f64) -> (String, bool) {
    let room = axes::key_room(lines.iter().map(|line| (line.label.as_str(), axes::tag(line.source))));
    let right = WIDTH - MARGIN - room - 14.0;
    let (top, bottom) = (72.0, 400.0);
    let rows = if sizes.len() < SIZES_MANY { 2 } else { 1 };
    let panel = Panel::new((66.0, right), (top, bottom), 24.0, sizes, rows);
    let shifts = panel.shifts(lines);
    let below = bottom + panel.second_row();
    let svg = canvas::draw(TITLE, below + 52.0, |canvas| {
        axes::title(canvas, (MARGIN, 48.0), "sessions that succeeded", Side::Left);
        panel.axes(canvas, &[0.0, 20.0, 40.0, 60.0, 80.0, 100.0], min_success_rate);
        axes::title(canvas, ((66.0 + right) / 2.0, below + 36.0), "batch size, sessions (log scale)", Side::Middle);
        let (mut entries, mut drawn) = (Vec::new(), Vec::new());
        for (n, line) in lines.iter().enumerate() {
            let (stroke, mark) = (stroke(line, SERIES[n % SERIES.len()]), MARKS[n % MARKS.len()]);
            let places = panel.places(line, &shifts[n]);
            panel.line(canvas, line, &places, stroke);
            let end = places.last().copied().unwrap_or_default();
            drawn.push((places, mark, stroke, line.source));
            let mark = Some((mark, line.source == Source::Published));
            let tag = axes::tag(line.source);
            entries.push(Entry { label: line.label.clone(), tag, stroke, mark, end: (end.0 + 6.0, end.1) });
        }
        axes::key(canvas, right + 10.0, (top, bottom), &entries);
        // Marks are drawn last: lines would hide them.
        for (places, mark, stroke, source) in drawn {
            marks(canvas, &places, mark, stroke, source);
        }
    });
    (svg, shifts.iter().flatten().any(|shift| *shift != 0.0))
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
            let panel = Panel::new((left, right), (top, top + 106.0), 10.0, sizes, 1);
            panel.axes(canvas, &[0.0, 50.0, 100.0], min_success_rate);
            for (_, other) in lines.iter().enumerate().filter(|(other, _)| *other != n) {
                let points: Vec<Point> = other.points.iter().map(|point| panel.at(point)).collect();
                canvas.path(&points, Stroke::new(GHOST, 1.0));
            }
            let (places, stroke) = (panel.places(line, &vec![0.0; line.points.len()]), stroke(line, MAIN));
            panel.line(canvas, line, &places, stroke);
            marks(canvas, &places, Mark::Circle, stroke, line.source);
            let tag = axes::tag(line.source);
            let name = axes::named(&line.label, tag, right - left + 46.0);
            canvas.text((left - 36.0, top - 18.0), &name, LABEL);
        }
    })
}
