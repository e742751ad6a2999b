//! How a run ended.

use crate::results::cells::{Done, Grid};
use crate::results::verdict::Validity;

/// The error that ended a run early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    TargetNotReady(String),
    #[error("{0}")]
    TooFewAgents(String),
    #[error("the results can't be written: {0}")]
    Store(String),
    #[error("{0}")]
    Internal(String),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    pub failure: Option<Failure>,
    pub interrupted: bool,
    /// A batch is degraded or invalid for a reason other than its hosts, or a lost agent ended the run.
    pub unsound: bool,
    pub hosts_missing: bool,
    pub generator_limited: bool,
    /// Set by [`End::judged`], once the cells are aggregated.
    pub criteria_missed: bool,
}

impl End {
    #[must_use]
    pub fn failed(failure: Failure) -> Self {
        Self {
            failure: Some(failure),
            interrupted: false,
            unsound: false,
            hosts_missing: false,
            generator_limited: false,
            criteria_missed: false,
        }
    }

    /// The end of a run whose batches are all decided, or that was stopped.
    #[must_use]
    pub fn of_run(results: &[Done], interrupted: bool, aborted: bool) -> Self {
        let ran = || results.iter().filter_map(Done::summary);
        Self {
            failure: None,
            interrupted,
            unsound: aborted
                || ran().any(|s| s.verdict.validity >= Validity::Degraded && !s.verdict.only_hosts_missing),
            hosts_missing: ran().any(|s| s.verdict.hosts_missing),
            generator_limited: ran().any(|s| s.verdict.validity == Validity::GeneratorLimited),
            criteria_missed: false,
        }
    }

    /// Adds the judgement of the success criteria over the whole grid.
    #[must_use]
    pub fn judged(self, grid: &Grid<'_>) -> Self {
        Self { criteria_missed: grid.misses_criteria(), ..self }
    }

    /// The reason that agents and logs are given.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match (&self.failure, self.interrupted) {
            (Some(_), _) => "the run ended early; see the coordinator",
            (None, true) => "the run was interrupted",
            (None, false) => "the run is complete",
        }
    }
}
