//! Asks the agents for their present capacity before every batch.

use std::time::Duration;

use proto::limits::URLS_MAX;
use proto::{AttemptId, Capacity, FromCoordinator, Launch, Mode};

use super::agent::Standing;
use super::phase::Phase;
use super::round::Round;
use super::{Machine, Now};
use crate::net::ConnectionId;
use crate::plan::OnShortfall;
use crate::plan::expand::Batch;
use crate::results::end::{End, Failure};
use crate::run::events::RunEvent;
use crate::run::placement::{Allotment, Carrier, Shortfall, split, split_arrivals};

const SURVEY_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for which the readiness check of late agents may delay a batch.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// More than twice the 60 s for which Linux keeps a port in TIME_WAIT.
const PORTS_WAIT_MAX: Duration = Duration::from_secs(130);
/// A margin, because the last port may become free a little later than estimated.
const PORTS_WAIT_MORE: Duration = Duration::from_millis(200);

type Placement = Vec<(ConnectionId, Allotment)>;

impl Machine {
    /// Waits for the readiness check of late agents, once per agent, and then asks all agents for their capacity.
    pub(super) fn begin_survey(&mut self, now: Now, batch: Batch, waited: Duration) {
        let came: Vec<ConnectionId> = self
            .agents
            .iter()
            .filter(|(_, agent)| matches!(agent.standing, Standing::New | Standing::Asked))
            .map(|(key, _)| *key)
            .collect();
        if came.is_empty() {
            return self.survey(now, batch, waited);
        }
        for key in &came {
            self.check(*key);
            if let Some(agent) = self.agents.get_mut(key) {
                // A target that is never ready for this agent must not delay every batch.
                agent.standing = Standing::WaitedFor;
            }
        }
        self.enter(Phase::Checking { batch, round: Round::of(came, now.mono + CHECK_TIMEOUT) });
    }

    pub(super) fn on_checked(&mut self, now: Now, key: ConnectionId) {
        match &mut self.phase {
            Phase::Checking { batch, round } => {
                round.forget(key);
                if round.all_answered() {
                    let batch = *batch;
                    self.survey(now, batch, Duration::ZERO);
                }
            }
            Phase::Awaiting { batch, .. } => {
                let batch = *batch;
                self.begin_survey(now, batch, Duration::ZERO);
            }
            _ => {}
        }
    }

    /// Stops waiting for the answer of an agent that has left.
    pub(super) fn forget_in_round(&mut self, now: Now, key: ConnectionId) {
        match &mut self.phase {
            Phase::Surveying { round, .. } => {
                round.forget(key);
                self.judge_survey(now);
            }
            _ => self.on_checked(now, key),
        }
    }

    /// Whether to wait for more agents: some are missing, not all agents are children of this process, and no wait has
    /// timed out since the last agent joined.
    fn others_may_come(&self, now: Now) -> bool {
        let agents = &self.setup.plan.agents;
        let in_vain = self.await_until.is_some_and(|until| now.mono >= until);
        agents.local < agents.count && self.ready_agents().len() < self.wanted() && !in_vain
    }

    /// Handles a batch that the agents cannot carry: waits for agents, skips the batch, or ends the run.
    pub(super) fn on_shortfall(&mut self, now: Now, batch: Batch, short: Box<Shortfall>) {
        if self.others_may_come(now) {
            let patience = Duration::from_micros(self.setup.plan.agents.ready_timeout_us);
            let until = *self.await_until.get_or_insert(now.mono + patience);
            let pause = until.saturating_sub(now.mono);
            self.tell(RunEvent::WaitingForAgents { batch, pause, why: short.headline.clone() });
            self.enter(Phase::Awaiting { batch, deadline: until, short });
        } else if Self::is_warmup(&batch) && !self.agents.is_empty() {
            // The surveys of the batches will determine the capacity.
            self.warmed_up = true;
            self.next_batch(now);
        } else if self.setup.plan.agents.on_shortfall == OnShortfall::Stop || self.agents.is_empty() {
            self.over(End::failed(Failure::TooFewAgents(short.to_string())));
        } else {
            self.skip(batch, "the agents can't carry it (agents.on_shortfall)".to_owned());
            self.next_batch(now);
        }
    }

    pub(super) fn survey(&mut self, now: Now, batch: Batch, waited: Duration) {
        self.surveys += 1;
        let keys = self.ready_agents();
        if keys.is_empty() {
            return self.on_shortfall(now, batch, Box::new(Shortfall::nobody()));
        }
        for key in &keys {
            let survey = FromCoordinator::Survey {
                number: self.surveys,
                // A message holds a limited number of addresses.
                addresses: self.spread.addresses.iter().take(URLS_MAX).cloned().collect(),
                sessions: batch.batch_size,
            };
            self.send(*key, survey);
        }
        self.enter(Phase::Surveying { batch, round: Round::of(keys, now.mono + SURVEY_TIMEOUT), waited });
    }

    pub(super) fn on_surveyed(&mut self, now: Now, key: ConnectionId, number: u64, capacity: Capacity) {
        if number != self.surveys {
            return;
        }
        if let Some(agent) = self.agents.get_mut(&key) {
            agent.hello.capacity = capacity;
        }
        if let Phase::Surveying { round, .. } = &mut self.phase {
            round.answer(key, ());
            self.judge_survey(now);
        }
    }

    /// Ends the survey after the last answer or at the deadline. A silent agent keeps its last known capacity.
    pub(super) fn judge_survey(&mut self, now: Now) {
        let Phase::Surveying { batch, round, waited } = &self.phase else { return };
        if !round.all_answered() && now.mono < round.deadline {
            return;
        }
        let (batch, waited) = (*batch, *waited);
        let short = match self.placement_with(&batch, Clone::clone) {
            Ok(placement) => return self.prepare(now, batch, placement),
            Err(short) => short,
        };
        // A warm-up is skipped instead, because the first batch waits for the ports anyway.
        let worth_it = |pause: &Duration| waited + *pause <= PORTS_WAIT_MAX && !Self::is_warmup(&batch);
        if let Some(pause) = self.ports_come_back(&batch).filter(worth_it) {
            self.tell(RunEvent::WaitingForPorts { batch, pause, agents: short.agents });
            self.enter(Phase::PortsWait { batch, until: now.mono + pause, waited: waited + pause });
            return;
        }
        self.on_shortfall(now, batch, short);
    }

    /// The time after which the batch can run. `None` if more is missing than ports in TIME_WAIT.
    fn ports_come_back(&self, batch: &Batch) -> Option<Duration> {
        let back_us = self
            .agents
            .values()
            .filter(|agent| agent.is_ready() && agent.hello.capacity.ports_waiting > 0)
            .map(|agent| agent.hello.capacity.ports_back_us)
            .max()?;
        self.placement_after_wait(batch).ok()?;
        Some(Duration::from_micros(back_us) + PORTS_WAIT_MORE)
    }

    pub(super) fn is_warmup(batch: &Batch) -> bool {
        batch.index == AttemptId::WARMUP
    }

    /// Whether the run may start: the agents can carry every batch size, or batches that are too large may be skipped.
    pub(super) fn has_room_for_all(&mut self) -> bool {
        let mut sizes: Vec<u64> = self.setup.plan.grid.batch_sizes.clone();
        sizes.sort_unstable();
        // Ports in TIME_WAIT are considered before each batch.
        let sized = |batch_size| Batch { index: 0, mode: Mode::Ws, batch_size, wait_us: 0, repetition: 1 };
        let short = sizes.into_iter().find_map(|size| self.placement_after_wait(&sized(size)).err());
        match short {
            Some(short) if self.setup.plan.agents.on_shortfall == OnShortfall::Stop => {
                self.over(End::failed(Failure::TooFewAgents(short.to_string())));
                false
            }
            Some(short) => {
                self.tell(RunEvent::Note(format!("{short}\n  larger batches are skipped")));
                true
            }
            None => true,
        }
    }

    /// The placement under the assumption that every port in TIME_WAIT is free again.
    fn placement_after_wait(&self, batch: &Batch) -> Result<Placement, Box<Shortfall>> {
        self.placement_with(batch, |capacity| Capacity {
            ports_taken: capacity.ports_taken - capacity.ports_waiting,
            ports_waiting: 0,
            ..capacity.clone()
        })
    }

    /// Splits the batch over the ready agents. `view` adjusts their capacity.
    fn placement_with(&self, batch: &Batch, view: impl Fn(&Capacity) -> Capacity) -> Result<Placement, Box<Shortfall>> {
        let ready: Vec<(ConnectionId, &str, Capacity)> = self
            .agents
            .iter()
            .filter(|(_, agent)| agent.is_ready())
            .map(|(key, agent)| (*key, agent.name.as_str(), view(&agent.hello.capacity)))
            .collect();
        if ready.is_empty() {
            return Err(Box::new(Shortfall::nobody()));
        }
        let carriers: Vec<Carrier<'_>> = ready.iter().map(|(_, name, capacity)| Carrier { name, capacity }).collect();
        let open = matches!(self.setup.plan.session.launch, Launch::Arrivals { .. }) && !Self::is_warmup(batch);
        let shares = if open {
            split_arrivals(batch.batch_size, &carriers, &self.spread)
        } else {
            split(batch.batch_size, &carriers, &self.spread)
        };
        let shares = shares?;
        Ok(ready.into_iter().map(|(key, ..)| key).zip(shares).collect())
    }
}
