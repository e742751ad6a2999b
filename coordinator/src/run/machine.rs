//! PURE: the state machine of a run. It handles one event at a time.
//!
//! ```text
//!  Gathering ─▶ Probing ─▶ [Checking] ─▶ Surveying ─▶ Arming ─▶ Syncing ─▶ Running ─▶ Collecting ─▶ Judging ─▶ Storing ─▶ Cooling ─┐
//!                          ▲    ▲                                                         │           ▲                            │
//!                          │    └─ Awaiting, PortsWait: what is missing may come back     ▼           │                            │
//!                          │                                                          Rechecking ─▶ SeekingOutage                  │
//!                          └──────────────────────────────── next batch or attempt ◀───────────────────────────────────────────────┘
//! ```
//!
//! The table in `phase.rs` lists the allowed transitions, and `enter` checks them. `apply(now, event)` returns the
//! effects that the caller must carry out. An attempt that lost an agent is repeated, or kept with the loss in its
//! verdict, or it ends the run.

mod agent;
mod attempt;
mod batches;
mod clocks;
mod cursor;
mod membership;
mod phase;
mod preflight;
mod recheck;
mod round;
mod running;
mod stop;
mod survey;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use proto::message::Hello;
use proto::{FromAgent, FromCoordinator, Mode, PlanHash, RunId};

use self::agent::Agent;
use self::cursor::Cursor;
use self::phase::Phase;
use self::stop::{Stop, StopReason};
use super::events::RunEvent;
use super::job::{Job, JobDone};
use super::placement::Spread;
use crate::net::ConnectionId;
use crate::plan::Plan;
use crate::plan::expand::Batch;
use crate::results::attempt::FinishedAttempt;
use crate::results::cells::Done;
use crate::results::end::{End, Failure};
use crate::results::history::History;

/// The same instant on two clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Monotonic time since the start of the run.
    pub mono: Duration,
    pub wall: Timestamp,
}

/// An input of the machine.
#[derive(Debug)]
pub enum Event {
    Joined(ConnectionId, Box<Hello>),
    Message(ConnectionId, Box<FromAgent>),
    Left(ConnectionId, String),
    /// The time of the last heartbeat of each agent process, by instance.
    Heartbeats(Vec<([u8; 16], Duration)>),
    /// This process was suspended and received no messages. All leases start again.
    HeldUp,
    /// A background job has finished or has failed.
    Computed(Result<JobDone, String>),
    /// The attempt has been written to disk, or the write has failed.
    Stored(Result<(), String>),
    /// A child process of this run has ended unexpectedly.
    ChildEnded(String),
    /// A deadline may have passed.
    Tick,
    /// SIGINT or SIGTERM.
    Interrupt,
    /// A second Ctrl-C. The run ends at once.
    InterruptAgain,
}

/// An action that the machine's caller must carry out.
#[must_use]
#[derive(Debug)]
pub enum Effect {
    Send(ConnectionId, FromCoordinator),
    /// Close the connection after all pending messages have been sent.
    Hangup(ConnectionId),
    /// Run the job on another thread. The answer is [`Event::Computed`].
    Compute(Job),
    /// Write the attempt. The answer is [`Event::Stored`].
    Store(Box<FinishedAttempt>),
    Tell(RunEvent),
    Over(End),
}

/// The fixed inputs of a run.
#[derive(Debug, Clone)]
pub struct Setup {
    pub plan: Arc<Plan>,
    pub run: RunId,
    /// The URLs of the plan, or those of the embedded target after its start.
    pub urls: Vec<String>,
    pub ca_pem: Vec<u8>,
    pub history: History,
}

#[derive(Debug)]
pub struct Machine {
    setup: Setup,
    plan_hash: PlanHash,
    batches: Vec<Batch>,
    cursor: Cursor,
    warmed_up: bool,
    agents: BTreeMap<ConnectionId, Agent>,
    /// Every agent that was ever accepted, by name. run.json lists them.
    known: BTreeMap<String, Hello>,
    spread: Spread,
    /// Number of the last survey. Answers to earlier surveys are ignored.
    surveys: u64,
    phase: Phase,
    results: Vec<Done>,
    stop: Stop,
    /// Modes in which the readiness check completed a session.
    worked: BTreeSet<Mode>,
    /// The end of the present or last wait for missing agents.
    await_until: Option<Duration>,
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
            cursor: Cursor::at(0, &batches, &setup.history),
            batches,
            agents: BTreeMap::new(),
            known: BTreeMap::new(),
            spread: Spread::over(&[]),
            surveys: 0,
            phase: Phase::Gathering { deadline },
            results: setup.history.decided.values().map(|summary| Done::Ran(Box::new(summary.clone()))).collect(),
            stop: Stop::default(),
            worked: BTreeSet::new(),
            await_until: None,
            effects: Vec::new(),
            setup,
        }
    }

    /// When the next [`Event::Tick`] is due, if any.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let lease = self.lease();
        let leases = self.agents.values().map(|agent| agent.last_seen + lease).min();
        [leases, self.phase.deadline()].into_iter().flatten().min()
    }

    /// The result of every decided batch, in the order of the plan.
    #[must_use]
    pub fn results(&self) -> &[Done] {
        &self.results
    }

    #[must_use]
    pub fn known_agents(&self) -> &BTreeMap<String, Hello> {
        &self.known
    }

    /// Whether earlier processes of the run have decided every batch.
    #[must_use]
    pub fn nothing_left(&self) -> bool {
        self.batches.iter().all(|batch| self.setup.history.decided.contains_key(&batch.index))
    }

    /// Whether the user has pressed Ctrl-C twice.
    #[must_use]
    pub fn stops_at_once(&self) -> bool {
        self.stop.is_at_once()
    }

    /// Ends a run in which every batch is already decided.
    pub fn finish(&mut self, now: Now) -> Vec<Effect> {
        self.warmed_up = true;
        self.next_batch(now);
        std::mem::take(&mut self.effects)
    }

    pub fn apply(&mut self, now: Now, event: Event) -> Vec<Effect> {
        match event {
            Event::Joined(key, hello) => self.on_joined(now, key, *hello),
            Event::Message(key, message) => self.on_message(now, key, *message),
            Event::Left(key, why) => self.on_left(now, key, &why),
            Event::Heartbeats(seen) => self.on_heartbeats(&seen),
            Event::HeldUp => self.on_held_up(now),
            Event::Computed(Ok(JobDone::Collected(collected))) => self.on_collected(now, collected),
            Event::Computed(Ok(JobDone::OutageSought { collected, outage, after })) => {
                self.on_outage_sought(collected, outage, after);
            }
            Event::Computed(Ok(JobDone::Judged(finished))) => self.on_judged(finished),
            Event::Computed(Err(problem)) => self.over(End::failed(Failure::Internal(problem))),
            Event::Stored(result) => self.on_stored(now, result),
            Event::ChildEnded(what) => self.on_child_ended(what),
            Event::Tick => {
                self.check_leases(now);
                self.check_uploads(now);
                self.on_deadline(now);
            }
            Event::Interrupt => self.on_interrupt(now),
            Event::InterruptAgain => {
                self.stop.escalate(StopReason::AtOnce);
                self.conclude();
            }
        }
        std::mem::take(&mut self.effects)
    }

    fn send(&mut self, key: ConnectionId, message: FromCoordinator) {
        self.effects.push(Effect::Send(key, message));
    }

    fn tell(&mut self, event: RunEvent) {
        self.effects.push(Effect::Tell(event));
    }

    fn lease(&self) -> Duration {
        Duration::from_micros(self.setup.plan.agents.lease_us)
    }

    /// Enters a phase. A transition that is not in the table is a bug and ends the run.
    fn enter(&mut self, next: Phase) {
        let (from, to) = (self.phase.step(), next.step());
        if from.may_become(to) {
            self.phase = next;
            return;
        }
        debug_assert!(false, "{from:?} can't become {to:?}");
        self.phase = Phase::Over;
        self.effects.push(Effect::Over(End::failed(Failure::Internal(format!("{from:?} can't become {to:?}")))));
    }

    fn on_message(&mut self, now: Now, key: ConnectionId, message: FromAgent) {
        let Some(agent) = self.agents.get_mut(&key) else { return };
        agent.last_seen = now.mono;
        match message {
            FromAgent::Leaving(why) => self.on_leaving(now, key, &why),
            FromAgent::Pong(pong) => self.on_pong(now, key, pong),
            FromAgent::Surveyed { number, capacity } => self.on_surveyed(now, key, number, capacity),
            // A correct agent sends one greeting per connection.
            FromAgent::Hello(_) => self.hang_up(now, key, "greeted twice"),
            FromAgent::Goodbye(reason) => self.hang_up(now, key, &format!("left: {reason}")),
            FromAgent::Probed(results) => self.on_probed(now, key, results),
            FromAgent::Armed(id) => self.on_armed(now, key, id),
            FromAgent::Progress(progress) => self.on_progress(key, &progress),
            FromAgent::Report(report) => {
                let attempt = report.attempt;
                self.on_upload(now, key, attempt, |share| share.take_report(report));
            }
            FromAgent::Records(chunk) => {
                let attempt = chunk.attempt;
                self.on_upload(now, key, attempt, |share| share.take_chunk(chunk));
            }
            FromAgent::Trouble { attempt, problem } => {
                // The agent would most likely fail in the next attempt too.
                if self.phase.attempt().is_some_and(|present| present.id == attempt) {
                    self.dismiss(now, key, &format!("could not carry its share: {problem}"));
                }
            }
        }
    }

    /// Ends the wait of the present phase if its deadline has passed.
    fn on_deadline(&mut self, now: Now) {
        let due = |deadline: Duration| now.mono >= deadline;
        match &mut self.phase {
            Phase::Gathering { deadline } if due(*deadline) => self.gathering_timed_out(),
            Phase::Probing(round) if due(round.deadline) => self.end_probing(now),
            Phase::Rechecking(check) if due(check.round.deadline) => self.end_recheck(),
            Phase::Checking { batch, round } if due(round.deadline) => {
                let batch = *batch;
                self.survey(now, batch, Duration::ZERO);
            }
            Phase::Awaiting { batch, deadline, short } if due(*deadline) => {
                let (batch, short) = (*batch, short.clone());
                self.on_shortfall(now, batch, short);
            }
            Phase::Surveying { round, .. } if due(round.deadline) => self.judge_survey(now),
            Phase::PortsWait { batch, until, waited } if due(*until) => {
                let (batch, waited) = (*batch, *waited);
                self.begin_survey(now, batch, waited);
            }
            Phase::Arming(_, round) if due(round.deadline) => {
                let late = round.silent();
                self.arming_timed_out(now, late);
            }
            Phase::Syncing(attempt, round) if due(round.deadline) => {
                let keys = attempt.owners();
                self.syncing_timed_out(now, keys);
            }
            Phase::Running(attempt) if due(attempt.report_by) => self.running_timed_out(now),
            Phase::Cooling { until } if due(*until) => self.next_batch(now),
            _ => {}
        }
    }

    fn gathering_timed_out(&mut self) {
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

    fn on_interrupt(&mut self, now: Now) {
        if self.stop.is_interrupted() {
            return;
        }
        self.stop.escalate(StopReason::Interrupted);
        self.tell(RunEvent::Interrupted);
        match &self.phase {
            Phase::Arming(..) | Phase::Syncing(..) | Phase::Running(_) => {
                self.abort_attempt(now, "interrupted");
                self.complete_attempt(now);
            }
            Phase::Rechecking(_) => self.recheck_interrupted(),
            // The present attempt is finished and stored first.
            Phase::Collecting { .. }
            | Phase::SeekingOutage
            | Phase::Judging { .. }
            | Phase::Storing { .. }
            | Phase::Over
            | Phase::Left(_) => {}
            Phase::Gathering { .. }
            | Phase::Probing(_)
            | Phase::Checking { .. }
            | Phase::Awaiting { .. }
            | Phase::Surveying { .. }
            | Phase::PortsWait { .. }
            | Phase::Cooling { .. } => self.conclude(),
        }
    }

    fn over(&mut self, end: End) {
        if matches!(self.phase, Phase::Over) {
            return;
        }
        let keys: Vec<ConnectionId> = self.agents.keys().copied().collect();
        for key in keys {
            self.send(key, FromCoordinator::Dismiss(end.reason().to_owned()));
        }
        self.enter(Phase::Over);
        self.effects.push(Effect::Over(end));
    }
}

#[cfg(test)]
mod tests;
