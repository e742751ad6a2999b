//! The messages as the program handles them. `convert` translates them to and from the generated ones.

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
    /// It was interrupted. The results of its current attempt follow, then a goodbye.
    Leaving(String),
    Probed(Vec<ProbeResult>),
    Armed(AttemptId),
    Progress(Progress),
    Report(Report),
    Records(RecordChunk),
    /// An order could not be carried out.
    Trouble {
        attempt: AttemptId,
        problem: String,
    },
    Goodbye(String),
    Pong(Pong),
    /// The answer to the survey of that number.
    Surveyed {
        number: u64,
        capacity: Capacity,
    },
}

/// The answer to a ping.
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
    /// Start at this reading of the agent's own monotonic clock.
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
    /// Asks for the capacity towards these destinations (`ip:port`) now, for a batch of `sessions` sessions.
    Survey {
        number: u64,
        addresses: Vec<String>,
        sessions: u64,
    },
    Resend(Resend),
}

/// The parts of an upload that have not arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resend {
    pub attempt: AttemptId,
    pub report: bool,
    pub sequences: Vec<u64>,
    /// Also every chunk from this number on.
    pub from: Option<u64>,
}

/// Shows that an agent is alive, on a connection of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heartbeat {
    /// As in the agent's [`Hello`].
    pub instance: [u8; 16],
    pub sequence: u64,
}

/// An agent's greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    pub protocol: u32,
    pub version: String,
    pub name: String,
    pub host: String,
    pub pid: u32,
    /// A random value, the same for the life of the process.
    pub instance: [u8; 16],
    /// The plan of the run that this agent was welcomed to before.
    pub plan_hash: Option<PlanHash>,
    pub capacity: Capacity,
    /// The attempt whose results this agent still holds, from an earlier connection.
    pub holding: Option<AttemptId>,
}

/// The coordinator's answer to a greeting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    pub run: RunId,
    pub plan_hash: PlanHash,
    /// The name of the agent in this run.
    pub name: String,
    /// Whoever hears nothing from the other side for this long counts it as lost.
    pub lease: Duration,
}

/// Why an agent was refused.
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

/// Asks for the readiness check: one whole session with every url.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    pub plan_hash: PlanHash,
    pub target: Target,
    pub modes: Vec<Mode>,
    /// Time limit, from the receipt of this message.
    pub deadline: Duration,
    pub script: Script,
    /// Sessions to each address, one after the other. Several of them meet several workers of one server.
    pub sessions: u32,
}

/// The process that answered a session, as far as its observations say.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Served {
    pub host_url: Option<String>,
    pub pid: Option<u64>,
}

/// What the readiness check found for one url and mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeResult {
    pub url: String,
    pub mode: Mode,
    pub ready: bool,
    /// This result is final. If not, the agent is still trying, and `problem` is the reason so far.
    pub last_word: bool,
    pub problem: String,
    /// The addresses of the url's host, `ip:port`.
    pub addresses: Vec<String>,
    /// One entry a session.
    pub served_by: Vec<Served>,
    /// Connections that no server accepted.
    pub refused_connects: u64,
}

/// Counters while sessions run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub attempt: AttemptId,
    pub launched: u64,
    pub open: u64,
    pub succeeded: u64,
    /// Failed and timed out sessions.
    pub failed: u64,
}

/// An agent's result for one attempt. Histograms stay encoded until every agent's report is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    pub attempt: AttemptId,
    pub ledger: Ledger,
    /// How much later than intended the first session started, in microseconds.
    pub start_offset_us: u64,
    /// How many chunks of records follow.
    pub chunks: u64,
    pub histograms: Vec<EncodedHistogram>,
    /// Boxed, because every message would have room for it.
    pub vitals: Box<Vitals>,
}

/// A part of the records of one attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordChunk {
    pub attempt: AttemptId,
    /// From 0, without gaps.
    pub sequence: u64,
    pub records: Vec<SessionRecord>,
}
