//! Decides when a chunk of one direction is forwarded: after the delay and a draw of jitter, and never before the chunk
//! ahead of it, because TCP is a stream. Pure: the current time is an argument.

use std::collections::VecDeque;
use std::time::Duration;

use rand_pcg::Pcg64;
use rand_pcg::rand_core::{Rng as _, SeedableRng as _};
use tokio::time::Instant;

/// The random numbers of one direction (0 or 1) of the `connection`th connection, independent of all others.
pub(crate) fn stream(seed: u64, connection: u64, direction: u64) -> Pcg64 {
    let mut words = Pcg64::seed_from_u64(seed);
    // PCG's own streams are related to each other, so the start is drawn. XOR keeps the streams apart: two pairs of
    // connection and direction give the same number only with more than 2^63 connections.
    Pcg64::seed_from_u64(words.next_u64() ^ (connection << 1 | direction))
}

/// The waiting chunks, in the order of their arrival.
#[derive(Debug)]
pub(crate) struct DelayLine<T> {
    delay: Duration,
    jitter: Duration,
    random: Pcg64,
    /// Pairs of release instant and chunk; the instants never decrease.
    waiting: VecDeque<(Instant, T)>,
    /// The release instant of the chunk that was pushed last.
    last_release: Option<Instant>,
}

impl<T> DelayLine<T> {
    pub(crate) fn new(delay: Duration, jitter: Duration, random: Pcg64) -> Self {
        Self { delay, jitter, random, waiting: VecDeque::new(), last_release: None }
    }

    /// Adds a chunk that arrived at `now`.
    pub(crate) fn push(&mut self, chunk: T, now: Instant) {
        let own = now + self.delay + self.jitter.mul_f64(self.draw());
        let release = self.last_release.map_or(own, |last| own.max(last));
        self.last_release = Some(release);
        self.waiting.push_back((release, chunk));
    }

    /// Takes the first chunk if it is due.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<T> {
        self.waiting.pop_front_if(|(release, _)| *release <= now).map(|(_, chunk)| chunk)
    }

    /// When [`DelayLine::pop`] will return the next chunk.
    pub(crate) fn next_release(&self) -> Option<Instant> {
        self.waiting.front().map(|(release, _)| *release)
    }

    /// A uniform draw in [0, 1): 53 bits fill a float's mantissa exactly.
    fn draw(&mut self) -> f64 {
        (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pushes 0, 1, 2, ... `gaps_us` apart and pops them as soon as they are due: `(pushed, released)` by number.
    fn passed(line: &mut DelayLine<usize>, gaps_us: &[u64]) -> Vec<(Instant, Instant)> {
        let mut now = Instant::now();
        let mut pushed = Vec::new();
        let mut released = Vec::new();
        let drain = |line: &mut DelayLine<usize>, until: Option<Instant>, released: &mut Vec<Instant>| {
            while let Some(release) = line.next_release().filter(|release| until.is_none_or(|until| *release <= until))
            {
                assert_eq!(line.pop(release - Duration::from_nanos(1)), None, "never early");
                assert_eq!(line.pop(release), Some(released.len()), "in order");
                released.push(release);
            }
        };
        for (number, gap) in gaps_us.iter().enumerate() {
            now += Duration::from_micros(*gap);
            drain(line, Some(now), &mut released);
            line.push(number, now);
            pushed.push(now);
        }
        drain(line, None, &mut released);
        assert_eq!(line.pop(now + Duration::from_secs(86_400)), None);
        pushed.into_iter().zip(released).collect()
    }

    proptest! {
        #[test]
        fn chunks_keep_their_order_and_are_late_by_the_delay_or_the_one_before(
            delay_us in 0..50_000_u64,
            jitter_us in 0..50_000_u64,
            gaps_us in prop::collection::vec(0..20_000_u64, 1..200),
            seed: u64,
        ) {
            let (delay, jitter) = (Duration::from_micros(delay_us), Duration::from_micros(jitter_us));
            let mut line = DelayLine::new(delay, jitter, stream(seed, 0, 0));
            let passed = passed(&mut line, &gaps_us);
            prop_assert_eq!(passed.len(), gaps_us.len());
            let mut before = None;
            for (pushed, released) in passed {
                prop_assert!(released >= pushed + delay);
                // Later than its own time only if it had to wait for the one before.
                prop_assert!(released <= pushed + delay + jitter || before == Some(released));
                before = Some(released);
            }
        }

        #[test]
        fn a_seed_repeats_and_directions_and_connections_differ(seed: u64, connection in 0..1_000_000_u64) {
            let gaps_us = [1_000_000; 8];
            let lateness = |seed, connection, direction| {
                let random = stream(seed, connection, direction);
                let mut line = DelayLine::new(Duration::ZERO, Duration::from_millis(100), random);
                passed(&mut line, &gaps_us).into_iter().map(|(pushed, released)| released - pushed).collect::<Vec<_>>()
            };
            let this = lateness(seed, connection, 0);
            prop_assert_eq!(&this, &lateness(seed, connection, 0));
            prop_assert_ne!(&this, &lateness(seed, connection, 1));
            prop_assert_ne!(&this, &lateness(seed, connection + 1, 0));
            prop_assert_ne!(&this, &lateness(seed.wrapping_add(1), connection, 0));
        }
    }

    #[test]
    fn jitter_is_spread_evenly() {
        let mut line = DelayLine::new(Duration::from_millis(5), Duration::from_millis(10), stream(3, 0, 0));
        let passed = passed(&mut line, &[1_000_000; 4096]);
        let mut late: Vec<f64> = passed.iter().map(|(pushed, at)| (*at - *pushed).as_secs_f64() * 1e3).collect();
        late.sort_by(f64::total_cmp);
        for (rank, late) in late.iter().enumerate() {
            // By the Dvoretzky-Kiefer-Wolfowitz inequality all but 4e-10 of the seeds, of which this is one, pass.
            assert!(((late - 5.0) / 10.0 - rank as f64 / 4096.0).abs() < 0.0525, "{rank}: {late}");
        }
    }

    #[test]
    fn without_delay_everything_goes_at_once() {
        let mut line = DelayLine::new(Duration::ZERO, Duration::ZERO, stream(0, 0, 0));
        assert!(passed(&mut line, &[0, 5, 0, 7]).iter().all(|(pushed, released)| pushed == released));
    }
}
