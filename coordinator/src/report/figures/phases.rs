//! PURE: the figure of where a session's time goes: mean phases, which add up to the mean total. What was asked for is
//! given as a number only: beside its bar, the other phases would be too narrow to see.

use super::axes::{self, Rows};
use super::canvas::{self, Canvas, LABEL, MARGIN, SMALL, Side, WIDTH};
use super::scale::{Scale, count_of, three};
use super::theme::{Colour, INK, SERIES};
use super::{Figure, Source, nothing};

/// Means over the succeeded sessions of one run or cell, in microseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct PhaseBar {
    pub label: String,
    pub connect_us: f64,
    pub reset_us: f64,
    /// The time that was asked for: steps x (wait + think).
    pub wait_us: f64,
    /// All steps, less the time that was asked for.
    pub step_us: f64,
    pub close_us: f64,
}

const TITLE: &str = "Where a session's time goes, beyond what it asks for";
const CAPTION: &str = "Means over succeeded sessions, in seconds: means add up to the total, percentiles would not. \
    Asked: steps x (wait + think), which takes its time on any server and is not drawn. Step: what the steps took \
    beyond it.";
const NAMES: [&str; 5] = ["connect", "reset", "asked", "step", "close"];
/// `None` is not drawn, since the server does not cause it.
const COLOURS: [Option<Colour>; 5] = [Some(SERIES[5]), Some(SERIES[3]), None, Some(SERIES[0]), Some(SERIES[4])];
/// Top of the rows.
const TOP: f64 = 74.0;
/// Width of the column of one phase.
const COLUMN: f64 = 60.0;

impl PhaseBar {
    /// The phases in their order, in seconds. Values that are no number count as 0.
    fn parts_s(&self) -> [f64; 5] {
        [self.connect_us, self.reset_us, self.wait_us, self.step_us, self.close_us]
            .map(|us| if us.is_finite() { us.max(0.0) / 1e6 } else { 0.0 })
    }
}

/// Draws one stacked bar per row, with its numbers beside it.
#[must_use]
pub fn phases(bars: &[PhaseBar]) -> Figure {
    if bars.is_empty() {
        return nothing("phases", TITLE);
    }
    let rows = Rows::new(bars.iter().map(|bar| (bar.label.as_str(), Source::Here)), TOP, 28.0, 230.0);
    let drawn = |bar: &PhaseBar| -> f64 {
        bar.parts_s().iter().zip(COLOURS).filter(|(_, colour)| colour.is_some()).map(|(part, _)| part).sum()
    };
    let max = bars.iter().map(drawn).fold(0.0, f64::max);
    let svg = canvas::draw(TITLE, rows.bottom + 54.0, |canvas| {
        let table = WIDTH - MARGIN - COLUMN * 6.0;
        let (left, right) = (rows.right + 12.0, table - 14.0);
        // The longest bar takes all the room, so that narrow phases are as wide as possible.
        let scale = Scale::between(0.0, max, left, right);
        let ticks = axes::numbered(&scale, 5.0);
        axes::down(canvas, &scale, (TOP, rows.bottom), &ticks);
        axes::below(canvas, &scale, rows.bottom, &ticks);
        axes::title(canvas, ((left + right) / 2.0, rows.bottom + 36.0), "mean of a session, s", Side::Middle);
        header(canvas, table);
        rows.draw(canvas);
        for (bar, y) in bars.iter().zip(&rows.middles) {
            let parts = bar.parts_s();
            let mut end = 0.0;
            for (n, part) in parts.into_iter().enumerate() {
                if let (Some(colour), true) = (COLOURS[n], part > 0.0) {
                    let (from, to) = (scale.at(end), scale.at(end + part));
                    end += part;
                    canvas.rect((from, y - 8.0), (to.max(from + 0.5), y + 8.0), colour);
                }
                canvas.text((table + COLUMN * count_of(n + 1), *y), &three(part), LABEL.side(Side::Right));
            }
            canvas.text((table + COLUMN * 6.0, *y), &three(parts.iter().sum()), LABEL.side(Side::Right));
        }
    });
    let caption = CAPTION.to_owned();
    Figure { name: "phases".to_owned(), title: TITLE.to_owned(), caption, svg }
}

/// The names of the columns also explain the colours.
fn header(canvas: &mut Canvas<'_>, table: f64) {
    for (n, (name, colour)) in NAMES.into_iter().zip(COLOURS).enumerate() {
        let right = table + COLUMN * count_of(n + 1);
        canvas.text((right, 46.0), name, SMALL.side(Side::Right).colour(INK));
        if let Some(colour) = colour {
            canvas.rect((right - 40.0, 56.0), (right, 66.0), colour);
        }
    }
    canvas.text((table + COLUMN * 6.0, 46.0), "total", SMALL.side(Side::Right).colour(INK));
}
