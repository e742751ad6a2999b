//! The readiness check: every agent checks that the target answers before it gets its first share.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::message::{Probe, ProbeResult};
use proto::{FromCoordinator, Target};

use super::agent::Standing;
use super::phase::Phase;
use super::round::Round;
use super::{Effect, Machine, Now};
use crate::net::ConnectionId;
use crate::results::end::{End, Failure};
use crate::run::events::RunEvent;
use crate::run::placement::Spread;

/// Time added to the deadline of the readiness check itself.
pub(super) const PROBE_SLACK: Duration = Duration::from_secs(15);

impl Machine {
    /// Starts the readiness check once enough agents are connected and their clocks are compared.
    pub(super) fn probe_if_all_there(&mut self, now: Now) {
        if self.agents.keys().filter(|key| self.is_compared(**key)).count() >= self.wanted() {
            self.probe(now);
        }
    }

    fn probe(&mut self, now: Now) {
        let plan = &self.setup.plan;
        let mut names: Vec<String> = self.agents.values().map(|agent| agent.name.clone()).collect();
        names.sort();
        let threads = self.agents.values().map(|agent| u64::from(agent.hello.capacity.threads)).sum();
        // Agents of one pool share its ports, so each pool counts once.
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
        for key in &keys {
            self.send(*key, FromCoordinator::Probe(Box::new(probe.clone())));
        }
        self.enter(Phase::Probing(Round::of(keys, now.mono + deadline + PROBE_SLACK)));
    }

    /// The readiness check: one session of the plan without its waits, for every URL and address.
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

    pub(super) fn on_probed(&mut self, now: Now, key: ConnectionId, found: Vec<ProbeResult>) {
        if !self.agents.contains_key(&key) {
            return;
        }
        let problem = self.still_waiting(key, &found);
        match &mut self.phase {
            Phase::Probing(round) => {
                round.answer(key, found);
                match problem {
                    Some(problem) => self.tell(RunEvent::TargetNotReady { problem }),
                    None => self.judge_target(now),
                }
            }
            Phase::Rechecking(check) if check.round.is_asked(key) => self.on_rechecked(key, found),
            _ => self.on_late_probe(now, key, &found),
        }
    }

    /// The present problem of an agent that is still trying. `None` if all its results are final.
    pub(super) fn still_waiting(&self, key: ConnectionId, found: &[ProbeResult]) -> Option<String> {
        let waiting = found.iter().find(|result| !result.ready && !result.last_word)?;
        Some(format!("{} from {}: {}", waiting.url, self.name_of(key), waiting.problem))
    }

    pub(super) fn judge_target(&mut self, now: Now) {
        if let Phase::Probing(round) = &self.phase
            && round.is_complete(|found| has_spoken(found))
        {
            self.end_probing(now);
        }
    }

    /// Evaluates the readiness check after the last answer or at the deadline.
    pub(super) fn end_probing(&mut self, now: Now) {
        let Phase::Probing(round) = &self.phase else { return };
        let (mut faults, mut warnings) = (Vec::new(), Vec::new());
        for (key, agent) in &self.agents {
            let found = round.answer_of(*key).map_or(&[][..], Vec::as_slice);
            let (not_ready, half) = not_ready(&self.setup.urls, &agent.name, found);
            faults.extend(not_ready);
            warnings.extend(half);
        }
        if !faults.is_empty() {
            let text = format!("the target is not ready:\n  {}", faults.join("\n  "));
            self.over(End::failed(Failure::TargetNotReady(text)));
            return;
        }
        let results: Vec<&ProbeResult> = round.answers().flatten().collect();
        self.spread = Spread::over(&addresses(&self.setup.urls, &results));
        self.worked = results.iter().filter(|result| result.ready).map(|result| result.mode).collect();
        for agent in self.agents.values_mut() {
            agent.admit();
        }
        self.tell(RunEvent::TargetReady { warnings });
        if self.has_room_for_all() {
            self.next_batch(now);
        }
    }

    /// Handles the readiness check of an agent that joined during the run.
    fn on_late_probe(&mut self, now: Now, key: ConnectionId, found: &[ProbeResult]) {
        if found.is_empty() || found.iter().any(|result| !result.last_word) {
            return;
        }
        let Some(agent) = self.agents.get_mut(&key).filter(|agent| agent.standing != Standing::Ready) else { return };
        let (faults, _) = not_ready(&self.setup.urls, &agent.name, found);
        if faults.is_empty() {
            agent.admit();
            return self.on_checked(now, key);
        }
        let why = format!("is not used, the target is not ready for it: {}", faults.join("; "));
        let name = agent.name.clone();
        self.agents.remove(&key);
        self.send(key, FromCoordinator::Dismiss(why.clone()));
        self.effects.push(Effect::Hangup(key));
        self.tell(RunEvent::AgentLeft { name, why });
        self.forget_in_round(now, key);
    }
}

/// Whether all results of an agent are final.
pub(super) fn has_spoken(found: &[ProbeResult]) -> bool {
    found.iter().all(|result| result.last_word)
}

/// The addresses of each URL, or the URL itself if no address is known.
fn addresses(urls: &[String], results: &[&ProbeResult]) -> Vec<Vec<String>> {
    let mut by_url: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for result in results {
        by_url.entry(&result.url).or_default().extend(result.addresses.iter().cloned());
    }
    urls.iter()
        .map(|url| {
            let mut all = by_url.remove(url.as_str()).unwrap_or_default();
            all.sort();
            all.dedup();
            if all.is_empty() { vec![url.clone()] } else { all }
        })
        .collect()
}

/// Returns faults, which make the target not ready, and warnings. A URL without an answer is a fault.
pub(super) fn not_ready(urls: &[String], agent: &str, found: &[ProbeResult]) -> (Vec<String>, Vec<String>) {
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
        // In a run of both modes one working mode is enough: the failure of the other is a finding.
        if of_url.iter().any(|result| result.ready) { &mut warnings } else { &mut faults }.extend(problems);
    }
    (faults, warnings)
}
