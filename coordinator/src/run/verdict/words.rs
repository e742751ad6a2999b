//! Formats evidence as text for users.

use std::fmt;

use proto::Launch;

use crate::plan::{Plan, launch};
use crate::results::agent::AgentResult;
use crate::results::batch::Summary;
use crate::text::latency;

/// The agent that added the most delay: `agent n2 added up to 480 ms to its sessions (p99) with 0.97 of 1 load threads
/// busy, 3.2 s waiting for a CPU`.
pub(super) fn busiest(summary: &Summary) -> Option<Doing> {
    let most = summary
        .by_agent
        .iter()
        .filter(|agent| agent.vitals.is_some())
        .max_by_key(|agent| (agent.own_delay_p99_us.or(agent.timer_overshoot_p99_us()), agent.launch_lag_p99_us))?;
    Some(Doing::of(most))
}

/// An agent with its added delay and its CPU load. Times are in microseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Doing {
    agent: String,
    own_delay_p99_us: Option<u64>,
    timer_overshoot_p99_us: Option<u64>,
    /// Number of cores that the load threads kept busy, and number of load threads.
    busy: Option<(f64, u32)>,
    throttled_us: Option<u64>,
    queued_us: Option<u64>,
}

impl Doing {
    fn of(agent: &AgentResult) -> Self {
        let vitals = agent.vitals.as_ref();
        // Less than 1 % of the time is not worth reporting.
        let much = |us: Option<u64>| us.filter(|us| vitals.is_some_and(|vitals| *us > vitals.wall_us / 100));
        Self {
            agent: agent.name.clone(),
            own_delay_p99_us: agent.own_delay_p99_us,
            timer_overshoot_p99_us: agent.timer_overshoot_p99_us(),
            busy: vitals.map(|vitals| (vitals.cores_busy(), vitals.threads)),
            throttled_us: much(vitals.and_then(|vitals| vitals.throttled_us)),
            queued_us: much(vitals.and_then(|vitals| vitals.run_queue_us)),
        }
    }
}

impl fmt::Display for Doing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let agent = &self.agent;
        match (self.own_delay_p99_us, self.timer_overshoot_p99_us) {
            (Some(us), _) => write!(f, "agent {agent} added {} to its sessions (p99)", latency(us))?,
            (None, Some(us)) => write!(f, "the timers of agent {agent} fired {} late (p99)", latency(us))?,
            (None, None) => write!(f, "agent {agent}")?,
        }
        if let Some((cores, threads)) = self.busy {
            write!(f, " with {cores:.2} of {threads} load threads busy")?;
        }
        if let Some(us) = self.throttled_us {
            write!(f, ", {} held back by a CPU quota", latency(us))?;
        }
        self.queued_us.map_or(Ok(()), |us| write!(f, ", {} waiting for a CPU", latency(us)))
    }
}

/// Formats a latency with milliseconds, so that close values differ.
pub(super) fn exact(us: u64) -> String {
    format!("{}.{:03}s", us / 1_000_000, us % 1_000_000 / 1_000)
}

/// The remedy for a generator that was too slow. It depends on the launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cure(Launch);

pub(super) fn cure(plan: &Plan) -> Cure {
    Cure(plan.session.launch)
}

impl fmt::Display for Cure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(launch::cure(self.0))
    }
}
