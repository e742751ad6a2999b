//! An attempt at a batch: its rows, one a planned session, and what they add up to.

use proto::{AttemptId, HistogramSet};

use crate::results::batch::Summary;
use crate::results::row::Row;

/// An attempt that is over, ready to be stored.
#[derive(Debug, Clone)]
pub struct FinishedAttempt {
    pub id: AttemptId,
    pub summary: Summary,
    /// In the order of the global session number; exactly one a planned session.
    pub rows: Vec<Row>,
    pub histograms: HistogramSet,
    /// Whether this attempt is the batch's row in summary.csv: the accepted one, or the last when none was.
    pub stands: bool,
    /// What the collector found wrong with the uploads.
    pub faults: Vec<String>,
    /// Who was lost and why.
    pub lost: Vec<String>,
}
