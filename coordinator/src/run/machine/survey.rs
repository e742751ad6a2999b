//! Between two batches: what can the agents carry just now? And before a start: how far apart are the clocks?

use std::collections::BTreeSet;
use std::time::Duration;

use proto::limits::URLS_MAX;
use proto::message::Pong;
use proto::{AttemptId, Capacity, FromCoordinator};

use super::{CHECK_TIMEOUT, Effect, Machine, Now, Phase, ROUNDS_MAX, ROUNDS_MIN, SURVEY_TIMEOUT, SYNC_TIMEOUT};
use crate::net::ConnectionId;
use crate::plan::OnShortfall;
use crate::plan::expand::Batch;
use crate::results::cells::Done;
use crate::results::end::{End, Failure};
use crate::run::clock::Offset;
use crate::run::events::RunEvent;

/// Longer than any kernel keeps a port in TIME_WAIT, twice over.
const PORTS_WAIT_MAX: Duration = Duration::from_secs(130);
/// The last of them may come back a little later than its clock said.
const PORTS_WAIT_MORE: Duration = Duration::from_millis(200);

impl Machine {
    // ---- clocks ----

    pub(super) fn ping(&mut self, now: Now, key: ConnectionId) {
        let Some(agent) = self.agents.get_mut(&key) else { return };
        let sequence = agent.rounds.ping(now.mono);
        self.send(key, FromCoordinator::Ping { sequence });
    }

    pub(super) fn pong(&mut self, now: Now, key: ConnectionId, pong: Pong) {
        let Some(agent) = self.agents.get_mut(&key) else { return };
        if !agent.rounds.pong(now.mono, pong.sequence, pong.agent_us) {
            return;
        }
        if !self.compared(key) {
            return self.ping(now, key);
        }
        match &self.phase {
            Phase::Gathering { .. } => self.maybe_probe(now),
            Phase::Preparing(current) if current.syncing => self.maybe_go(now),
            _ => {}
        }
    }

    /// Whether more rounds would tell nothing new.
    pub(super) fn compared(&self, key: ConnectionId) -> bool {
        let Some(agent) = self.agents.get(&key) else { return true };
        let good = self.setup.plan.measure.max_clock_error_us / 2;
        let rounds = agent.rounds.count();
        let enough = || agent.rounds.estimate().is_some_and(|offset| offset.error_us <= good);
        rounds >= ROUNDS_MAX || (rounds >= ROUNDS_MIN && enough())
    }

    pub(super) fn offset(&self, key: ConnectionId) -> Option<Offset> {
        self.agents.get(&key)?.rounds.estimate()
    }

    /// The worst of all agents' bounds.
    pub(super) fn clock_error_us(&self) -> Option<u64> {
        self.agents.keys().filter_map(|key| self.offset(*key)).map(|offset| offset.error_us).max()
    }

    /// All agents of the attempt are armed and idle: the best moment to compare clocks.
    pub(super) fn compare_clocks(&mut self, now: Now) {
        let Phase::Preparing(current) = &mut self.phase else { return };
        current.syncing = true;
        current.deadline = Some(now.mono + SYNC_TIMEOUT);
        let keys: Vec<ConnectionId> = current.parts.iter().map(|(key, _)| *key).collect();
        for key in keys {
            if let Some(agent) = self.agents.get_mut(&key) {
                agent.rounds.again();
            }
            self.ping(now, key);
        }
    }

    // ---- capacity ----

    /// Before every attempt: who came meanwhile, and what can be carried?
    pub(super) fn survey(&mut self, now: Now, batch: Batch, waited: Duration) {
        let came: BTreeSet<ConnectionId> = self
            .agents
            .iter()
            .filter(|(_, agent)| !agent.ready && !agent.leaving && !agent.waited_for)
            .map(|(key, _)| *key)
            .collect();
        if came.is_empty() {
            return self.survey_ready(now, batch, waited);
        }
        for key in &came {
            if let Some(agent) = self.agents.get_mut(key) {
                // Once: a target that is never ready for it shall not hold up every batch.
                agent.waited_for = true;
            }
            self.check(*key);
        }
        self.phase = Phase::Checking { batch, waiting: came, deadline: now.mono + CHECK_TIMEOUT };
    }

    /// Of those who came meanwhile, one is known.
    pub(super) fn checked(&mut self, now: Now, key: ConnectionId) {
        match &mut self.phase {
            Phase::Checking { batch, waiting, .. } => {
                waiting.remove(&key);
                if waiting.is_empty() {
                    let batch = *batch;
                    self.survey_ready(now, batch, Duration::ZERO);
                }
            }
            Phase::Awaiting { batch, .. } => {
                let batch = *batch;
                self.survey(now, batch, Duration::ZERO);
            }
            _ => {}
        }
    }

    /// Whether it is worth waiting for more agents: some are missing, not all of them were this process's children, and
    /// since the last one came nobody was waited for in vain.
    pub(super) fn others_may_come(&self, now: Now) -> bool {
        let agents = &self.setup.plan.agents;
        let ready = self.agents.values().filter(|agent| agent.ready).count();
        let in_vain = self.await_until.is_some_and(|until| now.mono >= until);
        agents.local < agents.count && ready < self.wanted() && !in_vain
    }

    /// Too few agents are left to carry the batch.
    pub(super) fn fell_short(&mut self, now: Now, batch: Batch, short: String) {
        if self.others_may_come(now) {
            let patience = Duration::from_micros(self.setup.plan.agents.ready_timeout_us);
            let until = *self.await_until.get_or_insert(now.mono + patience);
            let pause = until.saturating_sub(now.mono);
            self.tell(RunEvent::WaitingForAgents { batch, pause, why: short.clone() });
            self.phase = Phase::Awaiting { batch, deadline: until, short };
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

    pub(super) fn survey_ready(&mut self, now: Now, batch: Batch, waited: Duration) {
        self.surveys += 1;
        let keys: BTreeSet<ConnectionId> =
            self.agents.iter().filter(|(_, agent)| agent.ready).map(|(key, _)| *key).collect();
        if keys.is_empty() {
            let text = "no agent is left; start agents, or run again with more of them".to_owned();
            return self.fell_short(now, batch, text);
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
        self.phase = Phase::Surveying { batch, asked: keys, deadline: now.mono + SURVEY_TIMEOUT, waited };
    }

    pub(super) fn capacity(&mut self, now: Now, key: ConnectionId, number: u64, capacity: Capacity) {
        let current = number == self.surveys;
        if let Some(agent) = self.agents.get_mut(&key).filter(|_| current) {
            agent.hello.capacity = capacity;
        }
        if let Phase::Surveying { asked, .. } = &mut self.phase
            && current
        {
            asked.remove(&key);
            self.maybe_surveyed(now);
        }
    }

    /// Whoever has not answered by the deadline is taken to be as it was.
    pub(super) fn maybe_surveyed(&mut self, now: Now) {
        let Phase::Surveying { batch, asked, deadline, waited } = &self.phase else { return };
        if !asked.is_empty() && now.mono < *deadline {
            return;
        }
        let (batch, waited) = (*batch, *waited);
        let short = match self.shares(&batch) {
            Ok(_) => return self.prepare(now, batch),
            Err(short) => short,
        };
        // The first batch will wait long enough.
        let worth_it = |pause: &Duration| waited + *pause <= PORTS_WAIT_MAX && !Self::is_warmup(&batch);
        if let Some(pause) = self.ports_come_back(&batch).filter(worth_it) {
            self.tell(RunEvent::WaitingForPorts { batch, pause, why: short });
            self.phase = Phase::PortsWait { batch, until: now.mono + pause, waited: waited + pause };
            return;
        }
        self.fell_short(now, batch, short);
    }

    pub(super) fn skip(&mut self, batch: Batch, why: String) {
        let place = self.place();
        self.tell(RunEvent::BatchSkipped { place, batch, why: why.clone() });
        self.decide(Done::Skipped { batch, why });
        self.begin_next();
    }

    /// On to the batch after this one; attempts at it in an earlier life of the run count on.
    pub(super) fn begin_next(&mut self) {
        self.next += 1;
        self.outages = 0;
        let index = self.batches.get(self.next).map(|batch| batch.index);
        self.refused = index.and_then(|index| self.setup.history.told.get(&index)).cloned().unwrap_or_default();
        self.attempt = self.first_attempt();
    }

    /// Of the batch that is next.
    pub(super) fn first_attempt(&self) -> u32 {
        let index = self.batches.get(self.next).map(|batch| batch.index);
        1 + index.and_then(|index| self.setup.history.refused.get(&index)).copied().unwrap_or(0)
    }

    /// How long to wait, if ports in TIME_WAIT are all that is missing.
    fn ports_come_back(&self, batch: &Batch) -> Option<Duration> {
        let back_us = self
            .agents
            .values()
            .filter(|agent| agent.ready && agent.hello.capacity.ports_waiting > 0)
            .map(|agent| agent.hello.capacity.ports_back_us)
            .max()?;
        self.shares_after_wait(batch).ok()?;
        Some(Duration::from_micros(back_us) + PORTS_WAIT_MORE)
    }

    /// An agent is gone that a survey, or a comparison of clocks, may be waiting for.
    pub(super) fn no_longer_asked(&mut self, now: Now, key: ConnectionId) {
        match &mut self.phase {
            Phase::Surveying { asked, .. } => {
                asked.remove(&key);
                self.maybe_surveyed(now);
            }
            _ => self.checked(now, key),
        }
    }

    /// Those of the attempt that never answered a ping can't be told when to start.
    pub(super) fn sync_timed_out(&mut self, now: Now) {
        let Phase::Preparing(current) = &self.phase else { return };
        let keys: Vec<ConnectionId> = current.parts.iter().map(|(key, _)| *key).collect();
        let silent: Vec<ConnectionId> = keys.into_iter().filter(|key| self.offset(*key).is_none()).collect();
        if silent.is_empty() {
            return self.go(now);
        }
        for key in silent {
            self.effects.push(Effect::Hangup(key));
            self.left(now, key, &format!("answered no ping within {} s", SYNC_TIMEOUT.as_secs()));
        }
    }

    pub(super) fn is_warmup(batch: &Batch) -> bool {
        batch.index == AttemptId::WARMUP
    }
}
