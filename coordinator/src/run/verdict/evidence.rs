//! What a verdict rests on: the measured attempt, what else happened to it, and whether it met the criteria.

use crate::plan::Plan;
use crate::results::agent::p99;
use crate::results::batch::Summary;
use crate::results::row::Row;
use crate::results::verdict::Outage;

/// The inputs of a verdict on one attempt.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    pub plan: &'a Plan,
    pub summary: &'a Summary,
    pub rows: &'a [Row],
    /// Errors that the collector found in the uploads.
    pub faults: &'a [String],
    /// The lost agents, and why each was lost.
    pub lost: &'a [String],
    pub fate: &'a Fate,
}

/// What happened to an attempt besides its sessions.
#[derive(Debug, Clone, Default)]
pub struct Fate {
    pub outage: Option<(Outage, Treated)>,
    /// Why the attempt does not count, for a reason other than a lost agent.
    pub given_up: Option<String>,
    /// How the target failed the probes after the attempt, if it did not answer at once.
    pub afterwards: Vec<String>,
}

/// How an attempt with an outage is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Treated {
    /// The attempt does not count.
    Refused,
    /// The user wants the attempt kept as it is.
    Kept,
    /// The server went away in each of this many attempts, so the batch itself is the cause.
    EveryTime { attempts: u32 },
}

/// The conclusion of a batch, and the latency that it would have without the generator's own delay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Criteria {
    pub(super) success: bool,
    pub(super) limit_us: u64,
    pub(super) total_p99_us: u64,
    /// The p99 of succeeded sessions from their intended starts.
    pub(super) response_p99_us: u64,
    /// The p99 without the agents' own delay; `None` if that is unknown.
    pub(super) without_own_p99_us: Option<u64>,
}

impl Criteria {
    pub(super) fn of(evidence: &Evidence<'_>) -> Self {
        let Evidence { plan, summary, rows, .. } = evidence;
        let good = || rows.iter().map(|row| &row.record).filter(|r| r.outcome == proto::Outcome::Succeeded);
        let limit_us = plan.latency_limit_us(summary.batch.wait_us);
        // A session whose episode ended early asked for less, and has a lower limit: its time is scaled to the limit of
        // a session that asked for everything.
        let scaled = |r: &proto::SessionRecord, us: u64| match plan.latency_limit_of_us(r.asked_us) {
            own_us if !r.done || own_us == limit_us || own_us == 0 => us,
            own_us => u64::try_from(u128::from(us) * u128::from(limit_us) / u128::from(own_us)).unwrap_or(u64::MAX),
        };
        let known: Vec<u64> = good().filter_map(|r| Some(scaled(r, r.total_without_own_delay_us()?))).collect();
        let all = summary.ledger.succeeded;
        // One unknown session in a thousand does not move the 99th percentile.
        let enough = all > 0 && (known.len() as u64).saturating_mul(1_000) >= all.saturating_mul(999);
        Self {
            success: plan.enough_succeeded(summary.ledger.succeeded, summary.ledger.planned),
            limit_us,
            // Exact, since the upper edge of a histogram's bucket may lie on the other side of the criterion.
            total_p99_us: p99(good().filter_map(|r| Some(scaled(r, r.total_us?))).collect()).unwrap_or(0),
            response_p99_us: p99(good().filter_map(|r| Some(scaled(r, r.response_us()?))).collect()).unwrap_or(0),
            without_own_p99_us: if enough { p99(known) } else { None },
        }
    }

    pub(super) fn in_time(&self, us: u64) -> bool {
        us <= self.limit_us
    }

    pub(super) fn met(&self) -> bool {
        self.success && self.in_time(self.total_p99_us)
    }
}
