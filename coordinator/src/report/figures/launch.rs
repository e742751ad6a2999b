//! PURE: the figure of how closely the agents of a batch started together, and of their launch lag.

use super::axes::{self, Rows};
use super::canvas::{self, Canvas, MARGIN, Mark, SMALL, Side, Stroke, WIDTH};
use super::scale::{Scale, number, sessions, three};
use super::theme::{AXIS, GRID, INK, MAIN, SERIES};
use super::{Figure, Source, nothing};

/// The data of the figure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// The figure is `launch-{name}`.
    pub name: String,
    pub batch: String,
    pub agents: Vec<AgentLaunch>,
    /// Last start of an agent minus the first, clock errors included.
    pub start_skew_us: Option<u64>,
    /// Last start of a session minus the first.
    pub launch_window_us: u64,
}

/// The start of one agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentLaunch {
    pub agent: String,
    pub sessions: u64,
    /// The agent's start minus the ordered instant; `None` if it did not start.
    pub start_offset_us: Option<u64>,
    /// The offset is known within this bound, in both directions.
    pub clock_error_us: Option<u64>,
    pub launch_lag_p99_us: Option<u64>,
}

const TITLE: &str = "How the agents started the batch";
const CAPTION: &str = "Left: when each agent really started, against the instant that all were ordered to. The whisker \
    is how well its clock is known; a hollow mark has none. Right: launch lag, how late its sessions were started \
    against their intended instants: the generator's own fault, never the server's.";
/// With more agents than this, rows are narrow and ruled.
const FEW: usize = 24;
const LAG: super::theme::Colour = SERIES[4];

/// Draws one row per agent: its start at the left, its launch lag at the right.
#[must_use]
pub fn launch(of: &Launch) -> Figure {
    let name = format!("launch-{}", of.name);
    if of.agents.is_empty() {
        return nothing(&name, TITLE);
    }
    let pitch = if many(of) { 16.0 } else { 24.0 };
    let rows = Rows::new(of.agents.iter().map(|agent| (agent.agent.as_str(), Source::Here)), top(of), pitch, 200.0);
    let svg = canvas::draw(TITLE, rows.bottom + 34.0, |canvas| {
        let batch = super::font::fit(&of.batch, SMALL.size, WIDTH - 2.0 * MARGIN - 400.0);
        axes::title(canvas, (MARGIN, 46.0), &batch, Side::Left);
        canvas.text((WIDTH - MARGIN, 46.0), &together(of), SMALL.side(Side::Right).colour(INK));
        let column = rows.right + 84.0;
        axes::title(canvas, (column, top(of) - 14.0), "sessions", Side::Right);
        rows.draw(canvas);
        // A line after every fifth row guides the eye.
        for y in rows.middles.iter().skip(4).step_by(5).filter(|_| many(of)) {
            canvas.line((column + 8.0, y + pitch / 2.0), (WIDTH - MARGIN, y + pitch / 2.0), Stroke::new(GRID, 1.0));
        }
        for (agent, y) in of.agents.iter().zip(&rows.middles) {
            canvas.text((column, *y), &sessions(agent.sessions), SMALL.side(Side::Right));
        }
        let left = column + 26.0;
        let middle = left + (WIDTH - MARGIN - 70.0 - left) * 0.58;
        starts(canvas, of, &rows, (left, middle - 28.0));
        lags(canvas, of, &rows, (middle + 28.0, WIDTH - MARGIN - 70.0));
    });
    let caption = CAPTION.to_owned();
    Figure { name, title: TITLE.to_owned(), caption, svg }
}

/// Formats the summary: `start skew 1.20 ms · launch window 250 ms`.
fn together(of: &Launch) -> String {
    let skew = of.start_skew_us.map_or_else(|| "not known".to_owned(), |us| format!("{} ms", exact(ms(us))));
    format!("start skew {skew} · launch window {} ms", exact(ms(of.launch_window_us)))
}

/// Formats with three significant digits, or with all digits before the point.
fn exact(value: f64) -> String {
    if value < 1_000.0 { three(value) } else { number(value, 1.0) }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn ms(us: u64) -> f64 {
    us as f64 / 1e3
}

fn many(of: &Launch) -> bool {
    of.agents.len() > FEW
}

/// Top of the rows. If there are many, ticks are above them too.
fn top(of: &Launch) -> f64 {
    if many(of) { 108.0 } else { 92.0 }
}

/// Draws the grid of one side, and its title.
fn grid(canvas: &mut Canvas<'_>, of: &Launch, rows: &Rows, scale: &Scale, left: f64, title: &str) {
    let (top, ticks) = (top(of), axes::numbered(scale, 5.0));
    axes::down(canvas, scale, (top, rows.bottom), &ticks);
    axes::below(canvas, scale, rows.bottom, &ticks);
    if many(of) {
        axes::above(canvas, scale, top, &ticks);
    }
    axes::title(canvas, (left, if many(of) { top - 30.0 } else { top - 14.0 }), title, Side::Left);
    canvas.line((scale.at(0.0), top), (scale.at(0.0), rows.bottom), Stroke::new(AXIS, 1.2));
}

fn starts(canvas: &mut Canvas<'_>, of: &Launch, rows: &Rows, (left, right): (f64, f64)) {
    let bounds = of.agents.iter().filter_map(|agent| {
        let (offset, error) = (ms(agent.start_offset_us?), ms(agent.clock_error_us.unwrap_or(0)));
        Some((offset - error, offset + error))
    });
    let (low, high) = bounds.fold((0.0_f64, 0.0_f64), |(low, high), bound| (low.min(bound.0), high.max(bound.1)));
    let high = if high > low { high } else { low + 1.0 };
    let scale = Scale::between(low - (high - low) * 0.03, high + (high - low) * 0.03, left, right);
    grid(canvas, of, rows, &scale, left, "start after the ordered instant, ms");
    for (agent, y) in of.agents.iter().zip(&rows.middles) {
        let Some(offset_us) = agent.start_offset_us else {
            canvas.note((left + 4.0, *y), "did not start", SMALL);
            continue;
        };
        if let Some(error_us) = agent.clock_error_us {
            let (from, to) = (scale.at(ms(offset_us) - ms(error_us)), scale.at(ms(offset_us) + ms(error_us)));
            canvas.line((from, *y), (to, *y), Stroke::new(MAIN, 1.2));
            for x in [from, to] {
                canvas.line((x, y - 3.0), (x, y + 3.0), Stroke::new(MAIN, 1.2));
            }
        }
        canvas.mark(Mark::Circle, (scale.at(ms(offset_us)), *y), 4.0, MAIN, agent.clock_error_us.is_none());
    }
}

fn lags(canvas: &mut Canvas<'_>, of: &Launch, rows: &Rows, (left, right): (f64, f64)) {
    let max = of.agents.iter().filter_map(|agent| agent.launch_lag_p99_us).max().unwrap_or(0);
    let scale = Scale::linear(ms(max), 5.0, left, right);
    grid(canvas, of, rows, &scale, left, "launch lag p99, ms");
    for (agent, y) in of.agents.iter().zip(&rows.middles) {
        let Some(lag_us) = agent.launch_lag_p99_us else {
            canvas.text((left + 4.0, *y), "–", SMALL);
            continue;
        };
        let x = scale.at(ms(lag_us));
        canvas.line((left, *y), (x, *y), Stroke::new(LAG, 1.4));
        canvas.mark(Mark::Diamond, (x, *y), 3.6, LAG, false);
        canvas.note((x + 10.0, *y), &three(ms(lag_us)), SMALL.colour(INK));
    }
}
