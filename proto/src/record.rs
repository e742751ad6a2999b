//! What is recorded of one session.

use crate::outcome::{FailureKind, Outcome};

/// What one session did, in microseconds. Offsets count from its agent's start instant; durations are on the agent's
/// monotonic clock. A phase that was not completed has no value.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionRecord {
    /// Global number of the session in its batch, from 0.
    pub session: u64,
    pub outcome: Outcome,
    pub error_message: String,
    /// When it was meant to start.
    pub intended_us: u64,
    /// When it started; `None` for a lost session and for one that was never started.
    pub started_us: Option<u64>,
    pub connect_us: Option<u64>,
    pub reset_us: Option<u64>,
    /// One value a completed step.
    pub step_us: Vec<u64>,
    pub close_us: Option<u64>,
    /// From the actual start to the end, however it ended.
    pub total_us: Option<u64>,
    /// How long the server says that it waited, summed over the steps.
    pub waited_us: Option<u64>,
    /// Waits and pauses that the script asked for, summed over the completed steps.
    pub asked_us: u64,
    /// How long each step asked the server to wait.
    pub step_wait_us: u64,
    /// The server said that the episode was over, and the steps ended.
    pub done: bool,
    /// How the connection ended after the last reply, if not in an orderly way. The session has succeeded all the same.
    pub untidy: Option<FailureKind>,
    pub pid: Option<u64>,
    pub session_hash: Option<String>,
    pub host_url: Option<String>,
    /// What the kernel measured; empty if it was not asked.
    pub wire: WireRecord,
}

/// A reply's latency in two parts: until the kernel had received it, and from there until the program had read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// Wire latency: the kernel's receive timestamp of the reply, minus CLOCK_REALTIME when the request was written.
    pub wire_us: u64,
    /// Receive lag: CLOCK_REALTIME when the program had read the reply, minus that timestamp: own delay.
    pub lag_us: u64,
}

/// The silence before a server cut a connection. A server that cuts because it got no answer has waited for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// From the last bytes of the server to the cut, in microseconds.
    pub us: u64,
    /// The part of it by which this process was late.
    pub own_us: u64,
}

/// What the kernel measured of one session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WireRecord {
    pub reset: Option<Split>,
    /// One a completed step, or none.
    pub steps: Vec<Split>,
    /// All delay that this process added to the session after its start: receive lags of every phase, handshakes that
    /// were noticed late, pauses that took longer than asked for.
    pub own_delay_us: Option<u64>,
    /// The part of it until the session was connected.
    pub connect_own_us: Option<u64>,
    /// The part of it until the first reply was read.
    pub open_own_us: Option<u64>,
    /// Pings of the server that were read.
    pub pings: u32,
    /// The longest time that one of them waited in the kernel before it was answered.
    pub ping_late_us: Option<u64>,
    /// Only for a session that the server cut.
    pub silence: Option<Silence>,
    /// The kernel's round trip of the TCP handshake.
    pub handshake_rtt_us: Option<u64>,
    /// SYN segments that were sent again because the peer's accept queue was full or the network lost them.
    pub syn_retransmits: Option<u32>,
}

impl WireRecord {
    /// The wire latencies of all steps together.
    #[must_use]
    pub fn steps_wire_us(&self) -> Option<u64> {
        self.sum(|split| split.wire_us)
    }

    /// The receive lags of all steps together.
    #[must_use]
    pub fn steps_lag_us(&self) -> Option<u64> {
        self.sum(|split| split.lag_us)
    }

    fn sum(&self, part: impl Fn(&Split) -> u64) -> Option<u64> {
        (!self.steps.is_empty()).then(|| self.steps.iter().map(part).fold(0, u64::saturating_add))
    }
}

impl SessionRecord {
    /// The record of a session of which only the outcome is known.
    #[must_use]
    pub fn without_life(session: u64, outcome: Outcome, error_message: String) -> Self {
        Self {
            session,
            outcome,
            error_message,
            intended_us: 0,
            started_us: None,
            connect_us: None,
            reset_us: None,
            step_us: Vec::new(),
            close_us: None,
            total_us: None,
            waited_us: None,
            asked_us: 0,
            step_wait_us: 0,
            done: false,
            untidy: None,
            pid: None,
            session_hash: None,
            host_url: None,
            wire: WireRecord::default(),
        }
    }

    /// How late it was started. That is the generator's fault, never the server's.
    #[must_use]
    pub fn launch_lag_us(&self) -> Option<u64> {
        self.started_us.map(|started| started.saturating_sub(self.intended_us))
    }

    /// The response time: from the intended start to the end. `total_us` is the service time.
    #[must_use]
    pub fn response_us(&self) -> Option<u64> {
        Some(self.ended_us()?.saturating_sub(self.intended_us))
    }

    /// What its total would have been with a generator that adds no delay; `None` if its own delay is not known.
    #[must_use]
    pub fn total_without_own_delay_us(&self) -> Option<u64> {
        Some(self.total_us?.saturating_sub(self.wire.own_delay_us?))
    }

    /// The offset at which it ended.
    #[must_use]
    pub fn ended_us(&self) -> Option<u64> {
        Some(self.started_us?.saturating_add(self.total_us?))
    }

    /// The offset from which it counts as open: its first reply. Before, a server may accept and upgrade a connection
    /// and still refuse the session.
    #[must_use]
    pub fn opened_us(&self) -> Option<u64> {
        Some(self.started_us?.saturating_add(self.open_latency_us()?))
    }

    /// From its start to its first reply.
    #[must_use]
    pub fn open_latency_us(&self) -> Option<u64> {
        Some(self.connect_us?.saturating_add(self.reset_us?))
    }

    /// The time that it took beyond the waits and pauses that the script asked for.
    #[must_use]
    pub fn beyond_us(&self) -> Option<u64> {
        Some(self.total_us?.saturating_sub(self.asked_us))
    }

    /// The latencies of all completed steps together; `None` if there are none.
    #[must_use]
    pub fn step_sum_us(&self) -> Option<u64> {
        (!self.step_us.is_empty()).then(|| self.step_us.iter().copied().fold(0, u64::saturating_add))
    }
}
