//! How much memory a decoder may ask for.

use std::sync::{Mutex, PoisonError};

/// Tests of one process run at once: one's memory is not to be another's.
static ALONE: Mutex<()> = Mutex::new(());

/// Far above what the largest message needs, far below what a few bytes can claim.
const GROWTH_KIB_MAX: u64 = 512 << 10;

/// The most address space that this process ever had, in KiB; `None` where the system does not tell. What is claimed
/// counts, used or not.
fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmPeak:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Does what it is told and panics if it took absurdly much memory.
pub(crate) fn bounded<T>(work: impl FnOnce() -> T) -> T {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = peak_kib();
    let done = work();
    if let (Some(before), Some(after)) = (before, peak_kib()) {
        assert!(after - before <= GROWTH_KIB_MAX, "{} KiB for one input", after - before);
    }
    done
}
