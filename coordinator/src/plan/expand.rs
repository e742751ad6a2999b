//! PURE: lists the batches of a plan in the order in which they run.

use proto::Mode;
use proto::limits;
use rand_pcg::Pcg64;
use rand_pcg::rand_core::{Rng as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use super::{Order, Plan};

/// One repetition of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Position in the order of the run, counted from 0.
    pub index: u32,
    pub mode: Mode,
    pub batch_size: u64,
    pub wait_us: u64,
    /// Counted from 1.
    pub repetition: u32,
}

impl Plan {
    /// The batches, nested by mode, batch size, wait and repetition, or that list shuffled with the session seed.
    #[must_use]
    pub fn batches(&self) -> Vec<Batch> {
        let mut batches = Vec::new();
        let mut sizes = self.grid.batch_sizes.clone();
        let mut waits = self.grid.waits_us.clone();
        sizes.sort_unstable();
        waits.sort_unstable();
        for mode in self.target.mode.list() {
            for batch_size in &sizes {
                for wait_us in &waits {
                    for repetition in 1..=self.grid.repetitions {
                        batches.push(Batch {
                            index: 0,
                            mode: *mode,
                            batch_size: *batch_size,
                            wait_us: *wait_us,
                            repetition,
                        });
                    }
                }
            }
        }
        if self.grid.order == Order::Shuffled {
            shuffle(&mut batches, self.session.seed);
        }
        for (index, batch) in (0..).zip(&mut batches) {
            batch.index = index;
        }
        batches
    }

    /// Duration of one batch if the server adds no delay, in microseconds.
    #[must_use]
    pub fn batch_floor_us(&self, batch: &Batch) -> u64 {
        self.session_floor_us(batch.wait_us).saturating_add(self.session.launch.over_us())
    }

    /// Expected duration in microseconds: for each batch its floor, its cooldown, and one second for other work.
    #[must_use]
    pub fn expected_us(&self, batches: &[Batch]) -> u64 {
        const AROUND_US: u64 = 1_000_000;
        batches
            .iter()
            .map(|batch| self.batch_floor_us(batch).saturating_add(self.grid.cooldown_us).saturating_add(AROUND_US))
            .fold(0, u64::saturating_add)
    }

    /// The unrecorded warm-up batch: the smallest batch size of the grid, at most 32 sessions, with no wait.
    #[must_use]
    pub fn warmup_batch(&self, mode: Mode) -> Batch {
        let smallest = self.grid.batch_sizes.iter().copied().min().unwrap_or(1);
        Batch { index: proto::AttemptId::WARMUP, mode, batch_size: smallest.clamp(1, 32), wait_us: 0, repetition: 0 }
    }
}

/// Fisher-Yates shuffle (Knuth, TAOCP 2, algorithm P) with PCG64: a seed gives the same order on every machine.
/// The bias of the modulo over at most 100,000 positions is below 1e-14.
fn shuffle<T>(items: &mut [T], seed: u64) {
    let mut random = Pcg64::seed_from_u64(seed);
    for last in (1..items.len()).rev() {
        let pick = random.next_u64() % (last as u64 + 1);
        items.swap(last, usize::try_from(pick).unwrap_or(last));
    }
}

/// The most sessions that one of `urls` URLs gets when sessions are assigned round robin.
#[must_use]
pub fn sessions_per_url(batch_size: u64, urls: usize) -> u64 {
    debug_assert!(batch_size <= limits::SESSIONS_MAX);
    batch_size.div_ceil(urls.max(1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::check::plan_of;

    const PLAN: &str = "[target]\nurls=\"http://h\"\nmode=\"compare\"\n[grid]\nbatch_sizes=[32,8]\nwait_seconds=[5,1]\nrepetitions=2\n";

    #[test]
    fn ascending_order_is_mode_size_wait_repetition() {
        let batches = plan_of(PLAN).expect("plan").batches();
        let rows: Vec<String> = batches
            .iter()
            .map(|b| format!("{} {} {} {} {}", b.index, b.mode, b.batch_size, b.wait_us / 1_000_000, b.repetition))
            .collect();
        assert_eq!(
            rows,
            [
                "0 ws 8 1 1",
                "1 ws 8 1 2",
                "2 ws 8 5 1",
                "3 ws 8 5 2",
                "4 ws 32 1 1",
                "5 ws 32 1 2",
                "6 ws 32 5 1",
                "7 ws 32 5 2",
                "8 http 8 1 1",
                "9 http 8 1 2",
                "10 http 8 5 1",
                "11 http 8 5 2",
                "12 http 32 1 1",
                "13 http 32 1 2",
                "14 http 32 5 1",
                "15 http 32 5 2"
            ]
        );
    }

    #[test]
    fn shuffled_is_a_permutation_that_its_seed_repeats() {
        let shuffled =
            |seed: u32| plan_of(&format!("{PLAN}order=\"shuffled\"\n[session]\nseed={seed}")).expect("plan").batches();
        let key = |b: &Batch| (b.mode, b.batch_size, b.wait_us, b.repetition);
        let mut one: Vec<_> = shuffled(1).iter().map(key).collect();
        assert_eq!(one, shuffled(1).iter().map(key).collect::<Vec<_>>());
        assert_ne!(one, shuffled(2).iter().map(key).collect::<Vec<_>>());
        one.sort_unstable();
        assert_eq!(one, plan_of(PLAN).expect("plan").batches().iter().map(key).collect::<Vec<_>>());
        assert!(shuffled(3).iter().enumerate().all(|(n, b)| b.index as usize == n));
    }

    #[test]
    fn expected_duration_counts_waits_launch_and_cooldown() {
        let plan = plan_of(
            "[target]\nurls=\"http://h\"\n[grid]\nbatch_sizes=[8]\nwait_seconds=2\nrepetitions=3\ncooldown_seconds=1\n\
             [session]\nsteps=4\nthink_seconds=0.5\nlaunch={kind=\"ramp\",over_seconds=5}\n",
        )
        .expect("plan");
        assert_eq!(plan.expected_us(&plan.batches()), 3 * (4 * 2_500_000 + 5_000_000 + 1_000_000 + 1_000_000));
    }
}
