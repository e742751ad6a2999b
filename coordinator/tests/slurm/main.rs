//! Tests on a real SLURM: `scripts/slurm-lab` starts controller, munge and one slurmd per node, with each node in its
//! own namespaces. Jobs are submitted with the scripts that users submit.
//!
//! They need root, SLURM, munge, HAProxy and (for one test) Python packages: `scripts/test` provides them.

#[path = "../e2e/support.rs"]
#[expect(dead_code, reason = "shared with the other test binary, which uses all of it")]
mod support;

mod cluster;
mod refusals;
mod sweeps;
mod troubles;
