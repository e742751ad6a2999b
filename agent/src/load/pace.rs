//! PURE: when each session of a share is meant to start.

use proto::Launch;

/// The schedule of one agent's share, in microseconds after the start instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    launch: Launch,
    sessions: u64,
    agent_index: u64,
    agent_count: u64,
}

impl Pace {
    #[must_use]
    pub fn new(launch: Launch, sessions: u64, agent_index: u32, agent_count: u32) -> Self {
        Self { launch, sessions, agent_index: agent_index.into(), agent_count: u64::from(agent_count).max(1) }
    }

    /// Intended start of the share's `local`-th session (from 0).
    ///
    /// A ramp spreads every share over the whole time, each agent shifted by its part of one interval, so that all
    /// agents together start evenly and no two at once: `over * (local + index / count) / sessions`.
    #[must_use]
    pub fn intended_us(&self, local: u64) -> u64 {
        match self.launch {
            Launch::Burst => 0,
            Launch::Ramp { over_us } => {
                let place = u128::from(local) * u128::from(self.agent_count) + u128::from(self.agent_index);
                let places = u128::from(self.sessions.max(1)) * u128::from(self.agent_count);
                u64::try_from(u128::from(over_us) * place / places).unwrap_or(over_us)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
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
