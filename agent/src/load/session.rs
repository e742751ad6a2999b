//! Runs one session and measures it: connect, reset, steps, close, each under its own time limit.

use std::rc::Rc;
use std::time::Duration;

use proto::units::micros;
use proto::{FailureKind, Outcome, Phase, Script, SessionRecord};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::recorder::Counters;
use crate::drivers::{Closed, Driver, Ending, Fault, Reply};
use crate::net::timestamps::Timestamps;

/// What is known of a session so far. It survives when a time-out or a cancellation drops the driver's future.
struct Trace {
    phase: Phase,
    record: SessionRecord,
}

impl Trace {
    /// Keeps which process answered.
    fn served_by(&mut self, reply: Reply) {
        self.record.pid = reply.pid;
        self.record.session_hash = reply.session_hash;
        self.record.host_url = reply.host_url;
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
    let record = SessionRecord {
        intended_us,
        started_us: Some(micros(start.saturating_duration_since(context.origin))),
        step_wait_us: micros(context.script.wait),
        ..SessionRecord::without_life(number, Outcome::Succeeded, String::new())
    };
    let mut trace = Trace { phase: Phase::Connect, record };
    // Kept outside of the phases, because a session that fails while its connection works says goodbye.
    let mut session = None;
    let ended = tokio::select! {
        biased;
        ended = phases(driver, context, number, start, &mut session, &mut trace, times.as_ref()) => ended,
        () = context.cancel.cancelled() => Err(Fault::new(FailureKind::Cancelled, "the agent was told to stop")),
    };
    let Trace { phase, mut record } = trace;
    record.total_us = Some(micros(start.elapsed()));
    let (fault, connection) = match ended {
        Ok(connection) => (None, connection),
        Err(fault) => {
            record.outcome = match &fault.ending {
                Ending::TimedOut => Outcome::TimedOut(phase),
                Ending::Failed(kind) => Outcome::Failed(kind.clone(), phase),
            };
            record.error_message.clone_from(&fault.message);
            let open =
                session.take().filter(|_| fault.leaves_open()).map(|session| driver.close_after_failure(session));
            (Some(fault), open)
        }
    };
    drop(session);
    if let Some(times) = &times {
        // A server that said why it ended the session, or our own cancellation, needs no account of a silence.
        let cut = matches!(&record.outcome, Outcome::Failed(kind, _)
            if !matches!(kind, FailureKind::CapacityReached | FailureKind::ServerError(_) | FailureKind::Cancelled));
        times.record(&mut record.wire, cut);
    }
    if record.wire.steps.len() < record.step_us.len() {
        // A sum over some of the steps would look like a sum over all of them.
        record.wire.steps = Vec::new();
    }
    context.counters.ended(&record.outcome, record.reset_us.is_some());
    EndedSession { record, errno: fault.as_ref().and_then(|fault| fault.errno), fault, connection }
}

/// Runs the phases in order. The session is kept in `place` while it is open, and what is measured in `trace`. Returns
/// the connection, if the server has not closed it yet.
async fn phases<D: Driver>(
    driver: &D,
    context: &SessionContext<'_>,
    number: u64,
    start: Instant,
    place: &mut Option<D::Session>,
    trace: &mut Trace,
    times: Option<&Rc<Timestamps>>,
) -> Result<Option<D::Closing>, Fault> {
    let script = context.script;
    let replied = || times.and_then(|times| times.replied());
    let total = script.total_timeout.map(|limit| start + limit);

    let (connected, us) =
        timed(trace.phase, start, script.connect_timeout, total, driver.connect(number, times.cloned())).await?;
    let session = place.insert(connected);
    trace.record.connect_us = Some(us);
    // Counts how late the response to the upgrade was read.
    let _ = replied();
    trace.record.wire.connect_own_us = times.and_then(|times| times.own_delay_us());

    trace.phase = Phase::Reset;
    let (reply, us) = timed(trace.phase, Instant::now(), script.reset_timeout, total, driver.reset(session)).await?;
    trace.record.reset_us = Some(us);
    trace.record.wire.reset = replied();
    trace.record.wire.open_own_us = times.and_then(|times| times.own_delay_us());
    let mut over = script.until_done && reply.done;
    trace.served_by(reply);
    context.counters.opened();

    trace.phase = Phase::Step;
    trace.record.step_us.reserve_exact(script.steps as usize);
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
            timed(trace.phase, Instant::now(), limit, total, driver.step(session, script.wait, step == script.steps))
                .await?;
        trace.record.asked_us += micros(script.think.saturating_add(script.wait));
        trace.record.step_us.push(us);
        trace.record.wire.steps.extend(replied());
        if let Some(waited) = reply.waited_us {
            trace.record.waited_us = Some(trace.record.waited_us.unwrap_or(0).saturating_add(waited));
        }
        over = script.until_done && reply.done;
        if reply.pid.is_some() {
            // A stateless server answers each request from another process: the last one counts.
            trace.served_by(reply);
        }
    }
    trace.record.done |= over;

    trace.phase = Phase::Close;
    let Some(session) = place.take() else { return Ok(None) };
    let goodbye = async { Ok::<_, Fault>(driver.close(session).await) };
    let (Closed { connection, untidy }, us) =
        timed(trace.phase, Instant::now(), script.close_timeout, total, goodbye).await?;
    trace.record.close_us = Some(us);
    trace.record.untidy = untidy.and_then(|fault| fault.kind().cloned());
    Ok(connection)
}

/// Runs a phase and returns its value with its duration in microseconds. It is cut at its own limit or at the
/// session's, whichever comes first.
async fn timed<T>(
    name: Phase,
    start: Instant,
    limit: Duration,
    total: Option<Instant>,
    phase: impl Future<Output = Result<T, Fault>>,
) -> Result<(T, u64), Fault> {
    let own = start + limit;
    let deadline = total.map_or(own, |total| total.min(own));
    let value = timeout_at(deadline, phase).await.map_err(|_| not_in_time(name))??;
    Ok((value, micros(start.elapsed())))
}

/// Pauses while the connection is served. Returns how much longer than `pause` it took.
async fn think<D: Driver>(
    driver: &D,
    session: &mut D::Session,
    pause: Duration,
    total: Option<Instant>,
) -> Result<Duration, Fault> {
    let until = Instant::now() + pause;
    let idle = driver.idle(session, until);
    match total {
        None => idle.await?,
        Some(total) => timeout_at(total, idle).await.map_err(|_| not_in_time(Phase::Step))??,
    }
    Ok(until.elapsed())
}

fn not_in_time(phase: Phase) -> Fault {
    Fault::timed_out(format!("the {phase} did not end in time"))
}
