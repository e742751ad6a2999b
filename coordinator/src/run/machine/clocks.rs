//! Compares the agents' clocks before each start.

use std::time::Duration;

use proto::FromCoordinator;
use proto::message::Pong;

use super::phase::Phase;
use super::round::Round;
use super::{Machine, Now};
use crate::net::ConnectionId;
use crate::run::clock::Offset;

/// Number of pings per comparison. More would hardly improve the estimate.
const ROUNDS_MIN: usize = 8;
const ROUNDS_MAX: usize = 32;
const SYNC_TIMEOUT: Duration = Duration::from_secs(5);

impl Machine {
    pub(super) fn ping(&mut self, now: Now, key: ConnectionId) {
        let Some(agent) = self.agents.get_mut(&key) else { return };
        let sequence = agent.rounds.ping(now.mono);
        self.send(key, FromCoordinator::Ping { sequence });
    }

    pub(super) fn on_pong(&mut self, now: Now, key: ConnectionId, pong: Pong) {
        let Some(agent) = self.agents.get_mut(&key) else { return };
        if !agent.rounds.pong(now.mono, pong.sequence, pong.agent_us) {
            return;
        }
        if !self.is_compared(key) {
            return self.ping(now, key);
        }
        match &mut self.phase {
            Phase::Gathering { .. } => self.probe_if_all_there(now),
            Phase::Syncing(_, round) => {
                let asked = round.answer(key, ());
                if asked && round.all_answered() {
                    self.go(now);
                }
            }
            _ => {}
        }
    }

    /// Whether the agent has answered enough pings.
    pub(super) fn is_compared(&self, key: ConnectionId) -> bool {
        let Some(agent) = self.agents.get(&key) else { return true };
        let good = self.setup.plan.measure.max_clock_error_us / 2;
        let rounds = agent.rounds.count();
        let enough = || agent.rounds.estimate().is_some_and(|offset| offset.error_us <= good);
        rounds >= ROUNDS_MAX || (rounds >= ROUNDS_MIN && enough())
    }

    pub(super) fn offset(&self, key: ConnectionId) -> Option<Offset> {
        self.agents.get(&key)?.rounds.estimate()
    }

    /// The largest clock error of any agent, in microseconds.
    pub(super) fn clock_error_us(&self) -> Option<u64> {
        self.agents.keys().filter_map(|key| self.offset(*key)).map(|offset| offset.error_us).max()
    }

    /// Starts a comparison. All agents of the attempt are armed and idle, so pings are not delayed by load.
    pub(super) fn compare_clocks(&mut self, now: Now) {
        let Some(attempt) = self.phase.take_attempt() else { return };
        let keys = attempt.owners();
        self.enter(Phase::Syncing(attempt, Round::of(keys.iter().copied(), now.mono + SYNC_TIMEOUT)));
        for key in keys {
            if let Some(agent) = self.agents.get_mut(&key) {
                agent.rounds.again();
            }
            self.ping(now, key);
        }
    }

    /// Drops agents with an unknown clock offset, because they cannot be given a start time.
    pub(super) fn syncing_timed_out(&mut self, now: Now, keys: Vec<ConnectionId>) {
        let unknown: Vec<ConnectionId> = keys.into_iter().filter(|key| self.offset(*key).is_none()).collect();
        if unknown.is_empty() {
            return self.go(now);
        }
        for key in unknown {
            self.hang_up(now, key, &format!("answered no ping within {} s", SYNC_TIMEOUT.as_secs()));
        }
    }
}
