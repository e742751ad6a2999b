//! Connects the machine to the outside: turns messages, signals and timers into events, and carries out the effects.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use proto::FromCoordinator;
use proto::message::Hello;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep_until};

use super::events::RunEvent;
use super::job::{Job, JobDone};
use super::machine::{Effect, Event, Machine, Now, Setup};
use super::sink::ResultSink;
use crate::net::ConnectionId;
use crate::net::rpc::{Incoming, LastHeard, OrderSender};
use crate::results::attempt::FinishedAttempt;
use crate::results::cells::{CellHistograms, Done, Grid};
use crate::results::end::{End, Failure};
use crate::results::metadata::{RunMetadata, RunState};

/// Time limit for dismissed agents to disconnect.
const FAREWELL: Duration = Duration::from_secs(2);
/// Time limit after a second Ctrl-C. It is long enough to send the dismissal.
const FAREWELL_AT_ONCE: Duration = Duration::from_millis(100);

/// The loop counts as suspended if it did not run for a lease divided by this number: heartbeats were not read either.
const HELD_UP: u32 = 2;

/// An event from signal handlers or child processes.
#[derive(Debug)]
pub enum Outside {
    /// SIGINT or SIGTERM.
    Interrupt,
    /// A second Ctrl-C. The run ends at once.
    AtOnce,
    ChildEnded(String),
}

/// The result of a run.
#[derive(Debug)]
pub struct Outcome {
    pub end: End,
    pub results: Vec<Done>,
    pub cells: CellHistograms,
    pub agents: BTreeMap<String, Hello>,
    pub metadata: RunMetadata,
    pub ended: Timestamp,
}

/// The inputs of [`run`] in addition to the machine's setup.
#[derive(Debug)]
pub struct Frame<K> {
    pub store: K,
    pub metadata: RunMetadata,
    pub incoming: mpsc::Receiver<Incoming>,
    pub last_heard: LastHeard,
    pub outside: mpsc::Receiver<Outside>,
    pub enforce: bool,
    /// Histograms of the attempts that earlier processes of the run have accepted.
    pub cells: CellHistograms,
    /// Returns the time of day.
    pub wall: fn() -> Timestamp,
}

/// Carries a run out to its end. Calls `watch` with every event of the run.
pub async fn run<K: ResultSink>(setup: Setup, frame: Frame<K>, mut watch: impl FnMut(&RunEvent)) -> Outcome {
    let Frame { store, metadata, mut incoming, last_heard, mut outside, enforce, cells, wall } = frame;
    let mut clock = LoopClock::of(&setup, wall);
    let mut state = Loop {
        machine: Machine::new(setup.clone()),
        setup,
        store: Some(store),
        background: None,
        orders: HashMap::new(),
        cells,
        metadata,
        end: None,
        wall,
    };
    state.save_run(None);
    if state.end.is_none() && state.machine.nothing_left() {
        let effects = state.machine.finish(clock.now());
        state.carry_out_all(effects, &mut watch);
    }
    while state.end.is_none() {
        let event = state.next_event(&mut incoming, &mut outside, &mut clock).await;
        let was_stored = matches!(event, Event::Stored(_));
        for event in clock.before(&last_heard, event) {
            let mut due = vec![event];
            while let Some(event) = due.pop() {
                let effects = state.machine.apply(clock.now(), event);
                due.extend(state.carry_out_all(effects, &mut watch));
            }
        }
        if was_stored && state.end.is_none() {
            state.save_run(None);
        }
    }
    let end =
        state.end.take().unwrap_or_else(|| End::failed(Failure::Internal("the run ended without an end".to_owned())));
    let end = end.judged(&Grid::of(&state.setup.plan, state.machine.results(), &state.cells));
    state.farewell(&mut incoming).await;
    if let Err(problem) = state.save(Some((&end, end.code(enforce)))) {
        watch(&RunEvent::Note(format!("run.json could not be written: {problem}")));
    }
    Outcome {
        results: state.machine.results().to_vec(),
        agents: state.machine.known_agents().clone(),
        cells: state.cells,
        metadata: state.metadata,
        ended: wall(),
        end,
    }
}

/// The times at which the loop must wake up.
struct LoopClock {
    begun: Instant,
    looked: Instant,
    look_every: Duration,
    /// Whether the last event was a tick. Two ticks in a row would delay messages.
    ticked: bool,
    wall: fn() -> Timestamp,
}

impl LoopClock {
    fn of(setup: &Setup, wall: fn() -> Timestamp) -> Self {
        let begun = Instant::now();
        let look_every = Duration::from_micros(setup.plan.agents.lease_us) / HELD_UP / 2;
        Self { begun, looked: begun, look_every, ticked: false, wall }
    }

    fn now(&self) -> Now {
        Now { mono: self.begun.elapsed(), wall: (self.wall)() }
    }

    fn tick_at(&self, machine: &Machine) -> Instant {
        let look = self.looked + self.look_every;
        machine.deadline().map_or(look, |deadline| (self.begun + deadline).min(look))
    }

    /// Returns the event, preceded by events that the machine must handle first.
    fn before(&mut self, last_heard: &LastHeard, event: Event) -> Vec<Event> {
        self.ticked = matches!(event, Event::Tick);
        let mut events = Vec::new();
        if self.looked.elapsed() > self.look_every * HELD_UP {
            events.push(Event::HeldUp);
        }
        if self.ticked {
            let seen = last_heard.seen().into_iter();
            let seen = seen.map(|(who, at)| (who, at.saturating_duration_since(self.begun)));
            events.push(Event::Heartbeats(seen.collect()));
        }
        events.push(event);
        self.looked = Instant::now();
        events
    }
}

/// Work on another thread. At most one such task runs at a time.
enum Background<K> {
    Storing(JoinHandle<(K, Result<(), String>)>),
    Computing(JoinHandle<JobDone>),
}

enum BackgroundDone<K> {
    Stored(Result<(K, Result<(), String>), JoinError>),
    Computed(Result<JobDone, JoinError>),
}

async fn join<K>(background: &mut Option<Background<K>>) -> BackgroundDone<K> {
    match background {
        Some(Background::Storing(task)) => BackgroundDone::Stored(task.await),
        Some(Background::Computing(task)) => BackgroundDone::Computed(task.await),
        None => std::future::pending().await,
    }
}

struct Loop<K> {
    machine: Machine,
    setup: Setup,
    /// `None` while an attempt is being written.
    store: Option<K>,
    background: Option<Background<K>>,
    orders: HashMap<ConnectionId, OrderSender>,
    cells: CellHistograms,
    metadata: RunMetadata,
    end: Option<End>,
    wall: fn() -> Timestamp,
}

impl<K: ResultSink> Loop<K> {
    async fn next_event(
        &mut self,
        incoming: &mut mpsc::Receiver<Incoming>,
        outside: &mut mpsc::Receiver<Outside>,
        clock: &mut LoopClock,
    ) -> Event {
        let tick = clock.tick_at(&self.machine);
        tokio::select! {
            biased;
            Some(outside) = outside.recv() => match outside {
                Outside::Interrupt => Event::Interrupt,
                Outside::AtOnce => Event::InterruptAgain,
                Outside::ChildEnded(text) => Event::ChildEnded(text),
            },
            done = join(&mut self.background), if self.background.is_some() => self.background_done(done),
            // A due tick comes before messages, else many messages would delay every deadline. See `ticked`.
            () = sleep_until(tick), if !clock.ticked => Event::Tick,
            Some(incoming) = incoming.recv() => self.received(incoming),
            () = sleep_until(tick) => Event::Tick,
        }
    }

    fn background_done(&mut self, done: BackgroundDone<K>) -> Event {
        self.background = None;
        match done {
            BackgroundDone::Stored(Ok((store, result))) => {
                self.store = Some(store);
                Event::Stored(result)
            }
            BackgroundDone::Stored(Err(error)) => Event::Stored(Err(format!("the writer died: {error}"))),
            BackgroundDone::Computed(done) => Event::Computed(done.map_err(|error| format!("a worker died: {error}"))),
        }
    }

    fn received(&mut self, incoming: Incoming) -> Event {
        match incoming {
            Incoming::Joined(key, hello, orders) => {
                if let Some(from) = orders.from {
                    self.metadata.addresses.insert(hello.instance, from);
                }
                self.orders.insert(key, orders);
                Event::Joined(key, hello)
            }
            Incoming::Message(key, message) => Event::Message(key, message),
            Incoming::Left(key, why) => {
                self.orders.remove(&key);
                Event::Left(key, why)
            }
        }
    }

    /// Carries effects out in order. Returns the events that they cause immediately.
    fn carry_out_all(&mut self, effects: Vec<Effect>, watch: &mut impl FnMut(&RunEvent)) -> Vec<Event> {
        let mut events = Vec::new();
        for effect in effects {
            match effect {
                Effect::Over(how) => self.end = Some(how),
                Effect::Tell(event) => watch(&event),
                Effect::Send(key, order) => events.extend(self.send(key, order)),
                Effect::Hangup(key) => {
                    self.orders.remove(&key);
                }
                Effect::Compute(job) => events.extend(self.compute(job)),
                Effect::Store(finished) => events.extend(self.put(finished)),
            }
        }
        events
    }

    fn send(&mut self, key: ConnectionId, order: FromCoordinator) -> Option<Event> {
        let refused = self.orders.get(&key).is_some_and(|orders| !orders.send(order));
        // Waiting for an agent that does not read its orders would block the whole run.
        refused.then(|| {
            self.orders.remove(&key);
            Event::Left(key, "takes no orders any more".to_owned())
        })
    }

    fn compute(&mut self, job: Job) -> Option<Event> {
        if !K::BLOCKS {
            return Some(Event::Computed(Ok(job.run())));
        }
        self.background = Some(Background::Computing(spawn_blocking(move || job.run())));
        None
    }

    /// Writes an attempt on a thread that may block, so that messages are still received.
    fn put(&mut self, finished: Box<FinishedAttempt>) -> Option<Event> {
        if finished.summary.accepted {
            self.cells.add(&finished.summary.batch, &finished.histograms);
        }
        let Some(mut store) = self.store.take() else {
            return Some(Event::Stored(Err("two attempts at once".to_owned())));
        };
        let write = move || {
            let result = store.put(&finished).map_err(|error| error.to_string());
            (store, result)
        };
        if K::BLOCKS {
            self.background = Some(Background::Storing(spawn_blocking(write)));
            return None;
        }
        let (store, result) = write();
        self.store = Some(store);
        Some(Event::Stored(result))
    }

    /// Writes run.json. A failure ends the run.
    fn save_run(&mut self, end: Option<(&End, u8)>) {
        if let Err(problem) = self.save(end) {
            self.end = Some(End::failed(Failure::Store(problem)));
        }
    }

    fn save(&self, end: Option<(&End, u8)>) -> Result<(), String> {
        let Some(store) = &self.store else { return Ok(()) };
        let state = RunState {
            run: self.setup.run,
            plan: &self.setup.plan,
            urls: &self.setup.urls,
            metadata: &self.metadata,
            output: store.place(),
            ended: end.map(|_| (self.wall)()),
            end,
            agents: self.machine.known_agents(),
            results: self.machine.results(),
        };
        store.put_run(&state).map_err(|error| error.to_string())
    }

    /// Waits for dismissed agents to disconnect, so that none of them mistakes the end for a lost coordinator.
    async fn farewell(&mut self, incoming: &mut mpsc::Receiver<Incoming>) {
        let at_once = self.machine.stops_at_once();
        // After a second Ctrl-C, a write in progress is abandoned. `--resume` truncates a partial write.
        if let Some(Background::Storing(task)) = self.background.take().filter(|_| !at_once)
            && let Ok((store, _)) = task.await
        {
            self.store = Some(store);
        }
        let mut late = Vec::new();
        let mut there: Vec<ConnectionId> = self.orders.keys().copied().collect();
        let over = Instant::now() + if at_once { FAREWELL_AT_ONCE } else { FAREWELL };
        while !there.is_empty() {
            match tokio::time::timeout_at(over, incoming.recv()).await {
                Ok(Some(Incoming::Left(key, _))) => there.retain(|other| *other != key),
                Ok(Some(Incoming::Joined(_, _, orders))) => {
                    let _ = orders.send(FromCoordinator::Dismiss("the run is over".to_owned()));
                    late.push(orders);
                }
                Ok(Some(Incoming::Message(..))) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }
}
