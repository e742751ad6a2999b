//! A finished attempt at a batch: one row per planned session, and their summary.

use proto::{AttemptId, HistogramSet};

use crate::results::batch::Summary;
use crate::results::row::Row;

/// A finished attempt, ready to be stored.
#[derive(Debug, Clone)]
pub struct FinishedAttempt {
    pub id: AttemptId,
    pub summary: Summary,
    /// Exactly one row per planned session, in the order of the global session number.
    pub rows: Vec<Row>,
    pub histograms: HistogramSet,
    /// Whether summary.csv shows this attempt as the batch's row: the accepted one, or the last if none was accepted.
    pub stands: bool,
    /// Errors that the collector found in the uploads.
    pub faults: Vec<String>,
    /// The lost agents, and why each was lost.
    pub lost: Vec<String>,
}
