//! Agents that fall silent, return, or are told to end.

use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::{Process, Results, Server, agent, coordinator};

/// Two batches of 8 sessions with two agents, `wait` seconds each.
fn two_batches(server: &Server, out: &Path, wait: &str, more: &[&str]) -> (Process, Vec<Process>) {
    let mut command = coordinator();
    command
        .args([
            "run",
            "--target",
            &server.url,
            "--batch-sizes",
            "8",
            "--wait",
            wait,
            "--reps",
            "2",
            "--set",
            "grid.warmup=false",
            "--agents",
            "2",
        ])
        .args(["--listen", "127.0.0.1:0", "--set", "measure.max_clock_error_ms=500"])
        .args(more)
        .arg("--output")
        .arg(out);
    let mut run = Process::start(command);
    let line = run.line_with("start each with: agent --coordinator ");
    let address = line.rsplit(' ').next().expect("address").to_owned();
    let agents = ["n1", "n2"].map(|name| agent(&address, &["--name", name])).into();
    (run, agents)
}

#[test]
fn a_frozen_agent_costs_one_attempt_and_joins_again_when_it_wakes() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let (mut run, agents) = two_batches(&server, &out, "7", &["--set", "agents.lease_seconds=2"]);
    run.line_with("open 8");
    agents[1].signal(Signal::SIGSTOP);
    run.line_with("agent n2 was silent for 2 s");
    // Its connections are cut, which it notices only once it continues.
    agents[1].signal(Signal::SIGCONT);
    let ended = run.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    let results = Results::of(&out);
    let journal = results.journal();
    let lost = &journal[0];
    assert_eq!((lost["accepted"].as_bool(), lost["summary"]["ledger"]["lost"].as_u64()), (Some(false), Some(4)));
    let agents: Vec<String> = results.summary().iter().map(|row| row["agents"].clone()).collect();
    assert_eq!(agents.last().map(String::as_str), Some("2"), "it is back for the last batch: {agents:?}");
    results.check_with_python();
}

#[test]
fn a_frozen_coordinator_blames_nobody() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    // Shorter than the agents' patience: queued messages are read before any agent is declared lost.
    let (mut run, agents) = two_batches(&server, &out, "7", &["--set", "agents.lease_seconds=6"]);
    run.line_with("open 8");
    run.signal(Signal::SIGSTOP);
    std::thread::park_timeout(std::time::Duration::from_millis(4_000));
    run.signal(Signal::SIGCONT);
    let ended = run.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    assert!(!ended.text.contains("was silent"), "{}", ended.text);
    for agent in agents {
        assert_eq!(agent.end().code(), Some(0));
    }
}

#[test]
fn an_agent_that_is_told_to_go_takes_its_leave_and_its_records_are_kept() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let (mut run, mut agents) = two_batches(&server, &out, "7", &[]);
    run.line_with("open 8");
    agents[1].signal(Signal::SIGTERM);
    let gone = agents.pop().expect("n2").end();
    assert_eq!(gone.code(), Some(130), "{}", gone.text);
    let ended = run.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    assert!(ended.text.contains("agent n2 is leaving: interrupted by a signal"), "{}", ended.text);
    let results = Results::of(&out);
    let journal = results.journal();
    assert_eq!(journal[0]["accepted"], false);
    let cut = results.text("attempts/ws-8-7.0-1-attempt-1.jsonl");
    // Cut sessions are cancelled: neither failures of the server, nor lost.
    assert!(
        cut.lines().filter(|line| line.contains(r#""agent":"n2""#)).all(|line| line.contains(r#""cancelled""#)),
        "{cut}"
    );
    assert!(results.summary().iter().all(|row| row["successful"] == "8"));
    results.check_with_python();
}

#[test]
fn when_the_last_agent_dies_the_run_waits_for_another() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let mut command = coordinator();
    command
        .args(["run", "--target", &server.url, "--batch-sizes", "4", "--wait", "2", "--reps", "1", "--agents", "1"])
        .args(["--listen", "127.0.0.1:0", "-v", "--output"])
        .arg(&out);
    let mut run = Process::start(command);
    let line = run.line_with("start each with: agent --coordinator ");
    let address = line.rsplit(' ').next().expect("address").to_owned();
    let first = agent(&address, &["--name", "n1"]);
    run.line_with("batch under way");
    first.signal(Signal::SIGKILL);
    run.line_with("waiting up to 300 s for more agents");
    let _second = agent(&address, &["--name", "n2"]);
    let ended = run.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    let summary = Results::of(&out).summary();
    assert_eq!((summary[0]["attempt"].as_str(), summary[0]["successful"].as_str()), ("2", "4"));
}
