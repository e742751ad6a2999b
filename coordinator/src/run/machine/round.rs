//! A question to several agents, with their answers so far.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::net::ConnectionId;

#[derive(Debug)]
pub(super) struct Round<T> {
    asked: BTreeSet<ConnectionId>,
    answers: BTreeMap<ConnectionId, T>,
    pub(super) deadline: Duration,
}

impl<T> Round<T> {
    pub(super) fn of(asked: impl IntoIterator<Item = ConnectionId>, deadline: Duration) -> Self {
        Self { asked: asked.into_iter().collect(), answers: BTreeMap::new(), deadline }
    }

    pub(super) fn ask(&mut self, key: ConnectionId) {
        self.asked.insert(key);
    }

    pub(super) fn forget(&mut self, key: ConnectionId) {
        self.asked.remove(&key);
        self.answers.remove(&key);
    }

    /// Records an answer, which replaces an earlier one of the agent. `false` if the agent was not asked.
    pub(super) fn answer(&mut self, key: ConnectionId, answer: T) -> bool {
        let asked = self.asked.contains(&key);
        if asked {
            self.answers.insert(key, answer);
        }
        asked
    }

    pub(super) fn is_asked(&self, key: ConnectionId) -> bool {
        self.asked.contains(&key)
    }

    pub(super) fn asked(&self) -> impl Iterator<Item = ConnectionId> + '_ {
        self.asked.iter().copied()
    }

    /// Agents that have not answered.
    pub(super) fn silent(&self) -> Vec<ConnectionId> {
        self.asked.iter().filter(|key| !self.answers.contains_key(key)).copied().collect()
    }

    pub(super) fn answer_of(&self, key: ConnectionId) -> Option<&T> {
        self.answers.get(&key)
    }

    pub(super) fn answers(&self) -> impl Iterator<Item = &T> {
        self.answers.values()
    }

    /// Whether every agent has given an answer for which `is_last` is true.
    pub(super) fn is_complete(&self, is_last: impl Fn(&T) -> bool) -> bool {
        self.asked.iter().all(|key| self.answers.get(key).is_some_and(&is_last))
    }

    pub(super) fn all_answered(&self) -> bool {
        self.is_complete(|_| true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_waits_for_those_who_were_asked_and_are_there() {
        let mut round = Round::of([1, 2, 3], Duration::ZERO);
        assert!(round.answer(1, "yes") && !round.answer(9, "nobody asked"));
        assert_eq!(round.silent(), [2, 3]);
        round.answer(2, "wait");
        round.forget(3);
        assert!(round.all_answered() && !round.is_complete(|answer| *answer == "yes"));
        round.ask(4);
        assert!(!round.all_answered());
        round.answer(4, "yes");
        round.answer(2, "yes");
        assert!(round.is_complete(|answer| *answer == "yes"));
        assert_eq!(round.asked().collect::<Vec<_>>(), [1, 2, 4]);
    }
}
