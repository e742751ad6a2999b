//! PURE: the figure of one batch over time: open sessions, completions and failures per bin, with each agent's share.

use super::axes;
use super::canvas::{self, Canvas, LABEL, MARGIN, MARKS, Paint, Point, SMALL, Side, Stroke, WIDTH};
use super::font;
use super::scale::{Scale, count_of};
use super::theme::{AXIS, BAD, GRID, HEAT, INK, MAIN, PAPER, SERIES};
use super::{Figure, nothing};
use crate::results::timeline::AgentTimeline;

/// The data of the figure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    /// The figure is `timeline-{name}`.
    pub name: String,
    pub batch: String,
    /// Length of a bin in microseconds.
    pub bin_us: u64,
    pub agents: Vec<AgentTimeline>,
}

const TITLE: &str = "The batch over time";
/// Most agents that are stacked; more are shown as rows of a map.
const STACKED_MAX: usize = 6;
/// Most bins that are drawn; more are merged.
const BINS_MAX: usize = 240;
const ROWS_MAX: usize = 150;
const ROW: f64 = 15.0;
const TOP: f64 = 94.0;
/// Space between two panels, for the title of the lower one.
const BETWEEN: f64 = 38.0;

/// Three panels over one time axis; below them a map of the agents if there are many.
#[must_use]
pub fn timeline(of: &Timeline) -> Figure {
    let name = format!("timeline-{}", of.name);
    let bins = Bins::of(of);
    if bins.n == 0 {
        return nothing(&name, TITLE);
    }
    let stacked = of.agents.len() <= STACKED_MAX;
    let svg = if stacked { stacks(of, &bins) } else { map(of, &bins) };
    let how = if of.agents.len() == 1 {
        ""
    } else if stacked {
        " Agents are stacked, in the order of the key: the upper edge is all of them."
    } else {
        " Below, a row an agent: the stronger its colour, the more of its sessions are open. A bar at its foot: some \
         failed."
    };
    let caption = format!(
        "Sessions open, and completions and failures in each {}, from the batch's start on.{how}",
        duration(bins.bin_s)
    );
    Figure { name, title: TITLE.to_owned(), caption, svg }
}

/// Formats a duration: `0.5 s`, `100 ms`.
fn duration(seconds: f64) -> String {
    let (value, unit) = if seconds < 0.1 { (seconds * 1e3, "ms") } else { (seconds, "s") };
    let text = super::scale::three(value);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text} {unit}")
}

/// The bins that are drawn: the same number for every agent, and at most [`BINS_MAX`].
struct Bins {
    n: usize,
    bin_s: f64,
    open: Vec<Vec<f64>>,
    completed: Vec<Vec<f64>>,
    failed: Vec<Vec<f64>>,
}

impl Bins {
    #[expect(clippy::cast_precision_loss, reason = "for a picture")]
    fn of(of: &Timeline) -> Self {
        let longest = |agent: &AgentTimeline| agent.open.len().max(agent.completed.len()).max(agent.failed.len());
        let n = of.agents.iter().map(longest).max().unwrap_or(0);
        let together = n.div_ceil(BINS_MAX).max(1);
        let bin_s = of.bin_us.max(1) as f64 / 1e6 * count_of(together);
        let n = n.div_ceil(together);
        let counts = |values: &[u64]| -> Vec<f64> {
            let at = |bin: usize| values.iter().skip(bin * together).take(together).map(|n| *n as f64).sum();
            (0..n).map(at).collect()
        };
        let levels = |values: &[u64]| -> Vec<f64> {
            let last =
                |bin: usize| values.get((bin + 1) * together - 1).or_else(|| values.get(bin * together..)?.last());
            (0..n).map(|bin| last(bin).map_or(0.0, |n| *n as f64)).collect()
        };
        Self {
            n,
            bin_s,
            open: of.agents.iter().map(|agent| levels(&agent.open)).collect(),
            completed: of.agents.iter().map(|agent| counts(&agent.completed)).collect(),
            failed: of.agents.iter().map(|agent| counts(&agent.failed)).collect(),
        }
    }

    fn time(&self, left: f64, right: f64) -> Scale {
        Scale::between(0.0, self.bin_s * count_of(self.n), left, right)
    }
}

fn total(of: &[Vec<f64>], n: usize) -> Vec<f64> {
    (0..n).map(|bin| of.iter().filter_map(|values| values.get(bin)).sum()).collect()
}

/// How bins become a line.
#[derive(Clone, Copy)]
enum Shape {
    /// The value at the end of each bin, from 0 at the start.
    Level,
    /// The value of the whole bin.
    Steps,
}

impl Shape {
    fn outline(self, values: &[f64], bin_s: f64, x: &Scale, y: &Scale) -> Vec<Point> {
        let edge = |bin: usize| x.at(bin_s * count_of(bin));
        match self {
            Self::Level => {
                let points = values.iter().enumerate().map(|(bin, value)| (edge(bin + 1), y.at(*value)));
                std::iter::once((edge(0), y.at(0.0))).chain(points).collect()
            }
            Self::Steps => values
                .iter()
                .enumerate()
                .flat_map(|(bin, value)| [(edge(bin), y.at(*value)), (edge(bin + 1), y.at(*value))])
                .collect(),
        }
    }
}

/// One panel: open, completed or failed sessions.
struct Panel<'a> {
    title: String,
    top: f64,
    bottom: f64,
    shape: Shape,
    steps: f64,
    /// The values of each agent.
    values: &'a [Vec<f64>],
    /// The largest sum over all agents.
    max: f64,
}

/// The three panels, one below the other from `TOP` on.
fn panels(bins: &Bins) -> [Panel<'_>; 3] {
    let mut next = TOP - BETWEEN;
    let mut panel = |title: String, height: f64, shape, steps, values| {
        let max = total(values, bins.n).into_iter().fold(0.0, f64::max);
        let top = next + BETWEEN;
        // A panel without values has a title only.
        next = if max > 0.0 { top + height } else { top - 4.0 };
        Panel { title, top, bottom: next, shape, steps, values, max }
    };
    let each = duration(bins.bin_s);
    [
        panel("sessions open".to_owned(), 130.0, Shape::Level, 4.0, &bins.open),
        panel(format!("completions in each {each}"), 90.0, Shape::Steps, 3.0, &bins.completed),
        panel(format!("failures in each {each}"), 70.0, Shape::Steps, 3.0, &bins.failed),
    ]
}

impl Panel<'_> {
    /// Draws grid and title; returns the scale of the values, if there are any.
    fn axes(&self, canvas: &mut Canvas<'_>, (left, right): Point) -> Option<Scale> {
        let nothing = self.max <= 0.0;
        let title = format!("{}{}", self.title, if nothing { ": none" } else { "" });
        axes::title(canvas, (MARGIN, self.top - 18.0), &title, Side::Left);
        if nothing {
            return None;
        }
        let y = Scale::linear(self.max, self.steps, self.bottom, self.top);
        // Sessions have no fractions.
        let whole = y.ticks(self.steps).into_iter().filter(|value| value.fract() == 0.0);
        let ticks: Vec<(f64, String)> = whole.map(|value| (value, super::scale::number(value, 1.0))).collect();
        axes::across(canvas, &y, (left, right), &ticks);
        self.base(canvas, (left, right));
        Some(y)
    }

    fn base(&self, canvas: &mut Canvas<'_>, (left, right): Point) {
        canvas.line((left, self.bottom), (right, self.bottom), Stroke::new(AXIS, 1.0));
    }
}

fn area(canvas: &mut Canvas<'_>, upper: &[Point], lower: &[Point], paint: impl Into<Paint>) {
    let around: Vec<Point> = upper.iter().chain(lower.iter().rev()).copied().collect();
    canvas.polygon(&around, paint);
}

/// Width and height of the room that a mark needs in a band.
const MARK_ROOM: (f64, f64) = (24.0, 14.0);

/// The first position at which a band has the most room for a mark; `None` if it has none.
fn room_for_mark(lower: &[Point], upper: &[Point]) -> Option<Point> {
    const STEP: f64 = 4.0;
    let (mut from, end) = (lower.first()?.0, lower.last()?.0);
    let mut best: Option<(f64, Point)> = None;
    while from + MARK_ROOM.0 <= end {
        let (ceiling, floor) = (span(upper, from, from + MARK_ROOM.0).1, span(lower, from, from + MARK_ROOM.0).0);
        let height = floor - ceiling;
        if height >= best.map_or(MARK_ROOM.1, |(height, _)| height + 0.5) {
            best = Some((height, (from + MARK_ROOM.0 / 2.0, f64::midpoint(floor, ceiling))));
        }
        from += STEP;
    }
    best.map(|(_, place)| place)
}

/// The uppermost and the lowest y of an edge between two x.
fn span(edge: &[Point], from: f64, to: f64) -> Point {
    // Vertical pieces lie between two others, which have the same ends.
    let pieces = edge.windows(2).filter(|pair| pair[0].0 < to && pair[1].0 > from && pair[0].0 < pair[1].0);
    let ends = pieces.flat_map(|pair| {
        let (a, b) = (pair[0], pair[1]);
        [from, to].map(|x| a.1 + (b.1 - a.1) * ((x - a.0) / (b.0 - a.0)).clamp(0.0, 1.0))
    });
    ends.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), y| (low.min(y), high.max(y)))
}

fn batch_line(canvas: &mut Canvas<'_>, batch: &str) {
    axes::title(canvas, (MARGIN, 44.0), &font::fit(batch, SMALL.size, WIDTH - 2.0 * MARGIN), Side::Left);
}

fn time_axis(canvas: &mut Canvas<'_>, x: &Scale, (left, right): Point, y: f64) {
    canvas.line((left, y), (right, y), Stroke::new(AXIS, 1.0));
    axes::below(canvas, x, y, &axes::numbered(x, 8.0));
    axes::title(canvas, ((left + right) / 2.0, y + 34.0), "time since the batch's start, s", Side::Middle);
}

fn stacks(of: &Timeline, bins: &Bins) -> String {
    let names: Vec<&str> = of.agents.iter().map(|agent| agent.agent.as_str()).collect();
    let room = names.iter().map(|name| LABEL.width(name)).fold(0.0, f64::max).min(180.0) + 24.0;
    let (left, right) = (76.0, WIDTH - MARGIN - room - 14.0);
    let panels = panels(bins);
    let bottom = panels[2].bottom;
    // The figure grows with a long key.
    let height = f64::max(bottom + 48.0, TOP + 20.0 * count_of(names.len()) + 8.0);
    canvas::draw(TITLE, height, |canvas| {
        batch_line(canvas, &of.batch);
        let x = bins.time(left, right);
        for panel in &panels {
            let Some(y) = panel.axes(canvas, (left, right)) else { continue };
            let mut below = vec![0.0; bins.n];
            let mut marks: Vec<(usize, Point)> = Vec::new();
            let mut edge = panel.shape.outline(&below, bins.bin_s, &x, &y);
            for (n, own) in panel.values.iter().enumerate() {
                below = below.iter().zip(own).map(|(below, own)| below + own).collect();
                let upper = panel.shape.outline(&below, bins.bin_s, &x, &y);
                if own.iter().any(|value| *value > 0.0) {
                    let colour = SERIES[n % SERIES.len()];
                    if panel.values.len() == 1 {
                        area(canvas, &upper, &edge, Paint(colour, 0.2));
                        canvas.path(&upper, Stroke::new(colour, 1.6));
                        continue;
                    }
                    area(canvas, &upper, &edge, colour);
                    // A thin edge separates bands without their colours.
                    canvas.path(&upper, Stroke::new(PAPER, 0.8));
                    marks.extend(room_for_mark(&edge, &upper).map(|place| (n, place)));
                }
                edge = upper;
            }
            // Marks are drawn above all bands.
            for (n, place) in marks {
                canvas.mark(MARKS[n % MARKS.len()], place, 3.4, PAPER, false);
            }
            if panel.values.len() > 1 {
                // Draw the base line again, which the bands' edges have hidden.
                panel.base(canvas, (left, right));
            }
        }
        // The key begins with the uppermost band.
        for (place, (n, name)) in names.iter().enumerate().rev().enumerate() {
            let y = TOP + 8.0 + 20.0 * count_of(place);
            canvas.rect((right + 12.0, y - 7.0), (right + 26.0, y + 7.0), SERIES[n % SERIES.len()]);
            if names.len() > 1 {
                canvas.mark(MARKS[n % MARKS.len()], (right + 19.0, y), 3.4, PAPER, false);
            }
            canvas.text((right + 33.0, y), &font::fit(name, LABEL.size, WIDTH - MARGIN - right - 33.0), LABEL);
        }
        time_axis(canvas, &x, (left, right), bottom);
    })
}

fn map(of: &Timeline, bins: &Bins) -> String {
    let shown = of.agents.len().min(ROWS_MAX);
    let names: Vec<String> =
        of.agents.iter().take(shown).map(|agent| font::fit(&agent.agent, SMALL.size, 170.0)).collect();
    let left = (MARGIN + names.iter().map(|name| SMALL.width(name)).fold(0.0, f64::max) + 10.0).max(76.0);
    let right = WIDTH - MARGIN - 10.0;
    let panels = panels(bins);
    let first = panels[2].bottom + BETWEEN + 6.0;
    let last = first + ROW * count_of(shown);
    canvas::draw(TITLE, last + 86.0, |canvas| {
        batch_line(canvas, &of.batch);
        let x = bins.time(left, right);
        for (n, panel) in panels.iter().enumerate() {
            let Some(y) = panel.axes(canvas, (left, right)) else { continue };
            let total = total(panel.values, bins.n);
            let colour = if n == 2 { BAD } else { MAIN };
            let outline = panel.shape.outline(&total, bins.bin_s, &x, &y);
            let base = panel.shape.outline(&vec![0.0; bins.n], bins.bin_s, &x, &y);
            area(canvas, &outline, &base, Paint(colour, 0.2));
            canvas.path(&outline, Stroke::new(colour, 1.6));
        }
        let max = bins.open.iter().flatten().copied().fold(0.0, f64::max);
        axes::title(canvas, (MARGIN, first - 16.0), "sessions open, by agent", Side::Left);
        for (n, name) in names.iter().enumerate() {
            let y = first + ROW * count_of(n);
            canvas.text((left - 10.0, y + ROW / 2.0), name, SMALL.side(Side::Right).colour(INK));
            canvas.line((left, y + ROW), (right, y + ROW), Stroke::new(GRID, 0.6));
            row(canvas, bins, &x, n, y, max);
        }
        time_axis(canvas, &x, (left, right), last);
        if max > 0.0 {
            legend(canvas, max, last + 66.0);
        }
        if shown < of.agents.len() {
            let more = format!("{} more agents are in the totals only", of.agents.len() - shown);
            canvas.text((WIDTH - MARGIN, last + 66.0), &more, SMALL.side(Side::Right));
        }
    })
}

/// The colour step of a value; `None` without sessions.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of seven")]
fn step(value: f64, max: f64) -> Option<usize> {
    (value > 0.0).then(|| ((value / max * count_of(HEAT.len())).ceil() as usize).clamp(1, HEAT.len()) - 1)
}

/// Draws one agent's row. Neighbours of the same colour are one rectangle.
fn row(canvas: &mut Canvas<'_>, bins: &Bins, x: &Scale, agent: usize, y: f64, max: f64) {
    let mut runs = |values: Vec<Option<usize>>, draw: &mut dyn FnMut(&mut Canvas<'_>, f64, f64, usize)| {
        let mut from = 0;
        for run in values.chunk_by(|a, b| a == b) {
            let to = from + run.len();
            if let Some(Some(step)) = run.first() {
                draw(canvas, x.at(bins.bin_s * count_of(from)), x.at(bins.bin_s * count_of(to)), *step);
            }
            from = to;
        }
    };
    let open = bins.open[agent].iter().map(|value| step(*value, max)).collect();
    runs(open, &mut |canvas, from, to, step| canvas.rect((from, y + 1.0), (to, y + ROW - 1.0), HEAT[step]));
    let failed = bins.failed[agent].iter().map(|value| (*value > 0.0).then_some(0)).collect();
    runs(failed, &mut |canvas, from, to, _| {
        canvas.rect((from, y + ROW - 5.5), (to.max(from + 2.0), y + ROW - 0.5), PAPER);
        canvas.rect((from, y + ROW - 4.5), (to.max(from + 2.0), y + ROW - 0.5), BAD);
    });
}

/// Explains both colours of `row`.
fn legend(canvas: &mut Canvas<'_>, max: f64, y: f64) {
    const STEP: f64 = 30.0;
    axes::title(canvas, (MARGIN, y), "sessions open", Side::Left);
    let from = MARGIN + SMALL.width("sessions open") + 14.0;
    canvas.text((from, y), "1", SMALL);
    for (n, colour) in HEAT.into_iter().enumerate() {
        let x = from + 12.0 + STEP * count_of(n);
        canvas.rect((x, y - 6.0), (x + STEP, y + 6.0), colour);
    }
    let to = from + 12.0 + STEP * count_of(HEAT.len());
    let most = super::scale::number(max, 1.0);
    canvas.text((to + 6.0, y), &most, SMALL);
    let x = to + 6.0 + SMALL.width(&most) + 30.0;
    canvas.rect((x, y), (x + 26.0, y + 4.0), BAD);
    canvas.text((x + 33.0, y), "some failed", SMALL);
}
