//! The only `select!` of the coordinator: what happens outside becomes an event, the machine decides, the effects are
//! carried out here.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use proto::FromCoordinator;
use proto::message::Hello;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::events::RunEvent;
use super::machine::{Effect, Event, Machine, Now, Setup};
use crate::net::ConnectionId;
use crate::net::rpc::{Incoming, LastHeard, OrderSender};
use crate::results::attempt::FinishedAttempt;
use crate::results::cells::{CellHistograms, Done, Grid};
use crate::results::end::{End, Failure};
use crate::results::metadata::{RunMetadata, RunState};
use crate::run::sink::ResultSink;

/// How long dismissed agents may take to hang up.
const FAREWELL: Duration = Duration::from_secs(2);
/// The same when the user has said twice that it is enough: until the word has left.
const FAREWELL_AT_ONCE: Duration = Duration::from_millis(100);

/// A loop that did not get to look around for this part of a lease was held up, and so were the signs of life.
const HELD_UP: u32 = 2;

/// Signals and children, as the loop hears them.
#[derive(Debug)]
pub enum Outside {
    /// SIGINT or SIGTERM.
    Interrupt,
    /// Ctrl-C a second time: everything ends at once.
    AtOnce,
    /// A child process has ended.
    ChildEnded(String),
}

/// RunSource a run leaves behind.
#[derive(Debug)]
pub struct Outcome {
    pub end: End,
    pub results: Vec<Done>,
    pub cells: CellHistograms,
    pub agents: BTreeMap<String, Hello>,
    pub metadata: RunMetadata,
    pub ended: Timestamp,
}

/// RunSource belongs to the run besides the machine's setup.
#[derive(Debug)]
pub struct Frame<K> {
    pub store: K,
    pub metadata: RunMetadata,
    pub heard: mpsc::Receiver<Incoming>,
    pub alive: LastHeard,
    pub outside: mpsc::Receiver<Outside>,
    pub enforce: bool,
    /// Of what an earlier life of the run has accepted.
    pub cells: CellHistograms,
    /// The time of day.
    pub wall: fn() -> Timestamp,
}

/// Runs until the machine says it is over. `watch` sees every event of the run.
pub async fn run<K: ResultSink>(setup: Setup, frame: Frame<K>, mut watch: impl FnMut(&RunEvent)) -> Outcome {
    let Frame { store, metadata, mut heard, alive, mut outside, enforce, cells, wall } = frame;
    let begun = Instant::now();
    let look_every = Duration::from_micros(setup.plan.agents.lease_us) / HELD_UP / 2;
    let mut looked = begun;
    let mut ticked = false;
    let mut loop_ = Loop {
        machine: Machine::new(setup.clone()),
        setup,
        store: Some(store),
        storing: None,
        orders: HashMap::new(),
        cells,
        metadata,
        at_once: false,
        wall,
    };
    let now = || Now { mono: begun.elapsed(), wall: wall() };
    let mut end = loop_.save(None).err().map(|problem| End::failed(Failure::Store(problem)));
    if end.is_none() && loop_.machine.nothing_left() {
        for effect in loop_.machine.finish(now()) {
            if let Effect::Over(how) = effect {
                end = Some(how);
            }
        }
    }
    while end.is_none() {
        let deadline = loop_.machine.deadline().map(|deadline| begun + deadline);
        let look = looked + look_every;
        let event = tokio::select! {
            biased;
            Some(outside) = outside.recv() => match outside {
                Outside::Interrupt => Event::Interrupt,
                Outside::AtOnce => {
                    loop_.at_once = true;
                    // RunSource is complete is on disk; nobody wants to wait for the rest.
                    end = Some(End::of_run(loop_.machine.results(), true, false));
                    continue;
                }
                Outside::ChildEnded(text) => Event::ChildEnded(text),
            },
            stored = join(&mut loop_.storing), if loop_.storing.is_some() => {
                loop_.storing = None;
                let result = match stored {
                    Ok((store, result)) => {
                        loop_.store = Some(store);
                        result
                    }
                    Err(error) => Err(format!("the writer died: {error}")),
                };
                Event::Stored(result)
            }
            // RunSource is due comes before what is said, or enough talk would put off every limit; and not twice in a row.
            () = sleep_until(deadline.map_or(look, |deadline| deadline.min(look))), if !ticked => Event::Tick,
            Some(heard) = heard.recv() => match heard {
                Incoming::Joined(key, hello, orders) => {
                    if let Some(from) = orders.from {
                        loop_.metadata.addresses.insert(hello.instance, from);
                    }
                    loop_.orders.insert(key, orders);
                    Event::Joined(key, hello)
                }
                Incoming::Message(key, message) => Event::Message(key, message),
                Incoming::Left(key, why) => {
                    loop_.orders.remove(&key);
                    Event::Left(key, why)
                }
            },
            () = sleep_until(deadline.map_or(look, |deadline| deadline.min(look))) => Event::Tick,
        };
        ticked = matches!(event, Event::Tick);
        let was_stored = matches!(event, Event::Stored(_));
        let mut events = vec![event];
        // Applied first: the last one is the first to be popped.
        if matches!(events[0], Event::Tick) {
            let seen = alive.seen().into_iter();
            events.push(Event::LastHeard(seen.map(|(who, at)| (who, at.saturating_duration_since(begun))).collect()));
        }
        if looked.elapsed() > look_every * HELD_UP {
            events.push(Event::HeldUp);
        }
        looked = Instant::now();
        while let Some(event) = events.pop() {
            for effect in loop_.machine.apply(now(), event) {
                match effect {
                    Effect::Over(how) => end = Some(how),
                    Effect::Tell(event) => watch(&event),
                    effect => events.extend(loop_.carry_out(effect)),
                }
            }
        }
        if was_stored && end.is_none() {
            end = loop_.save(None).err().map(|problem| End::failed(Failure::Store(problem)));
        }
    }
    let end = end.unwrap_or_else(|| End::failed(Failure::Internal("the run ended without an end".to_owned())));
    let end = end.judged(&Grid::of(&loop_.setup.plan, loop_.machine.results(), &loop_.cells));
    loop_.farewell(&mut heard).await;
    if let Err(problem) = loop_.save(Some((&end, end.code(enforce)))) {
        watch(&RunEvent::Note(format!("run.json could not be written: {problem}")));
    }
    Outcome {
        results: loop_.machine.results().to_vec(),
        agents: loop_.machine.known_agents().clone(),
        cells: loop_.cells,
        metadata: loop_.metadata,
        ended: wall(),
        end,
    }
}

type Storing<K> = JoinHandle<(K, Result<(), String>)>;

/// Waits for the writer, if there is one.
async fn join<K>(storing: &mut Option<Storing<K>>) -> Result<(K, Result<(), String>), tokio::task::JoinError> {
    match storing {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

struct Loop<K> {
    machine: Machine,
    setup: Setup,
    /// Away while an attempt is being written.
    store: Option<K>,
    storing: Option<Storing<K>>,
    orders: HashMap<ConnectionId, OrderSender>,
    cells: CellHistograms,
    metadata: RunMetadata,
    /// Nothing is waited for any more.
    at_once: bool,
    wall: fn() -> Timestamp,
}

impl<K: ResultSink> Loop<K> {
    fn carry_out(&mut self, effect: Effect) -> Option<Event> {
        match effect {
            Effect::Send(key, order) => {
                let refused = self.orders.get(&key).is_some_and(|way| !way.send(order));
                if refused {
                    // An agent that does not take its orders is no use; waiting for it would stop everyone.
                    self.orders.remove(&key);
                    return Some(Event::Left(key, "takes no orders any more".to_owned()));
                }
                None
            }
            Effect::Hangup(key) => {
                self.orders.remove(&key);
                None
            }
            Effect::Store(finished) => self.put(finished),
            Effect::Tell(_) | Effect::Over(_) => None,
        }
    }

    /// Writes on a thread where blocking is allowed; agents are heard meanwhile.
    fn put(&mut self, finished: Box<FinishedAttempt>) -> Option<Event> {
        if finished.summary.accepted {
            self.cells.add(&finished.summary.batch, &finished.histograms);
        }
        let Some(mut store) = self.store.take() else {
            return Some(Event::Stored(Err("two attempts at once".to_owned())));
        };
        if K::BLOCKS {
            self.storing = Some(tokio::task::spawn_blocking(move || {
                let result = store.put(&finished).map_err(|error| error.to_string());
                (store, result)
            }));
            return None;
        }
        let result = store.put(&finished).map_err(|error| error.to_string());
        self.store = Some(store);
        Some(Event::Stored(result))
    }

    fn save(&self, end: Option<(&End, u8)>) -> Result<(), String> {
        let Some(store) = &self.store else { return Ok(()) };
        let facts = RunState {
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
        store.put_run(&facts).map_err(|error| error.to_string())
    }

    /// Lets dismissed agents hang up first, so that none of them takes the end for a lost coordinator.
    async fn farewell(&mut self, heard: &mut mpsc::Receiver<Incoming>) {
        // Said twice: not even a disk is waited for. RunSource is half written is cut off when the run is taken up again.
        if let Some(task) = self.storing.take().filter(|_| !self.at_once)
            && let Ok((store, _)) = task.await
        {
            self.store = Some(store);
        }
        let mut held = Vec::new();
        let mut there: Vec<ConnectionId> = self.orders.keys().copied().collect();
        let at_once = self.at_once;
        if at_once {
            for orders in self.orders.values() {
                // Whoever has no room for it is found by the end of the connection.
                let _ = orders.send(FromCoordinator::Dismiss("the run was interrupted".to_owned()));
            }
        }
        let over = Instant::now() + if at_once { FAREWELL_AT_ONCE } else { FAREWELL };
        while !there.is_empty() {
            match tokio::time::timeout_at(over, heard.recv()).await {
                Ok(Some(Incoming::Left(key, _))) => there.retain(|other| *other != key),
                Ok(Some(Incoming::Joined(_, _, orders))) => {
                    let _ = orders.send(FromCoordinator::Dismiss("the run is over".to_owned()));
                    held.push(orders);
                }
                Ok(Some(Incoming::Message(..))) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }
}
