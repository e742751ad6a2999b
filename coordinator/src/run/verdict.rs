//! PURE: what a batch is worth, and who was the limit.
//!
//! The question is always whether the *conclusion* would change without what the generator did: a burst of thousands
//! takes time to launch, and that alone is no fault.

use std::fmt;

use proto::{FailureKind, Launch, Outcome};
use serde::Serialize;

use super::collect::Row;
use crate::plan::Plan;
use crate::report::format::{count, latency};
use crate::report::summary::Summary;

/// The first that holds, from the worst.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Worth {
    #[default]
    Valid,
    GeneratorLimited,
    /// Agents were lost.
    Degraded,
    /// The ledger, the hosts or the uploads are wrong.
    Invalid,
}

impl fmt::Display for Worth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "valid",
            Self::GeneratorLimited => "generator-limited",
            Self::Degraded => "degraded",
            Self::Invalid => "invalid",
        })
    }
}

/// Who kept the batch from doing better.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    Server,
    Generator,
    None,
    #[default]
    Unknown,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Generator => "generator",
            Self::None => "none",
            Self::Unknown => "unknown",
        })
    }
}

/// With every reason in words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub worth: Worth,
    pub limit: Limit,
    pub reasons: Vec<String>,
}

/// Judges one attempt. `faults` are what the collector found wrong with the uploads, `lost` who was lost and why.
#[must_use]
pub fn judge(plan: &Plan, summary: &Summary, rows: &[Row], faults: &[String], lost: &[String]) -> Verdict {
    let mut judge = Judge { worth: Worth::Valid, reasons: Vec::new() };
    if !summary.ledger.balances() {
        judge.say(Worth::Invalid, format!("the ledger does not balance: {}", summary.ledger));
    }
    for fault in faults {
        judge.say(Worth::Invalid, fault.clone());
    }
    if let Some(expected) = plan.target.expected_hosts {
        let seen = summary.unique_hosts();
        if seen < expected && summary.ledger.succeeded > 0 {
            let text = format!("{seen} of {expected} expected hosts answered");
            if plan.target.require_hosts {
                judge.say(Worth::Invalid, text);
            } else {
                judge.reasons.push(text);
            }
        }
    }
    for who in lost {
        judge.say(Worth::Degraded, format!("agent {who}"));
    }
    let success = summary.success_rate() >= plan.success.min_success_rate;
    let generator = generator_limited(plan, summary, rows, success);
    for reason in generator {
        judge.say(Worth::GeneratorLimited, reason);
    }
    let in_time = summary.total.p99_us <= plan.latency_limit_us(summary.batch.wait_us);
    let limit = match judge.worth {
        Worth::GeneratorLimited => Limit::Generator,
        Worth::Valid if success && in_time => Limit::None,
        Worth::Valid if !success && mostly_refused(rows) => {
            if let Some((kind, n)) = summary.errors.first() {
                judge.reasons.push(format!(
                    "the server refused: {} of {} {kind}",
                    count(*n),
                    count(summary.ledger.planned)
                ));
            }
            Limit::Server
        }
        // Slow or silent: without measuring the agents' own delay it may be either side.
        Worth::Valid | Worth::Degraded | Worth::Invalid => Limit::Unknown,
    };
    Verdict { worth: judge.worth, limit, reasons: judge.reasons }
}

struct Judge {
    worth: Worth,
    reasons: Vec<String>,
}

impl Judge {
    fn say(&mut self, worth: Worth, reason: String) {
        self.worth = self.worth.max(worth);
        self.reasons.push(reason);
    }
}

/// Why the conclusion would have been another one with a faster generator; empty if it would not.
fn generator_limited(plan: &Plan, summary: &Summary, rows: &[Row], success: bool) -> Vec<String> {
    let mut reasons = Vec::new();
    let records = || rows.iter().map(|row| &row.record);

    // Sessions that this side could not even begin.
    let own = records()
        .filter(|r| matches!(&r.outcome, Outcome::Failed(kind, _) if matches!(kind, FailureKind::PortExhausted | FailureKind::FdExhausted)))
        .count() as u64;
    #[expect(clippy::cast_precision_loss, reason = "a fraction")]
    let without = (summary.ledger.succeeded + own) as f64 / summary.ledger.planned.max(1) as f64;
    if own > 0 && !success && without >= plan.success.min_success_rate {
        reasons.push(format!(
            "{} sessions failed for want of ports or descriptors on the agents; add agents or --source-ip",
            count(own)
        ));
    }

    match plan.session.launch {
        Launch::Burst => {
            let last_start = records().filter_map(|r| r.started_us).max().unwrap_or(0);
            // Only sessions that lived their whole life: a refused one ends early by the server's doing.
            let first_end = records()
                .filter(|r| r.outcome == Outcome::Succeeded)
                .filter_map(|r| r.ended_us())
                .min()
                .unwrap_or(u64::MAX);
            if summary.open_max < summary.batch.batch_size && first_end < last_start {
                reasons.push(format!(
                    "only {} of {} sessions were open at once: launching took {}, and the first had ended before the last began; \
                     add agents, or give a longer wait",
                    count(summary.open_max),
                    count(summary.batch.batch_size),
                    latency(summary.launch_window_us),
                ));
            }
        }
        Launch::Ramp { .. } => {
            let limit_us = plan.latency_limit_us(summary.batch.wait_us);
            let in_time = |us: u64| us <= limit_us;
            if in_time(summary.total.p99_us) != in_time(summary.response.p99_us) && summary.ledger.timed_out == 0 {
                reasons.push(format!(
                    "sessions were started late (launch lag p99 {}), and that decides the latency criterion; add agents or a longer ramp",
                    latency(summary.launch_lag_p99_us)
                ));
            }
        }
    }
    reasons
}

/// Whether most of what failed was refused by the server in so many words, as opposed to slow or silent.
fn mostly_refused(rows: &[Row]) -> bool {
    let failed = rows.iter().filter(|row| row.record.outcome != Outcome::Succeeded).count();
    let said_no = |row: &&Row| matches!(&row.record.outcome, Outcome::Failed(kind, _) if kind.blames_server());
    failed > 0 && rows.iter().filter(said_no).count() * 2 > failed
}
