//! A relay between an agent and its coordinator simulates a bad network.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use testnet::{Options, Relay};

use crate::support::{Process, Results, Server, agent, coordinator};

/// A run of two batches of 8 sessions, 7 s each, with n1 beside the coordinator and n2 behind the relay.
fn start(server: &Server, out: &Path, delay: Duration) -> (Process, Vec<Process>, Relay) {
    let mut command = coordinator();
    command
        .args(["run", "--target", &server.url, "--batch-sizes", "8", "--wait", "7", "--reps", "2", "--agents", "2"])
        .args(["--listen", "127.0.0.1:0", "--set", "grid.warmup=false", "--set", "agents.lease_seconds=4"])
        .args(["--set", "measure.max_clock_error_ms=500", "--output"])
        .arg(out);
    let mut run = Process::start(command);
    let line = run.line_with("start each with: agent --coordinator ");
    let address = line.rsplit(' ').next().expect("address").to_owned();
    let to: SocketAddr = address.parse().expect("an address");
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let relay = Relay::start(listener, Options { to, delay, jitter: delay / 2, seed: 5 }).expect("relay");
    let behind = relay.address().to_string();
    let agents = vec![agent(&address, &["--name", "n1"]), agent(&behind, &["--name", "n2"])];
    (run, agents, relay)
}

/// Asserts that both batches completed, the second one with both agents, and that `refused` attempts were refused.
fn ended_well(run: Process, out: &Path, refused: usize) {
    let ended = run.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    let results = Results::of(out);
    let rows = results.summary();
    assert!(rows.len() == 2 && rows.iter().all(|row| row["successful"] == "8"), "{rows:?}");
    assert_eq!(rows[1]["agents"], "2", "{}", ended.text);
    let seen = results.journal().iter().filter(|line| line["accepted"] == false).count();
    assert_eq!(seen, refused, "{}", ended.text);
    results.check_with_python();
}

#[test]
fn a_long_way_and_a_short_stall_cost_nothing() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let (mut run, _agents, relay) = start(&server, &out, Duration::from_millis(60));
    run.line_with("open 8");
    relay.stall();
    std::thread::park_timeout(Duration::from_millis(1_500));
    relay.resume();
    ended_well(run, &out, 0);
}

#[test]
fn a_dead_way_costs_one_attempt_and_a_new_one_is_found() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let (mut run, mut agents, relay) = start(&server, &out, Duration::ZERO);
    run.line_with("open 8");
    // Nothing gets through, but no connection ends.
    relay.half_open();
    run.line_with("agent n2 was silent for 4 s");
    agents[1].line_with("trying to reconnect");
    relay.heal();
    ended_well(run, &out, 1);
}

#[test]
fn a_cut_costs_one_attempt() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let (mut run, mut agents, relay) = start(&server, &out, Duration::ZERO);
    run.line_with("open 8");
    relay.cut();
    agents[1].line_with("trying to reconnect");
    relay.heal();
    ended_well(run, &out, 1);
}
