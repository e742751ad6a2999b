//! One session's row.

use crate::outcome::{FailureKind, Outcome};

/// What one session did, in integer microseconds. Offsets count from its agent's start instant; durations are the
/// agent's monotonic clock. A phase that was not completed has no value.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionRecord {
    /// Global number of the session in its batch, from 0.
    pub session: u64,
    pub outcome: Outcome,
    pub error_message: String,
    /// When the schedule wanted it to start.
    pub intended_us: u64,
    /// When it did start; `None` for lost and never started.
    pub started_us: Option<u64>,
    pub connect_us: Option<u64>,
    pub reset_us: Option<u64>,
    /// One value a completed step.
    pub step_us: Vec<u64>,
    pub close_us: Option<u64>,
    /// From the actual start to the end, whatever the end was.
    pub total_us: Option<u64>,
    /// The waits that the server says it did, summed over the steps.
    pub waited_us: Option<u64>,
    /// Waits and pauses that the session asked for, summed over the steps that it made.
    pub asked_us: u64,
    /// What each step asked the server to wait.
    pub step_wait_us: u64,
    /// The server said that the episode was over, and the steps ended there.
    pub done: bool,
    /// How the connection ended after the last answer, if not as it should. The session has succeeded all the same.
    pub untidy: Option<FailureKind>,
    pub pid: Option<u64>,
    pub session_hash: Option<String>,
    pub host_url: Option<String>,
    /// What the kernel knows of it; nothing where it was not asked.
    pub wire: WireRecord,
}

/// A reply's latency in two: until the kernel had it, and from there until the program had read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// The kernel's receive stamp of the reply less CLOCK_REALTIME just before its request was written.
    pub wire_us: u64,
    /// CLOCK_REALTIME when the program had read the reply less that stamp: the generator's own delay.
    pub lag_us: u64,
}

/// What went before a cut: whoever cuts a connection for want of an answer has waited for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// From the server's last sign of life to the cut.
    pub us: u64,
    /// Of it, what this side was late by.
    pub own_us: u64,
}

/// What the kernel measured of one session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WireRecord {
    pub reset: Option<Split>,
    /// One a completed step, or none at all.
    pub steps: Vec<Split>,
    /// All that this side added to the session after its start: receive lags of every phase, handshakes noticed late,
    /// pauses that took longer than asked for.
    pub own_delay_us: Option<u64>,
    /// Of it, what was added until it was connected.
    pub connect_own_us: Option<u64>,
    /// Of it, what was added until the first answer was read.
    pub open_own_us: Option<u64>,
    /// Pings of the server that were read.
    pub pings: u32,
    /// The longest that one of them lay in the kernel before it was answered.
    pub ping_late_us: Option<u64>,
    /// Of a session that the other side cut.
    pub silence: Option<Silence>,
    /// The kernel's round trip of the TCP handshake.
    pub handshake_rtt_us: Option<u64>,
    /// SYN segments that had to be sent again: the peer's queue of connections was full, or the network lost them.
    pub syn_retransmits: Option<u32>,
}

impl WireRecord {
    /// Sum over the steps.
    #[must_use]
    pub fn steps_wire_us(&self) -> Option<u64> {
        self.sum(|split| split.wire_us)
    }

    /// Sum over the steps.
    #[must_use]
    pub fn steps_lag_us(&self) -> Option<u64> {
        self.sum(|split| split.lag_us)
    }

    fn sum(&self, part: impl Fn(&Split) -> u64) -> Option<u64> {
        (!self.steps.is_empty()).then(|| self.steps.iter().map(part).fold(0, u64::saturating_add))
    }
}

impl SessionRecord {
    /// The row of a session of which nothing more is known than how it (did not) end.
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

    /// How late it was started: the generator's own fault, never the server's.
    #[must_use]
    pub fn launch_lag_us(&self) -> Option<u64> {
        self.started_us.map(|started| started.saturating_sub(self.intended_us))
    }

    /// From the *intended* start to the end (Tene's "response time"; `total_us` is the service time).
    #[must_use]
    pub fn response_us(&self) -> Option<u64> {
        Some(self.ended_us()?.saturating_sub(self.intended_us))
    }

    /// What its total would have been with a generator that adds nothing: `None` where its own delay is not known.
    #[must_use]
    pub fn total_without_own_delay_us(&self) -> Option<u64> {
        Some(self.total_us?.saturating_sub(self.wire.own_delay_us?))
    }

    /// Offset at which it ended.
    #[must_use]
    pub fn ended_us(&self) -> Option<u64> {
        Some(self.started_us?.saturating_add(self.total_us?))
    }

    /// Offset from which it counts as open: its first answer. A server may accept a connection, and even upgrade it, only
    /// to refuse it then.
    #[must_use]
    pub fn opened_us(&self) -> Option<u64> {
        Some(self.started_us?.saturating_add(self.open_latency_us()?))
    }

    /// From its start to its first answer.
    #[must_use]
    pub fn open_latency_us(&self) -> Option<u64> {
        Some(self.connect_us?.saturating_add(self.reset_us?))
    }

    /// What it took beyond the waits and pauses that it asked for.
    #[must_use]
    pub fn beyond_us(&self) -> Option<u64> {
        Some(self.total_us?.saturating_sub(self.asked_us))
    }

    /// Sum of the step latencies, if every step it got to was completed at least once.
    #[must_use]
    pub fn step_sum_us(&self) -> Option<u64> {
        (!self.step_us.is_empty()).then(|| self.step_us.iter().copied().fold(0, u64::saturating_add))
    }
}
