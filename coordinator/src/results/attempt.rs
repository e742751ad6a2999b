//! A finished attempt at a batch: one row per planned session, and their summary.

use std::sync::Arc;

use proto::{AttemptId, HistogramSet, SessionRecord};

use crate::results::batch::Summary;

/// The record of one session, with the agent that ran it.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub agent: Arc<str>,
    pub record: SessionRecord,
}

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
