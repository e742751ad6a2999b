//! The exact counts, sums and extremes of a batch's records: everything in a summary that is no percentile.

use std::collections::{BTreeMap, BTreeSet};

use proto::{Ledger, SessionRecord};

use crate::results::failure::FailedAs;

/// One pass over the records.
#[derive(Debug, Default)]
pub(super) struct Tally<'a> {
    pub ledger: Ledger,
    pub pids: BTreeSet<u64>,
    pub sessions: BTreeSet<&'a str>,
    /// Succeeded sessions, by the host that answered.
    pub hosts: BTreeMap<String, u64>,
    /// Opened sessions, by the process that served them.
    pub workers: BTreeMap<String, u64>,
    /// By kind and phase.
    pub errors: BTreeMap<FailedAs, u64>,
    pub untidy: BTreeMap<String, u64>,
    pub done: u64,
    /// Total latencies of succeeded sessions.
    pub totals: Totals,
    pub wall_us: u64,
    /// The first and the last actual start.
    pub starts_us: Option<(u64, u64)>,
    /// Steps of succeeded sessions; below it, those of them that the kernel stamped.
    pub steps: u64,
    pub stamped: u64,
    pub syn_retransmits: Option<u64>,
    pub own_delays_us: Vec<u64>,
    pub pings_late_us: Vec<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Totals {
    sum_us: u128,
    count: u64,
    min_us: Option<u64>,
    pub max_us: u64,
}

impl Totals {
    fn see(&mut self, us: u64) {
        self.sum_us += u128::from(us);
        self.count += 1;
        self.min_us = Some(self.min_us.map_or(us, |min| min.min(us)));
        self.max_us = self.max_us.max(us);
    }

    /// 0 without values, as in the historical script.
    pub(super) fn min_us(&self) -> u64 {
        self.min_us.unwrap_or(0)
    }

    /// 0 without values, as in the historical script.
    #[expect(clippy::cast_precision_loss, reason = "means are floats in summary.csv")]
    pub(super) fn mean_us(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.sum_us as f64 / self.count as f64 }
    }
}

impl<'a> Tally<'a> {
    pub(super) fn of(planned: u64, records: impl Iterator<Item = &'a SessionRecord>) -> Self {
        let mut tally = Self { ledger: Ledger::planned(planned), ..Self::default() };
        records.for_each(|record| tally.see(record));
        tally
    }

    fn see(&mut self, record: &'a SessionRecord) {
        self.ledger.count(&record.outcome);
        if let Some(again) = record.wire.syn_retransmits {
            self.syn_retransmits = Some(self.syn_retransmits.unwrap_or(0).saturating_add(again.into()));
        }
        self.wall_us = self.wall_us.max(record.ended_us().unwrap_or(0));
        self.done += u64::from(record.done);
        self.own_delays_us.extend(record.wire.own_delay_us);
        self.pings_late_us.extend(record.wire.ping_late_us);
        if let Some(kind) = &record.untidy {
            *self.untidy.entry(kind.to_string()).or_default() += 1;
        }
        if let (Some(pid), Some(_)) = (record.pid, record.opened_us()) {
            let host = record.host_url.as_deref().unwrap_or("?");
            *self.workers.entry(format!("{host} {pid}")).or_default() += 1;
        }
        if let Some(started) = record.started_us {
            let (first, last) = self.starts_us.unwrap_or((started, started));
            self.starts_us = Some((first.min(started), last.max(started)));
        }
        match FailedAs::of(&record.outcome) {
            Some(failed) => *self.errors.entry(failed).or_default() += 1,
            None => self.succeeded(record),
        }
    }

    fn succeeded(&mut self, record: &'a SessionRecord) {
        self.steps += record.step_us.len() as u64;
        self.stamped += record.wire.steps.len() as u64;
        if let Some(total_us) = record.total_us {
            self.totals.see(total_us);
        }
        self.pids.extend(record.pid);
        self.sessions.extend(record.session_hash.as_deref());
        if let Some(host) = &record.host_url {
            *self.hosts.entry(host.clone()).or_default() += 1;
        }
    }
}
