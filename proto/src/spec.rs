//! What an agent is asked to do, and what its machine can carry.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::histograms::Bounds;
use crate::ids::{AttemptId, PlanHash};
use crate::named::named_enum;

named_enum! {
    /// The protocol that a session speaks.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Mode {
        Ws = "ws",
        Http = "http",
    }
}

impl Mode {
    /// The protocol's own name.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Ws => "WebSocket",
            Self::Http => "HTTP",
        }
    }
}

/// The servers that are loaded.
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
    /// How long each step asks the server to wait.
    pub wait: Duration,
    /// Pause of the client before each step.
    pub think: Duration,
    pub connect_timeout: Duration,
    pub reset_timeout: Duration,
    /// The limit of a step on top of `wait`.
    pub step_timeout: Duration,
    pub close_timeout: Duration,
    /// The limit of the whole session from its actual start, if there is one.
    pub total_timeout: Option<Duration>,
    /// No more steps are made once a reply says that the episode is done.
    pub until_done: bool,
    /// The largest reply that is read, in bytes.
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
    /// An open model: as many arrivals as the batch has sessions, whether or not earlier ones have ended.
    Arrivals { over_us: u64, process: Process },
}

impl Launch {
    /// The time from the first intended start to the last possible one, in microseconds.
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
    /// Sessions of the whole batch, all agents together.
    pub batch_size: u64,
    pub seed: u64,
    /// This agent's number among those with a share, from 0. It interleaves their ramps.
    pub agent_index: u32,
    pub agent_count: u32,
    pub bounds: Bounds,
    /// Read the kernel's receive timestamps and `TCP_INFO`.
    pub kernel_timestamps: bool,
    /// If `CLOCK_REALTIME` moves further than this against `CLOCK_MONOTONIC`, the timestamps are void.
    pub clock_step_us_max: u64,
    /// The most connections that this agent may have at once. A session that is due beyond it waits, which shows as
    /// launch lag.
    pub in_flight_max: u64,
}

/// What an agent's machine can carry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// Load threads. They are the weight of the agent's share.
    pub threads: u32,
    /// File descriptors that sessions may use.
    pub descriptors: u64,
    /// Ephemeral ports towards one destination, over all source addresses.
    pub ports: u64,
    /// `boot id/namespace/address+address`: agents with the same namespace and an address in common share ports.
    pub port_pool: String,
    pub memory_bytes: u64,
    /// The user's own limit.
    pub max_sessions: Option<u64>,
    /// How many of `ports` are taken now, towards the destination where most are.
    pub ports_taken: u64,
    /// How many of those are in TIME_WAIT and can't be reused earlier.
    pub ports_waiting: u64,
    /// Time until the last of those is free again.
    pub ports_back_us: u64,
    /// Connections that the host's connection tracking has room for; `None` where it tracks none.
    pub conntrack_room: Option<u64>,
}
