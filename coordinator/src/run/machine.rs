//! PURE: the run, one event at a time.
//!
//! ```text
//!  Gathering ──▶ Probing ──▶ Surveying ──▶ Preparing ──▶ Running ──▶ Storing ──▶ Cooling ──▶ (next batch) ... ──▶ Over
//!     agents      target      capacity       all armed,    all reported   on disk     pause
//!                     ▲  ▲     │  ▲          clocks compared
//!                     │  │     ▼  │
//!              Checking  │   PortsWait
//!               newcomers Awaiting (too few agents are left)          Rechecking between Running and Storing: too little
//!                                                                     succeeded, is the target still there?
//! ```
//!
//! `apply(now, event)` returns what is to be done; nothing here reads a clock or waits. An attempt that lost an agent is
//! never patched up: it is repeated, or kept and marked, or ends the run.

mod agents;
mod batches;
mod readiness;
mod recheck;
mod survey;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use proto::message::{Hello, ProbeResult};
use proto::{AttemptId, FromAgent, FromCoordinator, Mode, PlanHash, RunId};

use self::recheck::TargetCheck;
use super::clock::Rounds;
use super::collect::Part;
use super::events::{Counts, RunEvent};
use super::share::Spread;
use crate::net::ConnectionId;
use crate::plan::Plan;
use crate::plan::expand::Batch;
use crate::results::attempt::FinishedAttempt;
use crate::results::cells::Done;
use crate::results::end::{End, Failure};
use crate::results::history::History;

/// From go to start: long enough for the order to reach everyone, and for as many round trips on top.
const START_AFTER: Duration = Duration::from_millis(100);
const START_AFTER_ROUND_TRIPS: u32 = 4;
/// Rounds of pings before a start: fewer say little, more say nothing new.
const ROUNDS_MIN: usize = 8;
const ROUNDS_MAX: usize = 32;
/// How long they may take.
const SYNC_TIMEOUT: Duration = Duration::from_secs(5);
/// How long agents may take to look at what they can carry.
const SURVEY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the readiness check of those who came meanwhile may hold a batch up.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long agents may take to look names up and arm.
const ARM_TIMEOUT: Duration = Duration::from_secs(30);
/// How long agents wait for a server to let go of a connection whose session is over.
const LET_GO_MAX: Duration = Duration::from_secs(10);
/// How long a cut batch may take to report.
const CUT_TIMEOUT: Duration = Duration::from_secs(10);
/// On top of what all the time limits of a batch add up to: for uploads, and for each of its sessions.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(60);
const UPLOAD_TIMEOUT_PER_SESSION: Duration = Duration::from_micros(200);
/// On top of the readiness check's own deadline.
const PROBE_SLACK: Duration = Duration::from_secs(15);

/// Two readings of one instant.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Since the start of the run, monotonic.
    pub mono: Duration,
    pub wall: Timestamp,
}

/// What happened.
#[derive(Debug)]
pub enum Event {
    Joined(ConnectionId, Box<Hello>),
    Message(ConnectionId, Box<FromAgent>),
    Left(ConnectionId, String),
    /// When these processes last gave a sign of life, on their connection for that.
    LastHeard(Vec<([u8; 16], Duration)>),
    /// This process itself was stopped for a while and could hear nobody: nobody is blamed for it.
    HeldUp,
    /// The attempt that was to be stored is on disk, or not.
    Stored(Result<(), String>),
    /// A process that was started for this run has ended by itself.
    ChildEnded(String),
    /// A deadline may have passed.
    Tick,
    /// SIGINT or SIGTERM.
    Interrupt,
}

/// What is to be done.
#[must_use]
#[derive(Debug)]
pub enum Effect {
    Send(ConnectionId, FromCoordinator),
    /// Close the connection after what was sent.
    Hangup(ConnectionId),
    /// Write the attempt; answered by [`Event::Stored`].
    Store(Box<FinishedAttempt>),
    Tell(RunEvent),
    Over(End),
}

/// An agent that is connected and welcome.
#[derive(Debug)]
struct Agent {
    name: String,
    hello: Hello,
    last_seen: Duration,
    /// It got whole sessions out of the target: only then it gets a share.
    ready: bool,
    /// It was asked whether the target is ready for it.
    checking: bool,
    /// A batch was held up once for the answer.
    waited_for: bool,
    /// It was told to end, and gets no share any more.
    leaving: bool,
    /// Of the last comparison with its clock.
    rounds: Rounds,
}

/// What is given from outside, once.
#[derive(Debug, Clone)]
pub struct Setup {
    pub plan: Plan,
    pub run: RunId,
    /// Of the plan; with an embedded target, its urls as started.
    pub urls: Vec<String>,
    pub ca_pem: Vec<u8>,
    pub history: History,
}

#[derive(Debug)]
struct Current {
    batch: Batch,
    id: AttemptId,
    /// By agent; in the order of their ranges.
    parts: Vec<(ConnectionId, Part)>,
    armed: Vec<ConnectionId>,
    /// All are armed; clocks are being compared.
    syncing: bool,
    started: Timestamp,
    deadline: Option<Duration>,
    /// Given up, and why.
    cut: Option<String>,
    counts: BTreeMap<ConnectionId, Counts>,
}

#[derive(Debug)]
enum Phase {
    Gathering {
        deadline: Duration,
    },
    Probing {
        deadline: Duration,
        results: BTreeMap<ConnectionId, Vec<ProbeResult>>,
    },
    /// Agents that came meanwhile are asked whether the target is ready for them.
    Checking {
        batch: Batch,
        waiting: BTreeSet<ConnectionId>,
        deadline: Duration,
    },
    /// Too few agents are left; lost ones may come back.
    Awaiting {
        batch: Batch,
        deadline: Duration,
        short: String,
    },
    /// Asked what they can carry; `waited` for ports so far.
    Surveying {
        batch: Batch,
        asked: BTreeSet<ConnectionId>,
        deadline: Duration,
        waited: Duration,
    },
    /// Ports in TIME_WAIT come back by themselves.
    PortsWait {
        batch: Batch,
        until: Duration,
        waited: Duration,
    },
    Preparing(Current),
    Running(Current),
    Rechecking(TargetCheck),
    Storing {
        refused: bool,
        again: bool,
    },
    Cooling {
        until: Duration,
    },
    Over,
}

/// See the module.
#[derive(Debug)]
pub struct Machine {
    setup: Setup,
    plan_hash: PlanHash,
    batches: Vec<Batch>,
    /// Index of the batch that is next or under way.
    next: usize,
    attempt: u32,
    warmed_up: bool,
    agents: BTreeMap<ConnectionId, Agent>,
    /// Everyone who was ever welcome: run.json lists them.
    known: BTreeMap<String, Hello>,
    spread: Spread,
    /// How many there were.
    surveys: u64,
    phase: Phase,
    results: Vec<Done>,
    interrupted: bool,
    /// Of the attempts at the present batch: under how many the server went away, and why any of them did not count.
    outages: u32,
    refused: Vec<String>,
    /// A loss with `on_loss = "abort"`, or a restart with `on_restart = "abort"`.
    aborted: bool,
    /// Modes in which the readiness check got a whole session.
    worked: BTreeSet<Mode>,
    /// How the run ends once what is being written is written.
    ending: Option<End>,
    /// Until when agents are, or were, waited for.
    await_until: Option<Duration>,
    /// Who owned the connections that broke in the middle of an upload.
    away: BTreeMap<ConnectionId, [u8; 16]>,
    effects: Vec<Effect>,
}

impl Machine {
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        let batches = setup.plan.batches();
        let deadline = Duration::from_micros(setup.plan.agents.ready_timeout_us);
        Self {
            plan_hash: setup.plan.hash(),
            warmed_up: !setup.plan.grid.warmup,
            batches,
            next: 0,
            attempt: 1 + setup.history.refused.get(&0).copied().unwrap_or(0),
            agents: BTreeMap::new(),
            known: BTreeMap::new(),
            spread: Spread::over(&[]),
            surveys: 0,
            phase: Phase::Gathering { deadline },
            results: setup.history.decided.values().map(|summary| Done::Ran(Box::new(summary.clone()))).collect(),
            interrupted: false,
            outages: 0,
            refused: setup.history.told.get(&0).cloned().unwrap_or_default(),
            aborted: false,
            worked: BTreeSet::new(),
            ending: None,
            await_until: None,
            away: BTreeMap::new(),
            effects: Vec::new(),
            setup,
        }
    }

    /// When the next [`Event::Tick`] is due, if any.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let lease = Duration::from_micros(self.setup.plan.agents.lease_us);
        let leases = self.agents.values().map(|agent| agent.last_seen + lease).min();
        let phase = match &self.phase {
            Phase::Gathering { deadline }
            | Phase::Probing { deadline, .. }
            | Phase::Checking { deadline, .. }
            | Phase::Awaiting { deadline, .. }
            | Phase::Surveying { deadline, .. } => Some(*deadline),
            Phase::Preparing(current) | Phase::Running(current) => {
                let parts = current.parts.iter().flat_map(|(_, part)| [part.away_until, part.ask_at()]);
                parts.chain([current.deadline]).flatten().min()
            }
            Phase::Cooling { until } | Phase::PortsWait { until, .. } => Some(*until),
            Phase::Rechecking(suspect) => Some(suspect.deadline),
            Phase::Storing { .. } | Phase::Over => None,
        };
        [leases, phase].into_iter().flatten().min()
    }

    /// What has been decided of every batch so far, in order.
    #[must_use]
    pub fn results(&self) -> &[Done] {
        &self.results
    }

    /// Every agent that ever took part, by name.
    #[must_use]
    pub fn known_agents(&self) -> &BTreeMap<String, Hello> {
        &self.known
    }

    /// Every batch is decided already.
    #[must_use]
    pub fn nothing_left(&self) -> bool {
        self.batches.iter().all(|batch| self.setup.history.decided.contains_key(&batch.index))
    }

    /// Ends a run that has nothing left to do.
    pub fn finish(&mut self, now: Now) -> Vec<Effect> {
        self.warmed_up = true;
        self.next_batch(now);
        std::mem::take(&mut self.effects)
    }

    pub fn apply(&mut self, now: Now, event: Event) -> Vec<Effect> {
        match event {
            Event::Joined(key, hello) => self.joined(now, key, *hello),
            Event::Message(key, message) => self.message(now, key, *message),
            Event::Left(key, why) => self.left(now, key, &why),
            Event::LastHeard(seen) => self.alive(&seen),
            Event::HeldUp => {
                for agent in self.agents.values_mut() {
                    agent.last_seen = now.mono;
                }
                let lease = Duration::from_micros(self.setup.plan.agents.lease_us);
                if let Phase::Running(current) = &mut self.phase {
                    for until in current.parts.iter_mut().filter_map(|(_, part)| part.away_until.as_mut()) {
                        *until = now.mono + lease;
                    }
                }
            }
            Event::Stored(result) => self.stored(now, result),
            Event::ChildEnded(what) => self.child_ended(what),
            Event::Tick => self.tick(now),
            Event::Interrupt => self.interrupt(now),
        }
        std::mem::take(&mut self.effects)
    }

    fn send(&mut self, key: ConnectionId, message: FromCoordinator) {
        self.effects.push(Effect::Send(key, message));
    }

    fn tell(&mut self, event: RunEvent) {
        self.effects.push(Effect::Tell(event));
    }

    // ---- messages ----

    fn message(&mut self, now: Now, key: ConnectionId, message: FromAgent) {
        let Some(agent) = self.agents.get_mut(&key) else { return };
        agent.last_seen = now.mono;
        match message {
            FromAgent::Leaving(why) => self.leaving(now, key, &why),
            FromAgent::Pong(pong) => self.pong(now, key, pong),
            FromAgent::Surveyed { number, capacity } => self.capacity(now, key, number, capacity),
            FromAgent::Hello(_) => {
                // One greeting a connection; a second one is a broken peer.
                self.effects.push(Effect::Hangup(key));
                self.left(now, key, "greeted twice");
            }
            FromAgent::Goodbye(reason) => {
                self.effects.push(Effect::Hangup(key));
                self.left(now, key, &format!("left: {reason}"));
            }
            FromAgent::Probed(results) => self.probed(now, key, results),
            FromAgent::Armed(id) => {
                if let Phase::Preparing(current) = &mut self.phase
                    && current.id == id
                    && !current.armed.contains(&key)
                    && current.parts.iter().any(|(owner, _)| *owner == key)
                {
                    current.armed.push(key);
                    self.maybe_go(now);
                }
            }
            FromAgent::Progress(progress) => {
                if let Phase::Running(current) = &mut self.phase
                    && current.id == progress.attempt
                    && current.parts.iter().any(|(owner, _)| *owner == key)
                {
                    let counts = Counts {
                        planned: 0,
                        launched: progress.launched,
                        open: progress.open,
                        succeeded: progress.succeeded,
                        failed: progress.failed,
                    };
                    current.counts.insert(key, counts);
                    let event = RunEvent::Progress(total(current));
                    self.tell(event);
                }
            }
            FromAgent::Report(report) => {
                let attempt = report.attempt;
                self.uploaded(now, key, attempt, |part| part.take_report(report));
            }
            FromAgent::Records(chunk) => {
                let attempt = chunk.attempt;
                self.uploaded(now, key, attempt, |part| part.take_chunk(chunk));
            }
            FromAgent::Trouble { attempt, problem } => {
                let of_this = match &self.phase {
                    Phase::Preparing(current) | Phase::Running(current) => current.id == attempt,
                    _ => false,
                };
                if of_this {
                    // It would be of no more use in the next attempt.
                    self.send(key, FromCoordinator::Dismiss(format!("could not carry its share: {problem}")));
                    self.effects.push(Effect::Hangup(key));
                    self.left(now, key, &format!("could not carry its share: {problem}"));
                }
            }
        }
    }

    fn part(&mut self, key: ConnectionId, attempt: AttemptId) -> Option<&mut Part> {
        match &mut self.phase {
            Phase::Running(current) if current.id == attempt => {
                current.parts.iter_mut().find(|(owner, _)| *owner == key).map(|(_, part)| part)
            }
            _ => None,
        }
    }

    /// A piece of an upload came.
    fn uploaded(&mut self, now: Now, key: ConnectionId, attempt: AttemptId, take: impl FnOnce(&mut Part)) {
        let patience = Duration::from_micros(self.setup.plan.agents.lease_us);
        let Some(part) = self.part(key, attempt) else { return };
        take(part);
        part.heard(now.mono, patience);
        if let Some(why) = part.disbelieved().map(ToOwned::to_owned) {
            // It would be of no more use in the next attempt.
            self.send(key, FromCoordinator::Dismiss(why.clone()));
            self.effects.push(Effect::Hangup(key));
            return self.left(now, key, &why);
        }
        if part.complete() && part.is_leaving() {
            // It waits for nothing but this.
            self.send(key, FromCoordinator::Stored(attempt));
        } else if part.has_gap() {
            part.asked(now.mono);
            let missing = part.missing(attempt);
            self.send(key, FromCoordinator::Resend(missing));
        }
        self.maybe_complete(now);
    }

    /// Uploads that have stopped are asked for; those whose agents did not come back are given up.
    fn uploads(&mut self, now: Now) {
        let Phase::Running(current) = &mut self.phase else { return };
        let (mut asked, mut gone) = (Vec::new(), false);
        for (key, part) in &mut current.parts {
            if part.away_until.is_some_and(|until| now.mono >= until) {
                part.lose("lost its connection during its upload and did not come back");
                gone = true;
            } else if part.ask_at().is_some_and(|at| now.mono >= at) {
                part.asked(now.mono);
                asked.push((*key, part.missing(current.id)));
            }
        }
        for (key, missing) in asked {
            self.send(key, FromCoordinator::Resend(missing));
        }
        if gone {
            self.lost_one(now);
        }
    }

    // ---- time and signals ----

    fn tick(&mut self, now: Now) {
        let lease = Duration::from_micros(self.setup.plan.agents.lease_us);
        let silent: Vec<ConnectionId> =
            self.agents.iter().filter(|(_, agent)| now.mono >= agent.last_seen + lease).map(|(key, _)| *key).collect();
        for key in silent {
            self.effects.push(Effect::Hangup(key));
            self.left(now, key, &format!("was silent for {} s", lease.as_secs_f64()));
        }
        self.uploads(now);
        self.due(now);
    }

    /// What the phase has been waiting for has come, or has not.
    fn due(&mut self, now: Now) {
        match &mut self.phase {
            Phase::Gathering { deadline } if now.mono >= *deadline => {
                let there: Vec<&str> = self.agents.values().map(|agent| agent.name.as_str()).collect();
                let text = format!(
                    "{} of {} agents came within {} s{}; start more agents, lower agents.count (--agents), or raise \
                     agents.ready_timeout_seconds",
                    there.len(),
                    self.wanted(),
                    self.setup.plan.agents.ready_timeout_us / 1_000_000,
                    if there.is_empty() { String::new() } else { format!(": {}", there.join(", ")) }
                );
                self.over(End::failed(Failure::TooFewAgents(text)));
            }
            Phase::Probing { deadline, .. } if now.mono >= *deadline => self.target_judged(now),
            Phase::Rechecking(suspect) if now.mono >= suspect.deadline => self.recheck_judged(),
            Phase::Checking { batch, deadline, .. } if now.mono >= *deadline => {
                let batch = *batch;
                self.survey_ready(now, batch, Duration::ZERO);
            }
            Phase::Awaiting { batch, deadline, short } if now.mono >= *deadline => {
                let (batch, short) = (*batch, std::mem::take(short));
                self.fell_short(now, batch, short);
            }
            Phase::Surveying { deadline, .. } if now.mono >= *deadline => self.maybe_surveyed(now),
            Phase::PortsWait { batch, until, waited } if now.mono >= *until => {
                let (batch, waited) = (*batch, *waited);
                self.survey(now, batch, waited);
            }
            Phase::Preparing(current) if current.deadline.is_some_and(|deadline| now.mono >= deadline) => {
                if current.cut.is_none() && current.syncing {
                    return self.sync_timed_out(now);
                }
                let late: Vec<ConnectionId> =
                    current.parts.iter().map(|(key, _)| *key).filter(|key| !current.armed.contains(key)).collect();
                for key in late {
                    self.effects.push(Effect::Hangup(key));
                    self.left(now, key, &format!("was not ready within {} s", ARM_TIMEOUT.as_secs()));
                }
            }
            Phase::Running(current) if current.deadline.is_some_and(|deadline| now.mono >= deadline) => {
                if current.cut.is_none() {
                    self.cut(now, "it took longer than all of its time limits together");
                    return;
                }
                for (_, part) in &mut current.parts {
                    part.lose(&format!("did not report within {} s of being stopped", CUT_TIMEOUT.as_secs()));
                }
                self.maybe_complete(now);
            }
            Phase::Cooling { until } if now.mono >= *until => self.next_batch(now),
            _ => {}
        }
    }

    fn interrupt(&mut self, now: Now) {
        if std::mem::replace(&mut self.interrupted, true) {
            return;
        }
        self.tell(RunEvent::Interrupted);
        match &self.phase {
            Phase::Preparing(_) | Phase::Running(_) => {
                self.cut(now, "interrupted");
                self.maybe_complete(now);
            }
            Phase::Rechecking(_) => self.recheck_interrupted(),
            // What is being written is finished first.
            Phase::Storing { .. } | Phase::Over => {}
            Phase::Gathering { .. }
            | Phase::Probing { .. }
            | Phase::Checking { .. }
            | Phase::Awaiting { .. }
            | Phase::Surveying { .. }
            | Phase::PortsWait { .. }
            | Phase::Cooling { .. } => self.conclude(),
        }
    }

    /// In the order of the grid, whatever an earlier life of the run has left out.
    fn decide(&mut self, done: Done) {
        let at = self.results.partition_point(|known| known.batch().index <= done.batch().index);
        self.results.insert(at, done);
    }

    /// All batches are decided, or no more will be.
    fn conclude(&mut self) {
        let end = End::of_run(&self.results, self.interrupted, self.aborted);
        self.over(end);
    }

    fn over(&mut self, end: End) {
        let keys: Vec<ConnectionId> = self.agents.keys().copied().collect();
        for key in keys {
            self.send(key, FromCoordinator::Dismiss(end.reason().to_owned()));
        }
        self.phase = Phase::Over;
        self.effects.push(Effect::Over(end));
    }
}

fn total(current: &Current) -> Counts {
    let mut sum = Counts { planned: current.batch.batch_size, ..Counts::default() };
    for counts in current.counts.values() {
        sum.launched += counts.launched;
        sum.open += counts.open;
        sum.succeeded += counts.succeeded;
        sum.failed += counts.failed;
    }
    sum
}

#[cfg(test)]
mod tests;
