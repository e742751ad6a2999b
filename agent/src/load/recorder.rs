//! What one thread keeps of its sessions. The thread owns it alone, so there are no locks.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use hdrhistogram::Histogram;
use proto::message::Progress;
use proto::{AttemptId, Bounds, HistogramSet, Ledger, Outcome, SessionRecord};

use super::overshoot;
use crate::host::vitals::{CloseDelays, ThreadCpu};

/// Everything one thread measured.
#[derive(Debug)]
pub struct Recorder {
    pub histograms: HistogramSet,
    pub ledger: Ledger,
    pub records: Vec<SessionRecord>,
    /// Socket errors that ended sessions: how many by error number.
    pub errnos: BTreeMap<i32, u64>,
    /// The most connections at once.
    pub in_flight_max: u64,
    /// How late the thread's own timers fired, in microseconds.
    pub overshoot: Histogram<u64>,
    /// How connections of sessions that were over were closed.
    pub close_delays: CloseDelays,
    /// CPU time of the thread since the start instant.
    pub cpu: ThreadCpu,
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
            close_delays: CloseDelays::default(),
            cpu: ThreadCpu::default(),
        }
    }

    /// Adds one session.
    pub fn record(&mut self, record: SessionRecord) {
        self.histograms.record(&record);
        self.ledger.count(&record.outcome);
        self.records.push(record);
    }
}

/// Counters that the control side reads while sessions run. They are shown to people; nothing is decided by them.
#[derive(Debug, Default)]
pub struct Counters {
    launched: AtomicU64,
    /// Sessions that had their first reply.
    opened: AtomicU64,
    /// How many of those have ended.
    ended_open: AtomicU64,
    succeeded: AtomicU64,
    failed: AtomicU64,
}

impl Counters {
    /// A session was launched.
    pub fn launched(&self) {
        self.launched.fetch_add(1, Ordering::Relaxed);
    }

    /// A session had its first reply.
    pub fn opened(&self) {
        self.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// A session is over; `was_open` says that it had its first reply.
    pub fn ended(&self, outcome: &Outcome, was_open: bool) {
        if was_open {
            self.ended_open.fetch_add(1, Ordering::Relaxed);
        }
        let counter = if *outcome == Outcome::Succeeded { &self.succeeded } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The current values, for the progress of `attempt`.
    #[must_use]
    pub fn progress(&self, attempt: AttemptId) -> Progress {
        // Ends are read first, so that a session that ends in between does not make `open` negative.
        let ended_open = self.ended_open.load(Ordering::Relaxed);
        Progress {
            attempt,
            succeeded: self.succeeded.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            open: self.opened.load(Ordering::Relaxed).saturating_sub(ended_open),
            launched: self.launched.load(Ordering::Relaxed),
        }
    }
}
