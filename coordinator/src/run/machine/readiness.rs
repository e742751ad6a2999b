//! Before the first batch: is the target there, and can the agents carry it?

use std::collections::BTreeMap;
use std::time::Duration;

use proto::message::{Probe, ProbeResult};
use proto::{Capacity, FromCoordinator, Launch, Mode, Target};

use super::{Effect, Machine, Now, PROBE_SLACK, Phase};
use crate::net::ConnectionId;
use crate::plan::OnShortfall;
use crate::plan::expand::Batch;
use crate::results::end::{End, Failure};
use crate::run::events::RunEvent;
use crate::run::share::{Carrier, Share, Spread, split, split_arrivals};

impl Machine {
    pub(super) fn probe(&mut self, now: Now) {
        let plan = &self.setup.plan;
        let mut names: Vec<String> = self.agents.values().map(|agent| agent.name.clone()).collect();
        names.sort();
        let threads = self.agents.values().map(|agent| u64::from(agent.hello.capacity.threads)).sum();
        // Agents of one pool draw from the same ports: each pool counts once.
        let pools: BTreeMap<&str, u64> = self
            .agents
            .values()
            .map(|agent| (agent.hello.capacity.port_pool.as_str(), agent.hello.capacity.ports))
            .collect();
        let ports = pools.values().copied().fold(0, u64::saturating_add);
        let deadline = Duration::from_micros(plan.target.ready_timeout_us);
        let probe = self.readiness_check();
        let keys: Vec<ConnectionId> = self.agents.keys().copied().collect();
        let clock_error_us = self.clock_error_us();
        self.tell(RunEvent::AgentsReady { names, threads, ports, clock_error_us });
        for key in keys {
            self.send(key, FromCoordinator::Probe(Box::new(probe.clone())));
        }
        self.phase = Phase::Probing { deadline: now.mono + deadline + PROBE_SLACK, results: BTreeMap::new() };
    }

    pub(super) fn readiness_check(&self) -> Probe {
        let plan = &self.setup.plan;
        Probe {
            plan_hash: self.plan_hash,
            target: self.target(),
            modes: plan.target.mode.list().to_vec(),
            deadline: Duration::from_micros(plan.target.ready_timeout_us),
            script: plan.script(0),
            sessions: 1,
        }
    }

    pub(super) fn target(&self) -> Target {
        Target { urls: self.setup.urls.clone(), ca_pem: self.setup.ca_pem.clone() }
    }

    pub(super) fn probed(&mut self, now: Now, key: ConnectionId, found: Vec<ProbeResult>) {
        if !self.agents.contains_key(&key) {
            return;
        }
        let Some(found) = self.rechecked(key, found) else { return };
        let Some(agent) = self.agents.get(&key) else { return };
        let Phase::Probing { results, .. } = &mut self.phase else { return self.joined_late(now, key, &found) };
        let waiting = found.iter().find(|result| !result.ready && !result.last_word);
        let problem = waiting.map(|result| format!("{} from {}: {}", result.url, agent.name, result.problem));
        results.insert(key, found);
        match problem {
            Some(problem) => self.tell(RunEvent::TargetNotReady { problem }),
            None => self.maybe_judged(now),
        }
    }

    /// Everyone who is there may have had the last word.
    pub(super) fn maybe_judged(&mut self, now: Now) {
        let Phase::Probing { results, .. } = &self.phase else { return };
        let known =
            |key: &ConnectionId| results.get(key).is_some_and(|found| found.iter().all(|result| result.last_word));
        if self.agents.keys().all(known) {
            self.target_judged(now);
        }
    }

    /// Every agent has had its last word on every url.
    pub(super) fn target_judged(&mut self, now: Now) {
        let Phase::Probing { results, .. } = &self.phase else { return };
        let (mut faults, mut warnings) = (Vec::new(), Vec::new());
        for (key, agent) in &self.agents {
            let found = results.get(key).map_or(&[][..], Vec::as_slice);
            let (not_ready, half) = judge(&self.setup.urls, &agent.name, found);
            faults.extend(not_ready);
            warnings.extend(half);
        }
        if !faults.is_empty() {
            let text = format!("the target is not ready:\n  {}", faults.join("\n  "));
            self.over(End::failed(Failure::TargetNotReady(text)));
            return;
        }
        let addresses: Vec<Vec<String>> = self
            .setup
            .urls
            .iter()
            .map(|url| {
                let mut all: Vec<String> = results
                    .values()
                    .flatten()
                    .filter(|result| result.url == *url)
                    .flat_map(|result| result.addresses.iter().cloned())
                    .collect();
                all.sort();
                all.dedup();
                if all.is_empty() { vec![url.clone()] } else { all }
            })
            .collect();
        self.spread = Spread::over(&addresses);
        self.worked = results.values().flatten().filter(|result| result.ready).map(|result| result.mode).collect();
        for agent in self.agents.values_mut() {
            agent.ready = !agent.leaving;
        }
        self.tell(RunEvent::TargetReady { warnings });
        if self.room_for_all() {
            self.next_batch(now);
        }
    }

    /// The readiness check of an agent that came while the run was on its way.
    fn joined_late(&mut self, now: Now, key: ConnectionId, found: &[ProbeResult]) {
        if found.is_empty() || found.iter().any(|result| !result.last_word) {
            return;
        }
        let Some(agent) = self.agents.get_mut(&key).filter(|agent| !agent.ready) else { return };
        let (faults, _) = judge(&self.setup.urls, &agent.name, found);
        if faults.is_empty() {
            agent.ready = !agent.leaving;
            return self.checked(now, key);
        }
        let why = format!("is not used, the target is not ready for it: {}", faults.join("; "));
        let name = agent.name.clone();
        self.agents.remove(&key);
        self.send(key, FromCoordinator::Dismiss(why.clone()));
        self.effects.push(Effect::Hangup(key));
        self.tell(RunEvent::AgentLeft { name, why });
        self.no_longer_asked(now, key);
    }

    /// Before the first batch: can every batch size be carried?
    pub(super) fn room_for_all(&mut self) -> bool {
        let mut sizes: Vec<u64> = self.setup.plan.grid.batch_sizes.clone();
        sizes.sort_unstable();
        // What is taken just now is looked at before each batch.
        let sized = |batch_size| Batch { index: 0, mode: Mode::Ws, batch_size, wait_us: 0, repetition: 1 };
        let short = sizes.into_iter().find_map(|size| self.shares_after_wait(&sized(size)).err());
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

    /// Who carries how much of a batch with what is free now.
    pub(super) fn shares(&self, batch: &Batch) -> Result<Vec<(ConnectionId, Share)>, String> {
        self.shares_with(batch, Clone::clone)
    }

    /// The same, if everything in TIME_WAIT were back.
    pub(super) fn shares_after_wait(&self, batch: &Batch) -> Result<Vec<(ConnectionId, Share)>, String> {
        self.shares_with(batch, |capacity| Capacity {
            ports_taken: capacity.ports_taken - capacity.ports_waiting,
            ports_waiting: 0,
            ..capacity.clone()
        })
    }

    fn shares_with(
        &self,
        batch: &Batch,
        view: impl Fn(&Capacity) -> Capacity,
    ) -> Result<Vec<(ConnectionId, Share)>, String> {
        let ready: Vec<(ConnectionId, &str, Capacity)> = self
            .agents
            .iter()
            .filter(|(_, agent)| agent.ready)
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

/// What keeps an agent from the target, and what only half works. Silence is not readiness.
pub(super) fn judge(urls: &[String], agent: &str, found: &[ProbeResult]) -> (Vec<String>, Vec<String>) {
    let (mut faults, mut warnings) = (Vec::new(), Vec::new());
    for url in urls {
        let of_url: Vec<&ProbeResult> = found.iter().filter(|result| result.url == *url).collect();
        if of_url.is_empty() {
            faults.push(format!("{url} from agent {agent}: no answer of the readiness check in time"));
        }
        let problems = of_url
            .iter()
            .filter(|result| !result.ready)
            .map(|result| format!("{url} ({}) from agent {agent}: {}", result.mode, result.problem));
        // With both modes asked for, one that works is enough: that the other does not is a finding.
        if of_url.iter().any(|result| result.ready) { &mut warnings } else { &mut faults }.extend(problems);
    }
    (faults, warnings)
}
