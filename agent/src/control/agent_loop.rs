//! The agent's main loop. One task turns whatever happens into events, [`Machine`] decides, and this file carries the
//! decisions out.

use std::sync::Arc;
use std::time::Duration;

use proto::message::{Hello, Probe, ProbeResult, Refused, RefusedWhy, Resend};
use proto::{Assignment, AttemptId, Capacity, FromAgent, FromCoordinator};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

use super::clock::Clock;
use super::heartbeat::{Executor, Heartbeat};
use super::link::{Connected, Connector, DialError, Link};
use super::machine::{Effect, End, Event, Machine, State};
use super::probe::Prober;
use super::upload::{Upload, send_parts};
use crate::host::capacity::{self, CapacityOptions};
use crate::load::armed::{ArmedLoad, LoadFactory, Measured};
use crate::load::recorder::Counters;
use crate::net::resolver::TargetResolver;

/// How often progress is sent while sessions run.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// How long the coordinator may take to answer the greeting.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last message may take to be sent.
const GOODBYE_TIMEOUT: Duration = Duration::from_millis(500);
/// How long an interrupted agent may take to cut its sessions and report them.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(5);

/// How the agent ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    End(End),
    /// There was no coordinator for too long.
    Lost(String),
    /// One of the two sides did not prove to be who the other side expects.
    Identity(String),
}

/// Everything that is fixed for the life of the agent.
#[derive(Debug, Clone)]
pub struct Settings {
    pub hello: Hello,
    pub resolver: TargetResolver,
    pub capacity_options: CapacityOptions,
    pub clock: Clock,
    pub load_factory: LoadFactory,
    pub prober: Prober,
    pub heartbeat: Executor,
    /// About how many encoded bytes of records go into one message.
    pub chunk_bytes: usize,
}

/// Serves coordinators until the agent is dismissed, refused or interrupted, or has had no coordinator for too long.
pub async fn serve(settings: Settings, mut link: Link, interrupt: CancellationToken) -> Outcome {
    let connector = link.connector().clone();
    let mut agent =
        Agent { machine: Machine::new(), settings, connector, attempt: None, announced: Vec::new(), welcomed: false };
    loop {
        let connected = tokio::select! {
            connected = link.connect() => connected,
            () = interrupt.cancelled() => return Outcome::End(End::Interrupted),
        };
        let problem = match connected {
            Err(DialError::Identity(why)) => return Outcome::Identity(why),
            Err(DialError::Network(problem)) => return Outcome::Lost(problem),
            Ok(connected) => match agent.attend(connected, &interrupt).await {
                Ok(end) => return Outcome::End(end),
                Err(problem) => problem,
            },
        };
        tracing::warn!("the connection to the coordinator ended: {problem}; trying to reconnect");
        if std::mem::take(&mut agent.welcomed) {
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
}

struct Agent {
    machine: Machine,
    settings: Settings,
    connector: Connector,
    attempt: Option<Attempt>,
    /// The urls that were last written to the log.
    announced: Vec<String>,
    /// The coordinator of the current connection, or of the last one, has welcomed this agent.
    welcomed: bool,
}

/// What exists of the machine's current attempt. Dropping it ends whatever is under way.
enum Attempt {
    Preparing {
        _task: AbortOnDropHandle<()>,
    },
    Armed(Box<dyn ArmedLoad>),
    Running {
        cut: DropGuard,
        counters: Arc<Counters>,
    },
    Measured(Box<Measured>),
    /// Kept until the coordinator has stored it.
    Uploading {
        upload: Arc<Upload>,
        _task: AbortOnDropHandle<()>,
    },
}

/// The result of a task that runs beside the loop.
enum TaskResult {
    Prepared(AttemptId, Result<Box<dyn ArmedLoad>, String>),
    Load(AttemptId, Result<Box<Measured>, String>),
    Probed(Vec<ProbeResult>),
    Surveyed(u64, Capacity),
}

/// Where tasks of one connection send to.
struct Channels {
    out: mpsc::Sender<FromAgent>,
    results: mpsc::Sender<TaskResult>,
    /// Cancelled when the connection ends: ends the readiness check.
    probing: CancellationToken,
}

impl Channels {
    async fn send(&self, message: FromAgent) -> Result<(), String> {
        self.out.send(message).await.map_err(|_| "the stream closed".to_owned())
    }
}

/// What the loop of one connection waits for.
struct Sources {
    orders: mpsc::Receiver<Result<FromCoordinator, String>>,
    results: mpsc::Receiver<TaskResult>,
    heartbeat: Option<Heartbeat>,
    progress: Interval,
    interrupt: CancellationToken,
    /// When an interrupted agent leaves in any case.
    leave_by: Option<Instant>,
}

impl Agent {
    /// Serves one connection, from the greeting to its end. `Err` says why the connection was lost; the attempt was
    /// dropped then, unless its results wait to be uploaded.
    async fn attend(&mut self, connected: Connected, interrupt: &CancellationToken) -> Result<End, String> {
        let end = self.serve_connection(connected, interrupt).await;
        if end.is_ok() {
            return end;
        }
        let mut exit = None;
        for effect in self.machine.apply(Event::ConnectionLost) {
            match effect {
                Effect::DropAttempt => self.attempt = None,
                Effect::Exit(how) => exit = Some(how),
                // Without a connection the other effects have nobody to reach.
                _ => {}
            }
        }
        exit.map_or(end, Ok)
    }

    async fn serve_connection(&mut self, connected: Connected, interrupt: &CancellationToken) -> Result<End, String> {
        let (results_tx, results) = mpsc::channel(8);
        let channels =
            Channels { out: connected.to_coordinator, results: results_tx, probing: CancellationToken::new() };
        let _stop_probing = channels.probing.clone().drop_guard();
        let mut progress = interval(PROGRESS_EVERY);
        progress.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sources = Sources {
            orders: connected.from_coordinator,
            results,
            heartbeat: None,
            progress,
            interrupt: interrupt.clone(),
            leave_by: None,
        };
        if let Some(end) = self.greet(&mut sources, &channels).await? {
            return Ok(end);
        }
        loop {
            if let Some(event) = self.next_event(&mut sources, &channels).await?
                && let Some(end) = self.apply(event, &channels).await?
            {
                return Ok(end);
            }
        }
    }

    /// Sends the greeting and handles the answer. Returns `Some` if the agent ends here.
    async fn greet(&mut self, sources: &mut Sources, channels: &Channels) -> Result<Option<End>, String> {
        let hello = self.machine.hello(self.settings.hello.clone());
        channels.out.send(FromAgent::Hello(hello)).await.map_err(|_| "the stream closed at once".to_owned())?;
        let first = tokio::select! {
            first = timeout(WELCOME_TIMEOUT, sources.orders.recv()) => first,
            () = sources.interrupt.cancelled() => {
                // The welcome may be on its way, so the coordinator is told goodbye.
                let _ = self.apply(Event::Interrupted, channels).await;
                return Ok(Some(End::Interrupted));
            }
        };
        let first = first
            .map_err(|_| "no answer to the greeting".to_owned())?
            .unwrap_or_else(|| Err("the stream closed before an answer".to_owned()))?;
        match &first {
            FromCoordinator::Refused(Refused { why: RefusedWhy::Full, message }) => return Err(message.clone()),
            FromCoordinator::Welcome(welcome) => {
                self.welcomed = true;
                let (connector, instance) = (self.connector.clone(), self.settings.hello.instance);
                let executor = self.settings.heartbeat;
                sources.heartbeat = Some(Heartbeat::start(connector, instance, welcome.lease, executor)?);
                let plan = welcome.plan_hash.short();
                tracing::info!("welcomed as {} to run {} (plan {plan})", welcome.name, welcome.run);
            }
            _ => {}
        }
        self.apply(Event::Order(first), channels).await
    }

    /// Waits for whatever happens next. `None` if it needed no decision.
    async fn next_event(&mut self, sources: &mut Sources, channels: &Channels) -> Result<Option<Event>, String> {
        let Sources { orders, results, heartbeat, progress, interrupt, leave_by } = sources;
        tokio::select! {
            order = orders.recv() => match order {
                Some(Ok(order)) => Ok(Some(Event::Order(order))),
                Some(Err(problem)) => Err(problem),
                None => Err("the stream ended".to_owned()),
            },
            Some(result) = results.recv() => self.on_result(result, channels).await,
            _ = progress.tick() => {
                self.send_progress(&channels.out);
                Ok(None)
            }
            () = heartbeat_lost(heartbeat.as_ref()) => Err("heartbeats are not answered any more".to_owned()),
            () = interrupt.cancelled(), if leave_by.is_none() => {
                *leave_by = Some(Instant::now() + LEAVE_TIMEOUT);
                Ok(Some(Event::Interrupted))
            }
            () = sleep_until(leave_by.unwrap_or_else(Instant::now)), if leave_by.is_some() => {
                Ok(Some(Event::Interrupted))
            }
        }
    }

    /// Keeps the result of a task, or sends it on. `None` if it needs no decision.
    async fn on_result(&mut self, result: TaskResult, channels: &Channels) -> Result<Option<Event>, String> {
        match result {
            TaskResult::Prepared(attempt, armed) => {
                let armed = armed.map(|load| self.attempt = Some(Attempt::Armed(load)));
                Ok(Some(Event::Prepared(attempt, armed)))
            }
            TaskResult::Load(attempt, measured) => {
                let ended = match measured {
                    // The result of an attempt that was dropped meanwhile is not kept.
                    Ok(measured) if matches!(self.machine.state(), State::Running(a) if a == attempt) => {
                        self.attempt = Some(Attempt::Measured(measured));
                        Ok(())
                    }
                    other => other.map(drop),
                };
                Ok(Some(Event::LoadEnded(attempt, ended)))
            }
            TaskResult::Surveyed(number, capacity) => {
                channels.send(FromAgent::Surveyed { number, capacity }).await.map(|()| None)
            }
            TaskResult::Probed(results) => channels.send(FromAgent::Probed(results)).await.map(|()| None),
        }
    }

    /// Sends the counters while sessions run. It never waits: a full queue drops the message.
    fn send_progress(&self, out: &mpsc::Sender<FromAgent>) {
        if let (State::Running(attempt), Some(Attempt::Running { counters, .. })) =
            (self.machine.state(), &self.attempt)
        {
            let _ = out.try_send(FromAgent::Progress(counters.progress(attempt)));
        }
    }

    /// Lets the machine decide, and carries its effects out. Returns `Some` if the agent ends.
    async fn apply(&mut self, event: Event, channels: &Channels) -> Result<Option<End>, String> {
        let mut end = None;
        for effect in self.machine.apply(event) {
            match effect {
                Effect::Send(FromAgent::Goodbye(reason)) => {
                    let _ = timeout(GOODBYE_TIMEOUT, channels.out.send(FromAgent::Goodbye(reason))).await;
                    tokio::time::sleep(GOODBYE_TIMEOUT / 5).await;
                }
                Effect::Send(message) => channels.send(message).await?,
                Effect::Probe(probe) => self.probe(*probe, channels),
                Effect::Prepare(assignment) => self.prepare(*assignment, channels),
                Effect::Survey { number, addresses, sessions } => self.survey(number, addresses, sessions, channels),
                Effect::Launch { attempt, start_at_us } => self.launch(attempt, start_at_us, channels),
                Effect::CutLoad => self.cut_load(),
                Effect::DropAttempt => self.attempt = None,
                Effect::Upload(attempt) => {
                    if let Some(Attempt::Measured(measured)) = self.attempt.take() {
                        let upload = Arc::new(Upload::new(attempt, *measured, self.settings.chunk_bytes));
                        let everything = Resend { attempt, report: true, sequences: Vec::new(), from: Some(0) };
                        self.send_upload(upload, everything, channels);
                    }
                }
                Effect::Resend(wanted) => {
                    if let Some(Attempt::Uploading { upload, .. }) = &self.attempt {
                        self.send_upload(upload.clone(), wanted, channels);
                    }
                }
                Effect::Exit(how) => end = Some(how),
            }
        }
        Ok(end)
    }

    fn probe(&mut self, probe: Probe, channels: &Channels) {
        self.announce(&probe.target.urls);
        let mut updates = self.settings.prober.start(probe, self.settings.resolver.clone(), channels.probing.clone());
        let results = channels.results.clone();
        tokio::spawn(async move {
            while let Some(update) = updates.recv().await {
                if results.send(TaskResult::Probed(update)).await.is_err() {
                    return;
                }
            }
        });
    }

    fn prepare(&mut self, assignment: Assignment, channels: &Channels) {
        self.announce(&assignment.target.urls);
        let (resolver, results) = (self.settings.resolver.clone(), channels.results.clone());
        let threads = self.settings.hello.capacity.threads;
        let factory = self.settings.load_factory.clone();
        let task = tokio::spawn(async move {
            let attempt = assignment.attempt;
            let armed = factory.arm(assignment, resolver, threads).await;
            let _ = results.send(TaskResult::Prepared(attempt, armed)).await;
        });
        self.attempt = Some(Attempt::Preparing { _task: AbortOnDropHandle::new(task) });
    }

    fn survey(&self, number: u64, addresses: Vec<String>, sessions: u64, channels: &Channels) {
        let (options, results) = (self.settings.capacity_options.clone(), channels.results.clone());
        tokio::task::spawn_blocking(move || {
            let capacity = capacity::measure_towards(&options, &addresses, sessions);
            // The connection that asked may be gone.
            let _ = results.blocking_send(TaskResult::Surveyed(number, capacity));
        });
    }

    fn launch(&mut self, attempt: AttemptId, start_at_us: u64, channels: &Channels) {
        let Some(Attempt::Armed(load)) = self.attempt.take() else { return };
        // The start instant may be over. Then sessions start at once, and their launch lag shows how late.
        let start = self.settings.clock.instant(start_at_us);
        self.attempt = Some(Attempt::Running { cut: load.canceller().drop_guard(), counters: load.counters() });
        let results = channels.results.clone();
        tokio::spawn(async move {
            let measured = load.finish(start).await;
            let _ = results.send(TaskResult::Load(attempt, measured.map(Box::new))).await;
        });
    }

    fn cut_load(&mut self) {
        if let Some(Attempt::Running { cut, counters }) = self.attempt.take() {
            let token = cut.disarm();
            token.cancel();
            self.attempt = Some(Attempt::Running { cut: token.drop_guard(), counters });
        }
    }

    /// Sends the wanted parts in a new task, which replaces the one before: what that one had not sent yet is either
    /// wanted now or asked for later.
    fn send_upload(&mut self, upload: Arc<Upload>, wanted: Resend, channels: &Channels) {
        let task = tokio::spawn(send_parts(upload.clone(), wanted, channels.out.clone()));
        self.attempt = Some(Attempt::Uploading { upload, _task: AbortOnDropHandle::new(task) });
    }

    /// Logs the urls that this agent is ordered to load, once.
    fn announce(&mut self, urls: &[String]) {
        if self.announced != urls {
            tracing::info!("told to load {}", urls.join(", "));
            self.announced = urls.to_vec();
        }
    }
}

async fn heartbeat_lost(heartbeat: Option<&Heartbeat>) {
    match heartbeat {
        Some(heartbeat) => heartbeat.lost().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use proto::limits::CHUNK_BYTES_TARGET;

    use super::*;

    /// Only the way out is gone, which the next message to be sent finds first.
    #[tokio::test]
    async fn a_connection_lost_in_a_send_is_let_go_of_like_any_other() {
        use proto::message::Welcome;
        use proto::{PlanHash, RunId};

        use super::super::machine::tests::hello;

        let (run, plan_hash, second) = (RunId::random(), PlanHash([1; 32]), Duration::from_secs(1));
        let capacity = Capacity { threads: 1, descriptors: 1, ports: 1, ..Capacity::default() };
        let hello = Hello { capacity, ..hello() };
        let attempt = AttemptId { run, batch: 0, attempt: 1 };
        let assignment = crate::test_data::assignment(attempt, plan_hash);
        let (to_coordinator, mut heard) = mpsc::channel(1);
        let (tell, from_coordinator) = mpsc::channel(4);
        let welcome = Welcome { run, plan_hash, name: "a".to_owned(), lease: second };
        for order in [FromCoordinator::Welcome(welcome), FromCoordinator::Prepare(Box::new(assignment))] {
            tell.send(Ok(order)).await.expect("room");
        }
        let mut agent = Agent {
            machine: Machine::new(),
            settings: Settings {
                hello,
                resolver: TargetResolver::default(),
                capacity_options: CapacityOptions::default(),
                clock: Clock::default(),
                load_factory: LoadFactory::default(),
                prober: Prober::default(),
                heartbeat: Executor::Thread,
                chunk_bytes: CHUNK_BYTES_TARGET,
            },
            connector: Connector::new("127.0.0.1:9".to_owned(), crate::control::link::Security::Plaintext),
            attempt: None,
            announced: Vec::new(),
            welcomed: false,
        };
        let interrupt = CancellationToken::new();
        let (end, _) = tokio::join!(agent.attend(Connected { to_coordinator, from_coordinator }, &interrupt), async {
            assert!(matches!(heard.recv().await, Some(FromAgent::Hello(_))));
            drop(heard);
        });
        assert!(end.is_err(), "{end:?}");
        assert_eq!(agent.machine.state(), State::Idle);
        assert!(agent.attempt.is_none());
    }
}
