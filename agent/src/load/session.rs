//! One session's life, measured: connect, reset, steps, close, each under its own time limit.

use std::time::Duration;

use proto::convert::micros;
use proto::{FailureKind, Outcome, Phase, Script, SessionRecord};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::recorder::Counters;
use crate::driver::{Driver, Ending, Fault, Reply};

/// What is known of a session so far: survives when a time-out or a cancellation drops the driver's future.
struct Trace {
    phase: Phase,
    connect_us: Option<u64>,
    reset_us: Option<u64>,
    step_us: Vec<u64>,
    close_us: Option<u64>,
    waited_us: Option<u64>,
    identity: Reply,
}

/// A session that did not succeed.
enum Stop {
    TimedOut,
    Fault(Fault),
}

/// Runs session `number` and returns its record. `origin` is the agent's start instant.
pub async fn live<D: Driver>(
    driver: &D,
    script: &Script,
    number: u64,
    origin: Instant,
    intended_us: u64,
    cancel: &CancellationToken,
    counters: &Counters,
) -> SessionRecord {
    let start = Instant::now();
    counters.launched();
    let mut trace = Trace {
        phase: Phase::Connect,
        connect_us: None,
        reset_us: None,
        step_us: Vec::new(),
        close_us: None,
        waited_us: None,
        identity: Reply::default(),
    };
    let ended = tokio::select! {
        biased;
        ended = phases(driver, script, number, start, &mut trace, counters) => ended,
        () = cancel.cancelled() => Err(Stop::Fault(Fault::new(FailureKind::Cancelled, "the agent was told to stop"))),
    };
    let end = Instant::now();
    let (outcome, error_message) = match ended {
        Ok(()) => (Outcome::Succeeded, String::new()),
        Err(Stop::TimedOut) => (Outcome::TimedOut(trace.phase), format!("no end of {} in time", trace.phase)),
        Err(Stop::Fault(Fault { ending: Ending::TimedOut, message })) => (Outcome::TimedOut(trace.phase), message),
        Err(Stop::Fault(Fault { ending: Ending::Failed(kind), message })) => {
            (Outcome::Failed(kind, trace.phase), message)
        }
    };
    counters.ended(&outcome, trace.connect_us.is_some());
    SessionRecord {
        session: number,
        outcome,
        error_message,
        intended_us,
        started_us: Some(micros(start.saturating_duration_since(origin))),
        connect_us: trace.connect_us,
        reset_us: trace.reset_us,
        step_us: trace.step_us,
        close_us: trace.close_us,
        total_us: Some(micros(end - start)),
        waited_us: trace.waited_us,
        pid: trace.identity.pid,
        session_hash: trace.identity.session_hash,
        host_url: trace.identity.host_url,
    }
}

async fn phases<D: Driver>(
    driver: &D,
    script: &Script,
    number: u64,
    start: Instant,
    trace: &mut Trace,
    counters: &Counters,
) -> Result<(), Stop> {
    let total = script.total_timeout.map(|limit| start + limit);

    let (mut session, us) = timed(start, script.connect_timeout, total, driver.connect(number)).await?;
    trace.connect_us = Some(us);
    counters.connected();

    trace.phase = Phase::Reset;
    let (reply, us) = timed(Instant::now(), script.reset_timeout, total, driver.reset(&mut session)).await?;
    trace.reset_us = Some(us);
    trace.identity = reply;

    trace.phase = Phase::Step;
    trace.step_us.reserve_exact(script.steps as usize);
    for step in 1..=script.steps {
        if !script.think.is_zero() {
            think(script.think, total).await?;
        }
        // The wait is what was asked for; only what comes on top of it is limited.
        let limit = script.wait.saturating_add(script.step_timeout);
        let (reply, us) =
            timed(Instant::now(), limit, total, driver.step(&mut session, script.wait, step == script.steps)).await?;
        trace.step_us.push(us);
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

async fn think(pause: Duration, total: Option<Instant>) -> Result<(), Stop> {
    match total {
        None => tokio::time::sleep(pause).await,
        Some(total) => timeout_at(total, tokio::time::sleep(pause)).await.map_err(|_| Stop::TimedOut)?,
    }
    Ok(())
}
