//! PURE: the course of one batch over time, computed from its sessions.

use std::collections::BTreeMap;

use crate::plan::expand::Batch;

/// About the largest number of bins in a timeline; a figure has no room for more.
const BINS_MAX: u64 = 160;

/// When one session opened and ended, in microseconds since the start instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInterval {
    pub agent: String,
    /// When the session had its first answer; `None` if it had none.
    pub opened_us: Option<u64>,
    pub ended_us: u64,
    pub succeeded: bool,
}

/// The share of one agent, from the batch's start on. A vector that is shorter than another continues with zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentTimeline {
    pub agent: String,
    /// Sessions open at the end of each bin.
    pub open: Vec<u64>,
    /// Sessions that succeeded in each bin.
    pub completed: Vec<u64>,
    /// Sessions that failed in each bin.
    pub failed: Vec<u64>,
}

/// The course of one batch over time.
#[derive(Debug, Clone)]
pub struct BatchTimeline {
    pub batch: Batch,
    pub bin_us: u64,
    /// The agents, sorted by name.
    pub agents: Vec<AgentTimeline>,
}

impl BatchTimeline {
    /// Counts the intervals in bins. `wall_us` is the end of the last session; `lives` holds the started sessions.
    #[must_use]
    pub fn of(batch: Batch, wall_us: u64, lives: &[SessionInterval]) -> Self {
        let bin_us = nice(wall_us.div_ceil(BINS_MAX));
        let bins = usize::try_from(wall_us / bin_us).unwrap_or(0) + 1;
        let at = |us: u64| usize::try_from(us / bin_us).map_or(bins - 1, |bin| bin.min(bins - 1));
        let mut agents: BTreeMap<&str, AgentTimeline> = BTreeMap::new();
        let mut changes: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for life in lives {
            let agent = agents.entry(&life.agent).or_insert_with(|| AgentTimeline {
                agent: life.agent.clone(),
                open: vec![0; bins],
                completed: vec![0; bins],
                failed: vec![0; bins],
            });
            let changes = changes.entry(&life.agent).or_insert_with(|| vec![0; bins]);
            if let Some(opened_us) = life.opened_us {
                changes[at(opened_us)] += 1;
                // A session that opens and ends within one bin is open at the end of none.
                changes[at(life.ended_us)] -= 1;
            }
            let counts = if life.succeeded { &mut agent.completed } else { &mut agent.failed };
            counts[at(life.ended_us)] += 1;
        }
        for (name, agent) in &mut agents {
            let mut open = 0_i64;
            for (bin, change) in changes[name].iter().enumerate() {
                open += change;
                agent.open[bin] = u64::try_from(open).unwrap_or(0);
            }
        }
        Self { batch, bin_us, agents: agents.into_values().collect() }
    }
}

/// Rounds up to one of 1, 2, 5, 10, 20, 50, ... milliseconds.
fn nice(us: u64) -> u64 {
    let mut decade = 1_000;
    loop {
        for step in [1, 2, 5] {
            if decade * step >= us {
                return decade * step;
            }
        }
        decade *= 10;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::Mode;

    use super::*;

    const BATCH: Batch = Batch { index: 0, mode: Mode::Ws, batch_size: 4, wait_us: 0, repetition: 1 };

    fn life(agent: &str, opened_us: Option<u64>, ended_us: u64, succeeded: bool) -> SessionInterval {
        SessionInterval { agent: agent.to_owned(), opened_us, ended_us, succeeded }
    }

    #[test]
    fn who_was_open_when() {
        let lives = [
            life("b", Some(0), 1_000_000, true),
            life("a", Some(10_000), 990_000, true),
            life("a", None, 5_000, false),
            life("a", Some(20_000), 500_000, false),
        ];
        let traced = BatchTimeline::of(BATCH, 1_000_000, &lives);
        assert_eq!(traced.bin_us, 10_000);
        let [a, b] = &traced.agents[..] else { panic!("two agents") };
        assert_eq!((a.agent.as_str(), a.open.len()), ("a", 101));
        assert_eq!((a.open[0], a.open[1], a.open[2], a.open[49], a.open[50], a.open[100]), (0, 1, 2, 2, 1, 0));
        assert_eq!((a.failed[0], a.failed[50], a.completed[99]), (1, 1, 1));
        assert_eq!((b.open[0], b.open[99], b.open[100], b.completed[100]), (1, 1, 0, 1));
    }

    #[test]
    fn a_batch_of_no_time_and_no_sessions() {
        let traced = BatchTimeline::of(BATCH, 0, &[]);
        assert!(traced.agents.is_empty());
        let traced = BatchTimeline::of(BATCH, 0, &[life("a", Some(0), 0, true)]);
        assert_eq!((traced.agents[0].open.clone(), traced.agents[0].completed.clone()), (vec![0], vec![1]));
    }

    proptest! {
        #[test]
        fn every_session_ends_once_and_nobody_stays(
            sessions in proptest::collection::vec((0..3_u8, proptest::option::of(0..2_000_000_u64), 0..2_000_000_u64, any::<bool>()), 0..50),
        ) {
            let lives: Vec<SessionInterval> = sessions
                .iter()
                .map(|(agent, opened, lasted, ok)| life(&agent.to_string(), *opened, opened.unwrap_or(0) + lasted, *ok))
                .collect();
            let wall_us = lives.iter().map(|life| life.ended_us).max().unwrap_or(0);
            let traced = BatchTimeline::of(BATCH, wall_us, &lives);
            let sum = |of: fn(&AgentTimeline) -> &Vec<u64>| -> u64 { traced.agents.iter().flat_map(|a| of(a).iter()).sum() };
            prop_assert_eq!(sum(|a| &a.completed), lives.iter().filter(|life| life.succeeded).count() as u64);
            prop_assert_eq!(sum(|a| &a.failed), lives.iter().filter(|life| !life.succeeded).count() as u64);
            for agent in &traced.agents {
                prop_assert_eq!(agent.open.last(), Some(&0));
                prop_assert!(agent.open.len() as u64 <= BINS_MAX + 1);
            }
        }
    }
}
