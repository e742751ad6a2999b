//! PURE: where a session's time goes: means of its phases, which add up to the mean of the whole.

use super::axes::{self, Rows};
use super::canvas::{self, Canvas, LABEL, MARGIN, Point, SMALL, Side, Stroke, WIDTH};
use super::scale::{Scale, count_of, three};
use super::theme::{AXIS, Colour, INK, SERIES};
use super::{Figure, Source, nothing};

/// One run or cell: means over its succeeded sessions, in microseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct PhaseBar {
    pub label: String,
    pub connect_us: f64,
    pub reset_us: f64,
    /// As it was asked for, of all steps.
    pub wait_us: f64,
    /// All steps, beyond the wait.
    pub step_us: f64,
    pub close_us: f64,
}

const TITLE: &str = "Where a session's time goes";
const CAPTION: &str = "Means over succeeded sessions, in seconds: means add up to the whole, percentiles would not. \
    Hatched: the wait that was asked for, which takes its time on any server. Step: what the steps took beyond it.";
const NAMES: [&str; 5] = ["connect", "reset", "wait", "step", "close"];
/// None: hatched, for it is not the server's.
const COLOURS: [Option<Colour>; 5] = [Some(SERIES[5]), Some(SERIES[3]), None, Some(SERIES[0]), Some(SERIES[4])];
/// Where the rows begin.
const TOP: f64 = 74.0;
/// For one phase's number.
const COLUMN: f64 = 60.0;

impl PhaseBar {
    /// In their order, in seconds. What is no number is taken for nothing.
    fn parts_s(&self) -> [f64; 5] {
        [self.connect_us, self.reset_us, self.wait_us, self.step_us, self.close_us]
            .map(|us| if us.is_finite() { us.max(0.0) / 1e6 } else { 0.0 })
    }
}

/// One stacked bar each, and its numbers beside it.
#[must_use]
pub fn phases(bars: &[PhaseBar]) -> Figure {
    if bars.is_empty() {
        return nothing("phases", TITLE);
    }
    let rows = Rows::new(bars.iter().map(|bar| (bar.label.as_str(), Source::Here)), TOP, 28.0, 230.0);
    let max = bars.iter().map(|bar| bar.parts_s().iter().sum::<f64>()).fold(0.0, f64::max);
    let svg = canvas::draw(TITLE, rows.bottom + 54.0, |canvas| {
        let table = WIDTH - MARGIN - COLUMN * 6.0;
        let (left, right) = (rows.right + 12.0, table - 14.0);
        let scale = Scale::linear(max, 5.0, left, right);
        let ticks = axes::numbered(&scale, 5.0);
        axes::down(canvas, &scale, (TOP, rows.bottom), &ticks);
        axes::below(canvas, &scale, rows.bottom, &ticks);
        axes::title(canvas, ((left + right) / 2.0, rows.bottom + 36.0), "mean of a session, s", Side::Middle);
        header(canvas, table);
        rows.draw(canvas);
        for (bar, y) in bars.iter().zip(&rows.middles) {
            let parts = bar.parts_s();
            let mut sum = 0.0;
            for (n, part) in parts.into_iter().enumerate() {
                let (from, to) = ((scale.at(sum), y - 8.0), (scale.at(sum + part), y + 8.0));
                sum += part;
                if part > 0.0 {
                    segment(canvas, from, (to.0.max(from.0 + 0.5), to.1), COLOURS[n]);
                }
                canvas.text((table + COLUMN * count_of(n + 1), *y), &three(part), LABEL.side(Side::Right));
            }
            canvas.text((table + COLUMN * 6.0, *y), &three(sum), LABEL.side(Side::Right));
        }
    });
    let caption = CAPTION.to_owned();
    Figure { name: "phases".to_owned(), title: TITLE.to_owned(), caption, svg }
}

fn segment(canvas: &mut Canvas<'_>, from: Point, to: Point, colour: Option<Colour>) {
    match colour {
        Some(colour) => canvas.rect(from, to, colour),
        None => {
            canvas.hatch(from, to, Stroke::new(AXIS, 1.0));
            canvas.frame(from, to, Stroke::new(AXIS, 1.0));
        }
    }
}

/// The names of the columns are the key of the colours.
fn header(canvas: &mut Canvas<'_>, table: f64) {
    for (n, (name, colour)) in NAMES.into_iter().zip(COLOURS).enumerate() {
        let right = table + COLUMN * count_of(n + 1);
        canvas.text((right, 46.0), name, SMALL.side(Side::Right).colour(INK));
        segment(canvas, (right - 40.0, 56.0), (right, 66.0), colour);
    }
    canvas.text((table + COLUMN * 6.0, 46.0), "total", SMALL.side(Side::Right).colour(INK));
}
