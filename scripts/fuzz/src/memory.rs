//! Bounds the memory that a decoder may ask for.

use std::sync::{Mutex, PoisonError};

/// Tests of one process run at the same time, and each must see its own memory only.
static ALONE: Mutex<()> = Mutex::new(());

/// Far more than the largest message needs, and far less than a few bytes can claim.
const GROWTH_KIB_MAX: u64 = 512 << 10;

/// The largest address space that this process ever had, in KiB; `None` where the system does not say. Memory counts
/// once it is claimed, used or not.
fn peak_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmPeak:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Runs `work` and panics if it needed far too much memory.
pub(crate) fn bounded<T>(work: impl FnOnce() -> T) -> T {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = peak_kib();
    let done = work();
    if let (Some(before), Some(after)) = (before, peak_kib()) {
        assert!(after - before <= GROWTH_KIB_MAX, "{} KiB for one input", after - before);
    }
    done
}
