//! PURE: turns the text of a plan into a list of batches.
//!
//! [`schema`] lists the keys. [`layers`] reads TOML into layers; flags override `--set`, `--set` the plan, and the plan
//! the connection file. [`check`] makes a [`Plan`] of the layers or reports every fault. [`expand`] lists the batches.
//!
//! What belongs here: everything that a user may write, and what follows from it before a run. What does not: reading
//! files, and the run itself.

pub mod check;
pub mod diff;
pub mod expand;
pub mod launch;
pub mod layers;
pub mod schema;

use std::time::Duration;

use proto::{Bounds, Launch, Mode, PlanHash, Script};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A checked plan: every value is in range. Times are integer microseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub experiment: Experiment,
    pub server: Server,
    pub target: Target,
    pub grid: Grid,
    pub session: Session,
    pub agents: Agents,
    pub measure: Measure,
    pub success: Success,
    pub output: Output,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    pub infrastructure: String,
    pub variant: String,
    pub hardware: String,
    pub cores: Option<u64>,
    pub notes: String,
}

/// The server as described by the user. `workers` also sets the size of an embedded server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Server {
    pub workers: Option<u64>,
    pub max_concurrent_envs: Option<u64>,
    pub nodes: Option<u64>,
    pub cpus_per_node: Option<u64>,
    pub backends: Vec<String>,
    pub start_command: Option<String>,
    /// The load balancer between the target's URLs and its backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balancer: Option<String>,
    /// Limit of concurrent sessions of the proxy behind one URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_sessions_max: Option<u64>,
}

/// The protocols that a run measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Modes {
    One(Mode),
    /// WebSocket first, then HTTP.
    Compare,
}

impl Modes {
    /// Every choice by its name in a plan, default first.
    pub const NAMED: [(&'static str, Self); Mode::ALL.len() + 1] = {
        let mut named = [("compare", Self::Compare); Mode::ALL.len() + 1];
        let mut n = 0;
        while n < Mode::ALL.len() {
            named[n] = (Mode::ALL[n].as_str(), Self::One(Mode::ALL[n]));
            n += 1;
        }
        named
    };

    /// The modes in the order in which they run.
    #[must_use]
    pub fn list(self) -> &'static [Mode] {
        const ALL: &[Mode] = &Mode::ALL;
        match self {
            Self::One(mode) => ALL.iter().position(|other| *other == mode).map_or(&[], |n| &ALL[n..=n]),
            Self::Compare => &[Mode::Ws, Mode::Http],
        }
    }
}

impl From<Modes> for &'static str {
    fn from(modes: Modes) -> Self {
        Modes::NAMED.into_iter().find(|(_, other)| *other == modes).map_or("", |(name, _)| name)
    }
}

impl TryFrom<String> for Modes {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let found = Self::NAMED.into_iter().find(|(name, _)| *name == text);
        found.map(|(_, modes)| modes).ok_or_else(|| format!("{text:?} is no mode"))
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Empty for an embedded target: its address is known only after it has started.
    pub urls: Vec<String>,
    pub mode: Modes,
    pub expected_hosts: Option<u64>,
    pub require_hosts: bool,
    pub ready_timeout_us: u64,
    pub embedded: bool,
    pub ca_file: Option<String>,
    #[serde(default)]
    pub on_restart: OnRestart,
}

/// The treatment of an attempt during which the server was restarted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnRestart {
    #[default]
    Repeat,
    Keep,
    Abort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    Ascending,
    Shuffled,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Grid {
    pub batch_sizes: Vec<u64>,
    pub waits_us: Vec<u64>,
    pub repetitions: u32,
    pub cooldown_us: u64,
    pub order: Order,
    pub stop_after_failing: u64,
    pub warmup: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    pub steps: u32,
    pub think_us: u64,
    pub seed: u64,
    pub connect_timeout_us: u64,
    pub reset_timeout_us: u64,
    pub step_timeout_us: u64,
    pub close_timeout_us: u64,
    pub total_timeout_us: Option<u64>,
    pub launch: Launch,
    /// Whether a session stops at a reply that marks the episode as done.
    #[serde(default = "yes")]
    pub until_done: bool,
    /// The largest reply, in bytes, that an agent reads.
    #[serde(default = "message_bytes_max")]
    pub message_bytes_max: u64,
}

fn yes() -> bool {
    true
}

/// 16 MiB.
pub(crate) fn message_bytes_max() -> u64 {
    16 << 20
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnLoss {
    Repeat,
    Keep,
    Abort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnShortfall {
    Stop,
    Continue,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Agents {
    /// The run starts when this many agents are ready.
    pub count: u32,
    pub ready_timeout_us: u64,
    /// How many of these agents the coordinator starts as child processes.
    pub local: u32,
    pub lease_us: u64,
    pub on_loss: OnLoss,
    pub max_attempts: u32,
    pub on_shortfall: OnShortfall,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measure {
    /// Whether to use kernel receive timestamps.
    pub wire: bool,
    /// A larger clock error is a reason in the verdict.
    pub max_clock_error_us: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Success {
    pub min_success_rate: f64,
    pub max_latency_multiplier: f64,
    pub overhead_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Raw {
    #[serde(rename = "jsonl")]
    Jsonl,
    #[serde(rename = "jsonl.zst")]
    JsonlZst,
    #[serde(rename = "none")]
    None,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Output {
    /// A path that still contains the placeholders `{infrastructure}`, `{variant}` and `{date}`.
    pub dir: String,
    pub raw: Raw,
}

impl Plan {
    /// SHA-256 of the checked plan as JSON. The field order is fixed, so equal plans have equal hashes however they are
    /// written. The hash leaves out the output folder and the numbers of agents, which do not change the measurement.
    #[must_use]
    pub fn hash(&self) -> PlanHash {
        let mut measured = self.clone();
        (measured.agents.count, measured.agents.local) = (0, 0);
        measured.output.dir.clear();
        let text = serde_json::to_vec(&measured).unwrap_or_else(|error| unreachable!("a plan is plain data: {error}"));
        PlanHash(Sha256::digest(text).into())
    }

    /// The script of each session in a batch with this wait.
    #[must_use]
    pub fn script(&self, wait_us: u64) -> Script {
        let s = &self.session;
        Script {
            steps: s.steps,
            wait: Duration::from_micros(wait_us),
            think: Duration::from_micros(s.think_us),
            connect_timeout: Duration::from_micros(s.connect_timeout_us),
            reset_timeout: Duration::from_micros(s.reset_timeout_us),
            step_timeout: Duration::from_micros(s.step_timeout_us),
            close_timeout: Duration::from_micros(s.close_timeout_us),
            total_timeout: s.total_timeout_us.map(Duration::from_micros),
            until_done: s.until_done,
            message_bytes_max: usize::try_from(s.message_bytes_max).unwrap_or(usize::MAX),
        }
    }

    /// Duration of a session if the server adds no delay: steps x (wait + think).
    #[must_use]
    pub fn session_floor_us(&self, wait_us: u64) -> u64 {
        u64::from(self.session.steps).saturating_mul(wait_us.saturating_add(self.session.think_us))
    }

    /// Duration of a session that uses up every time limit, from its intended start.
    #[must_use]
    pub fn session_ceiling_us(&self) -> u64 {
        let s = &self.session;
        let longest_wait_us = self.grid.waits_us.iter().copied().max().unwrap_or(0);
        let step_us = s.think_us.saturating_add(longest_wait_us).saturating_add(s.step_timeout_us);
        let phases =
            [s.connect_timeout_us, s.reset_timeout_us, step_us.saturating_mul(s.steps.into()), s.close_timeout_us];
        let all = phases.into_iter().fold(0, u64::saturating_add);
        s.total_timeout_us.map_or(all, |total| total.min(all)).saturating_add(s.launch.over_us())
    }

    /// The range of every histogram of the run. It includes the longest possible session.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        Bounds::reaching(self.session_ceiling_us())
    }

    /// The stated limit of concurrent sessions over all workers and nodes of the server.
    #[must_use]
    pub fn known_capacity(&self) -> Option<u64> {
        let server = &self.server;
        let each = server.max_concurrent_envs?.saturating_mul(server.workers?);
        let servers = server.nodes.unwrap_or(1).max(self.target.urls.len() as u64).max(1);
        Some(each.saturating_mul(servers))
    }

    /// Whether the fraction of sessions that succeeded meets the success criterion.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a fraction")]
    pub fn enough_succeeded(&self, succeeded: u64, planned: u64) -> bool {
        planned > 0 && succeeded as f64 / planned as f64 >= self.success.min_success_rate
    }

    /// The latency criterion in microseconds: p99 <= multiplier x (steps x (wait + think) + overhead).
    #[must_use]
    pub fn latency_limit_us(&self, wait_us: u64) -> u64 {
        self.latency_limit_of_us(self.session_floor_us(wait_us))
    }

    /// The latency criterion for a session with this floor. An episode that ends early has a lower floor.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "in range"
    )]
    pub fn latency_limit_of_us(&self, asked_us: u64) -> u64 {
        let base = asked_us.saturating_add(self.success.overhead_us);
        (base as f64 * self.success.max_latency_multiplier) as u64
    }
}
