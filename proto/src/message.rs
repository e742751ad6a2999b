//! The messages as the program handles them; [`crate::convert`] translates to and from [`crate::pb`].

use std::time::Duration;

use crate::histograms::EncodedHistogram;
use crate::ids::{AttemptId, PlanHash, RunId};
use crate::outcome::Ledger;
use crate::record::SessionRecord;
use crate::spec::{Assignment, Capacity, Mode, Script, Target};
use crate::vitals::Vitals;

/// From an agent to the coordinator.
#[derive(Debug, Clone, PartialEq)]
pub enum FromAgent {
    Hello(Hello),
    /// It was told to end: results of what it has begun follow, then a goodbye.
    Leaving(String),
    Probed(Vec<ProbeResult>),
    Armed(AttemptId),
    Progress(Progress),
    Report(Report),
    Records(RecordChunk),
    /// An order that could not be carried out.
    Trouble {
        attempt: AttemptId,
        problem: String,
    },
    Goodbye(String),
    Pong(Pong),
    /// In answer to the survey of that number.
    Surveyed {
        number: u64,
        capacity: Capacity,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pong {
    pub sequence: u64,
    /// The agent's monotonic clock when it read the ping.
    pub agent_us: u64,
}

/// From the coordinator to an agent.
#[derive(Debug, Clone, PartialEq)]
pub enum FromCoordinator {
    Welcome(Welcome),
    Refused(Refused),
    Probe(Box<Probe>),
    Prepare(Box<Assignment>),
    /// On the agent's own monotonic clock.
    Go {
        attempt: AttemptId,
        start_at_us: u64,
    },
    Abort {
        attempt: AttemptId,
        reason: String,
    },
    Stored(AttemptId),
    Dismiss(String),
    Ping {
        sequence: u64,
    },
    /// What can be carried towards these destinations (`ip:port`) now, for a batch of so many sessions?
    Survey {
        number: u64,
        addresses: Vec<String>,
        sessions: u64,
    },
    Resend(Resend),
}

/// What has not arrived of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resend {
    pub attempt: AttemptId,
    pub report: bool,
    pub sequences: Vec<u64>,
    /// And every chunk from this one on.
    pub from: Option<u64>,
}

/// A sign of life, on a connection of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// Of the agent's greeting.
    pub instance: [u8; 16],
    pub sequence: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    pub protocol: u32,
    pub version: String,
    pub name: String,
    pub host: String,
    pub pid: u32,
    /// One value for the life of the process.
    pub instance: [u8; 16],
    /// Of the run this agent was welcomed to before.
    pub plan_hash: Option<PlanHash>,
    pub capacity: Capacity,
    /// Results from an earlier connection that the coordinator has not taken yet.
    pub holding: Option<AttemptId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    pub run: RunId,
    pub plan_hash: PlanHash,
    pub name: String,
    pub lease: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedWhy {
    Version,
    Plan,
    Full,
    Malformed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub why: RefusedWhy,
    pub message: String,
}

/// The readiness check: one whole session out of every url.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub plan_hash: PlanHash,
    pub target: Target,
    pub modes: Vec<Mode>,
    /// From receipt.
    pub deadline: Duration,
    pub script: Script,
    /// To each address, one after the other: several meet several workers of one server.
    pub sessions: u32,
}

/// The process that answered a session, as far as its observations tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Served {
    pub host_url: Option<String>,
    pub pid: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeResult {
    pub url: String,
    pub mode: Mode,
    pub ready: bool,
    /// `false`: still trying; `problem` is the reason so far.
    pub last_word: bool,
    pub problem: String,
    /// What the name stands for, `ip:port`.
    pub addresses: Vec<String>,
    /// One entry a session.
    pub served_by: Vec<Served>,
    /// Connections that nobody took while it was tried.
    pub refused_connects: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub attempt: AttemptId,
    pub launched: u64,
    pub open: u64,
    pub succeeded: u64,
    /// Failed and timed out.
    pub failed: u64,
}

/// Histograms stay encoded until every agent's report is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub attempt: AttemptId,
    pub ledger: Ledger,
    /// How much later than ordered this agent's start instant came.
    pub start_offset_us: u64,
    pub chunks: u64,
    pub histograms: Vec<EncodedHistogram>,
    /// Boxed: every message would have room for it.
    pub vitals: Box<Vitals>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct RecordChunk {
    pub attempt: AttemptId,
    /// From 0, gapless.
    pub sequence: u64,
    pub records: Vec<SessionRecord>,
}
