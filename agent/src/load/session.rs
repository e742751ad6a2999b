//! Runs one session and measures it: connect, reset, steps, close, each under its own time limit.

use std::rc::Rc;
use std::time::Duration;

use proto::convert::micros;
use proto::{FailureKind, Outcome, Phase, Script, SessionRecord, WireRecord};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::recorder::Counters;
use crate::drivers::{Closed, Driver, Ending, Fault, Reply};
use crate::net::timestamps::Timestamps;

/// What is known of a session so far. It survives when a time-out or a cancellation drops the driver's future.
struct Trace {
    phase: Phase,
    connect_us: Option<u64>,
    reset_us: Option<u64>,
    step_us: Vec<u64>,
    close_us: Option<u64>,
    waited_us: Option<u64>,
    /// Waits and pauses that the script asked for so far.
    asked: Duration,
    done: bool,
    untidy: Option<Fault>,
    /// The reply that says which process serves this session.
    identity: Reply,
    wire: WireRecord,
}

impl Trace {
    /// A session that has done nothing yet.
    fn new() -> Self {
        Self {
            phase: Phase::Connect,
            connect_us: None,
            reset_us: None,
            step_us: Vec::new(),
            close_us: None,
            waited_us: None,
            asked: Duration::ZERO,
            done: false,
            untidy: None,
            identity: Reply::default(),
            wire: WireRecord::default(),
        }
    }
}

/// What all sessions of a share have in common.
#[derive(Debug)]
pub struct SessionContext<'a> {
    pub script: &'a Script,
    /// The agent's start instant.
    pub origin: Instant,
    pub cancel: &'a CancellationToken,
    pub counters: &'a Counters,
    /// Read the kernel's receive timestamps.
    pub kernel_timestamps: bool,
}

/// A session that is over.
#[derive(Debug)]
pub struct EndedSession<C> {
    pub record: SessionRecord,
    /// The operating system's error number, if that error ended it.
    pub errno: Option<i32>,
    /// Why it ended, if it did not succeed.
    pub fault: Option<Fault>,
    /// Its connection, if the server has not closed it yet.
    pub connection: Option<C>,
}

/// Why a session did not succeed.
enum Interruption {
    TimedOut,
    Fault(Fault),
}

/// Runs session `number`, which was meant to start `intended_us` after the origin.
pub async fn run_session<D: Driver>(
    driver: &D,
    context: &SessionContext<'_>,
    number: u64,
    intended_us: u64,
) -> EndedSession<D::Closing> {
    let start = Instant::now();
    context.counters.launched();
    let times = context.kernel_timestamps.then(|| Rc::new(Timestamps::default()));
    let mut trace = Trace::new();
    // Kept outside of the phases, because a session that fails while its connection works says goodbye.
    let mut session = None;
    let ended = tokio::select! {
        biased;
        ended = phases(driver, context, number, start, &mut session, &mut trace, times.as_ref()) => ended,
        () = context.cancel.cancelled() => Err(Interruption::Fault(Fault::new(FailureKind::Cancelled, "the agent was told to stop"))),
    };
    let end = Instant::now();
    let (outcome, fault, connection) = match ended {
        Ok(connection) => (Outcome::Succeeded, None, connection),
        Err(Interruption::TimedOut) => {
            let message = format!("no end of {} in time", trace.phase);
            (Outcome::TimedOut(trace.phase), Some(Fault::timed_out(message)), None)
        }
        Err(Interruption::Fault(fault)) => {
            let outcome = match &fault.ending {
                Ending::TimedOut => Outcome::TimedOut(trace.phase),
                Ending::Failed(kind) => Outcome::Failed(kind.clone(), trace.phase),
            };
            let open =
                session.take().filter(|_| fault.leaves_open()).map(|session| driver.close_after_failure(session));
            (outcome, Some(fault), open)
        }
    };
    drop(session);
    if let Some(times) = &times {
        add_kernel_figures(&mut trace.wire, times, &outcome);
    }
    if trace.wire.steps.len() < trace.step_us.len() {
        // A sum over some of the steps would look like a sum over all of them.
        trace.wire.steps = Vec::new();
    }
    context.counters.ended(&outcome, trace.reset_us.is_some());
    let record = SessionRecord {
        session: number,
        outcome,
        error_message: fault.as_ref().map(|fault| fault.message.clone()).unwrap_or_default(),
        intended_us,
        started_us: Some(micros(start.saturating_duration_since(context.origin))),
        connect_us: trace.connect_us,
        reset_us: trace.reset_us,
        step_us: trace.step_us,
        close_us: trace.close_us,
        total_us: Some(micros(end - start)),
        waited_us: trace.waited_us,
        asked_us: micros(trace.asked),
        step_wait_us: micros(context.script.wait),
        done: trace.done,
        untidy: trace.untidy.and_then(|fault| fault.kind().cloned()),
        pid: trace.identity.pid,
        session_hash: trace.identity.session_hash,
        host_url: trace.identity.host_url,
        wire: trace.wire,
    };
    EndedSession { record, errno: fault.as_ref().and_then(|fault| fault.errno), fault, connection }
}

/// Adds what the kernel knows of a session at its end.
fn add_kernel_figures(wire: &mut WireRecord, times: &Timestamps, outcome: &Outcome) {
    wire.own_delay_us = times.own_delay_us();
    wire.handshake_rtt_us = times.handshake_rtt_us();
    wire.syn_retransmits = times.syn_retransmits();
    wire.pings = times.pings();
    wire.ping_late_us = times.ping_late_us();
    if let Outcome::Failed(kind, _) = outcome {
        // A server that said why it ended the session, or our own cancellation, needs no account of a silence.
        let cut = !matches!(kind, FailureKind::CapacityReached | FailureKind::ServerError(_) | FailureKind::Cancelled);
        wire.silence = times.silence().filter(|_| cut);
    }
}

/// Runs the phases in order. The session is kept in `place` while it is open, and what is measured in `trace`. Returns the
/// connection, if the server has not closed it yet.
async fn phases<D: Driver>(
    driver: &D,
    context: &SessionContext<'_>,
    number: u64,
    start: Instant,
    place: &mut Option<D::Session>,
    trace: &mut Trace,
    times: Option<&Rc<Timestamps>>,
) -> Result<Option<D::Closing>, Interruption> {
    let script = context.script;
    let replied = || times.and_then(|times| times.replied());
    let total = script.total_timeout.map(|limit| start + limit);

    let (connected, us) = timed(start, script.connect_timeout, total, driver.connect(number, times.cloned())).await?;
    let session = place.insert(connected);
    trace.connect_us = Some(us);
    // Counts how late the response to the upgrade was read.
    let _ = replied();
    trace.wire.connect_own_us = times.and_then(|times| times.own_delay_us());

    trace.phase = Phase::Reset;
    let (reply, us) = timed(Instant::now(), script.reset_timeout, total, driver.reset(session)).await?;
    trace.reset_us = Some(us);
    trace.wire.reset = replied();
    trace.wire.open_own_us = times.and_then(|times| times.own_delay_us());
    let mut over = script.until_done && reply.done;
    trace.identity = reply;
    context.counters.opened();

    trace.phase = Phase::Step;
    trace.step_us.reserve_exact(script.steps as usize);
    for step in 1..=script.steps {
        if over {
            break;
        }
        if !script.think.is_zero() {
            let late = think(driver, session, script.think, total).await?;
            if let Some(times) = times {
                times.add_own(late);
            }
        }
        // The limit applies to the time on top of the wait that was asked for.
        let limit = script.wait.saturating_add(script.step_timeout);
        let (reply, us) =
            timed(Instant::now(), limit, total, driver.step(session, script.wait, step == script.steps)).await?;
        trace.asked += script.think.saturating_add(script.wait);
        trace.step_us.push(us);
        trace.wire.steps.extend(replied());
        if let Some(waited) = reply.waited_us {
            trace.waited_us = Some(trace.waited_us.unwrap_or(0).saturating_add(waited));
        }
        over = script.until_done && reply.done;
        trace.done |= over;
        if reply.pid.is_some() {
            // A stateless server answers each request from another process: the last one counts.
            trace.identity = reply;
        }
    }
    trace.done |= over;

    trace.phase = Phase::Close;
    let Some(session) = place.take() else { return Ok(None) };
    let goodbye = async { Ok::<_, Fault>(driver.close(session).await) };
    let (Closed { connection, untidy }, us) = timed(Instant::now(), script.close_timeout, total, goodbye).await?;
    trace.close_us = Some(us);
    trace.untidy = untidy;
    Ok(connection)
}

/// Runs a phase and returns its value with its duration in microseconds. It is cut at its own limit or at the session's,
/// whichever comes first.
async fn timed<T>(
    start: Instant,
    limit: Duration,
    total: Option<Instant>,
    phase: impl Future<Output = Result<T, Fault>>,
) -> Result<(T, u64), Interruption> {
    let own = start + limit;
    let deadline = total.map_or(own, |total| total.min(own));
    match timeout_at(deadline, phase).await {
        Ok(Ok(value)) => Ok((value, micros(start.elapsed()))),
        Ok(Err(fault)) => Err(Interruption::Fault(fault)),
        Err(_) => Err(Interruption::TimedOut),
    }
}

/// Pauses while the connection is served. Returns how much longer than `pause` it took.
async fn think<D: Driver>(
    driver: &D,
    session: &mut D::Session,
    pause: Duration,
    total: Option<Instant>,
) -> Result<Duration, Interruption> {
    let until = Instant::now() + pause;
    let idle = driver.idle(session, until);
    let idle = match total {
        None => idle.await,
        Some(total) => timeout_at(total, idle).await.map_err(|_| Interruption::TimedOut)?,
    };
    idle.map_err(Interruption::Fault)?;
    Ok(until.elapsed())
}
