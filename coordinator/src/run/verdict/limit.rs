//! Decides whether the server was the bottleneck of a batch that missed a criterion, once the generator is ruled out.

use std::collections::BTreeMap;

use proto::{Outcome, Phase};

use super::generator::estimated_own_us;
use super::words::{busiest, exact, handshakes};
use super::{Criteria, Evidence};
use crate::results::batch::Summary;
use crate::results::row::Row;
use crate::results::verdict::Bottleneck;
use crate::run::side::{Side, is_provoked, same_age, silence_us};
use crate::text::{count, latency};

/// Agents on the target's machine take CPU from it. From this share of a host without free CPU on, they may be the
/// cause of a slow server.
const SHARED_CPU_PERMILLE_MIN: u64 = 200;
const HOST_FULL_PERMILLE: u32 = 900;

/// The bottleneck, with the evidence in words.
pub(super) fn of(evidence: &Evidence<'_>, criteria: &Criteria, sides: &[Option<Side>]) -> (Bottleneck, Vec<String>) {
    let Evidence { summary, rows, .. } = evidence;
    let mut reasons = Vec::new();
    if !criteria.success && mostly_theirs(sides) {
        if let Some((kind, n, side)) = most_frequent_no(rows, sides) {
            let whose = if side == Side::Environment { "environment" } else { "server" };
            reasons.push(format!("by the {whose}: {} of {} {kind}", count(n), count(summary.ledger.planned)));
        }
        reasons.extend(cut_at_one_age(rows, sides));
        reasons.extend(full_worker(summary));
        reasons.extend(handshakes(evidence));
        return (Bottleneck::Server, reasons);
    }
    if let Some(reason) = shared_machine(evidence) {
        reasons.push(reason);
        return (Bottleneck::Unknown, reasons);
    }
    let slow = if criteria.success { slow_but_successful(evidence, criteria) } else { timed_out(evidence) };
    match slow {
        Ok(reason) => {
            reasons.push(reason);
            reasons.extend(handshakes(evidence));
            (Bottleneck::Server, reasons)
        }
        Err(reason) => {
            reasons.push(reason);
            (Bottleneck::Unknown, reasons)
        }
    }
}

/// The latency criterion was missed; `Err` says why the bottleneck is unknown.
fn slow_but_successful(evidence: &Evidence<'_>, criteria: &Criteria) -> Result<String, String> {
    let (without_us, how) = match (criteria.without_own_p99_us, estimated_own_us(evidence)) {
        (Some(us), _) => (us, "measured"),
        (None, Some(own_us)) => (criteria.total_p99_us.saturating_sub(own_us), "estimated from late timers"),
        (None, None) => {
            return Err("p99 misses the criterion, and what the agents added to it is not known: without receive stamps a batch \
                        must last a second at least"
                .to_owned());
        }
    };
    Ok(format!(
        "by the server: without what the agents added ({how}) p99 is still {} of {}, above the criterion of {}; {}",
        exact(without_us),
        exact(criteria.total_p99_us),
        exact(criteria.limit_us),
        slowest_phase(evidence)
    ))
}

fn timed_out(evidence: &Evidence<'_>) -> Result<String, String> {
    let Evidence { plan, summary, rows, .. } = evidence;
    let mut phases: BTreeMap<Phase, u64> = BTreeMap::new();
    let mut own: Vec<u64> = Vec::new();
    let mut unknown = 0_u64;
    for row in *rows {
        if let Outcome::TimedOut(phase) = &row.record.outcome {
            *phases.entry(*phase).or_default() += 1;
            match row.record.wire.own_delay_us {
                Some(us) => own.push(us),
                None => unknown += 1,
            }
        }
    }
    let Some((phase, _)) = phases.into_iter().max_by_key(|(_, n)| *n) else {
        return Err("sessions failed in ways that tell nothing about who was too slow".to_owned());
    };
    let of_phase = match phase {
        Phase::Connect => plan.session.connect_timeout_us,
        Phase::Reset => plan.session.reset_timeout_us,
        Phase::Step => plan.session.step_timeout_us,
        Phase::Close => plan.session.close_timeout_us,
    };
    // Most sessions were cut by whichever limit was shorter.
    let (limit_us, whose) = match plan.session.total_timeout_us {
        Some(total_us) if total_limit_cut(rows, total_us) => (total_us, "at the total time limit of "),
        _ => (of_phase, "after "),
    };
    // An arrived reply is read before its limit is checked: a session that timed out had no reply, unless the agent
    // checked so late that nothing can be said.
    let own_us = if unknown == 0 { super::p99(own) } else { estimated_own_us(evidence) };
    let what = format!(
        "{} of {} timed out, mostly at {phase} {whose}{}",
        count(summary.ledger.timed_out),
        count(summary.ledger.planned),
        latency(limit_us)
    );
    let who = busiest(summary).unwrap_or_else(|| "nothing is known of the agents".to_owned());
    if own_us.is_some_and(|us| us <= limit_us / 10) {
        Ok(format!("by the server: {what}, while {who}"))
    } else {
        Err(format!("{what}, but {who}: it may be either side's doing"))
    }
}

/// Whether most of the sessions that timed out had reached the limit of a whole session.
fn total_limit_cut(rows: &[Row], total_us: u64) -> bool {
    let cut = || rows.iter().filter(|row| matches!(row.record.outcome, Outcome::TimedOut(_)));
    cut().filter(|row| row.record.total_us >= Some(total_us)).count() * 2 > cut().count()
}

/// Agents and server shared a machine without free CPU.
fn shared_machine(evidence: &Evidence<'_>) -> Option<String> {
    let beside =
        || evidence.summary.by_agent.iter().filter_map(|agent| agent.vitals.as_ref()).filter(|v| v.beside_target);
    let host = beside().next()?;
    let full = beside().filter_map(|v| v.host_cpu_permille).max()? >= HOST_FULL_PERMILLE;
    let wall_us = beside().map(|v| v.wall_us).max()?.max(1);
    let cpus = u64::from(host.host_cpus.max(1));
    let used: u64 = beside().map(|v| v.process_cpu_us).sum();
    let share_permille = used.saturating_mul(1_000) / wall_us.saturating_mul(cpus);
    (full && share_permille >= SHARED_CPU_PERMILLE_MIN).then(|| {
        format!(
            "load and target shared a machine without a free CPU ({cpus} CPUs, {}.{} of them used by the agents): the server may \
             do better alone; start the agents on another machine",
            used * 10 / wall_us / 10,
            used * 10 / wall_us % 10
        )
    })
}

/// The phase with the largest p99.
fn slowest_phase(evidence: &Evidence<'_>) -> String {
    let summary = evidence.summary;
    let asked = summary.batch.wait_us;
    let phases = [
        ("connect", summary.connect.p99_us),
        ("reset", summary.reset.p99_us),
        ("step beyond its wait", summary.step.p99_us.saturating_sub(asked)),
    ];
    let (name, us) = phases.into_iter().max_by_key(|(_, us)| *us).unwrap_or(("step", 0));
    format!("most of it in {name}, p99 {}", latency(us))
}

/// The most frequent failure attributed to the server or its environment, by kind and phase.
fn most_frequent_no(rows: &[Row], sides: &[Option<Side>]) -> Option<(String, u64, Side)> {
    let mut kinds: BTreeMap<(String, Side), u64> = BTreeMap::new();
    for (row, side) in rows.iter().zip(sides) {
        if let (Outcome::Failed(kind, phase), Some(side)) = (&row.record.outcome, side)
            && side.is_theirs()
        {
            *kinds.entry((format!("{kind} at {phase}"), *side)).or_default() += 1;
        }
    }
    kinds.into_iter().max_by_key(|(_, n)| *n).map(|((kind, side), n)| (kind, n, side))
}

/// Whether most unsuccessful sessions are attributed to the server, as opposed to timeouts.
fn mostly_theirs(sides: &[Option<Side>]) -> bool {
    let failed = sides.iter().flatten().count();
    failed > 0 && sides.iter().flatten().filter(|side| side.is_theirs()).count() * 2 > failed
}

/// Connections cut after the same time of silence were cut by a rule: an idle limit of the server, or of a proxy in
/// front of it.
fn cut_at_one_age(rows: &[Row], sides: &[Option<Side>]) -> Option<String> {
    const CUT_MIN: usize = 3;
    let cut = rows.iter().zip(sides).filter(|(row, side)| {
        matches!(&row.record.outcome, Outcome::Failed(kind, Phase::Step | Phase::Reset) if is_provoked(kind))
            && **side == Some(Side::Server)
    });
    let mut ages: Vec<u64> = cut.map(|(row, _)| silence_us(&row.record)).collect();
    if ages.len() < CUT_MIN || !same_age(&ages) {
        return None;
    }
    ages.sort_unstable();
    let age_us = ages[ages.len() / 2];
    Some(format!(
        "{} connections were cut without an answer at the same age, {} after the last word of the server: does the server, or a \
         proxy before it, close connections that are idle for that long? such a limit has to be above the longest wait and pause",
        count(ages.len() as u64),
        latency(age_us)
    ))
}

/// One of several processes had far more sessions than its share, and may have been full while others had room.
fn full_worker(summary: &Summary) -> Option<String> {
    let (most, least) = (summary.workers.values().max()?, summary.workers.values().min()?);
    (summary.workers.len() > 1 && *most > least + least / 4).then(|| {
        let mut counts: Vec<u64> = summary.workers.values().copied().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let shown: Vec<String> = counts.iter().take(4).map(|n| count(*n)).collect();
        format!(
            "sessions were not spread evenly over {} workers: {}{} each",
            counts.len(),
            shown.join(", "),
            if counts.len() > 4 { ", ..." } else { "" }
        )
    })
}
