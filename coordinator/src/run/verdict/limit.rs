//! Decides whether the server was the bottleneck of a batch that missed a criterion, once the generator is ruled out.

use std::collections::BTreeMap;

use proto::{Outcome, Phase};

use super::evidence::{Criteria, Evidence};
use super::generator::estimated_own_us;
use super::reason::{CutBy, OwnDelay, Reason};
use super::words::busiest;
use crate::results::agent::p99;
use crate::results::batch::Summary;
use crate::results::failure::FailedAs;
use crate::results::row::Row;
use crate::results::verdict::Bottleneck;
use crate::run::side::{Side, is_provoked, same_age, silence_us};

/// Agents on the target's machine take CPU from it. From this share of a host without free CPU on, they may be the
/// cause of a slow server.
const SHARED_CPU_PERMILLE_MIN: u64 = 200;
const HOST_FULL_PERMILLE: u32 = 900;

/// The bottleneck, with the evidence.
pub(super) fn of(evidence: &Evidence<'_>, criteria: &Criteria, sides: &[Option<Side>]) -> (Bottleneck, Vec<Reason>) {
    let Evidence { summary, rows, .. } = evidence;
    let mut reasons = Vec::new();
    if !criteria.success && mostly_theirs(sides) {
        let planned = summary.ledger.planned;
        reasons.extend(most_frequent_no(rows, sides).map(|(failed, sessions, side)| Reason::Rejected {
            failed,
            sessions,
            planned,
            side,
        }));
        reasons.extend(cut_at_one_age(rows, sides));
        reasons.extend(full_worker(summary));
        reasons.extend(handshakes(evidence));
        return (Bottleneck::Server, reasons);
    }
    if let Some(reason) = shared_machine(evidence) {
        reasons.push(reason);
        return (Bottleneck::Unknown, reasons);
    }
    let (bottleneck, reason) =
        if criteria.success { slow_but_successful(evidence, criteria) } else { timed_out(evidence) };
    reasons.push(reason);
    if bottleneck == Bottleneck::Server {
        reasons.extend(handshakes(evidence));
    }
    (bottleneck, reasons)
}

/// The latency criterion was missed.
fn slow_but_successful(evidence: &Evidence<'_>, criteria: &Criteria) -> (Bottleneck, Reason) {
    let own = match (criteria.without_own_p99_us, estimated_own_us(evidence)) {
        (Some(without_us), _) => OwnDelay::Measured { without_us },
        (None, Some(own_us)) => OwnDelay::Estimated { without_us: criteria.total_p99_us.saturating_sub(own_us) },
        (None, None) => return (Bottleneck::Unknown, Reason::SlowWithoutStamps),
    };
    let (phase, phase_us) = slowest_phase(evidence);
    (
        Bottleneck::Server,
        Reason::Slow { own, p99_us: criteria.total_p99_us, limit_us: criteria.limit_us, phase, phase_us },
    )
}

fn timed_out(evidence: &Evidence<'_>) -> (Bottleneck, Reason) {
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
        return (Bottleneck::Unknown, Reason::NothingTold);
    };
    let of_phase = match phase {
        Phase::Connect => plan.session.connect_timeout_us,
        Phase::Reset => plan.session.reset_timeout_us,
        Phase::Step => plan.session.step_timeout_us,
        Phase::Close => plan.session.close_timeout_us,
    };
    // Most sessions were cut by whichever limit was shorter.
    let (limit_us, limit) = match plan.session.total_timeout_us {
        Some(limit_us) if total_limit_cut(rows, limit_us) => (limit_us, CutBy::Total { limit_us }),
        _ => (of_phase, CutBy::OfPhase { limit_us: of_phase }),
    };
    // An arrived reply is read before its limit is checked: a session that timed out had no reply, unless the agent
    // checked so late that nothing can be said.
    let own_us = if unknown == 0 { p99(own) } else { estimated_own_us(evidence) };
    let by_server = own_us.is_some_and(|us| us <= limit_us / 10);
    let reason = Reason::TimedOut {
        sessions: summary.ledger.timed_out,
        planned: summary.ledger.planned,
        phase,
        limit,
        agent: busiest(summary),
        by_server,
    };
    (if by_server { Bottleneck::Server } else { Bottleneck::Unknown }, reason)
}

/// Whether most of the sessions that timed out had reached the limit of a whole session.
fn total_limit_cut(rows: &[Row], total_us: u64) -> bool {
    let cut = || rows.iter().filter(|row| matches!(row.record.outcome, Outcome::TimedOut(_)));
    cut().filter(|row| row.record.total_us >= Some(total_us)).count() * 2 > cut().count()
}

/// Agents and server shared a machine without free CPU.
fn shared_machine(evidence: &Evidence<'_>) -> Option<Reason> {
    let beside =
        || evidence.summary.by_agent.iter().filter_map(|agent| agent.vitals.as_ref()).filter(|v| v.beside_target);
    let host = beside().next()?;
    let full = beside().filter_map(|v| v.host_cpu_permille).max()? >= HOST_FULL_PERMILLE;
    let wall_us = beside().map(|v| v.wall_us).max()?.max(1);
    let cpus = u64::from(host.host_cpus.max(1));
    let used: u64 = beside().map(|v| v.process_cpu_us).sum();
    let share_permille = used.saturating_mul(1_000) / wall_us.saturating_mul(cpus);
    (full && share_permille >= SHARED_CPU_PERMILLE_MIN)
        .then(|| Reason::SharedMachine { cpus, used_tenths: used * 10 / wall_us })
}

/// The phase with the largest p99.
fn slowest_phase(evidence: &Evidence<'_>) -> (&'static str, u64) {
    let summary = evidence.summary;
    let asked = summary.batch.wait_us;
    let phases = [
        ("connect", summary.connect.p99_us),
        ("reset", summary.reset.p99_us),
        ("step beyond its wait", summary.step.p99_us.saturating_sub(asked)),
    ];
    phases.into_iter().max_by_key(|(_, us)| *us).unwrap_or(("step", 0))
}

/// The most frequent failure attributed to the server or its environment, by kind and phase.
fn most_frequent_no(rows: &[Row], sides: &[Option<Side>]) -> Option<(FailedAs, u64, Side)> {
    let mut kinds: BTreeMap<(FailedAs, Side), u64> = BTreeMap::new();
    for (row, side) in rows.iter().zip(sides) {
        let failed = matches!(row.record.outcome, Outcome::Failed(..)).then(|| FailedAs::of(&row.record.outcome));
        if let (Some(Some(failed)), Some(side)) = (failed, side)
            && side.is_theirs()
        {
            *kinds.entry((failed, *side)).or_default() += 1;
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
fn cut_at_one_age(rows: &[Row], sides: &[Option<Side>]) -> Option<Reason> {
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
    Some(Reason::CutAtOneAge { connections: ages.len() as u64, age_us: ages[ages.len() / 2] })
}

/// One of several processes had far more sessions than its share, and may have been full while others had room.
fn full_worker(summary: &Summary) -> Option<Reason> {
    let (most, least) = (summary.workers.values().max()?, summary.workers.values().min()?);
    (summary.workers.len() > 1 && *most > least + least / 4).then(|| {
        let mut counts: Vec<u64> = summary.workers.values().copied().collect();
        counts.sort_unstable_by(|a, b| b.cmp(a));
        Reason::UnevenWorkers(counts)
    })
}

/// Connections for which the kernel sent more than one SYN.
fn handshakes(evidence: &Evidence<'_>) -> Option<Reason> {
    let again = evidence.rows.iter().filter(|row| row.record.wire.syn_retransmits.is_some_and(|n| n > 0)).count();
    let turned_away =
        evidence.summary.by_agent.iter().filter_map(|agent| agent.vitals.as_ref()?.listen_overflows).max();
    (again > 0)
        .then(|| Reason::SynAgain { connections: again as u64, listen_overflows: turned_away.filter(|n| *n > 0) })
}
