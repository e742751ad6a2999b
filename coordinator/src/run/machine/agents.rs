//! Agents come and go.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::message::{Hello, Refused, RefusedWhy, Welcome};
use proto::{AttemptId, FromCoordinator};

use super::{Agent, Effect, Machine, Now, Phase};
use crate::net::ConnectionId;
use crate::plan::OnLoss;
use crate::results::end::{End, Failure};
use crate::run::clock::Rounds;
use crate::run::events::RunEvent;

impl Machine {
    pub(super) fn joined(&mut self, now: Now, key: ConnectionId, hello: Hello) {
        if let Some(refused) = self.refuse(&hello) {
            self.tell(RunEvent::AgentRefused { name: hello.name, why: refused.message.clone() });
            self.send(key, FromCoordinator::Refused(refused));
            self.effects.push(Effect::Hangup(key));
            return;
        }
        // The same process on a new connection: the old one is dead, whether we have heard of it or not.
        let old = self.agents.iter().find(|(_, agent)| agent.hello.instance == hello.instance).map(|(key, _)| *key);
        if let Some(old) = old {
            self.effects.push(Effect::Hangup(old));
            self.left(now, old, "came back on a new connection");
        }
        let name = self.free_name(&hello);
        self.send(
            key,
            FromCoordinator::Welcome(Welcome {
                run: self.setup.run,
                plan_hash: self.plan_hash,
                name: name.clone(),
                lease: Duration::from_micros(self.setup.plan.agents.lease_us),
            }),
        );
        self.known.insert(name.clone(), hello.clone());
        let (rounds, instance, holding) = (Rounds::default(), hello.instance, hello.holding);
        let agent = Agent {
            name: name.clone(),
            hello,
            last_seen: now.mono,
            ready: false,
            checking: false,
            waited_for: false,
            leaving: false,
            rounds,
        };
        self.agents.insert(key, agent);
        // Whoever was waited for in vain may come after all.
        if !matches!(self.phase, Phase::Awaiting { .. }) {
            self.await_until = None;
        }
        self.ping(now, key);
        let wanted = self.wanted();
        self.tell(RunEvent::AgentJoined { name, ready: self.agents.len(), wanted });
        self.came_back(now, key, instance, holding);
        // Whoever comes later gets a share when it has shown that the target answers it too; while sessions run, its check
        // would be one session more.
        match &mut self.phase {
            // The last answer to a ping begins the readiness check.
            Phase::Gathering { .. } | Phase::Preparing(_) | Phase::Running(_) | Phase::Over => {}
            Phase::Checking { waiting, .. } => {
                waiting.insert(key);
                self.check(key);
            }
            _ => self.check(key),
        }
    }

    /// Asks whether the target is ready for one that came late.
    pub(super) fn check(&mut self, key: ConnectionId) {
        let probe = self.readiness_check();
        if let Some(agent) = self.agents.get_mut(&key).filter(|agent| !agent.checking) {
            agent.checking = true;
            self.send(key, FromCoordinator::Probe(Box::new(probe)));
        }
    }

    /// It may hold what the running attempt is waiting for.
    fn came_back(&mut self, now: Now, key: ConnectionId, instance: [u8; 16], holding: Option<AttemptId>) {
        let lease = Duration::from_micros(self.setup.plan.agents.lease_us);
        let mut wanted = None;
        if let Phase::Running(current) = &mut self.phase
            && let Some((owner, part)) = current
                .parts
                .iter_mut()
                .find(|(owner, part)| part.away_until.is_some() && self.away.get(owner) == Some(&instance))
        {
            if holding == Some(current.id) {
                self.away.remove(owner);
                *owner = key;
                part.away_until = None;
                part.heard(now.mono, lease);
                wanted = Some(part.missing(current.id));
            } else {
                part.lose("came back without what it had measured");
            }
        }
        match (wanted, holding) {
            (Some(missing), _) => self.send(key, FromCoordinator::Resend(missing)),
            (None, Some(attempt)) => {
                // Nobody waits for it any more.
                self.send(key, FromCoordinator::Stored(attempt));
                self.lost_one(now);
            }
            (None, None) => self.lost_one(now),
        }
    }

    /// Signs of life from the connections that are for nothing else.
    pub(super) fn alive(&mut self, seen: &[([u8; 16], Duration)]) {
        let seen: BTreeMap<&[u8; 16], Duration> = seen.iter().map(|(instance, at)| (instance, *at)).collect();
        for agent in self.agents.values_mut() {
            if let Some(at) = seen.get(&agent.hello.instance) {
                agent.last_seen = agent.last_seen.max(*at);
            }
        }
    }

    /// It was told to end: its sessions are cut, what there is of them is on its way.
    pub(super) fn leaving(&mut self, now: Now, key: ConnectionId, why: &str) {
        let Some(agent) = self.agents.get_mut(&key) else { return };
        (agent.leaving, agent.ready) = (true, false);
        let name = agent.name.clone();
        self.tell(RunEvent::AgentLeft { name, why: format!("is leaving: {why}") });
        if let Phase::Running(current) = &mut self.phase
            && let Some((_, part)) = current.parts.iter_mut().find(|(owner, _)| *owner == key)
        {
            part.leaves(&format!("left: {why}"));
            self.lost_one(now);
        }
    }

    /// Enough agents are there whose clocks are known.
    pub(super) fn maybe_probe(&mut self, now: Now) {
        if self.agents.keys().filter(|key| self.compared(**key)).count() >= self.wanted() {
            self.probe(now);
        }
    }

    pub(super) fn wanted(&self) -> usize {
        self.setup.plan.agents.count as usize
    }

    pub(super) fn refuse(&self, hello: &Hello) -> Option<Refused> {
        if hello.protocol != proto::PROTOCOL || hello.version != proto::VERSION {
            return Some(Refused {
                why: RefusedWhy::Version,
                message: format!(
                    "agent {} is version {} (protocol {}), this coordinator is version {} (protocol {}); install the same \
                     version on both",
                    hello.name,
                    hello.version,
                    hello.protocol,
                    proto::VERSION,
                    proto::PROTOCOL
                ),
            });
        }
        if let Some(hash) = hello.plan_hash.filter(|hash| *hash != self.plan_hash) {
            return Some(Refused {
                why: RefusedWhy::Plan,
                message: format!(
                    "agent {} belongs to a run of plan {}, this is plan {}; start the agent again for this run",
                    hello.name,
                    hash.short(),
                    self.plan_hash.short()
                ),
            });
        }
        if self.agents.len() >= proto::limits::AGENTS_MAX {
            return Some(Refused {
                why: RefusedWhy::Full,
                message: format!(
                    "{} agents are connected already; this is the most that one run takes",
                    self.agents.len()
                ),
            });
        }
        None
    }

    /// Its own name; with a number if another agent that is connected has it.
    pub(super) fn free_name(&self, hello: &Hello) -> String {
        let taken = |name: &str| self.agents.values().any(|agent| agent.name == name);
        if !taken(&hello.name) {
            return hello.name.clone();
        }
        (2_u64..).map(|n| format!("{}-{n}", hello.name)).find(|name| !taken(name)).unwrap_or_default()
    }

    pub(super) fn left(&mut self, now: Now, key: ConnectionId, why: &str) {
        let Some(agent) = self.agents.remove(&key) else { return };
        if !matches!(self.phase, Phase::Awaiting { .. }) {
            self.await_until = None;
        }
        if !agent.leaving {
            self.tell(RunEvent::AgentLeft { name: agent.name.clone(), why: why.to_owned() });
        }
        match &mut self.phase {
            Phase::Probing { .. } => {
                if self.agents.len() >= self.wanted() {
                    // It was one more than wanted; the others may all have had their last word.
                    self.maybe_judged(now);
                    return;
                }
                // Whoever is missing may come back, but not for ever: one that comes and goes keeps no run from its end.
                let patience = Duration::from_micros(self.setup.plan.agents.ready_timeout_us);
                self.phase = Phase::Gathering { deadline: (now.mono + patience).min(2 * patience) };
                self.due(now);
            }
            Phase::Surveying { .. } | Phase::Checking { .. } => self.no_longer_asked(now, key),
            Phase::Rechecking(_) => self.recheck_without(key),
            Phase::Preparing(current) => {
                if let Some((_, part)) = current.parts.iter_mut().find(|(owner, _)| *owner == key) {
                    part.lose(why);
                    self.lost_one(now);
                }
            }
            Phase::Running(current) => {
                let lease = Duration::from_micros(self.setup.plan.agents.lease_us);
                let Some((_, part)) = current.parts.iter_mut().find(|(owner, _)| *owner == key) else { return };
                if part.uploading() && !part.is_leaving() {
                    // Its sessions are over and it keeps what they gave: it may come back with the rest.
                    part.away_until = Some(now.mono + lease);
                    self.away.insert(key, agent.hello.instance);
                } else {
                    part.lose(why);
                    self.lost_one(now);
                }
            }
            Phase::Gathering { .. }
            | Phase::Awaiting { .. }
            | Phase::PortsWait { .. }
            | Phase::Storing { .. }
            | Phase::Cooling { .. }
            | Phase::Over => {}
        }
    }

    /// While agents are awaited, one that can't come need not be awaited; later its loss speaks for itself.
    pub(super) fn child_ended(&mut self, what: String) {
        if matches!(self.phase, Phase::Gathering { .. }) {
            self.over(End::failed(Failure::TooFewAgents(format!("{what} before the run began; its message is above"))));
        } else {
            self.tell(RunEvent::Note(what));
        }
    }

    /// An agent of the running attempt is gone.
    pub(super) fn lost_one(&mut self, now: Now) {
        let on_loss = self.setup.plan.agents.on_loss;
        let running = matches!(self.phase, Phase::Running(_));
        let (Phase::Preparing(current) | Phase::Running(current)) = &mut self.phase else { return };
        if !current.parts.iter().any(|(_, part)| part.is_lost()) {
            return;
        }
        if on_loss == OnLoss::Abort {
            self.aborted = true;
        }
        // An attempt that has not begun costs nothing to begin again; one that has may be kept, lost part and all.
        if !running || on_loss != OnLoss::Keep {
            self.cut(now, "an agent was lost");
        }
        self.maybe_complete(now);
    }
}
