//! PURE: where a session's time goes: means of its phases, which add up to the mean of the whole. What was asked for
//! stands in numbers only: beside it, the rest would be too narrow to be seen.

use super::axes::{self, Rows};
use super::canvas::{self, Canvas, LABEL, MARGIN, SMALL, Side, WIDTH};
use super::scale::{Scale, count_of, three};
use super::theme::{Colour, INK, SERIES};
use super::{Figure, Source, nothing};

/// One run or cell: means over its succeeded sessions, in microseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct PhaseBar {
    pub label: String,
    pub connect_us: f64,
    pub reset_us: f64,
    /// What was asked for: steps x (wait + think).
    pub wait_us: f64,
    /// All steps, beyond what was asked for.
    pub step_us: f64,
    pub close_us: f64,
}

const TITLE: &str = "Where a session's time goes, beyond what it asks for";
const CAPTION: &str = "Means over succeeded sessions, in seconds: means add up to the total, percentiles would not. \
    Asked: steps x (wait + think), which takes its time on any server and is not drawn. Step: what the steps took \
    beyond it.";
const NAMES: [&str; 5] = ["connect", "reset", "asked", "step", "close"];
/// None: not drawn, for it is not the server's.
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
    let drawn = |bar: &PhaseBar| -> f64 {
        bar.parts_s().iter().zip(COLOURS).filter(|(_, colour)| colour.is_some()).map(|(part, _)| part).sum()
    };
    let max = bars.iter().map(drawn).fold(0.0, f64::max);
    let svg = canvas::draw(TITLE, rows.bottom + 54.0, |canvas| {
        let table = WIDTH - MARGIN - COLUMN * 6.0;
        let (left, right) = (rows.right + 12.0, table - 14.0);
        // The longest bar is as long as there is room: what is narrow in it is as wide as can be.
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

/// The names of the columns are the key of the colours.
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
