//! Formats evidence for people.

use proto::Launch;

use super::Evidence;
use crate::plan::Plan;
use crate::results::agent::AgentResult;
use crate::results::batch::Summary;
use crate::text::{count, latency};

/// The agent that added most: `agent n2 added up to 480 ms to its sessions (p99) with 0.97 of 1 load threads busy, 3.2
/// s waiting for a CPU`.
pub(super) fn busiest(summary: &Summary) -> Option<String> {
    let most = summary
        .by_agent
        .iter()
        .filter(|agent| agent.vitals.is_some())
        .max_by_key(|agent| (agent.own_delay_p99_us.or(agent.timer_overshoot_p99_us()), agent.launch_lag_p99_us))?;
    Some(doing(most))
}

fn doing(agent: &AgentResult) -> String {
    let Some(vitals) = &agent.vitals else { return format!("agent {}", agent.name) };
    let mut text = match (agent.own_delay_p99_us, agent.timer_overshoot_p99_us()) {
        (Some(us), _) => format!("agent {} added {} to its sessions (p99)", agent.name, latency(us)),
        (None, Some(us)) => format!("the timers of agent {} fired {} late (p99)", agent.name, latency(us)),
        (None, None) => format!("agent {}", agent.name),
    };
    text.push_str(&format!(" with {:.2} of {} load threads busy", vitals.cores_busy(), vitals.threads));
    let (throttled, queued) = (vitals.throttled_us.unwrap_or(0), vitals.run_queue_us.unwrap_or(0));
    if throttled > vitals.wall_us / 100 {
        text.push_str(&format!(", {} held back by a CPU quota", latency(throttled)));
    }
    if queued > vitals.wall_us / 100 {
        text.push_str(&format!(", {} waiting for a CPU", latency(queued)));
    }
    text
}

/// Formats a latency to the millisecond, for comparison with another one.
pub(super) fn exact(us: u64) -> String {
    format!("{}.{:03}s", us / 1_000_000, us % 1_000_000 / 1_000)
}

/// The remedy for a generator that was too slow.
pub(super) fn cure(plan: &Plan) -> &'static str {
    match plan.session.launch {
        Launch::Burst => "add agents, give them more CPU, or ramp",
        Launch::Ramp { .. } => "add agents, give them more CPU, or a longer ramp",
        Launch::Arrivals { .. } => "add agents, or give them more CPU and more places",
    }
}

/// Connections for which the kernel sent more than one SYN.
pub(super) fn handshakes(evidence: &Evidence<'_>) -> Option<String> {
    let again =
        evidence.rows.iter().filter(|row| row.record.wire.syn_retransmits.is_some_and(|n| n > 0)).count() as u64;
    let turned_away =
        evidence.summary.by_agent.iter().filter_map(|agent| agent.vitals.as_ref()?.listen_overflows).max();
    (again > 0).then(|| {
        let seen = match turned_away {
            Some(n) if n > 0 => format!(" ({} overflows of an accept queue on an agent's own host)", count(n)),
            _ => String::new(),
        };
        format!(
            "{} connections took more than one SYN: the queue of connections that wait to be accepted was full, or segments \
             were lost{seen}",
            count(again)
        )
    })
}
