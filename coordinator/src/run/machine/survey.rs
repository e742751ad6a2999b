//! Before every batch: which agents are there, and what can they carry just now?

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
use crate::run::placement::{Allotment, Carrier, split, split_arrivals};

/// How long agents may take to look at what they can carry.
const SURVEY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the readiness check of agents that came late may hold a batch up.
const CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than any kernel keeps a port in TIME_WAIT, twice over.
const PORTS_WAIT_MAX: Duration = Duration::from_secs(130);
/// The last of them may come back a little later than its clock said.
const PORTS_WAIT_MORE: Duration = Duration::from_millis(200);

/// Who carries how much of a batch.
type Placement = Vec<(ConnectionId, Allotment)>;

impl Machine {
    /// Agents that came late are waited for, once; then all are asked what they can carry.
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
                // Once: a target that is never ready for this agent must not hold up every batch.
                agent.standing = Standing::WaitedFor;
            }
        }
        self.enter(Phase::Checking { batch, round: Round::of(came, now.mono + CHECK_TIMEOUT) });
    }

    /// The target has answered an agent that came late.
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

    /// An agent is gone that a round before the batch may be waiting for.
    pub(super) fn forget_in_round(&mut self, now: Now, key: ConnectionId) {
        match &mut self.phase {
            Phase::Surveying { round, .. } => {
                round.forget(key);
                self.judge_survey(now);
            }
            _ => self.on_checked(now, key),
        }
    }

    /// Whether to wait for more agents: some are missing, not all of them were this process's children, and since the last
    /// one came none was waited for in vain.
    fn others_may_come(&self, now: Now) -> bool {
        let agents = &self.setup.plan.agents;
        let in_vain = self.await_until.is_some_and(|until| now.mono >= until);
        agents.local < agents.count && self.ready_agents().len() < self.wanted() && !in_vain
    }

    /// Too few agents are left to carry the batch.
    pub(super) fn on_shortfall(&mut self, now: Now, batch: Batch, short: String) {
        if self.others_may_come(now) {
            let patience = Duration::from_micros(self.setup.plan.agents.ready_timeout_us);
            let until = *self.await_until.get_or_insert(now.mono + patience);
            let pause = until.saturating_sub(now.mono);
            self.tell(RunEvent::WaitingForAgents { batch, pause, why: short.clone() });
            self.enter(Phase::Awaiting { batch, deadline: until, short });
        } else if Self::is_warmup(&batch) && !self.agents.is_empty() {
            // The batches themselves will show what can be carried.
            self.warmed_up = true;
            self.next_batch(now);
        } else if self.setup.plan.agents.on_shortfall == OnShortfall::Stop || self.agents.is_empty() {
            self.over(End::failed(Failure::TooFewAgents(short)));
        } else {
            self.skip(batch, "the agents can't carry it (agents.on_shortfall)".to_owned());
            self.next_batch(now);
        }
    }

    pub(super) fn survey(&mut self, now: Now, batch: Batch, waited: Duration) {
        self.surveys += 1;
        let keys = self.ready_agents();
        if keys.is_empty() {
            let text = "no agent is left; start agents, or run again with more of them".to_owned();
            return self.on_shortfall(now, batch, text);
        }
        for key in &keys {
            let survey = FromCoordinator::Survey {
                number: self.surveys,
                // Of very many destinations, as many as a message holds.
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

    /// Goes on if every agent has answered, or the time is over: an agent that has not answered is taken to be as it was.
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
        // After a warm-up that is skipped, the first batch waits long enough.
        let worth_it = |pause: &Duration| waited + *pause <= PORTS_WAIT_MAX && !Self::is_warmup(&batch);
        if let Some(pause) = self.ports_come_back(&batch).filter(worth_it) {
            self.tell(RunEvent::WaitingForPorts { batch, pause, why: short });
            self.enter(Phase::PortsWait { batch, until: now.mono + pause, waited: waited + pause });
            return;
        }
        self.on_shortfall(now, batch, short);
    }

    /// How long to wait if only ports in TIME_WAIT are missing.
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

    /// Before the first batch: can every batch size be carried?
    pub(super) fn has_room_for_all(&mut self) -> bool {
        let mut sizes: Vec<u64> = self.setup.plan.grid.batch_sizes.clone();
        sizes.sort_unstable();
        // What is taken just now is looked at before each batch.
        let sized = |batch_size| Batch { index: 0, mode: Mode::Ws, batch_size, wait_us: 0, repetition: 1 };
        let short = sizes.into_iter().find_map(|size| self.placement_after_wait(&sized(size)).err());
        match short {
            Some(short) if self.setup.plan.agents.on_shortfall == OnShortfall::Stop => {
                self.over(End::failed(Failure::TooFewAgents(short)));
                false
            }
            Some(short) => {
                self.tell(RunEvent::Note(format!("{short}\n  larger batches are skipped")));
                true
            }
            None => true,
        }
    }

    /// The placement if every port in TIME_WAIT were free again.
    fn placement_after_wait(&self, batch: &Batch) -> Result<Placement, String> {
        self.placement_with(batch, |capacity| Capacity {
            ports_taken: capacity.ports_taken - capacity.ports_waiting,
            ports_waiting: 0,
            ..capacity.clone()
        })
    }

    /// Splits the batch over the agents that are ready, with their capacity as `view` sees it.
    fn placement_with(&self, batch: &Batch, view: impl Fn(&Capacity) -> Capacity) -> Result<Placement, String> {
        let ready: Vec<(ConnectionId, &str, Capacity)> = self
            .agents
            .iter()
            .filter(|(_, agent)| agent.is_ready())
            .map(|(key, agent)| (*key, agent.name.as_str(), view(&agent.hello.capacity)))
            .collect();
        if ready.is_empty() {
            return Err("no agent is left; start agents, or run again with more of them".to_owned());
        }
        let carriers: Vec<Carrier<'_>> = ready.iter().map(|(_, name, capacity)| Carrier { name, capacity }).collect();
        let open = matches!(self.setup.plan.session.launch, Launch::Arrivals { .. }) && !Self::is_warmup(batch);
        let shares = if open {
            split_arrivals(batch.batch_size, &carriers, &self.spread)
        } else {
            split(batch.batch_size, &carriers, &self.spread)
        };
        let shares = shares.map_err(|short| short.explanation)?;
        Ok(ready.into_iter().map(|(key, ..)| key).zip(shares).collect())
    }
}
