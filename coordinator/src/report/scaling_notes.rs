//! PURE: the note on one batch size in the scaling table, in the experiment log's words.

use proto::Phase;

use crate::plan::Plan;
use crate::results::cells::Cell;
use crate::results::verdict::Validity;
use crate::text::latency;

/// Success rates at which the words change. The log's own rows agree with these, except for those listed in
/// docs/experiment_log.md.
const SOME_FAILURES: f64 = 0.8;
const SIGNIFICANT_FAILURES: f64 = 0.5;
const ABOVE_CAPACITY: f64 = 0.25;

/// Repetitions whose success rates differ by more than this don't measure the same thing.
const UNSTABLE: f64 = 0.5;
/// Larger differences between repetitions are mentioned.
const WORTH_TELLING: f64 = 0.02;
/// From this share of the failures on, the phase is named.
const NEARLY_ALL: f64 = 0.9;
/// From this ratio of wall time to p99 on, the batch waited for something that no succeeded session's latency shows.
const WALL_BEYOND_P99: u64 = 3;

/// Whether repetitions differ so much that their mean says nothing.
#[must_use]
pub fn unstable(cell: &Cell<'_>) -> bool {
    let (low, high) = cell.spread();
    !cell.runs.is_empty() && high - low > UNSTABLE
}

/// The cell's position in its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub is_max: bool,
    pub is_largest: bool,
}

#[must_use]
pub fn note(plan: &Plan, cell: &Cell<'_>, place: Place) -> String {
    if let (true, Some(why)) = (cell.runs.is_empty(), cell.skipped) {
        return format!("Skipped: {why}");
    }
    let mut note = words(plan, cell, place);
    let (low, high) = cell.spread();
    if high - low > WORTH_TELLING && !unstable(cell) && fixed_limit(cell).is_none() {
        note.push_str(&format!(", {:.0}-{:.0}% between repetitions", low * 100.0, high * 100.0));
    }
    if let Some(wall_us) = long_wall_us(cell) {
        note.push_str(&format!(" (wall time ~{})", latency(wall_us)));
    }
    let worst = cell.runs.iter().map(|run| run.verdict.validity).max();
    if let Some(worst) = worst.filter(|worst| *worst > Validity::Valid) {
        note.push_str(&format!(" ({worst})"));
    }
    let limit_us = plan.latency_limit_us(cell.wait_us);
    if cell.p99_us.is_some_and(|p99| p99 > limit_us) {
        note.push_str(&format!(", p99 above {}", latency(limit_us)));
    }
    note
}

fn words(plan: &Plan, cell: &Cell<'_>, place: Place) -> String {
    let (low, high) = cell.spread();
    let rate = cell.success_rate();
    match place {
        Place { is_max: true, is_largest: true } => return "Max tested batch".to_owned(),
        Place { is_max: true, is_largest: false } => return "Max reliable batch".to_owned(),
        Place { is_max: false, .. } => {}
    }
    if cell.batch_size == 1 && rate >= 1.0 {
        return "Baseline".to_owned();
    }
    if rate >= 1.0 {
        return "Perfect scaling".to_owned();
    }
    if plan.enough_succeeded(cell.succeeded(), cell.planned()) {
        return "Meets the criterion".to_owned();
    }
    if unstable(cell) {
        return format!("Unstable - some runs {:.0}%, some {:.0}%", low * 100.0, high * 100.0);
    }
    if let Some(held) = fixed_limit(cell) {
        return format!("Only {held}/{} succeed", cell.batch_size);
    }
    match rate {
        rate if rate >= SOME_FAILURES => match failing_phase(cell) {
            Some(Phase::Connect) => "Some connection failures".to_owned(),
            Some(phase) => format!("Some failures at {phase}"),
            None => "Some failures".to_owned(),
        },
        rate if rate >= SIGNIFICANT_FAILURES => "Significant failures".to_owned(),
        rate if rate >= ABOVE_CAPACITY => "Above capacity".to_owned(),
        rate if rate > 0.0 => "Far above capacity".to_owned(),
        _ => "Complete failure".to_owned(),
    }
}

/// The number that succeeded in every repetition, which suggests a configured limit.
#[must_use]
pub fn fixed_limit(cell: &Cell<'_>) -> Option<u64> {
    let first = cell.runs.first()?.ledger.succeeded;
    let same = cell.runs.len() > 1 && cell.runs.iter().all(|run| run.ledger.succeeded == first);
    (same && 0 < first && first < cell.batch_size).then_some(first)
}

/// The phase in which nearly all of what failed did, as far as it is known of what failed.
fn failing_phase(cell: &Cell<'_>) -> Option<Phase> {
    let all: u64 = cell.planned() - cell.succeeded();
    let mut by_phase = std::collections::BTreeMap::<Phase, u64>::new();
    for (what, count) in cell.runs.iter().flat_map(|run| &run.errors) {
        if let Some(phase) = what.phase {
            *by_phase.entry(phase).or_default() += count;
        }
    }
    let (phase, count) = by_phase.into_iter().max_by_key(|(_, count)| *count)?;
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let share = count as f64 / all as f64;
    (share >= NEARLY_ALL).then_some(phase)
}

/// The wall time of the longest repetition, if it is much longer than the p99.
fn long_wall_us(cell: &Cell<'_>) -> Option<u64> {
    let wall_us = cell.runs.iter().map(|run| run.total_wall_us).max()?;
    let p99_us = cell.p99_us?;
    (cell.succeeded() < cell.planned() && wall_us >= WALL_BEYOND_P99.saturating_mul(p99_us)).then_some(wall_us)
}
