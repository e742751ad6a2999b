//! PURE: figures with one number per infrastructure: the largest batch that met the criterion, in total and per core.

use super::axes::{self, Rows, VALUE};
use super::canvas::{self, Canvas, MARGIN, Mark, Paint, SMALL, Side, Stroke, WIDTH};
use super::scale::{Scale, sessions, three};
use super::theme::{GRID, MAIN};
use super::{Figure, Source, criterion, nothing, published_remark};

/// The value of one infrastructure.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    pub label: String,
    pub source: Source,
    /// `None`: no batch met the criterion.
    pub value: Option<f64>,
    /// Whether the largest size that was tried met the criterion, so that the limit is unknown.
    pub at_least: bool,
}

impl Bar {
    fn value(&self) -> Option<f64> {
        self.value.filter(|value| value.is_finite() && *value >= 0.0)
    }
}

const TOP: f64 = canvas::TOP;
const NONE: &str = "none met the criterion";
const LABELS_MAX: f64 = 310.0;
/// Room for the number beside a row's mark.
const VALUE_ROOM: f64 = 104.0;

/// The largest batch that met the criterion, by infrastructure.
#[must_use]
pub fn max_batch(bars: &[Bar], min_success_rate: f64) -> Figure {
    let criterion = criterion(min_success_rate);
    let title = format!("Largest batch of which at least {criterion} succeeded");
    if bars.is_empty() {
        return nothing("max-batch", &title);
    }
    // A batch without sessions does not count.
    let size = |bar: &Bar| bar.value().filter(|value| *value >= 1.0);
    let values: Vec<f64> = bars.iter().filter_map(size).collect();
    let rows = rows(bars);
    let svg = canvas::draw(&title, rows.bottom + 54.0, |canvas| {
        let (left, right) = (rows.right + 22.0, WIDTH - MARGIN - VALUE_ROOM);
        // Whole decades, since positions can only be read on an axis that shows 1, 10 and 100. The axis begins at 1, or
        // so far below the smallest value that none looks like 0.
        let low = values.iter().copied().fold(f64::INFINITY, f64::min).log10().floor();
        let high = values.iter().copied().fold(1.0, f64::max).log10().ceil();
        let low = if low.is_finite() && low >= 3.0 { low - 2.0 } else { 0.0 };
        let scale = Scale::log(10_f64.powf(low), 10_f64.powf(high.max(low + 1.0)), left, right);
        let ticks = axes::fitting(&scale);
        axes::down(canvas, &scale, (TOP, rows.bottom), &ticks);
        axes::below(canvas, &scale, rows.bottom, &ticks);
        axes::title(
            canvas,
            ((left + right) / 2.0, rows.bottom + 36.0),
            "batch size, sessions (log scale)",
            Side::Middle,
        );
        rows.draw(canvas);
        for (bar, y) in bars.iter().zip(&rows.middles) {
            // A position on a logarithmic axis is no length: a line leads the eye, where a bar would suggest an amount.
            canvas.line((left, *y), (right, *y), Stroke::new(GRID, 1.0));
            let Some(value) = size(bar) else {
                canvas.note((left + 8.0, *y), NONE, SMALL);
                continue;
            };
            let x = scale.at(value);
            canvas.mark(Mark::Circle, (x, *y), 5.5, MAIN, bar.source == Source::Published);
            let aside = if bar.at_least { onwards(canvas, x + 5.5, *y) } else { x + 5.5 };
            let text = number(bar, sessions(whole(value)));
            canvas.note((aside + 8.0, *y), &text, VALUE);
        }
    });
    let caption = format!(
        "The largest batch size at which at least {criterion} of the sessions succeeded, all repetitions \
         together. The axis is logarithmic: equal steps are equal factors.{}{}",
        at_least_remark(bars),
        published_remark(bars.iter().map(|bar| bar.source), "Hollow"),
    );
    Figure { name: "max-batch".to_owned(), title, caption, svg }
}

/// Sessions of the largest batch per core of the server.
#[must_use]
pub fn batch_per_core(bars: &[Bar]) -> Figure {
    let title = "Sessions per core of the largest batch that held";
    if bars.is_empty() {
        return nothing("batch-per-core", title);
    }
    let max = bars.iter().filter_map(Bar::value).fold(0.0, f64::max);
    let rows = rows(bars);
    let svg = canvas::draw(title, rows.bottom + 54.0, |canvas| {
        let (left, right) = (rows.right + 12.0, WIDTH - MARGIN - VALUE_ROOM);
        let scale = Scale::linear(max, 6.0, left, right);
        let ticks = axes::numbered(&scale, 6.0);
        axes::down(canvas, &scale, (TOP, rows.bottom), &ticks);
        axes::below(canvas, &scale, rows.bottom, &ticks);
        axes::title(canvas, ((left + right) / 2.0, rows.bottom + 36.0), "sessions per core", Side::Middle);
        rows.draw(canvas);
        for (bar, y) in bars.iter().zip(&rows.middles) {
            let Some(value) = bar.value() else {
                canvas.note((left + 8.0, *y), NONE, SMALL);
                continue;
            };
            // A value above 0 has a visible bar.
            let x = scale.at(value).max(left + if value > 0.0 { 1.5 } else { 0.0 });
            let (from, to) = ((left, y - 7.5), (x, y + 7.5));
            match bar.source {
                Source::Here => canvas.rect(from, to, MAIN),
                Source::Published => {
                    canvas.rect(from, to, Paint(MAIN, 0.18));
                    canvas.frame(from, to, Stroke::new(MAIN, 1.2));
                }
            }
            let aside = if bar.at_least { onwards(canvas, x, *y) } else { x };
            canvas.note((aside + 8.0, *y), &number(bar, per_core(value)), VALUE);
        }
        canvas.line((left, TOP), (left, rows.bottom), Stroke::new(super::theme::AXIS, 1.0));
    });
    let caption = format!(
        "The largest batch size that met the criterion, divided by the cores that served it.{}{}",
        at_least_remark(bars),
        published_remark(bars.iter().map(|bar| bar.source), "Light, with an outline"),
    );
    Figure { name: "batch-per-core".to_owned(), title: title.to_owned(), caption, svg }
}

fn rows(bars: &[Bar]) -> Rows {
    Rows::new(bars.iter().map(|bar| (bar.label.as_str(), bar.source)), TOP, 27.0, LABELS_MAX)
}

/// Draws an arrow to the right, for a value that may be larger. Returns its right end.
fn onwards(canvas: &mut Canvas<'_>, x: f64, y: f64) -> f64 {
    canvas.line((x, y), (x + 10.0, y), Stroke::new(MAIN, 1.6));
    canvas.mark(Mark::Right, (x + 12.0, y), 3.5, MAIN, false);
    x + 16.0
}

/// Formats a value like the overview: `0.12`, `12.5`, `170.7`, `4,096`.
fn per_core(value: f64) -> String {
    match value {
        1_000.0.. => sessions(whole(value)),
        1.0.. => format!("{value:.1}").trim_end_matches(".0").to_owned(),
        _ => three(value),
    }
}

fn number(bar: &Bar, text: String) -> String {
    if bar.at_least { format!("≥ {text}") } else { text }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not below 0; the cast stays in range")]
fn whole(value: f64) -> u64 {
    value.round() as u64
}

fn at_least_remark(bars: &[Bar]) -> &'static str {
    if bars.iter().any(|bar| bar.at_least && bar.value().is_some()) {
        " An arrow and ≥: the largest size that was tried held, so the limit is higher."
    } else {
        ""
    }
}
