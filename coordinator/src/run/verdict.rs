//! PURE: what a batch is worth, and who was the limit.
//!
//! The question is always whether the *conclusion* would change without what the generator did: a burst of thousands
//! takes time to launch, and that alone is no fault.

use std::collections::BTreeMap;

use proto::{FailureKind, Launch, Outcome};

use crate::plan::Plan;
use crate::report::facts::{Limit, Row, Verdict, Worth};
use crate::report::format::{count, latency};
use crate::report::summary::Summary;

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
    for who in lost {
        judge.say(Worth::Degraded, format!("agent {who}"));
    }
    let otherwise = judge.worth;
    let mut hosts_missing = false;
    if let Some(expected) = plan.target.expected_hosts {
        let seen = summary.unique_hosts();
        // Where nothing succeeded nobody said who it was.
        if seen < expected && summary.ledger.succeeded > 0 {
            let text = format!("{seen} of {expected} expected hosts answered");
            if plan.target.require_hosts {
                hosts_missing = true;
                judge.say(Worth::Invalid, text);
            } else {
                judge.reasons.push(text);
            }
        }
    }
    let success = plan.enough_succeeded(summary.ledger.succeeded, summary.ledger.planned);
    let generator = generator_limited(plan, summary, rows, success);
    for reason in generator {
        judge.say(Worth::GeneratorLimited, reason);
    }
    let in_time = summary.total.p99_us <= plan.latency_limit_us(summary.batch.wait_us);
    let limit = match judge.worth {
        Worth::GeneratorLimited => Limit::Generator,
        Worth::Valid if success && in_time => Limit::None,
        Worth::Valid if !success && mostly_refused(rows) => {
            if let Some((kind, n)) = most_frequent_no(rows) {
                judge.reasons.push(format!("by the server: {} of {} {kind}", count(n), count(summary.ledger.planned)));
            }
            Limit::Server
        }
        // Slow or silent: without measuring the agents' own delay it may be either side.
        Worth::Valid | Worth::Degraded | Worth::Invalid => Limit::Unknown,
    };
    Verdict {
        worth: judge.worth,
        limit,
        reasons: judge.reasons,
        hosts_missing,
        only_hosts_missing: hosts_missing && otherwise < Worth::Degraded,
    }
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
    // What the server refused it would have refused a faster generator too: that failure stands.
    let refused = records().filter(|r| matches!(&r.outcome, Outcome::Failed(kind, _) if kind.blames_server())).count();
    if !plan.enough_succeeded(summary.ledger.planned - refused as u64, summary.ledger.planned) {
        return reasons;
    }

    // Sessions that this side could not even begin.
    let own = records()
        .filter(|r| matches!(&r.outcome, Outcome::Failed(kind, _) if matches!(kind, FailureKind::PortExhausted | FailureKind::FdExhausted)))
        .count() as u64;
    if own > 0 && !success && plan.enough_succeeded(summary.ledger.succeeded + own, summary.ledger.planned) {
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

/// The commonest of the server's refusals, by kind and phase.
fn most_frequent_no(rows: &[Row]) -> Option<(String, u64)> {
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    for row in rows {
        if let Outcome::Failed(kind, phase) = &row.record.outcome
            && kind.blames_server()
        {
            *kinds.entry(format!("{kind} at {phase}")).or_default() += 1;
        }
    }
    kinds.into_iter().max_by_key(|(_, n)| *n)
}

/// Whether most of what failed was refused by the server in so many words, as opposed to slow or silent.
fn mostly_refused(rows: &[Row]) -> bool {
    let failed = rows.iter().filter(|row| row.record.outcome != Outcome::Succeeded).count();
    let said_no = |row: &&Row| matches!(&row.record.outcome, Outcome::Failed(kind, _) if kind.blames_server());
    failed > 0 && rows.iter().filter(said_no).count() * 2 > failed
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use proto::{Bounds, HistogramSet, Mode, Phase, SessionRecord};

    use super::*;
    use crate::plan::check::plan_of;
    use crate::plan::expand::Batch;
    use crate::report::summary::Context;

    const SECOND: u64 = 1_000_000;

    fn plan(more: &str) -> Plan {
        plan_of(&format!("target.urls=\"http://h\"\ngrid.batch_sizes=[1]\n{more}")).expect("plan")
    }

    /// A session that starts at `started`, connects at once and lives for `total`.
    fn session(number: u64, outcome: Outcome, started: u64, total: u64) -> Row {
        let mut record = SessionRecord::without_life(number, outcome, String::new());
        record.started_us = Some(started);
        record.connect_us = Some(1);
        record.total_us = Some(total);
        record.host_url = Some("one:1".to_owned());
        Row { agent: Arc::from("a"), record }
    }

    fn judged(plan: &Plan, rows: &[Row], faults: &[&str], lost: &[&str]) -> Verdict {
        let mut histograms = HistogramSet::new(Bounds::STANDARD);
        for row in rows {
            histograms.record(&row.record);
        }
        let batch = Batch { index: 0, mode: Mode::Ws, batch_size: rows.len() as u64, wait_us: SECOND, repetition: 1 };
        let context = Context {
            batch,
            url: "u",
            hardware: "h",
            timestamp: Timestamp::UNIX_EPOCH,
            asked_wait_us: SECOND,
            agents: 1,
            attempt: 1,
        };
        let summary = Summary::of(&context, rows, &histograms);
        let owned = |texts: &[&str]| -> Vec<String> { texts.iter().map(|text| (*text).to_owned()).collect() };
        judge(plan, &summary, rows, &owned(faults), &owned(lost))
    }

    fn good(count: u64) -> Vec<Row> {
        (0..count).map(|n| session(n, Outcome::Succeeded, n, SECOND)).collect()
    }

    #[test]
    fn a_batch_that_met_everything_is_valid_and_nobody_was_the_limit() {
        let verdict = judged(&plan(""), &good(20), &[], &[]);
        assert_eq!((verdict.worth, verdict.limit, verdict.reasons.len()), (Worth::Valid, Limit::None, 0));
    }

    #[test]
    fn the_worst_holds_and_every_reason_is_told() {
        let verdict = judged(&plan(""), &good(20), &["a contradiction"], &["n2 was lost: silent"]);
        assert_eq!(verdict.worth, Worth::Invalid);
        assert_eq!(verdict.reasons, ["a contradiction", "agent n2 was lost: silent"]);
    }

    #[test]
    fn missing_hosts_warn_or_make_it_invalid() {
        let warned = judged(&plan("target.expected_hosts=2"), &good(4), &[], &[]);
        assert_eq!((warned.worth, warned.hosts_missing), (Worth::Valid, false));
        assert_eq!(warned.reasons, ["1 of 2 expected hosts answered"]);
        let required = plan("target.expected_hosts=2\ntarget.require_hosts=true");
        let alone = judged(&required, &good(4), &[], &[]);
        assert_eq!((alone.worth, alone.only_hosts_missing), (Worth::Invalid, true));
        let with_loss = judged(&required, &good(4), &[], &["n2 was lost"]);
        assert_eq!((with_loss.hosts_missing, with_loss.only_hosts_missing), (true, false));
        let refused = |n| session(n, Outcome::Failed(FailureKind::Refused, Phase::Connect), 0, 5);
        let nobody = judged(&required, &[refused(0), refused(1)], &[], &[]);
        assert!(!nobody.hosts_missing, "where nothing succeeded nobody said who it was");
    }

    #[test]
    fn a_slow_burst_is_no_fault_unless_sessions_had_ended_before_the_last_began() {
        // Launching took longer than the session lives: at no instant were all open.
        let rows: Vec<Row> = (0..20).map(|n| session(n, Outcome::Succeeded, n * SECOND / 10, SECOND)).collect();
        let verdict = judged(&plan(""), &rows, &[], &[]);
        assert_eq!((verdict.worth, verdict.limit), (Worth::GeneratorLimited, Limit::Generator));
        assert!(verdict.reasons[0].starts_with("only 10 of 20 sessions were open at once"), "{:?}", verdict.reasons);
        // The same launch with sessions that outlive it.
        let rows: Vec<Row> = (0..20).map(|n| session(n, Outcome::Succeeded, n * SECOND / 10, 3 * SECOND)).collect();
        assert_eq!(judged(&plan(""), &rows, &[], &[]).worth, Worth::Valid);
    }

    #[test]
    fn late_launches_of_a_ramp_count_when_they_decide_the_latency_criterion() {
        let ramp = "session.launch={kind='ramp',over_seconds=1}\n";
        let late = |lag: u64| -> Vec<Row> {
            (0..20)
                .map(|n| {
                    let mut row = session(n, Outcome::Succeeded, n * 1_000 + lag, SECOND);
                    row.record.intended_us = n * 1_000;
                    row
                })
                .collect()
        };
        // The criterion is 2 x (1 s + 0.5 s).
        assert_eq!(judged(&plan(ramp), &late(SECOND), &[], &[]).worth, Worth::Valid);
        let verdict = judged(&plan(ramp), &late(3 * SECOND), &[], &[]);
        assert_eq!(verdict.worth, Worth::GeneratorLimited);
        assert!(verdict.reasons[0].contains("launch lag p99 3.00s"), "{:?}", verdict.reasons);
    }

    #[test]
    fn who_said_no_is_the_limit() {
        let mixed = |kind: FailureKind| -> Vec<Row> {
            (0..20)
                .map(|n| match n {
                    0..10 => session(n, Outcome::Succeeded, 0, SECOND),
                    _ => session(n, Outcome::Failed(kind.clone(), Phase::Reset), 0, 10),
                })
                .collect()
        };
        let server = judged(&plan(""), &mixed(FailureKind::CapacityReached), &[], &[]);
        assert_eq!((server.worth, server.limit), (Worth::Valid, Limit::Server));
        assert_eq!(server.reasons, ["by the server: 10 of 20 capacity_reached at reset"]);
        // However slowly it was launched: a faster generator would have been refused as well.
        let mut slow = mixed(FailureKind::CapacityReached);
        for (n, row) in (0..).zip(&mut slow) {
            row.record.started_us = Some(n * SECOND);
        }
        assert_eq!(judged(&plan(""), &slow, &[], &[]).worth, Worth::Valid, "it proves something");
        let own = judged(&plan(""), &mixed(FailureKind::PortExhausted), &[], &[]);
        assert_eq!((own.worth, own.limit), (Worth::GeneratorLimited, Limit::Generator));
        let silent: Vec<Row> = (0..20).map(|n| session(n, Outcome::TimedOut(Phase::Step), 0, 9 * SECOND)).collect();
        assert_eq!(judged(&plan(""), &silent, &[], &[]).limit, Limit::Unknown, "slow may be either side's doing");
    }
}
