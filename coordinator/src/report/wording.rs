//! The words for a run in tables, pages and log entries.

use proto::Launch;

use crate::results::run::{Client, Run, Status};
use crate::text::seconds_short;

impl Run {
    /// How sessions were started; `None` if all at once.
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
pub fn status(status: Status) -> &'static str {
    match status {
        Status::Complete => "✅ Complete",
        Status::Interrupted => "⏸ Interrupted",
        Status::Failed => "❌ Failed",
        Status::Unknown => "❓ Unknown",
        Status::Running => "⏳ Running",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_was_killed_is_called_running() {
        assert_eq!([Status::Complete, Status::of(None)].map(status), ["✅ Complete", "⏳ Running"]);
    }
}
