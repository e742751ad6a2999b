//! What is kept of the sessions of one thread. Owned by that thread alone; no locks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;
use proto::{Bounds, HistogramSet, Ledger, Outcome, SessionRecord};

use super::overshoot;
use crate::vitals::{LetGo, Scheduled};

/// Everything one thread measured.
#[derive(Debug)]
pub struct Recorder {
    pub histograms: HistogramSet,
    pub ledger: Ledger,
    pub records: Vec<SessionRecord>,
    /// Socket errors that ended sessions.
    pub errnos: BTreeMap<i32, u64>,
    /// Sessions begun and not ended.
    pub in_flight_max: u64,
    pub overshoot: Histogram<u64>,
    /// Connections of sessions that were over.
    pub let_go: LetGo,
    /// Of the thread, since it was let go.
    pub scheduled: Scheduled,
}

impl Recorder {
    #[must_use]
    pub fn new(bounds: Bounds, planned: u64) -> Self {
        Self {
            histograms: HistogramSet::new(bounds),
            ledger: Ledger::planned(planned),
            records: Vec::with_capacity(usize::try_from(planned).unwrap_or(0)),
            errnos: BTreeMap::new(),
            in_flight_max: 0,
            overshoot: overshoot::empty(),
            let_go: LetGo::default(),
            scheduled: Scheduled::default(),
        }
    }

    pub fn record(&mut self, record: SessionRecord) {
        self.histograms.record(&record);
        self.ledger.count(&record.outcome);
        self.records.push(record);
    }
}

/// Small counters that the control side reads while sessions run. Statistics only: nothing is decided by them.
#[derive(Debug, Default)]
pub struct Counters {
    launched: AtomicU64,
    /// Had their first answer.
    opened: AtomicU64,
    /// Of those.
    ended_open: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
}

/// What [`Counters`] say at one instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snapshot {
    pub launched: u64,
    pub open: u64,
    pub succeeded: u64,
    pub failed: u64,
}

impl Counters {
    pub fn launched(&self) {
        self.launched.fetch_add(1, Ordering::Relaxed);
    }

    pub fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// A session is over; `was_open` if it had had its first answer.
    pub fn ended(&self, outcome: &Outcome, was_open: bool) {
        if was_open {
            self.ended_open.fetch_add(1, Ordering::Relaxed);
        }
        let counter = if *outcome == Outcome::Succeeded { &self.succeeded } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        // Ends are read first: a session that ends in between must not make `open` negative.
        let ended_open = self.ended_open.load(Ordering::Relaxed);
        Snapshot {
            succeeded: self.succeeded.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            open: self.opened.load(Ordering::Relaxed).saturating_sub(ended_open),
            launched: self.launched.load(Ordering::Relaxed),
        }
    }
}
