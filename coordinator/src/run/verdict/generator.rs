//! Would a faster generator have come to another conclusion?

use proto::{FailureKind, Launch, Outcome, SessionRecord};

use super::words::{busiest, cure};
use super::{Criteria, Evidence};
use crate::report::format::{count, latency};

/// Why the conclusion would have been another one; empty if it would not.
pub(super) fn why(evidence: &Evidence<'_>, criteria: &Criteria) -> Vec<String> {
    let Evidence { plan, summary, rows, .. } = evidence;
    let records = || rows.iter().map(|row| &row.record);
    // What the server refused it would have refused a faster generator too: that failure stands.
    let refused = records().filter(|r| matches!(&r.outcome, Outcome::Failed(kind, _) if kind.blames_server())).count();
    if !plan.enough_succeeded(summary.ledger.planned - refused as u64, summary.ledger.planned) {
        return Vec::new();
    }
    let mut reasons = Vec::new();
    reasons.extend(own_failures(evidence, criteria));
    reasons.extend(late_reads(evidence, criteria));
    match plan.session.launch {
        Launch::Burst => reasons.extend(never_all_open(evidence)),
        Launch::Ramp { .. } | Launch::Arrivals { .. } => reasons.extend(late_starts(evidence, criteria)),
    }
    reasons
}

/// Sessions that this side could not begin, or spent its own time limit on.
fn own_failures(evidence: &Evidence<'_>, criteria: &Criteria) -> Option<String> {
    let Evidence { plan, summary, rows, .. } = evidence;
    let ran_out = |r: &SessionRecord| {
        matches!(&r.outcome, Outcome::Failed(FailureKind::PortExhausted | FailureKind::FdExhausted, _))
    };
    // A session is only cut by the limit of a whole session for what this side added to it: within a phase, a reply
    // that is there is read before the limit is looked at.
    let cut = |r: &SessionRecord| {
        let (Some(limit), Outcome::TimedOut(_)) = (plan.session.total_timeout_us, &r.outcome) else { return false };
        r.total_us >= Some(limit) && r.total_without_own_delay_us().is_some_and(|us| us < limit * 9 / 10)
    };
    let number = |what: &dyn Fn(&SessionRecord) -> bool| rows.iter().filter(|row| what(&row.record)).count() as u64;
    let (starved, late) = (number(&ran_out), number(&cut));
    let would_do = plan.enough_succeeded(summary.ledger.succeeded + starved + late, summary.ledger.planned);
    if criteria.success || !would_do || starved + late == 0 {
        return None;
    }
    let mut parts = Vec::new();
    if starved > 0 {
        parts.push(format!("{} sessions failed for want of ports or descriptors on the agents", count(starved)));
    }
    if late > 0 {
        parts.push(format!("{} sessions were cut at their total time limit by the agents' own delay", count(late)));
    }
    Some(format!("{}; add agents or --source-ip", parts.join(", ")))
}

/// What the agents added to sessions moves the latency criterion.
fn late_reads(evidence: &Evidence<'_>, criteria: &Criteria) -> Option<String> {
    if !criteria.success || criteria.in_time(criteria.total_p99_us) {
        return None;
    }
    let (without_us, how) = match criteria.without_own_p99_us {
        Some(us) => (us, "measured"),
        // Without receive stamps: every reply is read as late as the thread's own timers fire.
        None => {
            let late_us = evidence.summary.by_agent.iter().filter_map(|agent| agent.timer_overshoot_p99_us()).max()?;
            let awaited = u64::from(evidence.plan.session.steps) + 4;
            (criteria.total_p99_us.saturating_sub(late_us.saturating_mul(awaited)), "estimated from late timers")
        }
    };
    if !criteria.in_time(without_us) {
        return None;
    }
    let agent = busiest(evidence.summary).unwrap_or_else(|| "the agents".to_owned());
    Some(format!(
        "{agent}: the generator was the limit; without its own delay ({how}) p99 would be {} instead of {}, within the \
         criterion of {}; {}",
        latency(without_us),
        latency(criteria.total_p99_us),
        latency(criteria.limit_us),
        cure(evidence.plan)
    ))
}

/// In a burst: sessions had ended before the last one began, so that at no instant all were open.
fn never_all_open(evidence: &Evidence<'_>) -> Option<String> {
    let Evidence { summary, rows, .. } = evidence;
    let last_start = rows.iter().filter_map(|row| row.record.started_us).max().unwrap_or(0);
    // Only sessions that lived their whole life: a refused one ends early by the server's doing.
    let first_end = rows
        .iter()
        .map(|row| &row.record)
        .filter(|record| record.outcome == Outcome::Succeeded)
        .filter_map(SessionRecord::ended_us)
        .min()
        .unwrap_or(u64::MAX);
    (summary.open_max < summary.batch.batch_size && first_end < last_start).then(|| {
        format!(
            "only {} of {} sessions were open at once: launching took {}, and the first had ended before the last began; \
             add agents, or give a longer wait",
            count(summary.open_max),
            count(summary.batch.batch_size),
            latency(summary.launch_window_us),
        )
    })
}

/// In a ramp or with arrivals: from their intended starts sessions miss the latency criterion that they meet from their
/// actual ones.
fn late_starts(evidence: &Evidence<'_>, criteria: &Criteria) -> Option<String> {
    if !criteria.in_time(criteria.total_p99_us) || criteria.in_time(criteria.response_p99_us) {
        return None;
    }
    let summary = evidence.summary;
    let late = summary.by_agent.iter().max_by_key(|agent| agent.launch_lag_p99_us)?;
    let full = late.vitals.as_ref().is_some_and(|vitals| {
        // All of its places were taken: it was not slow, it had no room.
        matches!(evidence.plan.session.launch, Launch::Arrivals { .. })
            && vitals.in_flight_max < late.sessions
            && late.at_once.is_some_and(|places| vitals.in_flight_max >= places)
    });
    let why = if full {
        let places = late.at_once.unwrap_or(0);
        format!(" because all of its {} places were taken (--max-sessions, descriptors or ports)", count(places))
    } else {
        String::new()
    };
    Some(format!(
        "agent {} started sessions up to {} late (launch lag p99){why}, and that decides the latency criterion: p99 is {} from \
         the actual starts, {} from the intended ones; {}",
        late.name,
        latency(late.launch_lag_p99_us.unwrap_or(0)),
        latency(criteria.total_p99_us),
        latency(criteria.response_p99_us),
        cure(evidence.plan)
    ))
}
