//! Measures how late a load thread's own timers fire: the generator's delay where no session shows it.

use std::time::Duration;

use hdrhistogram::Histogram;
use proto::units::micros;

/// Time between two measurements.
pub const TICK: Duration = Duration::from_millis(10);
/// The resolution of tokio's timers. A delay up to it is no lateness.
const RESOLUTION: Duration = Duration::from_millis(1);

/// Lateness of one thread's ticks, in microseconds.
#[derive(Debug)]
pub struct Overshoot(Histogram<u64>);

impl Default for Overshoot {
    fn default() -> Self {
        Self(empty())
    }
}

impl Overshoot {
    /// Records a tick that fired `late`. A tick that comes very late stands for all those that should have come
    /// meanwhile (Tene's correction for coordinated omission, HdrHistogram's `record_correct`).
    pub fn fired(&mut self, late: Duration) {
        // Above an hour it saturates.
        let late_us = micros(late.saturating_sub(RESOLUTION)).min(self.0.high());
        let _ = self.0.record_correct(late_us, micros(TICK));
    }

    #[must_use]
    pub fn into_histogram(self) -> Histogram<u64> {
        self.0
    }
}

/// An empty histogram of microseconds: 1 us to 1 h, 3 significant digits.
#[must_use]
pub fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 3_600_000_000, 3).unwrap_or_else(|_| unreachable!("these bounds are valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resolution_of_timers_is_no_lateness() {
        let mut overshoot = Overshoot::default();
        overshoot.fired(Duration::from_micros(1_090));
        assert!(overshoot.into_histogram().max() <= 100);
    }

    #[test]
    fn a_long_freeze_counts_for_every_tick_it_swallowed() {
        let mut overshoot = Overshoot::default();
        for _ in 0..80 {
            overshoot.fired(Duration::from_millis(1));
        }
        overshoot.fired(Duration::from_millis(201));
        let histogram = overshoot.into_histogram();
        assert_eq!(histogram.len(), 80 + 20);
        assert!(histogram.value_at_quantile(0.9) > 90_000);
    }
}
