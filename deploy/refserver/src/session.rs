//! One WebSocket session as a state machine without sockets or timers: it is given frames and instants, and returns
//! bytes and a deadline. The connection that drives it decides nothing.
//!
//! ```text
//! Open ---- close sent ----> Closing ---+-- peer's close --> Finished (flush, close the TCP connection)
//!  |------- violation -----> Failing ---+-- end of stream / deadline
//!  |------- peer's close, end of stream --------------------^
//!  +------- injected drop ---> Aborted (RST)
//! ```
//!
//! A running step is never cut short. The session keeps its place among the worker's sessions until the step has ended,
//! even if the client is gone, because a real server can't interrupt the environment's thread. A step that stalls on
//! purpose never ends; it counts as running only while there is a client.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::environment::Environment;
use crate::faults::{AtStep, CloseAnswer};
use crate::frame::{self, Incoming, Violation, close_code};
use crate::protocol::{self, Refusal, Request};
use crate::socket::{Arrival, WallClock};
use crate::truth::{self, Log};
use crate::worker::{Slot, Worker};

/// How long the peer may take to answer a close frame or to go away after a violation, as in Python's websockets.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// The same, once the server stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// The most pipelined messages that wait behind a running step. While there are as many, the socket is not read.
const PENDING_MESSAGES_MAX: usize = 64;

/// The most unsent reply bytes. Beyond it the socket is not read and nothing more is answered.
const OUT_BYTES_MAX: usize = 64 * 1024;

/// The environment refuses a longer step, as Python's clock would.
const WAIT_SECONDS_MAX: f64 = 1e9;

/// How long a step waits; `None` if that is too long. `wait_seconds` must not be negative.
pub(crate) fn wait(wait_seconds: f64) -> Option<Duration> {
    (wait_seconds <= WAIT_SECONDS_MAX).then(|| Duration::from_secs_f64(wait_seconds))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Open,
    /// Our close frame is queued; the peer's is awaited.
    Closing,
    /// After a close frame and a half-close everything is discarded until the peer closes.
    Failing,
    /// Send what is left, then close.
    Finished,
    /// Reset the connection.
    Aborted,
}

/// A request that takes time.
#[derive(Debug)]
struct Running {
    /// `None` if it is never answered.
    until: Option<Instant>,
    reply: Reply,
}

#[derive(Debug, Clone, Copy)]
enum Reply {
    Reset,
    Step {
        wait_seconds: f64,
    },
    FailedStep,
    /// The step came after the last step of its episode.
    LateStep,
}

impl Reply {
    fn phase(self) -> truth::Phase {
        match self {
            Self::Reset => truth::Phase::Reset,
            Self::Step { .. } | Self::FailedStep | Self::LateStep => truth::Phase::Step,
        }
    }
}

#[derive(Debug)]
enum Message {
    Text(Box<str>),
    Binary,
}

#[derive(Debug)]
pub(crate) struct Session {
    worker: Arc<Worker>,
    environment: Environment,
    phase: Phase,
    /// Present while the session counts against the worker's maximum.
    slot: Option<Slot>,
    running: Option<Running>,
    pending: VecDeque<(Message, Arrival)>,
    /// Bytes to send; empty and without capacity when idle.
    out: Vec<u8>,
    /// How many bytes at the front of `out` have been sent.
    sent: usize,
    /// Some of the unsent bytes are a text frame.
    data_unsent: bool,
    /// When the connection is cut unless there is data before.
    idle_until: Option<Instant>,
    /// Both sides have sent their close frame.
    handshake_done: bool,
    /// When the phases `Closing`, `Failing` and `Finished` give up.
    phase_until: Instant,
    /// When to ping, or when to give up waiting for the pong.
    keepalive_at: Option<Instant>,
    awaiting_pong: bool,
    /// The number of pings sent, which is the payload of the last one.
    ping_count: u32,
    /// `None` when nothing is to be measured.
    log: Option<Box<Log>>,
}

/// A WebSocket handshake that is accepted.
#[derive(Debug)]
pub(crate) struct Upgrade {
    pub(crate) response: Vec<u8>,
    pub(crate) arrival: Arrival,
    /// How long the response is delayed on purpose.
    pub(crate) delay: Duration,
}

impl Session {
    /// Opens a session whose first bytes are `upgrade`'s response. The capacity is checked only now, as in OpenEnv:
    /// without a free place, an error and a close follow the upgrade.
    pub(crate) fn open(worker: Arc<Worker>, upgrade: Upgrade, mut log: Option<Box<Log>>, now: Instant) -> Self {
        let slot = Slot::take(&worker);
        if let Some(log) = &mut log {
            log.begin(truth::Phase::Connect, upgrade.delay, upgrade.arrival);
            log.answer();
        }
        let mut session = Self {
            environment: Environment::new(),
            phase: Phase::Open,
            slot: None,
            running: None,
            pending: VecDeque::new(),
            out: upgrade.response,
            sent: 0,
            data_unsent: false,
            idle_until: worker.faults.after_data().map(|limit| now + limit),
            handshake_done: false,
            phase_until: now,
            keepalive_at: worker.ping_interval.map(|interval| now + interval),
            awaiting_pong: false,
            ping_count: 0,
            log,
            worker,
        };
        match slot {
            Err(active) => {
                let data = protocol::capacity_reached(active, session.worker.max_concurrent_envs);
                session.error(data);
                session.close(close_code::NORMAL, "", now);
            }
            Ok(_) if session.worker.faults.at_factory() => {
                session.error(protocol::factory_error());
                session.close(close_code::NORMAL, "", now);
            }
            Ok(slot) => session.slot = Some(slot),
        }
        session
    }

    pub(crate) fn phase(&self) -> Phase {
        self.phase
    }

    /// False while the peer must wait because it sends faster than it reads or is answered.
    pub(crate) fn wants_input(&self) -> bool {
        self.phase != Phase::Open || (self.pending.len() < PENDING_MESSAGES_MAX && !self.is_full())
    }

    /// When [`Session::advance`] must be called next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let is_open = self.phase == Phase::Open;
        let phase_until = (!is_open).then_some(self.phase_until);
        let keepalive_at = self.keepalive_at.filter(|_| is_open);
        let idle_until = self.idle_until.filter(|_| is_open);
        [self.running_until(), phase_until, keepalive_at, idle_until].into_iter().flatten().min()
    }

    /// Whether [`Session::advance`] has a message to answer now.
    pub(crate) fn has_next(&self) -> bool {
        self.phase == Phase::Open && self.running.is_none() && !self.pending.is_empty() && !self.is_full()
    }

    /// The bytes to send.
    pub(crate) fn unsent(&self) -> &[u8] {
        &self.out[self.sent..]
    }

    /// The first `count` of the unsent bytes were sent.
    pub(crate) fn on_sent(&mut self, count: usize, now: Instant) {
        self.sent += count;
        if self.data_unsent {
            self.on_data(now);
        }
        if self.sent == self.out.len() {
            (self.out, self.sent, self.data_unsent) = (Vec::new(), 0, false);
        } else if self.sent > self.out.len() / 2 {
            // Not at each write, which would move the rest of a large reply again and again.
            self.out.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// How long the connection waits for the client's close after the session has finished; `None` if it does not.
    pub(crate) fn lingers(&self) -> Option<Duration> {
        self.worker.faults.after_last_word().filter(|_| self.handshake_done)
    }

    /// What outlives the connection: when the running step ends, and the place that it keeps until then.
    pub(crate) fn take_step(&mut self) -> Option<(Instant, Option<Slot>)> {
        let until = self.running_until().filter(|_| self.phase != Phase::Aborted)?;
        Some((until, self.slot.take()))
    }

    /// When the running request ends.
    fn running_until(&self) -> Option<Instant> {
        self.running.as_ref().and_then(|running| running.until)
    }

    /// Handles one message. After a break the rest of the input is to be dropped.
    pub(crate) fn on_frame(&mut self, frame: Incoming<'_>, arrival: Arrival) -> ControlFlow<()> {
        let now = arrival.at;
        match frame {
            Incoming::Close(code) => {
                // Answered at once, also behind a running step. Replies that are still due are not sent: no data may
                // follow a close frame (RFC 6455 section 5.5.1).
                self.handshake_done |= matches!(self.phase, Phase::Open | Phase::Closing);
                if self.phase == Phase::Open {
                    self.leave_open(Phase::Finished, now);
                    frame::put_close(&mut self.out, code, "");
                } else {
                    self.phase = Phase::Finished;
                }
            }
            _ if self.phase != Phase::Open => {}
            Incoming::Ping(payload) => frame::put_pong(&mut self.out, payload),
            Incoming::Pong(payload) => {
                if !self.worker.faults.at_pong() && self.awaiting_pong && payload == self.ping_count.to_be_bytes() {
                    self.awaiting_pong = false;
                    self.keepalive_at = self.worker.ping_interval.map(|interval| now + interval);
                }
            }
            Incoming::Text(text) => {
                self.on_data(now);
                if self.is_busy() {
                    self.pending.push_back((Message::Text(text.into()), arrival));
                } else {
                    self.answer(text, arrival, now);
                }
            }
            Incoming::Binary(_) if self.is_busy() => self.pending.push_back((Message::Binary, arrival)),
            Incoming::Binary(_) => self.refuse_binary(now),
        }
        match self.phase {
            Phase::Open | Phase::Closing => ControlFlow::Continue(()),
            Phase::Failing | Phase::Finished | Phase::Aborted => ControlFlow::Break(()),
        }
    }

    /// The peer broke the protocol: answers with the violation's close frame and ignores the rest.
    pub(crate) fn on_violation(&mut self, violation: Violation, now: Instant) {
        match self.phase {
            Phase::Open => {
                frame::put_close(&mut self.out, Some(violation.code), violation.reason);
                self.leave_open(Phase::Failing, now);
            }
            Phase::Closing => self.phase = Phase::Finished,
            Phase::Failing | Phase::Finished | Phase::Aborted => {}
        }
    }

    /// The peer has closed or reset the connection, or it cannot be written to.
    pub(crate) fn on_end_of_stream(&mut self, now: Instant) {
        (self.out, self.sent) = (Vec::new(), 0);
        if self.phase == Phase::Open {
            self.leave_open(Phase::Finished, now);
        } else if self.phase != Phase::Aborted {
            self.phase = Phase::Finished;
        }
    }

    /// The server stops: closes with "service restart" without waiting for a running step.
    pub(crate) fn on_shutdown(&mut self, now: Instant) {
        if self.phase == Phase::Open {
            self.running = None;
            self.close(close_code::SERVICE_RESTART, "service restart", now);
        }
        self.phase_until = self.phase_until.min(now + SHUTDOWN_TIMEOUT);
    }

    /// Does what is due at `now`: ends the running request, answers those behind it, pings, gives up.
    pub(crate) fn advance(&mut self, now: Instant) {
        if let Some(running) = self.running.take_if(|running| running.until.is_some_and(|until| until <= now)) {
            match self.phase {
                Phase::Open => self.finish(running.reply, now),
                _ => self.slot = None,
            }
        }
        while self.has_next() {
            match self.pending.pop_front() {
                Some((Message::Text(text), arrival)) => self.answer(&text, arrival, now),
                Some((Message::Binary, _)) => self.refuse_binary(now),
                None => break,
            }
        }
        if self.pending.is_empty() && self.pending.capacity() > 0 {
            self.pending = VecDeque::new();
        }
        if self.phase == Phase::Open && self.idle_until.is_some_and(|until| until <= now) {
            // As if the client had gone.
            self.on_end_of_stream(now);
        }
        if self.phase == Phase::Open && self.keepalive_at.is_some_and(|at| at <= now) {
            self.keepalive(now);
        }
        if matches!(self.phase, Phase::Closing | Phase::Failing) && self.phase_until <= now {
            self.phase = Phase::Finished;
        }
    }

    /// Whether the connection shall be closed although bytes are unsent.
    pub(crate) fn has_given_up(&self, now: Instant) -> bool {
        self.phase == Phase::Finished && self.phase_until <= now
    }

    /// The log, if it waits for the next write.
    pub(crate) fn unwritten(&mut self) -> Option<&mut Log> {
        self.log.as_deref_mut().filter(|log| log.has_unwritten())
    }

    /// What was measured of the session; its connection was closed at `closed`.
    pub(crate) fn take_log(&mut self, closed: WallClock) -> Option<Box<Log>> {
        let mut log = self.log.take()?;
        log.close(self.environment.session_hash(), closed);
        Some(log)
    }

    fn is_busy(&self) -> bool {
        self.running.is_some() || !self.pending.is_empty() || self.is_full()
    }

    fn is_full(&self) -> bool {
        self.unsent().len() >= OUT_BYTES_MAX
    }

    fn on_data(&mut self, now: Instant) {
        self.idle_until = self.worker.faults.after_data().map(|limit| now + limit);
    }

    fn keepalive(&mut self, now: Instant) {
        if self.awaiting_pong {
            let reason = "keepalive ping timeout";
            return self.on_violation(Violation { code: close_code::INTERNAL_ERROR, reason }, now);
        }
        self.ping_count = self.ping_count.wrapping_add(1);
        frame::put_ping(&mut self.out, &self.ping_count.to_be_bytes());
        self.awaiting_pong = true;
        self.keepalive_at = Some(now + self.worker.ping_timeout);
    }

    /// Answers a message, or starts what will answer it.
    fn answer(&mut self, text: &str, arrival: Arrival, now: Instant) {
        match protocol::parse_message(text) {
            Ok(Request::Reset) => {
                let delay = self.worker.faults.at_reset();
                self.start(Reply::Reset, delay, arrival, now);
            }
            Ok(Request::Step { wait_seconds }) => self.step(wait_seconds, arrival, now),
            Ok(Request::State) => self.state(),
            Ok(Request::Close) => self.answer_close(now),
            Ok(Request::Mcp(request)) => self.value("mcp", &protocol::mcp_reply(&request)),
            Err(Refusal::Recoverable(data)) => self.error(data),
            Err(Refusal::Fatal(data)) => {
                self.error(data);
                self.close(close_code::NORMAL, "", now);
            }
        }
    }

    fn answer_close(&mut self, now: Instant) {
        match self.worker.faults.at_close() {
            CloseAnswer::Normal => self.close(close_code::NORMAL, "", now),
            CloseAnswer::GoingAway => self.close(close_code::GOING_AWAY, "", now),
            CloseAnswer::Cut => self.leave_open(Phase::Finished, now),
            CloseAnswer::Reset => self.leave_open(Phase::Aborted, now),
            CloseAnswer::Reply => {
                self.state();
                self.close(close_code::NORMAL, "", now);
            }
            CloseAnswer::LateFrame => {
                self.observation(0.0);
                self.close(close_code::NORMAL, "", now);
            }
            CloseAnswer::Never => {}
        }
    }

    fn refuse_binary(&mut self, now: Instant) {
        if let Refusal::Fatal(data) = protocol::session_error("the message is a binary frame, not a text frame") {
            self.error(data);
        }
        self.close(close_code::NORMAL, "", now);
    }

    fn step(&mut self, wait_seconds: f64, arrival: Arrival, now: Instant) {
        if self.worker.faults.before_step(self.environment.step_count()) {
            return self.start(Reply::LateStep, Duration::ZERO, arrival, now);
        }
        // A step counts before its wait.
        self.environment.step();
        let Some(wait) = wait(wait_seconds) else {
            let message = "timestamp too large to convert to C PyTime_t";
            return self.error(json!({"message": message, "code": "EXECUTION_ERROR"}));
        };
        match self.worker.faults.at_step() {
            AtStep::Answer(delay) => self.start(Reply::Step { wait_seconds }, wait + delay, arrival, now),
            AtStep::Fail(delay) => self.start(Reply::FailedStep, wait + delay, arrival, now),
            AtStep::Stall => self.running = Some(Running { until: None, reply: Reply::Step { wait_seconds } }),
            AtStep::Drop => self.leave_open(Phase::Aborted, now),
        }
    }

    fn start(&mut self, reply: Reply, delay: Duration, arrival: Arrival, now: Instant) {
        if let Some(log) = &mut self.log {
            log.begin(reply.phase(), delay, arrival);
        }
        if delay.is_zero() {
            self.finish(reply, now);
        } else {
            self.running = Some(Running { until: Some(now + delay), reply });
        }
    }

    fn finish(&mut self, reply: Reply, now: Instant) {
        match reply {
            Reply::Reset => {
                self.environment.reset();
                self.observation(0.0);
                if let Some(code) = self.worker.faults.after_reset() {
                    self.close(code, "", now);
                }
            }
            Reply::Step { wait_seconds } => self.observation(wait_seconds),
            Reply::FailedStep => self.error(protocol::execution_error()),
            Reply::LateStep => self.error(protocol::episode_over()),
        }
        if let Some(log) = &mut self.log {
            log.answer();
        }
    }

    fn observation(&mut self, waited_seconds: f64) {
        let Self { worker, environment, out, .. } = self;
        let look = worker.faults.at_observation(environment.step_count());
        protocol::put_message(out, "observation", |out| {
            environment.write_observation(&worker.identity, waited_seconds, look, out);
        });
        self.data_unsent = true;
    }

    fn state(&mut self) {
        protocol::put_message(&mut self.out, "state", |out| self.environment.write_state(out));
        self.data_unsent = true;
    }

    fn error(&mut self, mut data: Value) {
        if self.worker.faults.at_error() {
            protocol::make_odd(&mut data);
        }
        self.value("error", &data);
    }

    fn value(&mut self, kind: &str, data: &Value) {
        protocol::put_value(&mut self.out, kind, data);
        self.data_unsent = true;
    }

    /// Starts the closing handshake. The place is free before the peer learns of it.
    fn close(&mut self, code: u16, reason: &str, now: Instant) {
        self.leave_open(Phase::Closing, now);
        frame::put_close(&mut self.out, Some(code), reason);
    }

    fn leave_open(&mut self, phase: Phase, now: Instant) {
        self.phase = phase;
        self.phase_until = now + CLOSE_TIMEOUT;
        self.pending = VecDeque::new();
        if self.running_until().is_none() {
            self.slot = None;
        }
    }
}

#[cfg(test)]
mod tests;
