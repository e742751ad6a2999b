//! What a run tells those who watch it. Nothing is decided by them.

use std::time::Duration;

use crate::plan::expand::Batch;
use crate::results::batch::Summary;

/// See the module.
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
    /// All agents are there.
    AgentsReady {
        names: Vec<String>,
        threads: u64,
        ports: u64,
        /// The worst of what is known of their clocks.
        clock_error_us: Option<u64>,
    },
    /// The readiness check goes on, and why.
    TargetNotReady {
        problem: String,
    },
    TargetReady {
        warnings: Vec<String>,
    },
    /// What is missing comes back by itself.
    WaitingForPorts {
        batch: Batch,
        pause: Duration,
        why: String,
    },
    /// Too few agents are left; those that were lost may come back.
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
    /// All sessions have ended; reports are on their way.
    AttemptRefused {
        batch: Batch,
        attempt: u32,
        why: String,
        again: bool,
    },
    BatchStored {
        place: Place,
        summary: Box<Summary>,
    },
    BatchSkipped {
        place: Place,
        batch: Batch,
        why: String,
    },
    Note(String),
    Interrupted,
}

/// Which batch of how many, from 1, and about how long the rest takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub number: usize,
    pub of: usize,
    pub left: Duration,
}

/// All agents together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub planned: u64,
    pub launched: u64,
    pub open: u64,
    pub succeeded: u64,
    pub failed: u64,
}
