//! A real SLURM: controller, munge and a slurmd a node, each node in namespaces of its own, started by `scripts/slurm-lab`; jobs
//! are submitted with the scripts that users submit.
//!
//! Needs root, SLURM, munge, HAProxy and (for one test) Python packages: `scripts/test` provides them.

#[path = "../e2e/support.rs"]
#[expect(dead_code, reason = "shared with the other test binary, which uses all of it")]
mod support;

mod cluster;
mod refusals;
mod sweeps;
mod troubles;
