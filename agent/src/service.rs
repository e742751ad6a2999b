//! An agent's life: one task turns what happens into events, the machine decides, this file carries it out.

use std::sync::Arc;
use std::time::Duration;

use proto::limits::CHUNK_BYTES_TARGET;
use proto::message::{Hello, ProbeResult, Progress, RecordChunk, Refused, RefusedWhy, Report};
use proto::{Assignment, AttemptId, Capacity, FromAgent, FromCoordinator, SessionRecord};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use crate::capacity::{self, Wishes};
use crate::clock::Clock;
use crate::driver::Dialer;
use crate::link::{Connected, Link};
use crate::load::recorder::Counters;
use crate::load::squad::{Measured, Squad};
use crate::machine::{Effect, End, Event, Machine, State};
use crate::probe::{self, Means};

/// Progress and heartbeats.
const BEAT: Duration = Duration::from_secs(1);
/// How long the coordinator may take to answer a greeting.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a last message may take to leave.
const FAREWELL: Duration = Duration::from_millis(500);

/// How an agent's life ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    End(End),
    /// No coordinator for too long.
    Lost(String),
}

/// Everything that is fixed for the life of the agent.
#[derive(Debug, Clone)]
pub struct Settings {
    pub hello: Hello,
    pub means: Means,
    pub wishes: Wishes,
    pub clock: Clock,
}

/// Serves coordinators until dismissed, refused, interrupted, or alone for too long.
pub async fn serve(settings: Settings, mut link: Link, interrupt: CancellationToken) -> Outcome {
    let mut life = Life { machine: Machine::new(), settings, attempt: None, welcomed: false };
    loop {
        let connected = tokio::select! {
            connected = link.connect() => connected,
            () = interrupt.cancelled() => return Outcome::End(End::Interrupted),
        };
        match connected {
            Err(problem) => return Outcome::Lost(problem),
            Ok(connected) => match life.attend(connected, &interrupt).await {
                Ok(end) => return Outcome::End(end),
                Err(problem) => {
                    tracing::warn!("the connection to the coordinator ended: {problem}; trying to reconnect");
                    if std::mem::take(&mut life.welcomed) {
                        link.was_connected();
                    }
                    let paused = tokio::select! {
                        paused = link.pause(&problem) => paused,
                        () = interrupt.cancelled() => return Outcome::End(End::Interrupted),
                    };
                    if let Err(problem) = paused {
                        return Outcome::Lost(problem);
                    }
                }
            },
        }
    }
}

struct Life {
    machine: Machine,
    settings: Settings,
    attempt: Option<Attempt>,
    /// On the connection that is there, or was last.
    welcomed: bool,
}

/// What exists of the attempt that the machine is in. Dropping it ends whatever is under way.
enum Attempt {
    Preparing { _task: AbortOnDropHandle<()> },
    Armed(Box<Squad>),
    Running { cut: DropGuard, counters: Arc<Counters> },
    Measured(Box<Measured>),
    Uploading { _task: AbortOnDropHandle<()> },
}

/// Results of work that goes on beside the loop.
enum Done {
    Prepared(AttemptId, Result<Box<Squad>, String>),
    Load(AttemptId, Result<Box<Measured>, String>),
    Probed(Vec<ProbeResult>),
    Surveyed(u64, Capacity),
}

impl Life {
    /// One connection, from greeting to end. `Err` is a lost connection: whatever was under way has been let go of.
    async fn attend(&mut self, connected: Connected, interrupt: &CancellationToken) -> Result<End, String> {
        let end = self.converse(connected, interrupt).await;
        if end.is_err() {
            // All that follows from it is this: nothing may go on loading a target unwatched.
            let _ = self.machine.apply(Event::ConnectionLost);
            self.attempt = None;
        }
        end
    }

    async fn converse(&mut self, connected: Connected, interrupt: &CancellationToken) -> Result<End, String> {
        let Connected { to_coordinator: out, mut from_coordinator } = connected;
        let hello = self.machine.hello(self.settings.hello.clone());
        out.send(FromAgent::Hello(hello)).await.map_err(|_| "the stream closed at once".to_owned())?;
        let (done_tx, mut done) = mpsc::channel(8);
        let probing = CancellationToken::new();
        let _stop_probing = probing.clone().drop_guard();
        let first = tokio::select! {
            first = timeout(WELCOME_TIMEOUT, from_coordinator.recv()) => first,
            () = interrupt.cancelled() => {
                // The welcome may be on its way: whoever sent it hears a goodbye.
                let _ = self.step(Event::Interrupted, &out, &done_tx, &probing).await;
                return Ok(End::Interrupted);
            }
        };
        let first = first
            .map_err(|_| "no answer to the greeting".to_owned())?
            .unwrap_or_else(|| Err("the stream closed before an answer".to_owned()))?;
        if let FromCoordinator::Refused(Refused { why: RefusedWhy::Full, message }) = first {
            return Err(message);
        }
        if let FromCoordinator::Welcome(welcome) = &first {
            self.welcomed = true;
            tracing::info!("welcomed as {} to run {} (plan {})", welcome.name, welcome.run, welcome.plan_hash.short());
        }
        if let Some(end) = self.step(Event::Order(first), &out, &done_tx, &probing).await? {
            return Ok(end);
        }
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                order = from_coordinator.recv() => match order {
                    Some(Ok(order)) => Event::Order(order),
                    Some(Err(problem)) => return Err(problem),
                    None => return Err("the stream ended".to_owned()),
                },
                Some(done) = done.recv() => match done {
                    Done::Prepared(attempt, result) => {
                        let result = result.map(|squad| self.attempt = Some(Attempt::Armed(squad)));
                        Event::Prepared(attempt, result)
                    }
                    Done::Load(attempt, result) => {
                        let result = match result {
                            // A load that was dropped meanwhile has nobody who wants it.
                            Ok(measured) if matches!(self.machine.state(), State::Running(a) if a == attempt) => {
                                self.attempt = Some(Attempt::Measured(measured));
                                Ok(())
                            }
                            other => other.map(drop),
                        };
                        Event::LoadEnded(attempt, result)
                    }
                    Done::Surveyed(number, capacity) => {
                        send(&out, FromAgent::Surveyed { number, capacity }).await?;
                        continue;
                    }
                    Done::Probed(results) => {
                        send(&out, FromAgent::Probed(results)).await?;
                        continue;
                    }
                },
                _ = beat.tick() => {
                    self.beat(&out);
                    continue;
                }
                () = interrupt.cancelled() => Event::Interrupted,
            };
            if let Some(end) = self.step(event, &out, &done_tx, &probing).await? {
                return Ok(end);
            }
        }
    }

    /// Once a second: counters while sessions run, a sign of life otherwise. Never waits: a full queue is traffic.
    fn beat(&self, out: &mpsc::Sender<FromAgent>) {
        let message = match (self.machine.state(), &self.attempt) {
            (State::Running(attempt), Some(Attempt::Running { counters, .. })) => {
                let seen = counters.snapshot();
                FromAgent::Progress(Progress {
                    attempt,
                    launched: seen.launched,
                    open: seen.open,
                    succeeded: seen.succeeded,
                    failed: seen.failed,
                })
            }
            _ => FromAgent::Heartbeat,
        };
        let _ = out.try_send(message);
    }

    async fn step(
        &mut self,
        event: Event,
        out: &mpsc::Sender<FromAgent>,
        done: &mpsc::Sender<Done>,
        probing: &CancellationToken,
    ) -> Result<Option<End>, String> {
        let mut end = None;
        for effect in self.machine.apply(event) {
            match effect {
                Effect::Send(FromAgent::Goodbye(reason)) => {
                    let _ = timeout(FAREWELL, out.send(FromAgent::Goodbye(reason))).await;
                    tokio::time::sleep(FAREWELL / 5).await;
                }
                Effect::Send(message) => send(out, message).await?,
                Effect::Probe(probe) => {
                    tracing::info!("checking that {} is ready", probe.target.urls.join(", "));
                    let mut told = probe::start(probe, self.settings.means.clone(), probing.clone());
                    let done = done.clone();
                    tokio::spawn(async move {
                        while let Some(results) = told.recv().await {
                            if done.send(Done::Probed(results)).await.is_err() {
                                return;
                            }
                        }
                    });
                }
                Effect::Prepare(assignment) => {
                    let (means, done) = (self.settings.means.clone(), done.clone());
                    let threads = self.settings.hello.capacity.threads;
                    let task = tokio::spawn(async move {
                        let attempt = assignment.attempt;
                        let squad = prepare(*assignment, means, threads).await;
                        let _ = done.send(Done::Prepared(attempt, squad.map(Box::new))).await;
                    });
                    self.attempt = Some(Attempt::Preparing { _task: AbortOnDropHandle::new(task) });
                }
                Effect::Survey { number, addresses, sessions } => {
                    let (wishes, done) = (self.settings.wishes.clone(), done.clone());
                    tokio::task::spawn_blocking(move || {
                        let capacity = capacity::towards(&wishes, &addresses, sessions);
                        // Whoever asked may be gone.
                        let _ = done.blocking_send(Done::Surveyed(number, capacity));
                    });
                }
                Effect::Launch { attempt, start_at_us } => self.launch(attempt, start_at_us, done),
                Effect::CutLoad => {
                    if let Some(Attempt::Running { cut, counters }) = self.attempt.take() {
                        let token = cut.disarm();
                        token.cancel();
                        self.attempt = Some(Attempt::Running { cut: token.drop_guard(), counters });
                    }
                }
                Effect::DropAttempt => self.attempt = None,
                Effect::Upload(attempt) => {
                    if let Some(Attempt::Measured(measured)) = self.attempt.take() {
                        let task = tokio::spawn(upload(attempt, *measured, out.clone()));
                        self.attempt = Some(Attempt::Uploading { _task: AbortOnDropHandle::new(task) });
                    }
                }
                Effect::Exit(how) => end = Some(how),
            }
        }
        Ok(end)
    }

    fn launch(&mut self, attempt: AttemptId, start_at_us: u64, done: &mpsc::Sender<Done>) {
        let Some(Attempt::Armed(squad)) = self.attempt.take() else { return };
        // It may be over already: then sessions start at once, and their offsets tell how late.
        let start = self.settings.clock.instant(start_at_us);
        self.attempt = Some(Attempt::Running { cut: squad.canceller().drop_guard(), counters: squad.counters() });
        let done = done.clone();
        tokio::spawn(async move {
            let measured = squad.finish(start).await;
            let _ = done.send(Done::Load(attempt, measured.map(Box::new))).await;
        });
    }
}

async fn send(out: &mpsc::Sender<FromAgent>, message: FromAgent) -> Result<(), String> {
    out.send(message).await.map_err(|_| "the stream closed".to_owned())
}

async fn prepare(assignment: Assignment, means: Means, threads: u32) -> Result<Squad, String> {
    let endpoints = means.endpoints(&assignment.target, assignment.mode).await.map_err(|error| error.to_string())?;
    let dialer = || Dialer { endpoints: endpoints.clone(), source_ips: means.source_ips.clone() };
    Squad::arm(assignment, dialer, threads).await
}

/// Report first, then every record in chunks of bounded size.
async fn upload(attempt: AttemptId, measured: Measured, out: mpsc::Sender<FromAgent>) {
    let chunks = chunks(measured.records, CHUNK_BYTES_TARGET);
    let report = Report {
        attempt,
        ledger: measured.ledger,
        start_offset_us: measured.start_offset_us,
        chunks: chunks.len() as u64,
        histograms: measured.histograms.encode(),
        vitals: Box::new(measured.vitals),
    };
    if out.send(FromAgent::Report(report)).await.is_err() {
        return;
    }
    for (sequence, records) in (0..).zip(chunks) {
        if out.send(FromAgent::Records(RecordChunk { attempt, sequence, records })).await.is_err() {
            return;
        }
    }
}

/// Cuts records into chunks of about `bytes_target` encoded bytes.
fn chunks(records: Vec<SessionRecord>, bytes_target: usize) -> Vec<Vec<SessionRecord>> {
    let mut chunks = Vec::new();
    let mut chunk = Vec::new();
    let mut bytes = 0;
    for record in records {
        // An upper bound: ten bytes a number, two a tag, and the texts.
        bytes += 200
            + record.step_us.len() * 10
            + record.wire.steps.len() * 20
            + record.error_message.len()
            + record.session_hash.as_ref().map_or(0, String::len)
            + record.host_url.as_ref().map_or(0, String::len);
        chunk.push(record);
        if bytes >= bytes_target {
            chunks.push(std::mem::take(&mut chunk));
            bytes = 0;
        }
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_hold_every_record_once_and_stay_small() {
        let record = |n| SessionRecord {
            step_us: vec![1; 100],
            ..SessionRecord::without_life(n, proto::Outcome::Succeeded, String::new())
        };
        let chunks = chunks((0..1_000).map(record).collect(), 20_000);
        assert!(chunks.iter().all(|chunk| chunk.len() <= 18));
        let sessions: Vec<u64> = chunks.iter().flatten().map(|record| record.session).collect();
        assert_eq!(sessions, (0..1_000).collect::<Vec<_>>());
        assert!(super::chunks(Vec::new(), 1).is_empty());
    }
    /// Only the way out is gone, which the next message to be sent finds first.
    #[tokio::test]
    async fn a_connection_lost_in_a_send_is_let_go_of_like_any_other() {
        use proto::message::Welcome;
        use proto::{PlanHash, RunId};

        let (run, plan_hash, second) = (RunId::random(), PlanHash([1; 32]), Duration::from_secs(1));
        let capacity = Capacity { threads: 1, descriptors: 1, ports: 1, ..Capacity::default() };
        let hello = Hello {
            protocol: 1,
            version: String::new(),
            name: "a".to_owned(),
            host: String::new(),
            pid: 1,
            instance: [0; 16],
            plan_hash: None,
            capacity,
        };
        let attempt = AttemptId { run, batch: 0, attempt: 1 };
        let assignment = crate::machine::tests::assignment(attempt, plan_hash);
        let (to_coordinator, mut heard) = mpsc::channel(1);
        let (tell, from_coordinator) = mpsc::channel(4);
        let welcome = Welcome { run, plan_hash, name: "a".to_owned(), lease: second };
        for order in [FromCoordinator::Welcome(welcome), FromCoordinator::Prepare(Box::new(assignment))] {
            tell.send(Ok(order)).await.expect("room");
        }
        let mut life = Life {
            machine: Machine::new(),
            settings: Settings { hello, means: Means::default(), wishes: Wishes::default(), clock: Clock::default() },
            attempt: None,
            welcomed: false,
        };
        let interrupt = CancellationToken::new();
        let (end, _) = tokio::join!(life.attend(Connected { to_coordinator, from_coordinator }, &interrupt), async {
            assert!(matches!(heard.recv().await, Some(FromAgent::Hello(_))));
            drop(heard);
        });
        assert!(end.is_err(), "{end:?}");
        assert_eq!(life.machine.state(), State::Idle);
        assert!(life.attempt.is_none());
    }
}
