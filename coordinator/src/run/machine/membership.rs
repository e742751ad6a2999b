//! Handles agents that join, send heartbeats, reconnect and leave.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::message::{Hello, Refused, RefusedWhy, Welcome};
use proto::{AttemptId, FromCoordinator};

use super::agent::{Agent, Standing};
use super::phase::Phase;
use super::stop::StopReason;
use super::{Effect, Machine, Now};
use crate::net::ConnectionId;
use crate::plan::OnLoss;
use crate::results::end::{End, Failure};
use crate::run::clock::Rounds;
use crate::run::events::RunEvent;
use crate::run::upload::ShareProgress;

impl Machine {
    pub(super) fn on_joined(&mut self, now: Now, key: ConnectionId, hello: Hello) {
        if let Some(refused) = self.refuse(&hello) {
            self.tell(RunEvent::AgentRefused { name: hello.name, why: refused.message.clone() });
            self.send(key, FromCoordinator::Refused(refused));
            self.effects.push(Effect::Hangup(key));
            return;
        }
        // A process that opens a new connection has lost its old one, even if the loss was not noticed.
        let old = self.agents.iter().find(|(_, agent)| agent.hello.instance == hello.instance).map(|(key, _)| *key);
        if let Some(old) = old {
            self.hang_up(now, old, "came back on a new connection");
        }
        let name = self.free_name(&hello);
        self.send(
            key,
            FromCoordinator::Welcome(Welcome {
                run: self.setup.run,
                plan_hash: self.plan_hash,
                name: name.clone(),
                lease: self.lease(),
            }),
        );
        self.known.insert(name.clone(), hello.clone());
        let (instance, holding) = (hello.instance, hello.holding);
        let agent = Agent {
            name: name.clone(),
            hello,
            last_seen: now.mono,
            standing: Standing::New,
            rounds: Rounds::default(),
        };
        self.agents.insert(key, agent);
        // Other missing agents may join too, so the next shortfall starts a new wait.
        if !matches!(self.phase, Phase::Awaiting { .. }) {
            self.await_until = None;
        }
        self.ping(now, key);
        let wanted = self.wanted();
        self.tell(RunEvent::AgentJoined { name, ready: self.agents.len(), wanted });
        self.on_reconnect(now, key, instance, holding);
        // A late agent gets a share once the target has answered it. It is not checked while sessions run, because the
        // check would add a session to the load.
        match &mut self.phase {
            // In Gathering, the readiness check begins after the last answer to a ping.
            Phase::Gathering { .. } | Phase::Arming(..) | Phase::Syncing(..) | Phase::Running(_) | Phase::Over => {}
            Phase::Probing(round) => {
                round.ask(key);
                self.check(key);
            }
            Phase::Checking { round, .. } => {
                round.ask(key);
                self.check(key);
            }
            _ => self.check(key),
        }
    }

    /// Asks a late agent to run the readiness check, unless it was asked before.
    pub(super) fn check(&mut self, key: ConnectionId) {
        let probe = self.readiness_check();
        if let Some(agent) = self.agents.get_mut(&key).filter(|agent| agent.standing == Standing::New) {
            agent.standing = Standing::Asked;
            self.send(key, FromCoordinator::Probe(Box::new(probe)));
        }
    }

    /// Resumes the upload of a process that has reconnected, if it still holds the results of its share.
    fn on_reconnect(&mut self, now: Now, key: ConnectionId, process: [u8; 16], holding: Option<AttemptId>) {
        let lease = self.lease();
        let is_its =
            |progress: &ShareProgress| matches!(progress, ShareProgress::Away { instance, .. } if *instance == process);
        let mut wanted = None;
        if let Phase::Running(attempt) = &mut self.phase
            && let Some((owner, share)) = attempt.shares.iter_mut().find(|(_, share)| is_its(&share.progress))
        {
            if holding == Some(attempt.id) {
                *owner = key;
                share.progress = ShareProgress::Open;
                share.heard(now.mono, lease);
                wanted = Some(share.missing(attempt.id));
            } else {
                share.lose("came back without what it had measured");
            }
        }
        match (wanted, holding) {
            (Some(missing), _) => self.send(key, FromCoordinator::Resend(missing)),
            (None, Some(attempt)) => {
                // The results are no longer needed, so the agent may delete them.
                self.send(key, FromCoordinator::Stored(attempt));
                self.on_agent_lost(now);
            }
            (None, None) => self.on_agent_lost(now),
        }
    }

    /// Takes note of heartbeats, which use a separate connection.
    pub(super) fn on_heartbeats(&mut self, seen: &[([u8; 16], Duration)]) {
        let seen: BTreeMap<&[u8; 16], Duration> = seen.iter().map(|(instance, at)| (instance, *at)).collect();
        for agent in self.agents.values_mut() {
            if let Some(at) = seen.get(&agent.hello.instance) {
                agent.last_seen = agent.last_seen.max(*at);
            }
        }
    }

    /// Restarts all leases: this process was suspended and could not receive heartbeats.
    pub(super) fn on_held_up(&mut self, now: Now) {
        for agent in self.agents.values_mut() {
            agent.last_seen = now.mono;
        }
        let lease = self.lease();
        if let Phase::Running(attempt) = &mut self.phase {
            for (_, share) in &mut attempt.shares {
                if let ShareProgress::Away { until, .. } = &mut share.progress {
                    *until = now.mono + lease;
                }
            }
        }
    }

    pub(super) fn check_leases(&mut self, now: Now) {
        let lease = self.lease();
        let silent: Vec<ConnectionId> =
            self.agents.iter().filter(|(_, agent)| now.mono >= agent.last_seen + lease).map(|(key, _)| *key).collect();
        for key in silent {
            self.hang_up(now, key, &format!("was silent for {} s", lease.as_secs_f64()));
        }
    }

    /// Marks an agent that is shutting down. It has cut its sessions and is uploading their results.
    pub(super) fn on_leaving(&mut self, now: Now, key: ConnectionId, why: &str) {
        let Some(agent) = self.agents.get_mut(&key) else { return };
        agent.standing = Standing::Leaving;
        let name = agent.name.clone();
        self.tell(RunEvent::AgentLeft { name, why: format!("is leaving: {why}") });
        if let Phase::Running(attempt) = &mut self.phase
            && let Some(share) = attempt.share_mut(key)
        {
            share.leave(&format!("left: {why}"));
            self.on_agent_lost(now);
        }
    }

    pub(super) fn wanted(&self) -> usize {
        self.setup.plan.agents.count as usize
    }

    /// The name of an agent, or an empty string if it is not connected.
    pub(super) fn name_of(&self, key: ConnectionId) -> &str {
        self.agents.get(&key).map_or("", |agent| agent.name.as_str())
    }

    pub(super) fn ready_agents(&self) -> Vec<ConnectionId> {
        self.agents.iter().filter(|(_, agent)| agent.is_ready()).map(|(key, _)| *key).collect()
    }

    fn refuse(&self, hello: &Hello) -> Option<Refused> {
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

    /// The requested name, with a number added if another connected agent uses it.
    fn free_name(&self, hello: &Hello) -> String {
        let taken = |name: &str| self.agents.values().any(|agent| agent.name == name);
        if !taken(&hello.name) {
            return hello.name.clone();
        }
        (2_u64..).map(|n| format!("{}-{n}", hello.name)).find(|name| !taken(name)).unwrap_or_default()
    }

    /// Sends an agent the reason for its dismissal and closes the connection.
    pub(super) fn dismiss(&mut self, now: Now, key: ConnectionId, why: &str) {
        self.send(key, FromCoordinator::Dismiss(why.to_owned()));
        self.hang_up(now, key, why);
    }

    pub(super) fn hang_up(&mut self, now: Now, key: ConnectionId, why: &str) {
        self.effects.push(Effect::Hangup(key));
        self.on_left(now, key, why);
    }

    /// Removes an agent whose connection is closed.
    pub(super) fn on_left(&mut self, now: Now, key: ConnectionId, why: &str) {
        let Some(agent) = self.agents.remove(&key) else { return };
        if !matches!(self.phase, Phase::Awaiting { .. }) {
            self.await_until = None;
        }
        if agent.standing != Standing::Leaving {
            self.tell(RunEvent::AgentLeft { name: agent.name.clone(), why: why.to_owned() });
        }
        let until = now.mono + self.lease();
        match &mut self.phase {
            Phase::Probing(round) => {
                round.forget(key);
                if self.agents.len() >= self.wanted() {
                    // Enough agents are left, and all of them may have given their last answer.
                    self.judge_target(now);
                    return;
                }
                // The cap prevents an agent that keeps reconnecting from delaying the run for ever.
                let patience = Duration::from_micros(self.setup.plan.agents.ready_timeout_us);
                self.enter(Phase::Gathering { deadline: (now.mono + patience).min(2 * patience) });
                self.on_deadline(now);
            }
            Phase::Surveying { .. } | Phase::Checking { .. } => self.forget_in_round(now, key),
            Phase::Rechecking(check) => {
                check.round.forget(key);
                self.judge_recheck();
            }
            Phase::Arming(attempt, _) | Phase::Syncing(attempt, _) => {
                if let Some(share) = attempt.share_mut(key) {
                    share.lose(why);
                    self.on_agent_lost(now);
                }
            }
            Phase::Running(attempt) => {
                let Some(share) = attempt.share_mut(key) else { return };
                if share.is_uploading() && !share.is_leaving() {
                    // The agent's sessions are over and it keeps the results, so it may reconnect and send the rest.
                    share.progress = ShareProgress::Away { instance: agent.hello.instance, until };
                } else {
                    share.lose(why);
                    self.on_agent_lost(now);
                }
            }
            _ => {}
        }
    }

    /// Ends the run if a child process ends during Gathering. Later, its closed connection reveals the loss.
    pub(super) fn on_child_ended(&mut self, what: String) {
        if matches!(self.phase, Phase::Gathering { .. }) {
            self.over(End::failed(Failure::TooFewAgents(format!("{what} before the run began; its message is above"))));
        } else {
            self.tell(RunEvent::Note(what));
        }
    }

    /// Applies `agents.on_loss` if an agent of the attempt is lost.
    pub(super) fn on_agent_lost(&mut self, now: Now) {
        let on_loss = self.setup.plan.agents.on_loss;
        if !self.phase.attempt().is_some_and(super::attempt::Attempt::has_lost_an_agent) {
            return;
        }
        if on_loss == OnLoss::Abort {
            self.stop.escalate(StopReason::Aborted);
        }
        // Before the start, repeating the attempt loses no data. After it, `keep` keeps the other shares.
        if !matches!(self.phase, Phase::Running(_)) || on_loss != OnLoss::Keep {
            self.abort_attempt(now, "an agent was lost");
        }
        self.complete_attempt(now);
    }
}
