//! PURE: a run as read from its results folder.

use jiff::Timestamp;
use proto::Launch;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::plan::Plan;
use crate::results::cells::{CellHistograms, Done, Grid};
use crate::results::end::End;
use crate::results::timeline::BatchTimeline;
use crate::text::rfc3339;

/// The load generator that measured the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Client {
    Muster {
        version: String,
    },
    /// The historical Python script. It does not report on itself, so its batches have no verdict.
    Script,
}

/// How far a run got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The run is under way, or was killed: no end has been written.
    Running,
    Complete,
    Interrupted,
    Failed,
    /// The folder does not say how the run ended.
    Unknown,
}

impl Status {
    /// The status of a run with this end; `None` means that it is under way.
    #[must_use]
    pub fn of(end: Option<&End>) -> Self {
        match end {
            None => Self::Running,
            Some(End { failure: Some(_), .. }) => Self::Failed,
            Some(End { interrupted: true, .. }) => Self::Interrupted,
            Some(_) => Self::Complete,
        }
    }
}

/// The input of tables, figures and pages.
#[derive(Debug)]
pub struct Run {
    /// The results folder, as the user named it.
    pub place: String,
    pub client: Client,
    pub status: Status,
    pub failure: Option<String>,
    /// A suffix such as `-2` that tells the run from others of its day; may be empty.
    pub again: String,
    pub id: String,
    pub started: Timestamp,
    pub ended: Option<Timestamp>,
    pub command: Vec<String>,
    /// The results folder, as the run itself named it.
    pub output: String,
    pub urls: Vec<String>,
    pub plan: Plan,
    pub agents: Map<String, Value>,
    pub results: Vec<Done>,
    pub cells: CellHistograms,
    /// Batches that were analysed session by session.
    pub traced: Vec<BatchTimeline>,
    /// The name of the file of session records, if the run kept one.
    pub raw: Option<String>,
    /// Notes on what is missing or incomplete.
    pub notes: Vec<String>,
}

impl Run {
    /// The infrastructure with its variant, which names the run's row in the overview.
    #[must_use]
    pub fn name(&self) -> String {
        let experiment = &self.plan.experiment;
        if experiment.variant.is_empty() {
            experiment.infrastructure.clone()
        } else {
            format!("{}-{}", experiment.infrastructure, experiment.variant)
        }
    }

    /// The day of the start in UTC, as `YYYY-MM-DD`.
    #[must_use]
    pub fn date(&self) -> String {
        rfc3339(self.started).chars().take(10).collect()
    }

    /// Date, name and suffix: the heading of the log entry.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{}-{}{}", self.date(), self.name(), self.again)
    }

    #[must_use]
    pub fn grid(&self) -> Grid<'_> {
        Grid::of(&self.plan, &self.results, &self.cells)
    }

    /// Whether the run's batches have verdicts.
    #[must_use]
    pub fn judged(&self) -> bool {
        self.client != Client::Script
    }

    /// Whether sessions have one step and no think time, and start all at once, as those of the published rows.
    #[must_use]
    pub fn is_plain_burst(&self) -> bool {
        let session = &self.plan.session;
        session.steps == 1 && session.think_us == 0 && session.launch == Launch::Burst
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::plan::check::plan_of;

    /// A run with these results and the rest of a plan; batch sizes and waits follow from the results.
    pub(crate) fn run_of(plan: &str, started: &str, results: Vec<Done>, cells: CellHistograms) -> Run {
        let text = format!("{plan}\n[target]\nurls=\"http://h:8000\"\n[grid]\nbatch_sizes=[1]\n");
        let mut plan = plan_of(&text).expect("plan");
        let mut sizes: Vec<u64> = results.iter().map(|done| done.batch().batch_size).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let mut waits: Vec<u64> = results.iter().map(|done| done.batch().wait_us).collect();
        waits.sort_unstable();
        waits.dedup();
        (plan.grid.batch_sizes, plan.grid.waits_us) = (sizes, waits);
        plan.grid.repetitions = results.iter().map(|done| done.batch().repetition).max().unwrap_or(1);
        if results.iter().any(|done| done.batch().mode == proto::Mode::Http) {
            plan.target.mode = crate::plan::Modes::Compare;
        }
        let started: Timestamp = started.parse().expect("a time");
        Run {
            place: "results/here".to_owned(),
            client: Client::Muster { version: "0.1.0".to_owned() },
            status: Status::Complete,
            failure: None,
            again: String::new(),
            id: "00000000-0000-0000-0000-000000000000".to_owned(),
            started,
            ended: started.checked_add(jiff::SignedDuration::from_mins(10)).ok(),
            command: ["coordinator", "run", "plan.toml"].map(str::to_owned).to_vec(),
            output: "/home/me/results/here".to_owned(),
            urls: vec!["http://h:8000".to_owned()],
            plan,
            agents: Map::new(),
            results,
            cells,
            traced: Vec::new(),
            raw: Some("raw.jsonl".to_owned()),
            notes: Vec::new(),
        }
    }

    #[test]
    fn a_run_is_named_by_date_and_infrastructure() {
        let plan = "[experiment]\ninfrastructure=\"hf-spaces\"\nvariant=\"cpu-upgrade\"\n";
        let run = run_of(plan, "2026-01-09T23:59:59.999999Z", Vec::new(), CellHistograms::default());
        assert_eq!(run.title(), "2026-01-09-hf-spaces-cpu-upgrade");
    }
}
