//! One session's life, measured: connect, reset, steps, close, each under its own time limit.

use std::rc::Rc;
use std::time::Duration;

use proto::convert::micros;
use proto::{FailureKind, Outcome, Phase, Script, SessionRecord, WireRecord};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::recorder::Counters;
use crate::driver::{Driver, Ending, Fault, Reply};
use crate::stamps::Times;

/// What is known of a session so far: survives when a time-out or a cancellation drops the driver's future.
struct Trace {
    phase: Phase,
    connect_us: Option<u64>,
    reset_us: Option<u64>,
    step_us: Vec<u64>,
    close_us: Option<u64>,
    waited_us: Option<u64>,
    identity: Reply,
    wire: WireRecord,
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
pub struct Ended {
    pub record: SessionRecord,
    /// What the operating system said, if that ended it.
    pub errno: Option<i32>,
}

/// A session that did not succeed.
enum Stop {
    TimedOut,
    Fault(Fault),
}

/// Runs session `number`, which was meant to start at `intended_us` after the origin.
pub async fn live<D: Driver>(driver: &D, course: &Course<'_>, number: u64, intended_us: u64) -> Ended {
    let start = Instant::now();
    course.counters.launched();
    let times = course.wire.then(|| Rc::new(Times::default()));
    let mut trace = Trace {
        phase: Phase::Connect,
        connect_us: None,
        reset_us: None,
        step_us: Vec::new(),
        close_us: None,
        waited_us: None,
        identity: Reply::default(),
        wire: WireRecord::default(),
    };
    let ended = tokio::select! {
        biased;
        ended = phases(driver, course, number, start, &mut trace, times.as_ref()) => ended,
        () = course.cancel.cancelled() => Err(Stop::Fault(Fault::new(FailureKind::Cancelled, "the agent was told to stop"))),
    };
    let end = Instant::now();
    if let Some(times) = &times {
        trace.wire.own_delay_us = times.own_delay_us();
        trace.wire.handshake_rtt_us = times.handshake_rtt_us();
        trace.wire.syn_retransmits = times.syn_retransmits();
    }
    if trace.wire.steps.len() < trace.step_us.len() {
        // A sum of some of the steps would look like one of all.
        trace.wire.steps = Vec::new();
    }
    let (outcome, error_message, errno) = match ended {
        Ok(()) => (Outcome::Succeeded, String::new(), None),
        Err(Stop::TimedOut) => (Outcome::TimedOut(trace.phase), format!("no end of {} in time", trace.phase), None),
        Err(Stop::Fault(Fault { ending, message, errno })) => {
            let outcome = match ending {
                Ending::TimedOut => Outcome::TimedOut(trace.phase),
                Ending::Failed(kind) => Outcome::Failed(kind, trace.phase),
            };
            (outcome, message, errno)
        }
    };
    course.counters.ended(&outcome, trace.connect_us.is_some());
    let record = SessionRecord {
        session: number,
        outcome,
        error_message,
        intended_us,
        started_us: Some(micros(start.saturating_duration_since(course.origin))),
        connect_us: trace.connect_us,
        reset_us: trace.reset_us,
        step_us: trace.step_us,
        close_us: trace.close_us,
        total_us: Some(micros(end - start)),
        waited_us: trace.waited_us,
        pid: trace.identity.pid,
        session_hash: trace.identity.session_hash,
        host_url: trace.identity.host_url,
        wire: trace.wire,
    };
    Ended { record, errno }
}

async fn phases<D: Driver>(
    driver: &D,
    course: &Course<'_>,
    number: u64,
    start: Instant,
    trace: &mut Trace,
    times: Option<&Rc<Times>>,
) -> Result<(), Stop> {
    let script = course.script;
    let replied = || times.and_then(|times| times.replied());
    let total = script.total_timeout.map(|limit| start + limit);

    let (mut session, us) = timed(start, script.connect_timeout, total, driver.connect(number, times.cloned())).await?;
    trace.connect_us = Some(us);
    // Read and understood: what the upgrade was late by is on the account.
    let _ = replied();
    trace.wire.connect_own_us = times.and_then(|times| times.own_delay_us());
    course.counters.connected();

    trace.phase = Phase::Reset;
    let (reply, us) = timed(Instant::now(), script.reset_timeout, total, driver.reset(&mut session)).await?;
    trace.reset_us = Some(us);
    trace.wire.reset = replied();
    trace.identity = reply;

    trace.phase = Phase::Step;
    trace.step_us.reserve_exact(script.steps as usize);
    for step in 1..=script.steps {
        if !script.think.is_zero() {
            let late = think(script.think, total).await?;
            if let Some(times) = times {
                times.add_own(late);
            }
        }
        // The wait is what was asked for; only what comes on top of it is limited.
        let limit = script.wait.saturating_add(script.step_timeout);
        let (reply, us) =
            timed(Instant::now(), limit, total, driver.step(&mut session, script.wait, step == script.steps)).await?;
        trace.step_us.push(us);
        trace.wire.steps.extend(replied());
        if let Some(waited) = reply.waited_us {
            trace.waited_us = Some(trace.waited_us.unwrap_or(0).saturating_add(waited));
        }
        if reply.pid.is_some() {
            // Stateless servers answer each call from another environment: the last one that answered counts.
            trace.identity = reply;
        }
    }

    trace.phase = Phase::Close;
    let ((), us) = timed(Instant::now(), script.close_timeout, total, driver.close(session)).await?;
    trace.close_us = Some(us);
    Ok(())
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

/// Pauses; returns by how much it took longer than asked for.
async fn think(pause: Duration, total: Option<Instant>) -> Result<Duration, Stop> {
    let until = Instant::now() + pause;
    match total {
        None => tokio::time::sleep(pause).await,
        Some(total) => timeout_at(total, tokio::time::sleep(pause)).await.map_err(|_| Stop::TimedOut)?,
    }
    Ok(until.elapsed())
}
