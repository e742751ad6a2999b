//! PURE: the figure of latency by percentile, as HdrHistogram plots it: each nine takes as much room as the one before.

use super::axes::{self, Entry};
use super::canvas::{self, MARGIN, Mark, Point, SMALL, Side, Stroke, WIDTH};
use super::scale::{Scale, count_of};
use super::theme::{AXIS, GRID, MUTED, SERIES};
use super::{Figure, nothing};

/// The start from which a latency is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Latency {
    /// The latency from a session's actual start.
    Service,
    /// The latency from a session's intended start.
    Response,
}

/// One distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct SpectrumLine {
    pub label: String,
    pub kind: Latency,
    /// Quantiles, 0 to 1, with microseconds beyond what a session asks for (steps x (wait + think)); in any order.
    pub points: Vec<(f64, u64)>,
    /// The quantile from which on values are lower bounds, because of timeouts.
    pub censored_above: Option<f64>,
}

const TITLE: &str = "Latency by percentile";
/// The axis reaches at least 99.9 %, that is one session in this many, so that similar batches have the same ticks.
const FAR_MIN: f64 = 1_000.0;
/// Makes up for rounding: 1 / (1 - 0.9999) is slightly less than 10,000.
const NEARLY: f64 = 1.000_1;
const CAPTION: &str = "How much longer than what they asked for, steps x (wait + think), sessions took, by percentile: \
    each nine has as much room as the one before. Response time counts from a session's intended start and has \
    time-outs in it, service time from its actual start; where they part, sessions were started late or timed out.";

/// Draws the distributions of one batch.
#[must_use]
pub fn spectrum(batch: &str, lines: &[SpectrumLine]) -> Figure {
    let lines: Vec<SpectrumLine> = lines.iter().map(usable).filter(|line| !line.points.is_empty()).collect();
    if lines.is_empty() {
        return nothing("spectrum", TITLE);
    }
    let all = || lines.iter().flat_map(|line| &line.points);
    let max_s = all().map(|point| seconds(point.1)).fold(0.0, f64::max);
    let far = all().filter(|point| point.0 < 1.0).map(|point| rarity(point.0)).fold(FAR_MIN, f64::max);
    let has_max = all().any(|point| point.0 >= 1.0);
    let room = axes::key_room(lines.iter().map(|line| (line.label.as_str(), tag(line))));
    let (left, right) = (66.0, WIDTH - MARGIN - room - 14.0);
    let top = 90.0;
    // The figure grows with a long key.
    let bottom = f64::max(420.0, top + axes::KEY_PITCH * count_of(lines.len()));
    let svg = canvas::draw(TITLE, bottom + 54.0, |canvas| {
        axes::title(canvas, (MARGIN, 46.0), batch_line(batch).as_str(), Side::Left);
        axes::title(canvas, (MARGIN, 70.0), "latency beyond what was asked for, s", Side::Left);
        if lines.iter().any(censored) {
            let text = "timed out: at least so long";
            let x = right - SMALL.width(text);
            canvas.text((x, 70.0), text, SMALL);
            canvas.line((x - 44.0, 70.0), (x - 8.0, 70.0), Stroke::new(MUTED, 2.2).dashed(1.6, 4.0));
            canvas.mark(Mark::Up, (x - 44.0, 70.0), 5.0, MUTED, true);
        }
        let y = Scale::linear(max_s, 6.0, bottom, top);
        // The axis ends at the next nine that no value reaches, so that a few more values do not change it.
        let x = Scale::log(1.0, 10_f64.powf((far * NEARLY).log10().floor() + 1.0), left, right);
        // The maximum has no finite position.
        let place = |quantile: f64| if quantile < 1.0 { x.at(rarity(quantile)) } else { right };
        let ticks = percentiles(far);
        axes::down(canvas, &x, (top, bottom), &ticks);
        axes::across(canvas, &y, (left, right), &axes::numbered(&y, 6.0));
        axes::below(canvas, &x, bottom, &ticks);
        if has_max {
            canvas.line((right, top), (right, bottom), Stroke::new(GRID, 1.0));
            canvas.line((right, bottom), (right, bottom + 4.0), Stroke::new(AXIS, 1.0));
            canvas.text((right, bottom + 14.0), "max", SMALL.side(Side::Middle));
        }
        axes::title(
            canvas,
            ((left + right) / 2.0, bottom + 38.0),
            "percentile: the share of sessions that took no longer",
            Side::Middle,
        );
        let mut entries = Vec::new();
        let mut names: Vec<&str> = Vec::new();
        for line in &lines {
            let n = names.iter().position(|name| *name == line.label).unwrap_or_else(|| {
                names.push(&line.label);
                names.len() - 1
            });
            let colour = SERIES[n % SERIES.len()];
            let stroke = match line.kind {
                Latency::Response => Stroke::new(colour, 2.2),
                Latency::Service => Stroke::new(colour, 1.6).dashed(7.0, 4.0),
            };
            let at = |point: &(f64, u64)| (place(point.0), y.at(seconds(point.1)));
            let points: Vec<Point> = line.points.iter().map(at).collect();
            let known =
                line.points.iter().take_while(|point| line.censored_above.is_none_or(|from| point.0 < from)).count();
            canvas.path(&points[..known], stroke);
            let unknown = &points[known.saturating_sub(1)..];
            if known < points.len() {
                canvas.path(unknown, Stroke::new(colour, 2.2).dashed(1.6, 4.0));
                canvas.mark(Mark::Up, points[known], 5.0, colour, true);
            }
            if let [only] = points[..known] {
                canvas.mark(Mark::Circle, only, 4.0, colour, false);
            }
            let end = points.last().copied().unwrap_or_default();
            entries.push(Entry {
                label: line.label.clone(),
                tag: tag(line),
                stroke,
                mark: None,
                end: (end.0 + 4.0, end.1),
            });
        }
        axes::key(canvas, right + 12.0, (top, bottom), &entries);
    });
    let mut caption = CAPTION.to_owned();
    if lines.iter().any(censored) {
        caption
            .push_str(" Dotted from the triangle on: sessions that timed out, of which only a lower bound is known.");
    }
    Figure { name: "spectrum".to_owned(), title: TITLE.to_owned(), caption, svg }
}

fn censored(line: &SpectrumLine) -> bool {
    line.censored_above.is_some_and(|from| line.points.iter().any(|point| point.0 >= from))
}

fn batch_line(batch: &str) -> String {
    super::font::fit(batch, super::theme::SMALL_PX, WIDTH - 2.0 * MARGIN)
}

/// The line with quantiles clamped to 0 to 1 and sorted.
fn usable(line: &SpectrumLine) -> SpectrumLine {
    let mut points: Vec<(f64, u64)> = line.points.iter().filter(|point| !point.0.is_nan()).copied().collect();
    for point in &mut points {
        point.0 = point.0.clamp(0.0, 1.0);
    }
    points.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let censored_above = line.censored_above.filter(|from| !from.is_nan());
    SpectrumLine { points, censored_above, ..line.clone() }
}

/// The kind of latency, unless the label contains it.
fn tag(line: &SpectrumLine) -> &'static str {
    let tag = match line.kind {
        Latency::Service => "service",
        Latency::Response => "response",
    };
    if line.label.to_ascii_lowercase().contains(tag) { "" } else { tag }
}

/// The number of sessions of which one is slower: 1 / (1 - quantile), at most ten million.
fn rarity(quantile: f64) -> f64 {
    1.0 / (1.0 - quantile).max(1e-7)
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// The ticks 0 %, 50 %, 90 %, 99 %, 99.9 % and so on, up to this rarity.
fn percentiles(far: f64) -> Vec<(f64, String)> {
    let nines = (1..=7).map(|n| {
        let label = match n {
            1 => "90 %".to_owned(),
            2 => "99 %".to_owned(),
            _ => format!("99.{} %", "9".repeat(n - 2)),
        };
        (10_f64.powi(i32::try_from(n).unwrap_or(0)), label)
    });
    let fixed = [(1.0, "0 %".to_owned()), (2.0, "50 %".to_owned())];
    fixed.into_iter().chain(nines).filter(|(place, _)| *place <= far * NEARLY).collect()
}
