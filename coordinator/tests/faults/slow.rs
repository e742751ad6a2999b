//! A slow disk only delays the run: no agent is lost, and memory does not grow.

use std::path::Path;

use crate::compare::assert_same;
use crate::support::{Process, Results, Server, coordinator};

/// The coordinator's peak memory, in KiB, while five batches are stored.
fn memory_kib(server: &Server, out: &Path, fault: &[&str]) -> u64 {
    let mut command = coordinator();
    command
        .args(["run", "--target", &server.url, "--batch-sizes", "2000", "--wait", "0", "--reps", "5", "--local", "1"])
        .args(["--set", "grid.warmup=false", "--set", "agents.lease_seconds=2"])
        .args(["--set", "measure.max_clock_error_ms=500"])
        .args(fault)
        .arg("--output")
        .arg(out);
    let mut run = Process::start(command);
    run.line_with("    5/5 ");
    let status = std::fs::read_to_string(format!("/proc/{}/status", run.pid())).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).map(str::trim).unwrap_or("0 kB");
    let peak = peak.trim_end_matches(" kB").parse().expect("a number");
    let ended = run.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    peak
}

#[test]
fn a_slow_disk_costs_time_and_neither_agents_nor_memory() {
    let server = Server::start(&["--max-concurrent-envs", "0"]);
    let dir = tempfile::tempdir().expect("dir");
    let fast = memory_kib(&server, &dir.path().join("fast"), &[]);
    // Four writes per batch take longer than the lease.
    let slow = memory_kib(&server, &dir.path().join("slow"), &["--fault", "slow-ms=600"]);
    eprintln!("most memory of the coordinator: {fast} KiB on a fast disk, {slow} KiB on a slow one");
    let of = |name: &str| Results::of(&dir.path().join(name));
    assert_same(&of("fast"), &of("slow"), "a slow disk");
    assert!(of("slow").journal().iter().all(|line| line["accepted"] == true), "no agent was lost meanwhile");
    assert!(slow > 0 && slow < fast + (32 << 10), "{slow} KiB, {fast} on a fast disk");
}
