//! How an agent itself was doing while it carried a share: the evidence for a verdict.

use serde::{Deserialize, Serialize};

/// Whether an agent could split latencies by the kernel's receive timestamps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WireState {
    Measured,
    /// `measure.wire = false`.
    #[default]
    Off,
    /// The kernel gives none.
    Unavailable,
    /// CLOCK_REALTIME was set while sessions ran.
    Void,
}

/// From the agent's start instant to the end of its last session. What the machine does not let the agent read is
/// `None`, never 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vitals {
    /// Load threads that took part.
    pub threads: u32,
    pub wall_us: u64,
    /// User and system time of the whole process.
    pub process_cpu_us: u64,
    /// Of the load threads, on a CPU (`schedstat`, first number).
    pub load_cpu_us: u64,
    /// Of the load threads, runnable without a CPU (`schedstat`, second number).
    pub run_queue_us: Option<u64>,
    /// Held back by a CPU quota of the process's control group.
    pub throttled_us: Option<u64>,
    pub host_cpu_permille: Option<u32>,
    /// Taken by other virtual machines.
    pub host_steal_permille: Option<u32>,
    /// HdrHistogram V2, microseconds: how late the load threads' own timers fired.
    #[serde(skip)]
    pub overshoot: Vec<u8>,
    /// TCP segments sent again, SYNs among them, and connections that a full accept queue turned away: of the network
    /// namespace, all its processes together.
    pub retransmits: Option<u64>,
    pub syn_retransmits: Option<u64>,
    pub listen_overflows: Option<u64>,
    /// Socket errors of sessions, by errno.
    pub errnos: Vec<(i32, u64)>,
    /// Resident.
    pub memory_bytes_max: u64,
    pub descriptors_max: u64,
    /// Sessions begun and not ended.
    pub in_flight_max: u64,
    /// TCP sockets of the network namespace at the end, and those in TIME_WAIT.
    pub tcp_in_use: Option<u64>,
    pub time_wait: Option<u64>,
    /// How far CLOCK_REALTIME moved against CLOCK_MONOTONIC.
    pub realtime_step_us: i64,
    pub wire: WireState,
    pub host_cpus: u32,
    /// A target's address is this machine's own: load and server share its CPUs.
    pub beside_target: bool,
    /// The longest from a session's last answer until its connection was closed. Others go on meanwhile.
    #[serde(default)]
    pub let_go_us_max: u64,
    /// Connections that the server had not closed when it was not waited for any more.
    #[serde(default)]
    pub left_open: u64,
}

impl Vitals {
    /// CPUs that the load threads kept busy, of [`Vitals::threads`].
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    pub fn cores_busy(&self) -> f64 {
        if self.wall_us == 0 { 0.0 } else { self.load_cpu_us as f64 / self.wall_us as f64 }
    }
}
