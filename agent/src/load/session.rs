//! One session's life, measured: connect, reset, steps, close, each under its own time limit.

use std::rc::Rc;
use std::time::Duration;

use proto::convert::micros;
use proto::{FailureKind, Outcome, Phase, Script, SessionRecord, WireRecord};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::recorder::Counters;
use crate::driver::{Closed, Driver, Ending, Fault, Reply};
use crate::stamps::Times;

/// What is known of a session so far: survives when a time-out or a cancellation drops the driver's future.
struct Trace {
    phase: Phase,
    connect_us: Option<u64>,
    reset_us: Option<u64>,
    step_us: Vec<u64>,
    close_us: Option<u64>,
    waited_us: Option<u64>,
    asked: Duration,
    done: bool,
    untidy: Option<Fault>,
    identity: Reply,
    wire: WireRecord,
}

impl Trace {
    /// Of a session that has done nothing yet.
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
pub struct Course<'a> {
    pub script: &'a Script,
    /// The agent's start instant.
    pub origin: Instant,
    pub cancel: &'a CancellationToken,
    pub counters: &'a Counters,
    /// Ask the kernel when replies came.
    pub wire: bool,
}

/// A session that is over.
#[derive(Debug)]
pub struct Ended<R> {
    pub record: SessionRecord,
    /// What the operating system said, if that ended it.
    pub errno: Option<i32>,
    /// What ended it, if it did not succeed.
    pub fault: Option<Fault>,
    /// Its connection, if the other side has not let go of it yet.
    pub rest: Option<R>,
}

/// A session that did not succeed.
enum Stop {
    TimedOut,
    Fault(Fault),
}

/// Runs session `number`, which was meant to start at `intended_us` after the origin.
pub async fn live<D: Driver>(driver: &D, course: &Course<'_>, number: u64, intended_us: u64) -> Ended<D::Rest> {
    let start = Instant::now();
    course.counters.launched();
    let times = course.wire.then(|| Rc::new(Times::default()));
    let mut trace = Trace::new();
    // Outside of the phases: one that failed while its connection is good says goodbye.
    let mut session = None;
    let ended = tokio::select! {
        biased;
        ended = phases(driver, course, number, start, &mut session, &mut trace, times.as_ref()) => ended,
        () = course.cancel.cancelled() => Err(Stop::Fault(Fault::new(FailureKind::Cancelled, "the agent was told to stop"))),
    };
    let end = Instant::now();
    let (outcome, fault, rest) = match ended {
        Ok(rest) => (Outcome::Succeeded, None, rest),
        Err(Stop::TimedOut) => {
            let message = format!("no end of {} in time", trace.phase);
            (Outcome::TimedOut(trace.phase), Some(Fault::timed_out(message)), None)
        }
        Err(Stop::Fault(fault)) => {
            let outcome = match &fault.ending {
                Ending::TimedOut => Outcome::TimedOut(trace.phase),
                Ending::Failed(kind) => Outcome::Failed(kind.clone(), trace.phase),
            };
            let rest = session.take().filter(|_| fault.leaves_open()).map(|session| driver.leave(session));
            (outcome, Some(fault), rest)
        }
    };
    drop(session);
    if let Some(times) = &times {
        kernel_knows(&mut trace.wire, times, &outcome);
    }
    if trace.wire.steps.len() < trace.step_us.len() {
        // A sum of some of the steps would look like one of all.
        trace.wire.steps = Vec::new();
    }
    course.counters.ended(&outcome, trace.reset_us.is_some());
    let record = SessionRecord {
        session: number,
        outcome,
        error_message: fault.as_ref().map(|fault| fault.message.clone()).unwrap_or_default(),
        intended_us,
        started_us: Some(micros(start.saturating_duration_since(course.origin))),
        connect_us: trace.connect_us,
        reset_us: trace.reset_us,
        step_us: trace.step_us,
        close_us: trace.close_us,
        total_us: Some(micros(end - start)),
        waited_us: trace.waited_us,
        asked_us: micros(trace.asked),
        step_wait_us: micros(course.script.wait),
        done: trace.done,
        untidy: trace.untidy.and_then(|fault| fault.kind().cloned()),
        pid: trace.identity.pid,
        session_hash: trace.identity.session_hash,
        host_url: trace.identity.host_url,
        wire: trace.wire,
    };
    Ended { record, errno: fault.as_ref().and_then(|fault| fault.errno), fault, rest }
}

/// What is there in the end.
fn kernel_knows(wire: &mut WireRecord, times: &Times, outcome: &Outcome) {
    wire.own_delay_us = times.own_delay_us();
    wire.handshake_rtt_us = times.handshake_rtt_us();
    wire.syn_retransmits = times.syn_retransmits();
    wire.pings = times.pings();
    wire.ping_late_us = times.ping_late_us();
    if let Outcome::Failed(kind, _) = outcome {
        // What has ended a session by its own words needs no other account of it.
        let cut = !matches!(kind, FailureKind::CapacityReached | FailureKind::ServerError(_) | FailureKind::Cancelled);
        wire.silence = times.silence().filter(|_| cut);
    }
}

async fn phases<D: Driver>(
    driver: &D,
    course: &Course<'_>,
    number: u64,
    start: Instant,
    place: &mut Option<D::Session>,
    trace: &mut Trace,
    times: Option<&Rc<Times>>,
) -> Result<Option<D::Rest>, Stop> {
    let script = course.script;
    let replied = || times.and_then(|times| times.replied());
    let total = script.total_timeout.map(|limit| start + limit);

    let (connected, us) = timed(start, script.connect_timeout, total, driver.connect(number, times.cloned())).await?;
    let session = place.insert(connected);
    trace.connect_us = Some(us);
    // Read and understood: what the upgrade was late by is on the account.
    let _ = replied();
    trace.wire.connect_own_us = times.and_then(|times| times.own_delay_us());

    trace.phase = Phase::Reset;
    let (reply, us) = timed(Instant::now(), script.reset_timeout, total, driver.reset(session)).await?;
    trace.reset_us = Some(us);
    trace.wire.reset = replied();
    trace.wire.open_own_us = times.and_then(|times| times.own_delay_us());
    let mut over = script.until_done && reply.done;
    trace.identity = reply;
    course.counters.opened();

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
        // The wait is what was asked for; only what comes on top of it is limited.
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
            // Stateless servers answer each call from another environment: the last one that answered counts.
            trace.identity = reply;
        }
    }
    trace.done |= over;

    trace.phase = Phase::Close;
    let Some(session) = place.take() else { return Ok(None) };
    let goodbye = async { Ok::<_, Fault>(driver.close(session).await) };
    let (Closed { rest, untidy }, us) = timed(Instant::now(), script.close_timeout, total, goodbye).await?;
    trace.close_us = Some(us);
    trace.untidy = untidy;
    Ok(rest)
}

/// A phase with its duration in microseconds, cut at its own limit or the session's, whichever is first.
async fn timed<T>(
    start: Instant,
    limit: Duration,
    total: Option<Instant>,
    phase: impl Future<Output = Result<T, Fault>>,
) -> Result<(T, u64), Stop> {
    let own = start + limit;
    let deadline = total.map_or(own, |total| total.min(own));
    match timeout_at(deadline, phase).await {
        Ok(Ok(value)) => Ok((value, micros(start.elapsed()))),
        Ok(Err(fault)) => Err(Stop::Fault(fault)),
        Err(_) => Err(Stop::TimedOut),
    }
}

/// Pauses, with the connection served; returns by how much it took longer than asked for.
async fn think<D: Driver>(
    driver: &D,
    session: &mut D::Session,
    pause: Duration,
    total: Option<Instant>,
) -> Result<Duration, Stop> {
    let until = Instant::now() + pause;
    let idle = driver.idle(session, until);
    let idle = match total {
        None => idle.await,
        Some(total) => timeout_at(total, idle).await.map_err(|_| Stop::TimedOut)?,
    };
    idle.map_err(Stop::Fault)?;
    Ok(until.elapsed())
}
