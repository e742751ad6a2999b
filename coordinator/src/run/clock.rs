//! PURE: estimates the offset between an agent's clock and the coordinator's, with a bound of its error.
//!
//! A ping is sent at `sent`, the agent reads its clock when the ping arrives, and the answer is received at `received`.
//! However the delay divides over the two directions, the reading was taken in between. So the offset (the agent's
//! clock minus the coordinator's) lies between `reading - received` and `reading - sent` (Cristian, Probabilistic clock
//! synchronization, 1989). All rounds hold at once, so the offset lies in the intersection of their intervals (Marzullo
//! and Owicki, 1983), which is never wider than the interval of the shortest round trip.

use std::time::Duration;

use proto::units::micros;

/// Largest drift between two monotonic clocks, in parts per million: a microsecond in ten milliseconds. Each quartz
/// oscillator is within 50 ppm of its nominal rate.
const DRIFT_PPM: u64 = 100;

/// An answered ping. `sent` and `received` are read from the coordinator's monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Round {
    sent: Duration,
    received: Duration,
    agent_us: u64,
}

/// The rounds of one clock comparison with one agent.
#[derive(Debug, Clone, Default)]
pub struct Rounds {
    waiting: Option<(u64, Duration)>,
    next_sequence: u64,
    done: Vec<Round>,
}

/// The agent's clock minus the coordinator's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offset {
    pub offset_us: i128,
    /// Bound of the error: the true offset differs by no more than this.
    pub error_us: u64,
    /// Round trip time of the fastest round.
    pub round_trip_us: u64,
    /// The coordinator's time at which the bound holds.
    pub as_of: Duration,
}

impl Offset {
    /// The same offset at a later time: the bound grows with the drift.
    #[must_use]
    pub fn at(self, later: Duration) -> Self {
        let drift_us = (micros(later.saturating_sub(self.as_of)) * DRIFT_PPM).div_ceil(1_000_000);
        Self { error_us: self.error_us.saturating_add(drift_us), as_of: later, ..self }
    }

    /// The agent's clock in microseconds at the coordinator's time `at`.
    #[must_use]
    pub fn agent_us(&self, at: Duration) -> u64 {
        let shown = i128::from(micros(at)) + self.offset_us;
        u64::try_from(shown.max(0)).unwrap_or(u64::MAX)
    }
}

impl Rounds {
    /// Forgets all rounds; sequence numbers continue.
    pub fn again(&mut self) {
        self.done.clear();
        self.waiting = None;
    }

    /// Starts a round and returns the ping's sequence number.
    pub fn ping(&mut self, now: Duration) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        self.waiting = Some((sequence, now));
        sequence
    }

    /// Ends a round; `false` if the answer is not that of the last ping.
    pub fn pong(&mut self, now: Duration, sequence: u64, agent_us: u64) -> bool {
        match self.waiting {
            Some((waited_for, sent)) if waited_for == sequence => {
                self.waiting = None;
                self.done.push(Round { sent, received: now, agent_us });
                true
            }
            _ => false,
        }
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.done.len()
    }

    /// The offset from all rounds, as of the last one; `None` without rounds.
    #[must_use]
    pub fn estimate(&self) -> Option<Offset> {
        let last = self.done.last()?.received;
        let interval = |round: &Round| {
            let reading_ns = i128::from(round.agent_us) * 1_000;
            let drift_ns = ns(last.saturating_sub(round.received)) * i128::from(DRIFT_PPM) / 1_000_000;
            // The reading is truncated to whole microseconds.
            (reading_ns - ns(round.received) - drift_ns, reading_ns + 1_000 - ns(round.sent) + drift_ns)
        };
        let low = self.done.iter().map(|round| interval(round).0).max()?;
        let high = self.done.iter().map(|round| interval(round).1).min()?;
        let quickest = self.done.iter().min_by_key(|round| round.received.saturating_sub(round.sent))?;
        // If rounds contradict each other, a clock drifted more than assumed: only the fastest round counts then.
        let (low, high) = if low <= high { (low, high) } else { interval(quickest) };
        Some(Offset {
            offset_us: (low + high).div_euclid(2_000),
            error_us: u64::try_from((high - low + 1_999) / 2_000 + 1).unwrap_or(u64::MAX),
            round_trip_us: micros(quickest.received.saturating_sub(quickest.sent)),
            as_of: last,
        })
    }
}

fn ns(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

/// The achieved start of one agent: its delay after the ordered instant, and the bound of the clock error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    pub offset_us: u64,
    pub clock_error_us: u64,
}

/// Upper bound of the time between the first sessions of any two agents, clock errors included; 0 for one agent.
#[must_use]
pub fn start_skew_us(started: &[Started]) -> u64 {
    let mut most = 0;
    for (n, late) in started.iter().enumerate() {
        for (m, early) in started.iter().enumerate() {
            if n != m {
                let apart = late.offset_us.saturating_sub(early.offset_us);
                most = most.max(apart.saturating_add(late.clock_error_us).saturating_add(early.clock_error_us));
            }
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn us(value: u64) -> Duration {
        Duration::from_micros(value)
    }

    /// Rounds with an agent whose clock is `offset_us` ahead; `ways` are the delays there and back of each round.
    fn rounds(offset_us: i64, ways: &[(u64, u64)], drift_ppm: i64) -> (Rounds, i64) {
        let (mut rounds, mut now, mut ahead) = (Rounds::default(), 10_000_000_u64, offset_us);
        for (there, back) in ways {
            let sequence = rounds.ping(us(now));
            now += there;
            ahead = offset_us + i64::try_from(now).expect("small") * drift_ppm / 1_000_000;
            let reading = now.checked_add_signed(ahead).expect("positive");
            now += back;
            assert!(rounds.pong(us(now), sequence, reading));
        }
        (rounds, ahead)
    }

    proptest! {
        /// The true offset is within the bound, whatever the delays in the two directions.
        #[test]
        fn the_truth_is_within_the_bound(
            offset in -5_000_000_i64..5_000_000,
            ways in proptest::collection::vec((1_u64..100_000, 1_u64..100_000), 1..40),
            drift_ppm in -90_i64..90,
        ) {
            let (rounds, truth) = rounds(offset, &ways, drift_ppm);
            let found = rounds.estimate().expect("an estimate");
            let off_by = (found.offset_us - i128::from(truth)).unsigned_abs();
            prop_assert!(off_by <= u128::from(found.error_us), "{found:?}, truth {truth}");
            let quickest = ways.iter().map(|(there, back)| there + back).min().expect("one");
            prop_assert_eq!(found.round_trip_us, quickest);
            // The bound is at most half the fastest round trip plus the drift.
            let all: u64 = ways.iter().map(|(there, back)| there + back).sum();
            prop_assert!(found.error_us <= quickest / 2 + all / 10_000 + 3, "{found:?} of {quickest}");
        }

        #[test]
        fn two_agents_start_no_further_apart_than_the_skew_says(
            agents in proptest::collection::vec((0_u64..1_000_000, 0_u64..5_000, -1.0_f64..1.0), 1..20),
        ) {
            let started: Vec<Started> =
                agents.iter().map(|(offset_us, clock_error_us, _)| Started { offset_us: *offset_us, clock_error_us: *clock_error_us }).collect();
            let truth = |(offset, error, share): &(u64, u64, f64)| *offset as f64 + *error as f64 * share;
            let first = agents.iter().map(truth).fold(f64::INFINITY, f64::min);
            let last = agents.iter().map(truth).fold(f64::NEG_INFINITY, f64::max);
            prop_assert!(last - first <= start_skew_us(&started) as f64 + 1e-6);
        }
    }

    #[test]
    fn answers_to_other_pings_are_nothing() {
        let mut rounds = Rounds::default();
        assert!(rounds.estimate().is_none());
        let first = rounds.ping(us(10));
        let second = rounds.ping(us(20));
        assert!(!rounds.pong(us(30), first, 1), "given up");
        assert!(rounds.pong(us(40), second, 1));
        assert!(!rounds.pong(us(50), second, 1), "twice");
        assert_eq!(rounds.count(), 1);
        rounds.again();
        assert_eq!((rounds.count(), rounds.ping(us(60))), (0, 2));
    }

    #[test]
    fn one_agent_has_no_skew() {
        assert_eq!(start_skew_us(&[Started { offset_us: 5, clock_error_us: 7 }]), 0);
        assert_eq!(start_skew_us(&[]), 0);
    }

    #[test]
    fn an_agents_clock_is_read_from_ours() {
        let offset = Offset { offset_us: -400, error_us: 1, round_trip_us: 1, as_of: us(0) };
        assert_eq!(offset.at(us(5_000_000)).error_us, 501);
        assert_eq!((offset.agent_us(us(1_000)), offset.agent_us(us(100))), (600, 0));
    }
}
