//! What an agent is asked to do, and what it can carry.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::histograms::Bounds;
use crate::ids::{AttemptId, PlanHash};

/// The protocol a session speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    Ws,
    Http,
}

impl Mode {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Http => "http",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where the load goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Sessions go round robin by their global number.
    pub urls: Vec<String>,
    /// Extra trust root, PEM; empty for none.
    pub ca_pem: Vec<u8>,
}

/// What every session does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    pub steps: u32,
    /// What each step asks the server to wait.
    pub wait: Duration,
    /// Pause of the client before each step.
    pub think: Duration,
    pub connect_timeout: Duration,
    pub reset_timeout: Duration,
    /// On top of `wait`.
    pub step_timeout: Duration,
    pub close_timeout: Duration,
    /// Of the session from its actual start, if limited.
    pub total_timeout: Option<Duration>,
    /// Steps end where a reply says that the episode is done.
    pub until_done: bool,
    /// The largest reply that is read.
    pub message_bytes_max: usize,
}

/// When sessions are meant to start, relative to the start instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Launch {
    /// All at once.
    Burst,
    /// Evenly over this time.
    Ramp { over_us: u64 },
    /// An open model: as many arrivals as the batch has sessions, over this time, whether or not earlier ones have ended.
    Arrivals { over_us: u64, process: Process },
}

impl Launch {
    /// From the first intended start to the last possible one.
    #[must_use]
    pub fn over_us(self) -> u64 {
        match self {
            Self::Burst => 0,
            Self::Ramp { over_us } | Self::Arrivals { over_us, .. } => over_us,
        }
    }
}

/// How arrivals are spread over their time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Process {
    Uniform,
    Poisson,
}

/// One agent's share of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    pub attempt: AttemptId,
    pub plan_hash: PlanHash,
    pub target: Target,
    pub mode: Mode,
    pub script: Script,
    pub launch: Launch,
    /// Global number of this share's first session; the share is contiguous.
    pub first_session: u64,
    pub sessions: u64,
    /// Of the whole batch, all agents together.
    pub batch_size: u64,
    pub seed: u64,
    /// This agent's place among those with a share: interleaves their ramps.
    pub agent_index: u32,
    pub agent_count: u32,
    pub bounds: Bounds,
    /// Read kernel receive timestamps and `TCP_INFO`.
    pub kernel_timestamps: bool,
    /// `CLOCK_REALTIME` moving further than this against `CLOCK_MONOTONIC` voids what was read of them.
    pub clock_step_us_max: u64,
    /// Sessions that this agent may have open at once; what is due beyond it waits, and its launch lag tells of it.
    pub in_flight_max: u64,
}

/// What an agent's machine can carry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Load threads; the weight of its share.
    pub threads: u32,
    /// File descriptors that sessions may use.
    pub descriptors: u64,
    /// Ephemeral ports per destination, over all source addresses.
    pub ports: u64,
    /// `namespace/address+address`: agents that have a namespace and an address in common draw from the same ports.
    pub port_pool: String,
    pub memory_bytes: u64,
    /// The user's own limit.
    pub max_sessions: Option<u64>,
    /// Of `ports`, those that can't be had now, towards the destination where most are taken.
    pub ports_taken: u64,
    /// Of those taken, the ones in TIME_WAIT that this kernel does not give out again before their time.
    pub ports_waiting: u64,
    /// Until the last of those comes back.
    pub ports_back_us: u64,
    /// Connections that the host's connection tracking has room for; `None` where it tracks none.
    pub conntrack_room: Option<u64>,
}
