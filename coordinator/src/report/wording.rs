//! The words for a run in tables, pages and log entries.

use crate::plan::launch;
use crate::report::table::{Badge, TableCell, Tone};
use crate::results::cells::Cell;
use crate::results::run::{Client, Run, Status};
use crate::results::verdict::{Bottleneck, Validity};
use crate::text::{count, latency, percent, seconds_short};

impl Run {
    /// How sessions were started; `None` if all at once.
    #[must_use]
    pub fn launch_words(&self) -> Option<String> {
        launch::afterwards(self.plan.session.launch)
    }

    /// What sessions did and how they were started; `None` for a burst of single steps, as in published rows.
    #[must_use]
    pub fn session_words(&self) -> Option<String> {
        let session = &self.plan.session;
        if self.is_plain_burst() {
            return None;
        }
        let think =
            if session.think_us > 0 { format!(", think {} s", seconds_short(session.think_us)) } else { String::new() };
        let started = self.launch_words().unwrap_or_else(|| "all at once".to_owned());
        let steps = if session.steps == 1 { "1 step".to_owned() } else { format!("{} steps", session.steps) };
        Some(format!("{steps}{think}; started {started}"))
    }

    /// The client that measured the run.
    #[must_use]
    pub fn client(&self) -> String {
        match &self.client {
            Client::Muster { version } => format!("Muster {version}"),
            Client::Script => "the Python script".to_owned(),
        }
    }
}

/// The status as the experiment log writes it.
#[must_use]
pub fn status(status: Status) -> String {
    let badge = Badge::from(status);
    format!("{}{}", badge.sign, badge.text)
}

/// Sessions per core: `256`, `170.7`, `0.021`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub fn per_core(max: u64, cores: u64) -> String {
    let ratio = max as f64 / cores as f64;
    match ratio {
        _ if max.is_multiple_of(cores) => count(max / cores),
        0.1.. => format!("{ratio:.1}"),
        _ => format!("{ratio:.3}"),
    }
}

/// The success rate of a cell, pooled over its repetitions.
#[must_use]
pub fn success(cell: &Cell<'_>) -> TableCell {
    if cell.runs.is_empty() { skipped().into() } else { percent(cell.succeeded(), cell.planned()).into() }
}

#[must_use]
pub fn skipped() -> Badge {
    Badge::new("skipped", Tone::Quiet)
}

/// A batch of a client that makes no verdicts.
#[must_use]
pub fn not_judged() -> Badge {
    Badge::new("not judged", Tone::Quiet)
}

impl From<Validity> for Badge {
    fn from(validity: Validity) -> Self {
        Self::new(
            validity.to_string(),
            match validity {
                Validity::Valid => Tone::Good,
                Validity::GeneratorLimited => Tone::Doubt,
                Validity::Degraded | Validity::Invalid => Tone::Bad,
            },
        )
    }
}

impl From<Bottleneck> for Badge {
    fn from(bottleneck: Bottleneck) -> Self {
        Self::new(
            bottleneck.to_string(),
            match bottleneck {
                Bottleneck::None => Tone::Good,
                Bottleneck::Generator => Tone::Doubt,
                Bottleneck::Server => Tone::Note,
                Bottleneck::Unknown => Tone::Quiet,
            },
        )
    }
}

impl From<Status> for Badge {
    fn from(status: Status) -> Self {
        let (sign, text, tone) = match status {
            Status::Complete => ("✅ ", "Complete", Tone::Good),
            Status::Interrupted => ("⏸ ", "Interrupted", Tone::Doubt),
            Status::Failed => ("❌ ", "Failed", Tone::Bad),
            Status::Running => ("⏳ ", "Running", Tone::Quiet),
            Status::Unknown => ("❓ ", "Unknown", Tone::Quiet),
        };
        Self { sign, text: text.to_owned(), tone }
    }
}

/// Whether a status in the experiment log, which people edit, says that the run is complete.
#[must_use]
pub fn is_complete(status: &str) -> bool {
    status.contains("Complete")
}

/// The p99 of a cell, from the merged histogram of its repetitions.
#[must_use]
pub fn p99_text(cell: &Cell<'_>) -> String {
    cell.p99_us.map_or_else(|| "-".to_owned(), latency)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_was_killed_is_called_running() {
        assert_eq!([Status::Complete, Status::of(None)].map(status), ["✅ Complete", "⏳ Running"]);
    }
}
