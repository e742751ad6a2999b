//! The events of a run for its observers. They only inform; no decision depends on them.

use std::time::Duration;

use crate::plan::expand::Batch;
use crate::results::batch::Summary;

/// An event of a run.
#[derive(Debug, Clone)]
pub enum RunEvent {
    AgentJoined {
        name: String,
        ready: usize,
        wanted: usize,
    },
    AgentLeft {
        name: String,
        why: String,
    },
    AgentRefused {
        name: String,
        why: String,
    },
    /// All agents have connected.
    AgentsReady {
        names: Vec<String>,
        threads: u64,
        ports: u64,
        /// The largest clock error bound of the agents; `None` if unknown.
        clock_error_us: Option<u64>,
    },
    /// The readiness check failed and is repeated.
    TargetNotReady {
        problem: String,
    },
    TargetReady {
        warnings: Vec<String>,
    },
    /// The batch waits for ports, which become free by themselves.
    WaitingForPorts {
        batch: Batch,
        pause: Duration,
        /// What limits each agent.
        agents: Vec<String>,
    },
    /// Too few agents are left; lost ones may return.
    WaitingForAgents {
        batch: Batch,
        pause: Duration,
        why: String,
    },
    WarmupStarted,
    BatchStarted {
        place: Place,
        batch: Batch,
        attempt: u32,
        expected: Duration,
    },
    Progress(Counts),
    /// An attempt does not count; `again` says whether the batch is repeated.
    AttemptRefused {
        batch: Batch,
        attempt: u32,
        why: String,
        again: bool,
    },
    BatchStored {
        summary: Box<Summary>,
    },
    BatchSkipped {
        batch: Batch,
        why: String,
    },
    Note(String),
    Interrupted,
}

/// The position of a batch in the grid, from 1, and about how long the rest of the run takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub number: usize,
    pub of: usize,
    pub left: Duration,
}

/// Numbers of sessions, over all agents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub planned: u64,
    pub launched: u64,
    pub open: u64,
    pub succeeded: u64,
    pub failed: u64,
}
