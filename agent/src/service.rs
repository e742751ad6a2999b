//! An agent's life: one task turns what happens into events, the machine decides, this file carries it out.

use std::sync::Arc;
use std::time::Duration;

use proto::message::{Hello, ProbeResult, Progress, RecordChunk, Refused, RefusedWhy, Report, Resend};
use proto::{AttemptId, Capacity, FromAgent, FromCoordinator, SessionRecord};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use crate::capacity::{self, Wishes};
use crate::clock::Clock;
use crate::link::{Connected, Connector, DialError, Link};
use crate::load::recorder::Counters;
use crate::load::squad::Measured;
use crate::load::{Carry, Loader};
use crate::machine::{Effect, End, Event, Machine, State};
use crate::probe::{Means, Prober};
use crate::pulse::{Home, Pulse};

/// Progress.
const BEAT: Duration = Duration::from_secs(1);
/// How long the coordinator may take to answer a greeting.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a last message may take to leave.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long an agent that was told to end may take to cut its sessions and to report them.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// How an agent's life ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    End(End),
    /// No coordinator for too long.
    Lost(String),
    /// One of the two did not prove to be who the other expects.
    Identity(String),
}

/// Everything that is fixed for the life of the agent.
#[derive(Debug, Clone)]
pub struct Settings {
    pub hello: Hello,
    pub means: Means,
    pub wishes: Wishes,
    pub clock: Clock,
    pub loader: Loader,
    pub prober: Prober,
    pub pulse: Home,
    /// Encoded bytes of records that go into one message, about.
    pub chunk_bytes: usize,
}

/// Serves coordinators until dismissed, refused, interrupted, or alone for too long.
pub async fn serve(settings: Settings, mut link: Link, interrupt: CancellationToken) -> Outcome {
    let connector = link.connector().clone();
    let mut life =
        Life { machine: Machine::new(), settings, connector, attempt: None, shown: Vec::new(), welcomed: false };
    loop {
        let connected = tokio::select! {
            connected = link.connect() => connected,
            () = interrupt.cancelled() => return Outcome::End(End::Interrupted),
        };
        match connected {
            Err(DialError::Identity(why)) => return Outcome::Identity(why),
            Err(DialError::Network(problem)) => return Outcome::Lost(problem),
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
    connector: Connector,
    attempt: Option<Attempt>,
    /// The target that was shown last.
    shown: Vec<String>,
    /// On the connection that is there, or was last.
    welcomed: bool,
}

/// What exists of the attempt that the machine is in. Dropping it ends whatever is under way.
enum Attempt {
    Preparing {
        _task: AbortOnDropHandle<()>,
    },
    Armed(Box<dyn Carry>),
    Running {
        cut: DropGuard,
        counters: Arc<Counters>,
    },
    Measured(Box<Measured>),
    /// Kept until the coordinator has taken it.
    Uploading {
        upload: Arc<Upload>,
        _task: AbortOnDropHandle<()>,
    },
}

/// Results of work that goes on beside the loop.
enum Done {
    Prepared(AttemptId, Result<Box<dyn Carry>, String>),
    Load(AttemptId, Result<Box<Measured>, String>),
    Probed(Vec<ProbeResult>),
    Surveyed(u64, Capacity),
}

impl Life {
    /// One connection, from greeting to end. `Err` is a lost connection: whatever was under way has been let go of.
    async fn attend(&mut self, connected: Connected, interrupt: &CancellationToken) -> Result<End, String> {
        let end = self.converse(connected, interrupt).await;
        if end.is_ok() {
            return end;
        }
        // Nothing may go on loading a target unwatched.
        let mut left = None;
        for effect in self.machine.apply(Event::ConnectionLost) {
            match effect {
                Effect::DropAttempt => self.attempt = None,
                Effect::Exit(how) => left = Some(how),
                // There is nobody to hear the rest.
                _ => {}
            }
        }
        left.map_or(end, Ok)
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
        let mut pulse = None;
        if let FromCoordinator::Welcome(welcome) = &first {
            self.welcomed = true;
            let (connector, instance) = (self.connector.clone(), self.settings.hello.instance);
            pulse = Some(Pulse::start(connector, instance, welcome.lease, self.settings.pulse)?);
            tracing::info!("welcomed as {} to run {} (plan {})", welcome.name, welcome.run, welcome.plan_hash.short());
        }
        if let Some(end) = self.step(Event::Order(first), &out, &done_tx, &probing).await? {
            return Ok(end);
        }
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut leave_by = None;
        loop {
            let event = tokio::select! {
                order = from_coordinator.recv() => match order {
                    Some(Ok(order)) => Event::Order(order),
                    Some(Err(problem)) => return Err(problem),
                    None => return Err("the stream ended".to_owned()),
                },
                Some(done) = done.recv() => match done {
                    Done::Prepared(attempt, result) => {
                        let result = result.map(|share| self.attempt = Some(Attempt::Armed(share)));
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
                () = lost(pulse.as_ref()) => return Err("heartbeats are not answered any more".to_owned()),
                () = interrupt.cancelled(), if leave_by.is_none() => {
                    leave_by = Some(Instant::now() + LEAVE_WITHIN);
                    Event::Interrupted
                }
                () = sleep_until(leave_by.unwrap_or_else(Instant::now)), if leave_by.is_some() => Event::Interrupted,
            };
            if let Some(end) = self.step(event, &out, &done_tx, &probing).await? {
                return Ok(end);
            }
        }
    }

    /// Once a second while sessions run. Never waits: a full queue is traffic.
    fn beat(&self, out: &mpsc::Sender<FromAgent>) {
        if let (State::Running(attempt), Some(Attempt::Running { counters, .. })) =
            (self.machine.state(), &self.attempt)
        {
            let seen = counters.snapshot();
            let _ = out.try_send(FromAgent::Progress(Progress {
                attempt,
                launched: seen.launched,
                open: seen.open,
                succeeded: seen.succeeded,
                failed: seen.failed,
            }));
        }
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
                    self.show(&probe.target.urls);
                    let mut told = self.settings.prober.start(*probe, self.settings.means.clone(), probing.clone());
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
                    self.show(&assignment.target.urls);
                    let (means, done) = (self.settings.means.clone(), done.clone());
                    let threads = self.settings.hello.capacity.threads;
                    let loader = self.settings.loader.clone();
                    let task = tokio::spawn(async move {
                        let attempt = assignment.attempt;
                        let armed = loader.arm(*assignment, means, threads).await;
                        let _ = done.send(Done::Prepared(attempt, armed)).await;
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
                        let upload = Arc::new(Upload::of(attempt, *measured, self.settings.chunk_bytes));
                        let everything = Resend { attempt, report: true, sequences: Vec::new(), from: Some(0) };
                        self.send_upload(upload, everything, out);
                    }
                }
                Effect::Resend(wanted) => {
                    if let Some(Attempt::Uploading { upload, .. }) = &self.attempt {
                        self.send_upload(upload.clone(), wanted, out);
                    }
                }
                Effect::Exit(how) => end = Some(how),
            }
        }
        Ok(end)
    }

    /// Whatever this agent is told to load is said, once.
    fn show(&mut self, urls: &[String]) {
        if self.shown != urls {
            tracing::info!("told to load {}", urls.join(", "));
            self.shown = urls.to_vec();
        }
    }

    /// A new task replaces the one before: what it had not sent yet is either in `wanted`, or asked for again.
    fn send_upload(&mut self, upload: Arc<Upload>, wanted: Resend, out: &mpsc::Sender<FromAgent>) {
        let task = tokio::spawn(send_parts(upload.clone(), wanted, out.clone()));
        self.attempt = Some(Attempt::Uploading { upload, _task: AbortOnDropHandle::new(task) });
    }

    fn launch(&mut self, attempt: AttemptId, start_at_us: u64, done: &mpsc::Sender<Done>) {
        let Some(Attempt::Armed(share)) = self.attempt.take() else { return };
        // It may be over already: then sessions start at once, and their offsets tell how late.
        let start = self.settings.clock.instant(start_at_us);
        self.attempt = Some(Attempt::Running { cut: share.canceller().drop_guard(), counters: share.counters() });
        let done = done.clone();
        tokio::spawn(async move {
            let measured = share.finish(start).await;
            let _ = done.send(Done::Load(attempt, measured.map(Box::new))).await;
        });
    }
}

async fn send(out: &mpsc::Sender<FromAgent>, message: FromAgent) -> Result<(), String> {
    out.send(message).await.map_err(|_| "the stream closed".to_owned())
}

async fn lost(pulse: Option<&Pulse>) {
    match pulse {
        Some(pulse) => pulse.lost().await,
        None => std::future::pending().await,
    }
}

/// What an attempt has come to, ready to be sent as often as it takes.
struct Upload {
    report: Report,
    chunks: Vec<Vec<SessionRecord>>,
}

impl Upload {
    fn of(attempt: AttemptId, measured: Measured, chunk_bytes: usize) -> Self {
        let chunks = chunks(measured.records, chunk_bytes);
        let report = Report {
            attempt,
            ledger: measured.ledger,
            start_offset_us: measured.start_offset_us,
            chunks: chunks.len() as u64,
            histograms: measured.histograms.encode(),
            vitals: Box::new(measured.vitals),
        };
        Self { report, chunks }
    }
}

/// Report first, then the records that are wanted, in chunks of bounded size. A lost connection ends it; what is missing
/// is asked for on the next one.
async fn send_parts(upload: Arc<Upload>, wanted: Resend, out: mpsc::Sender<FromAgent>) {
    if wanted.report && out.send(FromAgent::Report(upload.report.clone())).await.is_err() {
        return;
    }
    let from = wanted.from.unwrap_or(u64::MAX);
    let all = upload.chunks.len() as u64;
    for sequence in wanted.sequences.into_iter().filter(|n| *n < from.min(all)).chain(from..all) {
        let Some(records) = usize::try_from(sequence).ok().and_then(|n| upload.chunks.get(n)) else { continue };
        let chunk = RecordChunk { attempt: wanted.attempt, sequence, records: records.clone() };
        if out.send(FromAgent::Records(chunk)).await.is_err() {
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
    use proto::limits::CHUNK_BYTES_TARGET;

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
            holding: None,
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
            settings: Settings {
                hello,
                means: Means::default(),
                wishes: Wishes::default(),
                clock: Clock::default(),
                loader: Loader::default(),
                prober: Prober::default(),
                pulse: Home::Thread,
                chunk_bytes: CHUNK_BYTES_TARGET,
            },
            connector: Connector::new("127.0.0.1:9".to_owned(), crate::link::Security::Plaintext),
            attempt: None,
            shown: Vec::new(),
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
