//! PURE: the figures of a run and of a comparison, as SVG and PNG. The same data gives the same bytes on every machine.
//!
//! `canvas.rs` draws, `scale.rs` and `axes.rs` place things, `font.rs` measures text, `theme.rs` has the colours.
//! Measured data is drawn solid; what others have published is hollow, dashed or light.

mod axes;
mod bars;
mod canvas;
mod font;
mod heatmap;
mod launch;
mod phases;
mod png;
mod scale;
mod scaling;
mod spectrum;
#[cfg(test)]
mod tests;
mod theme;
mod timeline;

pub use bars::{Bar, batch_per_core, max_batch};
pub use heatmap::{HeatCell, Heatmap, p99_heatmap};
pub use launch::{AgentLaunch, Launch, launch};
pub use phases::{PhaseBar, phases};
pub use png::png;
pub use scaling::{ScalingLine, ScalingPoint, scaling};
pub use spectrum::{Latency, SpectrumLine, spectrum};
pub use theme::dark_css;
pub use timeline::{Timeline, timeline};

/// One figure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// The stem of its file name, such as `scaling`.
    pub name: String,
    /// The title, which is in the picture too.
    pub title: String,
    /// One to three sentences that are not in the picture: what it shows, how to read it, and what is missing.
    pub caption: String,
    pub svg: String,
}

/// The origin of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Here,
    /// Published by others, who measured with another client.
    Published,
}

/// The caption's remark on data of `Source::Published`, if there are any.
fn published_remark(mut sources: impl Iterator<Item = Source>, how: &str) -> String {
    if sources.any(|source| source == Source::Published) {
        format!(" {how}: published by others, who measured with another client.")
    } else {
        String::new()
    }
}

/// The figure without data.
fn nothing(name: &str, title: &str) -> Figure {
    let svg = canvas::draw(title, 110.0, |canvas| {
        let middle = canvas::SMALL.side(canvas::Side::Middle);
        canvas.text((canvas::WIDTH / 2.0, 70.0), "nothing was measured", middle);
    });
    Figure { name: name.to_owned(), title: title.to_owned(), caption: "Nothing was measured.".to_owned(), svg }
}

/// Formats a success rate as a percentage, as in the plan: `95 %`, `99.9 %`.
fn criterion(share: f64) -> String {
    let per_cent = if share.is_finite() { share.clamp(0.0, 1.0) * 100.0 } else { 0.0 };
    let text = format!("{per_cent:.2}");
    format!("{} %", text.trim_end_matches('0').trim_end_matches('.'))
}
