//! Faults in the middle of a run, on real processes. `scripts/faults` runs the random ones a hundred times.

#[path = "../e2e/support.rs"]
#[expect(dead_code, reason = "shared with the other test binaries")]
mod support;

mod compare;
mod crash;
mod kills;
mod leases;
mod peers;
mod relay;
mod slow;
