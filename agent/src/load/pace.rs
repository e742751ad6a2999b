//! When each session of a share is meant to start. Pure: no clock is read.

use proto::{Launch, Process};
use rand_pcg::Pcg64;
use rand_pcg::rand_core::{Rng as _, SeedableRng as _};

/// Factors that spread seeds. They are odd, far apart, and no small multiple of each other, so that no session of one
/// batch has the seed of a session of another batch.
const BATCH_SEED_FACTOR: u64 = 0xD1B5_4A32_D192_ED03;
const SESSION_SEED_FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

/// The schedule of one agent's share, in microseconds after the start instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    launch: Launch,
    sessions: u64,
    agent_index: u64,
    agent_count: u64,
    /// The seed of this batch.
    seed: u64,
    /// Global number of the share's first session.
    first_session: u64,
}

/// The sessions of one thread in the order of their intended starts.
#[derive(Debug, Clone)]
pub enum Schedule {
    /// Every `threads`-th session from `thread` on, at instants that a formula gives.
    Regular { pace: Pace, thread: u64, threads: u64 },
    /// Pairs of (intended start, place in the share), sorted.
    Listed(Vec<(u64, u64)>),
}

impl Schedule {
    /// The place in the share and the intended start of the thread's `nth` session.
    #[must_use]
    pub fn get(&self, nth: u64) -> (u64, u64) {
        match self {
            Self::Regular { pace, thread, threads } => {
                let local = thread + nth * threads;
                (local, pace.intended_us(local))
            }
            Self::Listed(list) => {
                let entry = usize::try_from(nth).ok().and_then(|nth| list.get(nth));
                entry.map_or((0, 0), |(intended_us, local)| (*local, *intended_us))
            }
        }
    }
}

impl Pace {
    /// The schedule that an assignment asks for.
    #[must_use]
    pub fn of(assignment: &proto::Assignment) -> Self {
        // Repetitions of a batch see other arrivals; attempts at one repetition see the same.
        let seed = assignment.seed.wrapping_add(u64::from(assignment.attempt.batch).wrapping_mul(BATCH_SEED_FACTOR));
        Self {
            launch: assignment.launch,
            sessions: assignment.sessions,
            agent_index: assignment.agent_index.into(),
            agent_count: u64::from(assignment.agent_count).max(1),
            seed,
            first_session: assignment.first_session,
        }
    }

    /// The part of one of `threads` threads.
    #[must_use]
    pub fn schedule(self, thread: u64, threads: u64) -> Schedule {
        match self.launch {
            Launch::Arrivals { process: Process::Poisson, .. } => {
                let places = (thread..self.sessions).step_by(usize::try_from(threads).unwrap_or(1).max(1));
                let mut list: Vec<(u64, u64)> = places.map(|local| (self.intended_us(local), local)).collect();
                list.sort_unstable();
                Schedule::Listed(list)
            }
            Launch::Burst | Launch::Ramp { .. } | Launch::Arrivals { process: Process::Uniform, .. } => {
                Schedule::Regular { pace: self, thread, threads }
            }
        }
    }

    /// Intended start of the share's `local`-th session (from 0).
    ///
    /// A ramp and uniform arrivals spread every share over the whole time. Each agent is shifted by its part of one
    /// interval, so that all agents together start evenly and no two at once: `over * (local + index / count) /
    /// sessions`.
    ///
    /// Poisson arrivals: if the number of arrivals in an interval is given, their instants are independent and uniform
    /// over the interval (Ross, Stochastic Processes, theorem 2.3.1). Each session's instant is drawn from its global
    /// number alone, so that the split over agents does not change it and the planned number is exact.
    #[must_use]
    pub fn intended_us(&self, local: u64) -> u64 {
        match self.launch {
            Launch::Burst => 0,
            Launch::Ramp { over_us } | Launch::Arrivals { over_us, process: Process::Uniform } => {
                let place = u128::from(local) * u128::from(self.agent_count) + u128::from(self.agent_index);
                let places = u128::from(self.sessions.max(1)) * u128::from(self.agent_count);
                u64::try_from(u128::from(over_us) * place / places).unwrap_or(over_us)
            }
            Launch::Arrivals { over_us, process: Process::Poisson } => {
                let number = self.first_session.wrapping_add(local);
                let mut random = Pcg64::seed_from_u64(self.seed.wrapping_add(number.wrapping_mul(SESSION_SEED_FACTOR)));
                let draw = u128::from(random.next_u64());
                u64::try_from((draw * u128::from(over_us)) >> 64).unwrap_or(over_us)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Pace {
        fn new(launch: Launch, sessions: u64, agent_index: u32, agent_count: u32) -> Self {
            Self {
                launch,
                sessions,
                agent_index: agent_index.into(),
                agent_count: u64::from(agent_count).max(1),
                seed: 1,
                first_session: 0,
            }
        }
    }

    fn poisson(over_us: u64) -> Launch {
        Launch::Arrivals { over_us, process: Process::Poisson }
    }

    #[test]
    fn poisson_arrivals_do_not_depend_on_the_split() {
        let whole = Pace::new(poisson(60_000_000), 1_000, 0, 1);
        let alone: Vec<u64> = (0..1_000).map(|n| whole.intended_us(n)).collect();
        let part = Pace { first_session: 400, sessions: 100, ..Pace::new(poisson(60_000_000), 100, 3, 7) };
        assert_eq!((0..100).map(|n| part.intended_us(n)).collect::<Vec<_>>(), alone[400..500]);
        let other = Pace { seed: 2, ..whole };
        assert_ne!((0..1_000).map(|n| other.intended_us(n)).collect::<Vec<_>>(), alone);
    }

    /// Gaps of a Poisson process are exponential: their mean is the interval, and so is their standard deviation.
    #[test]
    fn poisson_gaps_are_exponential() {
        for seed in 1..=8 {
            let (n, over_us) = (20_000_u32, 20_000_000_u64);
            let pace = Pace { seed, ..Pace::new(poisson(over_us), n.into(), 0, 1) };
            let Schedule::Listed(list) = pace.schedule(0, 1) else { panic!("listed") };
            assert!(list.iter().all(|(at, _)| *at < over_us));
            let gaps: Vec<f64> = list.windows(2).map(|pair| (pair[1].0 - pair[0].0) as f64).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let deviation = (gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64).sqrt();
            let beyond = gaps.iter().filter(|gap| **gap > 1_000.0).count() as f64 / gaps.len() as f64;
            // Five standard errors of each: 1/sqrt(n), and sqrt(p(1-p)/n) of the share e^-1.
            assert!((deviation / mean - 1.0).abs() < 5.0 / f64::from(n).sqrt(), "seed {seed}: {deviation} of {mean}");
            assert!((beyond - (-1.0_f64).exp()).abs() < 5.0 * 0.48 / f64::from(n).sqrt(), "seed {seed}: {beyond}");
        }
    }

    proptest! {
        #[test]
        fn threads_list_every_session_once_in_order(sessions in 0_u64..300, threads in 1_u64..7, seed in any::<u64>()) {
            let pace = Pace { seed, ..Pace::new(poisson(1_000_000), sessions, 0, 1) };
            let mut seen = Vec::new();
            for thread in 0..threads {
                let Schedule::Listed(list) = pace.schedule(thread, threads) else { panic!("listed") };
                prop_assert!(list.is_sorted());
                seen.extend(list.iter().map(|(_, local)| *local));
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..sessions).collect::<Vec<_>>());
        }

        #[test]
        fn a_ramp_is_even_and_stays_inside_its_time(
            over_us in 0_u64..1 << 50, sessions in 1_u64..500, count in 1_u32..20, index in 0_u32..20,
        ) {
            let index = index % count;
            let pace = Pace::new(Launch::Ramp { over_us }, sessions, index, count);
            let starts: Vec<u64> = (0..sessions).map(|n| pace.intended_us(n)).collect();
            let interval = over_us / sessions;
            for pair in starts.windows(2) {
                let gap = pair[1] - pair[0];
                prop_assert!(gap == interval || gap == interval + 1, "gap {gap}, interval {interval}");
            }
            prop_assert!(starts.iter().all(|start| *start < over_us || over_us == 0));
        }

        #[test]
        fn agents_with_equal_shares_never_start_at_once(sessions in 1_u64..50, count in 1_u32..20) {
            let over_us = sessions * u64::from(count) * 10;
            let mut all: Vec<u64> = (0..count)
                .flat_map(|index| {
                    let pace = Pace::new(Launch::Ramp { over_us }, sessions, index, count);
                    (0..sessions).map(move |n| pace.intended_us(n)).collect::<Vec<_>>()
                })
                .collect();
            all.sort_unstable();
            let expected: Vec<u64> = (0..sessions * u64::from(count)).map(|n| n * 10).collect();
            prop_assert_eq!(all, expected);
        }
    }

    #[test]
    fn a_burst_is_all_at_the_start() {
        let pace = Pace::new(Launch::Burst, 3, 1, 2);
        assert_eq!([0, 1, 2].map(|n| pace.intended_us(n)), [0, 0, 0]);
    }

    #[test]
    fn the_longest_ramp_of_the_largest_share_does_not_overflow() {
        use proto::limits::{AGENTS_MAX, DURATION_US_MAX, SESSIONS_MAX};
        let agents = u32::try_from(AGENTS_MAX).expect("small");
        let pace = Pace::new(Launch::Ramp { over_us: DURATION_US_MAX }, SESSIONS_MAX, agents - 1, agents);
        let last = pace.intended_us(SESSIONS_MAX - 1);
        assert!(last < DURATION_US_MAX && DURATION_US_MAX - last < 2_000_000, "{last}");
    }
}
