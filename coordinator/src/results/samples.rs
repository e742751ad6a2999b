//! Rows and contexts for the unit tests of every room.

use std::sync::Arc;

use jiff::Timestamp;
use proto::{Outcome, SessionRecord};

use super::batch::Context;
use super::row::Row;
use crate::plan::expand::Batch;

/// The first attempt of a batch by one agent, whose sessions take one step.
pub(crate) fn context(batch: Batch) -> Context<'static> {
    Context {
        asked_wait_us: batch.wait_us,
        batch,
        url: "u",
        hardware: "h",
        timestamp: Timestamp::UNIX_EPOCH,
        agents: 1,
        attempt: 1,
    }
}

/// A session that starts at 0, opens at `opened` and succeeds at `ended`, both in microseconds.
pub(crate) fn row(opened: u64, ended: u64) -> Row {
    let mut record = SessionRecord::without_life(0, Outcome::Succeeded, String::new());
    record.started_us = Some(0);
    record.connect_us = Some(opened);
    record.reset_us = Some(0);
    record.total_us = Some(ended);
    Row { agent: Arc::from("a"), record }
}
