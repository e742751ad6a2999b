//! Decides whether a faster generator would have led to another conclusion.

use proto::{FailureKind, Launch, Outcome, Phase, SessionRecord};

use super::evidence::{Criteria, Evidence};
use super::reason::{LatePings, OwnDelay, OwnFailure, Reason};
use super::words::{busiest, cure};
use crate::results::batch::{Summary, most_at_once};
use crate::run::side::{Side, is_provoked};

/// The reasons for another conclusion; empty if it would be the same.
pub(super) fn why(evidence: &Evidence<'_>, criteria: &Criteria, sides: &[Option<Side>]) -> Vec<Reason> {
    let Evidence { plan, summary, .. } = evidence;
    let refused = sides.iter().flatten().filter(|side| side.is_theirs()).count() as u64;
    let mut reasons = Vec::new();
    if !plan.enough_succeeded(summary.ledger.planned - refused, summary.ledger.planned) {
        // The server would have refused a faster generator too, and that failure stands, unless it was full only
        // because the agents prolonged their sessions.
        reasons.extend(stretched(evidence, refused));
        return reasons;
    }
    reasons.extend(own_failures(evidence, criteria, sides));
    reasons.extend(late_reads(evidence, criteria));
    if plan.session.launch == Launch::Burst {
        reasons.extend(never_all_open(evidence));
    } else {
        reasons.extend(late_starts(evidence, criteria));
    }
    reasons
}

/// In a ramp or with arrivals, sessions that the agents prolong pile up. Compares the most open at once with their
/// number had each started as intended and lasted without own delay. Refused sessions are given the median duration.
fn stretched(evidence: &Evidence<'_>, refused_number: u64) -> Option<Reason> {
    let Evidence { plan, summary, rows, .. } = evidence;
    if matches!(plan.session.launch, Launch::Burst) {
        return None;
    }
    let lived = || rows.iter().map(|row| &row.record).filter(|r| r.outcome == Outcome::Succeeded);
    let mut lives: Vec<u64> = lived().filter_map(SessionRecord::total_without_own_delay_us).collect();
    if (lives.len() as u64) < summary.ledger.succeeded || lives.is_empty() {
        return None;
    }
    let middle = lives.len() / 2;
    let median_us = *lives.select_nth_unstable(middle).1;
    let was = most_at_once(lived().filter_map(|r| Some((r.opened_us()?, r.ended_us()?))));
    let would_be = most_at_once(rows.iter().map(|row| {
        let life_us = match row.record.outcome {
            Outcome::Succeeded => row.record.total_without_own_delay_us().unwrap_or(median_us),
            _ => median_us,
        };
        (row.record.intended_us, row.record.intended_us.saturating_add(life_us))
    }));
    (would_be < was).then(|| Reason::Prolonged {
        agent: busiest(summary),
        refused: refused_number,
        open: was,
        open_without: would_be,
        cure: cure(plan),
    })
}

/// Sessions that the generator could not start or read, that the server ended because the generator was late, or whose
/// time limit the generator used up.
fn own_failures(evidence: &Evidence<'_>, criteria: &Criteria, sides: &[Option<Side>]) -> Option<Reason> {
    let Evidence { plan, summary, rows, .. } = evidence;
    // In a phase of one round trip, an arrived reply is read before the limit is checked. The generator's delay can
    // only use up the limit of a whole session, or of connect, which has several round trips.
    let cut = |r: &SessionRecord| {
        let Outcome::TimedOut(phase) = &r.outcome else { return false };
        let of_connect = (*phase == Phase::Connect).then_some(plan.session.connect_timeout_us);
        let limit = [of_connect, plan.session.total_timeout_us].into_iter().flatten().min();
        limit.is_some_and(|limit| {
            r.total_us >= Some(limit) && r.total_without_own_delay_us().is_some_and(|us| us < limit - limit / 10)
        })
    };
    let ours =
        || rows.iter().zip(sides).filter(|(_, side)| **side == Some(Side::Generator)).map(|(row, _)| &row.record);
    let number = |what: &dyn Fn(&FailureKind) -> bool| {
        ours().filter(|r| matches!(&r.outcome, Outcome::Failed(kind, _) if what(kind))).count() as u64
    };
    let starved = number(&|kind| matches!(kind, FailureKind::PortExhausted | FailureKind::FdExhausted));
    let unread = number(&|kind| *kind == FailureKind::ClientLimit);
    let provoked = number(&is_provoked);
    let late = rows.iter().filter(|row| cut(&row.record)).count() as u64;
    let own = starved + unread + provoked + late;
    let would_do = plan.enough_succeeded(summary.ledger.succeeded + own, summary.ledger.planned);
    if criteria.success || !would_do || own == 0 {
        return None;
    }
    let late_us = ours().filter_map(|r| r.wire.silence.map(|silence| silence.own_us)).max();
    let cure = cure(plan);
    let failures = [
        OwnFailure::Starved(starved),
        OwnFailure::Unread { sessions: unread, limit_bytes: plan.session.message_bytes_max },
        OwnFailure::GivenUpByServer { sessions: provoked, late_us, cure, pings: late_pings(summary) },
        OwnFailure::Cut { sessions: late, cure },
    ];
    let there = failures.into_iter().zip([starved, unread, provoked, late]).filter(|(_, sessions)| *sessions > 0);
    Some(Reason::OwnFailures(there.map(|(failure, _)| failure).collect()))
}

/// The agent that answered pings latest.
fn late_pings(summary: &Summary) -> Option<LatePings> {
    let pinged =
        summary.by_agent.iter().filter_map(|agent| Some((agent.pings?.late_us_max?, agent.pings?, &agent.name)));
    pinged.max_by_key(|(late_us, ..)| *late_us).map(|(late_us_max, pings, name)| LatePings {
        agent: name.clone(),
        late_us_max,
        late_p99_us: pings.late_p99_us.unwrap_or(0),
    })
}

/// The agents' delay within sessions decides the latency criterion.
fn late_reads(evidence: &Evidence<'_>, criteria: &Criteria) -> Option<Reason> {
    if !criteria.success || criteria.in_time(criteria.total_p99_us) {
        return None;
    }
    let own = match criteria.without_own_p99_us {
        Some(without_us) => OwnDelay::Measured { without_us },
        None => OwnDelay::Estimated { without_us: criteria.total_p99_us.saturating_sub(estimated_own_us(evidence)?) },
    };
    criteria.in_time(own.without_us()).then(|| Reason::LateReads {
        agent: busiest(evidence.summary),
        own,
        p99_us: criteria.total_p99_us,
        limit_us: criteria.limit_us,
        cure: cure(evidence.plan),
    })
}

/// Estimates, without receive stamps, the p99 of an agent's own delay: one reply is read as late as its timers fire at
/// p99, the others as late as on average. `None` if there are too few samples.
pub(super) fn estimated_own_us(evidence: &Evidence<'_>) -> Option<u64> {
    let others = u64::from(evidence.plan.session.steps) + 3;
    let looked = evidence.summary.by_agent.iter().filter_map(|agent| agent.timer_overshoot);
    looked
        .filter(|late| late.looks >= OVERSHOOT_LOOKS_MIN)
        .map(|late| late.p99_us.saturating_add(late.mean_us.saturating_mul(others)))
        .max()
}

/// With fewer samples than this, a hundredth is not even one of them.
const OVERSHOOT_LOOKS_MIN: u64 = 100;

/// In a burst, sessions ended before the last one was open, and the agents are the cause: it was launched after the
/// first end, or it would have opened before that end without the agents' own delay.
fn never_all_open(evidence: &Evidence<'_>) -> Option<Reason> {
    let Evidence { summary, rows, .. } = evidence;
    // Only succeeded sessions count: those that the server refused or ended are not missing because of the agents.
    let lived = || rows.iter().map(|row| &row.record).filter(|record| record.outcome == Outcome::Succeeded);
    let together = most_at_once(lived().filter_map(|r| Some((r.opened_us()?, r.ended_us()?))));
    if together >= summary.ledger.succeeded {
        return None;
    }
    let last_start = lived().filter_map(|r| r.started_us).max().unwrap_or(0);
    let first_end = lived().filter_map(SessionRecord::ended_us).min().unwrap_or(u64::MAX);
    // A generator without delay starts all sessions at once. Each is open with its first answer and ends after its
    // total, both less the agents' own delay.
    let could_open = |r: &SessionRecord| Some(r.open_latency_us()?.saturating_sub(r.wire.open_own_us?));
    let all_could: Option<Vec<u64>> = lived().map(could_open).collect();
    let could_end = lived().filter_map(SessionRecord::total_without_own_delay_us).min();
    let in_time = all_could.is_some_and(|opened| opened.into_iter().max() < could_end);
    (first_end < last_start || in_time).then(|| Reason::NeverAllOpen {
        together,
        succeeded: summary.ledger.succeeded,
        launch_us: summary.launch_window_us.unwrap_or(0),
        last_open_us: lived().filter_map(SessionRecord::opened_us).max().unwrap_or(0),
        first_end_us: first_end,
    })
}

/// In a ramp or with arrivals, sessions meet the latency criterion from their actual starts, but not from their
/// intended ones.
fn late_starts(evidence: &Evidence<'_>, criteria: &Criteria) -> Option<Reason> {
    if !criteria.in_time(criteria.total_p99_us) || criteria.in_time(criteria.response_p99_us) {
        return None;
    }
    let summary = evidence.summary;
    let late = summary.by_agent.iter().max_by_key(|agent| agent.launch_lag_p99_us)?;
    let full = late.vitals.as_ref().is_some_and(|vitals| {
        // The agent was not slow: all of its places were taken.
        matches!(evidence.plan.session.launch, Launch::Arrivals { .. })
            && vitals.in_flight_max < late.sessions
            && late.at_once.is_some_and(|places| vitals.in_flight_max >= places)
    });
    Some(Reason::LateStarts {
        agent: late.name.clone(),
        lag_us: late.launch_lag_p99_us.unwrap_or(0),
        places: full.then(|| late.at_once.unwrap_or(0)),
        actual_us: criteria.total_p99_us,
        intended_us: criteria.response_p99_us,
        cure: cure(evidence.plan),
    })
}
