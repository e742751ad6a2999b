//! The agent's monotonic clock, as the coordinator knows it: microseconds since an arbitrary instant.
//!
//! Only the coordinator compares readings of two machines; it knows how exact the comparison is (its `run::clock`).

use std::time::Duration;

use proto::units::micros;
use tokio::time::Instant;

/// The first reading. It is not 0, so that an offset for tests can be subtracted.
const FIRST_US: u64 = 3_600_000_000;

/// See the module. Copies show the same time.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    base: Instant,
    first_us: u64,
}

impl Default for Clock {
    fn default() -> Self {
        Self::shifted(0)
    }
}

impl Clock {
    /// A clock that is `offset_us` ahead; at most an hour behind.
    #[must_use]
    pub fn shifted(offset_us: i64) -> Self {
        Self { base: Instant::now(), first_us: FIRST_US.saturating_add_signed(offset_us) }
    }

    /// The current reading.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.first_us.saturating_add(micros(self.base.elapsed()))
    }

    /// The instant at which it shows `us`. A reading from before its first one gives the instant of the first.
    #[must_use]
    pub fn instant(&self, us: u64) -> Instant {
        self.base + Duration::from_micros(us.saturating_sub(self.first_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn readings_and_instants_are_inverse() {
        for offset_us in [0, 500_000, -500_000] {
            let clock = Clock::shifted(offset_us);
            tokio::time::advance(Duration::from_micros(1_234_567)).await;
            assert_eq!(clock.now_us(), (FIRST_US + 1_234_567).saturating_add_signed(offset_us));
            assert_eq!(clock.instant(clock.now_us()), Instant::now());
            assert_eq!(clock.instant(clock.now_us() + 9), Instant::now() + Duration::from_micros(9));
        }
    }
}
