//! PURE: the figure of p99 by wait and batch size: a table whose cells are coloured by the latency beyond the wait.

use std::collections::{BTreeMap, BTreeSet};

use super::axes;
use super::canvas::{self, Canvas, LABEL, Look, MARGIN, Point, SMALL, Side, Stroke, WIDTH};
use super::scale::{count_of, sessions, three};
use super::theme::{AXIS, GRID, HEAT, INK, MUTED, on_heat};
use super::{Figure, nothing};
use crate::text::seconds_short;

/// One panel: a mode, or a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heatmap {
    pub label: String,
    /// The cells in any order; of two at the same place the later one is used.
    pub cells: Vec<HeatCell>,
}

/// One cell of the grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeatCell {
    pub batch_size: u64,
    pub wait_us: u64,
    /// p99 of the total latencies of succeeded sessions; `None` if none succeeded.
    pub p99_us: Option<u64>,
    /// Whether the cell met the success criterion.
    pub met: bool,
    pub skipped: bool,
}

const TITLE: &str = "p99 latency by wait and batch size";
const CAPTION: &str = "99th percentile of the total latency of succeeded sessions, in seconds. The colour is by what \
    is beyond the wait that was asked for, in steps of about a factor of three. A cross: too few sessions succeeded \
    for the criterion, so the number is of those that got through. Hatched: none succeeded. A dash: skipped. Empty: \
    not in the grid, or not done.";
/// Upper ends of the colour steps, in microseconds beyond the wait; the last step has none.
const BANDS_US: [u64; 6] = [30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000];
const ROW: f64 = 28.0;
/// Least width of a cell, for a number of five characters and a cross.
const CELL_MIN: f64 = 58.0;
const CELL_MAX: f64 = 84.0;

/// Draws the panels one below the other.
#[must_use]
pub fn p99_heatmap(panels: &[Heatmap]) -> Figure {
    let panels: Vec<&Heatmap> = panels.iter().filter(|panel| !panel.cells.is_empty()).collect();
    if panels.is_empty() {
        return nothing("p99-heatmap", TITLE);
    }
    let blocks: Vec<Block<'_>> = panels.iter().flat_map(|panel| Block::of(panel)).collect();
    let tops: Vec<f64> = blocks
        .iter()
        .scan(66.0, |next, block| {
            let top = *next;
            *next += block.height();
            Some(top)
        })
        .collect();
    let bottom = 66.0 + blocks.iter().map(Block::height).sum::<f64>();
    let svg = canvas::draw(TITLE, bottom + 70.0, |canvas| {
        axes::title(
            canvas,
            (MARGIN, 48.0),
            "seconds; rows: the wait that was asked for; columns: sessions in the batch",
            Side::Left,
        );
        for (block, top) in blocks.iter().zip(&tops) {
            block.draw(canvas, *top);
        }
        legend(canvas, bottom + 14.0);
    });
    let caption = CAPTION.to_owned();
    Figure { name: "p99-heatmap".to_owned(), title: TITLE.to_owned(), caption, svg }
}

/// The columns of a panel that fit side by side.
struct Block<'a> {
    label: &'a str,
    /// Whether it continues the panel of the block before it.
    more: bool,
    sizes: Vec<u64>,
    waits: Vec<u64>,
    cells: BTreeMap<(u64, u64), HeatCell>,
    left: f64,
    cell: f64,
}

impl<'a> Block<'a> {
    fn of(panel: &'a Heatmap) -> Vec<Self> {
        let sizes: BTreeSet<u64> = panel.cells.iter().map(|cell| cell.batch_size).collect();
        let waits: BTreeSet<u64> = panel.cells.iter().map(|cell| cell.wait_us).collect();
        let waits: Vec<u64> = waits.into_iter().collect();
        let cells: BTreeMap<_, _> = panel.cells.iter().map(|cell| ((cell.wait_us, cell.batch_size), *cell)).collect();
        let left = MARGIN + waits.iter().map(|wait| LABEL.width(&wait_label(*wait))).fold(0.0, f64::max) + 10.0;
        let widest = sizes.iter().map(|size| SMALL.width(&sessions(*size))).fold(0.0, f64::max);
        let cell_min = CELL_MIN.max(widest + 8.0);
        let sizes: Vec<u64> = sizes.into_iter().collect();
        let room = WIDTH - MARGIN - left;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few columns")]
        let columns = ((room / cell_min).floor() as usize).max(1);
        // All blocks have nearly the same number of columns.
        let columns = sizes.len().div_ceil(sizes.len().div_ceil(columns));
        let cell = (room / count_of(columns)).min(CELL_MAX);
        let block = |(n, sizes): (usize, &[u64])| Self {
            label: &panel.label,
            more: n > 0,
            sizes: sizes.to_vec(),
            waits: waits.clone(),
            cells: cells.clone(),
            left,
            cell,
        };
        sizes.chunks(columns).enumerate().map(block).collect()
    }

    fn height(&self) -> f64 {
        62.0 + ROW * count_of(self.waits.len())
    }

    fn draw(&self, canvas: &mut Canvas<'_>, top: f64) {
        let tag = if self.more { "continued" } else { "" };
        canvas.text((MARGIN, top + 10.0), &axes::named(self.label, tag, WIDTH - 2.0 * MARGIN), LABEL);
        let first = top + 44.0;
        for (n, size) in self.sizes.iter().enumerate() {
            let x = self.left + self.cell * (count_of(n) + 0.5);
            canvas.text((x, first - 11.0), &sessions(*size), SMALL.side(Side::Middle));
        }
        for (row, wait) in self.waits.iter().enumerate() {
            let y = first + ROW * count_of(row);
            canvas.text((self.left - 10.0, y + ROW / 2.0), &wait_label(*wait), LABEL.side(Side::Right));
            for (column, size) in self.sizes.iter().enumerate() {
                if let Some(cell) = self.cells.get(&(*wait, *size)) {
                    let x = self.left + self.cell * count_of(column);
                    // Leave a thin gap between cells.
                    draw_cell(canvas, (x + 1.0, y + 1.0), (x + self.cell - 1.0, y + ROW - 1.0), cell);
                }
            }
        }
    }
}

fn wait_label(wait_us: u64) -> String {
    format!("{} s", seconds_short(wait_us))
}

fn draw_cell(canvas: &mut Canvas<'_>, from: Point, to: Point, cell: &HeatCell) {
    let middle = ((from.0 + to.0) / 2.0, (from.1 + to.1) / 2.0);
    match cell.p99_us {
        _ if cell.skipped => {
            canvas.frame(from, to, Stroke::new(GRID, 1.0));
            canvas.text(middle, "–", Look { colour: MUTED, ..LABEL }.side(Side::Middle));
        }
        None => {
            canvas.hatch(from, to, Stroke::new(AXIS, 1.0));
            canvas.frame(from, to, Stroke::new(AXIS, 1.0));
        }
        Some(p99_us) => {
            let step = step(p99_us.saturating_sub(cell.wait_us));
            canvas.rect(from, to, HEAT[step]);
            canvas.text(middle, &three(seconds(p99_us)), LABEL.side(Side::Middle).colour(on_heat(step)));
            if !cell.met {
                cross(canvas, (to.0, from.1), step);
            }
        }
    }
}

/// Draws a small cross inside of the upper right corner.
fn cross(canvas: &mut Canvas<'_>, (x, y): Point, step: usize) {
    let (left, right, top, bottom) = (x - 10.0, x - 4.0, y + 4.0, y + 10.0);
    let stroke = Stroke::new(on_heat(step), 1.6);
    canvas.line((left, top), (right, bottom), stroke);
    canvas.line((left, bottom), (right, top), stroke);
}

/// The colour step for a latency beyond the wait.
fn step(beyond_us: u64) -> usize {
    BANDS_US.iter().take_while(|end| beyond_us >= **end).count()
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

/// Explains the colours and signs.
fn legend(canvas: &mut Canvas<'_>, top: f64) {
    const STEP: f64 = 50.0;
    axes::title(canvas, (MARGIN, top), "p99 beyond the wait, s", Side::Left);
    for (n, colour) in HEAT.into_iter().enumerate() {
        let x = MARGIN + STEP * count_of(n);
        canvas.rect((x, top + 12.0), (x + STEP, top + 24.0), colour);
        if let Some(end) = BANDS_US.get(n) {
            let label = seconds_short(*end);
            canvas.text((x + STEP, top + 34.0), label.trim_end_matches(".0"), SMALL.side(Side::Middle));
        }
    }
    let mut x = MARGIN + STEP * count_of(HEAT.len()) + 36.0;
    let (from, to) = (top + 8.0, top + 28.0);
    let mut entry = |canvas: &mut Canvas<'_>, text: &str, sign: &dyn Fn(&mut Canvas<'_>, f64)| {
        sign(canvas, x);
        canvas.text((x + 36.0, top + 18.0), text, SMALL.colour(INK));
        x += 36.0 + SMALL.width(text) + 22.0;
    };
    entry(canvas, "criterion missed", &|canvas, x| {
        canvas.rect((x, from), (x + 30.0, to), HEAT[2]);
        cross(canvas, (x + 30.0, from), 2);
    });
    entry(canvas, "none succeeded", &|canvas, x| {
        canvas.hatch((x, from), (x + 30.0, to), Stroke::new(AXIS, 1.0));
        canvas.frame((x, from), (x + 30.0, to), Stroke::new(AXIS, 1.0));
    });
    entry(canvas, "skipped", &|canvas, x| {
        canvas.frame((x, from), (x + 30.0, to), Stroke::new(GRID, 1.0));
        canvas.text((x + 15.0, top + 18.0), "–", SMALL.side(Side::Middle));
    });
}
