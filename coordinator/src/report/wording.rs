//! How a run, a cell and their numbers are put in tables, pages and log entries.

use proto::Launch;

use crate::results::cells::Cell;
use crate::results::run::{Client, Run, Status};
use crate::text::{count, latency, percent, seconds_short};

impl Run {
    /// How sessions were started, if not all at once.
    #[must_use]
    pub fn launch_words(&self) -> Option<String> {
        match self.plan.session.launch {
            Launch::Burst => None,
            Launch::Ramp { over_us } => Some(format!("over {} s", seconds_short(over_us))),
            Launch::Arrivals { over_us, .. } => Some(format!(
                "as they arrived, over {} s, whether or not earlier ones had ended",
                seconds_short(over_us)
            )),
        }
    }

    /// What a session did and how it was started, where it is not the one step of a burst that published rows are of.
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

    /// Who measured it, for people.
    #[must_use]
    pub fn client(&self) -> String {
        match &self.client {
            Client::Muster { version } => format!("Muster {version}"),
            Client::Script => "the Python script".to_owned(),
        }
    }
}

/// `complete` as the experiment log writes it.
#[must_use]
pub fn status(status: Status) -> &'static str {
    match status {
        Status::Complete => "✅ Complete",
        Status::Interrupted => "⏸ Interrupted",
        Status::Failed => "❌ Failed",
        Status::Unknown => "❓ Unknown",
        Status::Running => "⏳ Running",
    }
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
pub fn success(cell: &Cell<'_>) -> String {
    if cell.runs.is_empty() { "skipped".to_owned() } else { percent(cell.succeeded(), cell.planned()) }
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
