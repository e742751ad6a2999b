//! The position of the run in the batches of its plan.

use crate::plan::expand::Batch;
use crate::results::history::History;

/// The present or next batch and its attempts.
#[derive(Debug, Default)]
pub(super) struct Cursor {
    /// Index into the batches of the plan.
    pub(super) next: usize,
    /// Number of the present attempt. It also counts the attempts of earlier processes of the run.
    pub(super) attempt: u32,
    /// Number of the first attempt by this process.
    pub(super) first_attempt: u32,
    /// Attempts during which the server went away.
    pub(super) outages: u32,
    /// The reasons why earlier attempts did not count.
    pub(super) refused: Vec<String>,
}

impl Cursor {
    pub(super) fn at(next: usize, batches: &[Batch], history: &History) -> Self {
        let index = batches.get(next).map(|batch| batch.index);
        let first_attempt = 1 + index.and_then(|index| history.refused.get(&index)).copied().unwrap_or(0);
        let refused = index.and_then(|index| history.told.get(&index)).cloned().unwrap_or_default();
        Self { next, attempt: first_attempt, first_attempt, outages: 0, refused }
    }

    /// Number of attempts by this process, including the present one.
    pub(super) fn attempts(&self) -> u32 {
        self.attempt + 1 - self.first_attempt
    }
}
