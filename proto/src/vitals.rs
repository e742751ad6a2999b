//! How an agent itself was doing during a batch: the evidence for a verdict.

use serde::{Deserialize, Serialize};

use crate::named::named_enum;

named_enum! {
    /// Whether an agent has kernel receive timestamps.
    #[derive(Default, Serialize, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum WireState {
        Measured = "measured",
        /// The plan says `measure.wire = false`.
        #[default]
        Off = "off",
        /// The kernel gives none.
        Unavailable = "unavailable",
        /// `CLOCK_REALTIME` was set while sessions ran.
        Void = "void",
    }
}

/// Figures from the agent's start instant to the end of its last session. What the agent can't read is `None`, never 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vitals {
    /// Load threads that took part.
    pub threads: u32,
    pub wall_us: u64,
    /// CPU time of the whole process, user and system.
    pub process_cpu_us: u64,
    /// Time of the load threads on a CPU (`schedstat`, first number).
    pub load_cpu_us: u64,
    /// Time of the load threads runnable without a CPU (`schedstat`, second number).
    pub run_queue_us: Option<u64>,
    /// Time that a CPU quota of the process's control group held it back.
    pub throttled_us: Option<u64>,
    /// The host's busy CPU time, in thousandths.
    pub host_cpu_permille: Option<u32>,
    /// CPU time that other virtual machines took, in thousandths.
    pub host_steal_permille: Option<u32>,
    /// How late the load threads' own timers fired, in microseconds, as an HdrHistogram V2.
    #[serde(skip)]
    pub overshoot: Vec<u8>,
    /// TCP segments that were sent again, SYNs among them, and connections that a full accept queue rejected: of all
    /// processes of the network namespace.
    pub retransmits: Option<u64>,
    pub syn_retransmits: Option<u64>,
    pub listen_overflows: Option<u64>,
    /// Socket errors of sessions: pairs of errno and count.
    pub errnos: Vec<(i32, u64)>,
    /// The largest resident size of the process.
    pub memory_bytes_max: u64,
    pub descriptors_max: u64,
    /// The most connections at once.
    pub in_flight_max: u64,
    /// TCP sockets of the network namespace at the end, and those in TIME_WAIT.
    pub tcp_in_use: Option<u64>,
    pub time_wait: Option<u64>,
    /// How far CLOCK_REALTIME moved against CLOCK_MONOTONIC.
    pub realtime_step_us: i64,
    pub wire: WireState,
    pub host_cpus: u32,
    /// An address of the target belongs to this machine, so load and server share its CPUs.
    pub beside_target: bool,
    /// The longest time from a session's last reply until its connection was closed. Other sessions go on meanwhile.
    #[serde(default)]
    pub let_go_us_max: u64,
    /// Connections that the server had not closed within the time limit.
    #[serde(default)]
    pub left_open: u64,
}

impl Vitals {
    /// How many CPUs the load threads kept busy on average, at most [`Vitals::threads`].
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    pub fn cores_busy(&self) -> f64 {
        if self.wall_us == 0 { 0.0 } else { self.load_cpu_us as f64 / self.wall_us as f64 }
    }
}
