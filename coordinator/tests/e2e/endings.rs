//! Runs that end early: signals, lost agents, a lost coordinator.

use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::{Process, Results, Server, agent, coordinator, run};

/// A long run: a quick batch, then ten sessions of a minute each.
fn long_run(server: &Server, out: &Path, flags: &[&str]) -> Process {
    let mut command = coordinator();
    command
        .args(["run", "--target", &server.url, "--batch-sizes", "10", "--wait", "0,60", "--reps", "1"])
        .args(["--set", "grid.warmup=false"])
        .args(flags)
        .arg("--output")
        .arg(out);
    Process::start(command)
}

#[test]
fn ctrl_c_once_keeps_what_is_complete() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let mut coordinator = long_run(&server, &out, &["--local", "2"]);
    // Wait for the first batch's row; the second begins at once.
    coordinator.line_with(" 0.0 s    1/1  ");
    coordinator.line_with("ws 10 x 60.0 s, rep 1: open 10");
    coordinator.signal(Signal::SIGINT);
    let ended = coordinator.end();
    assert_eq!(ended.code(), Some(130), "{}", ended.text);
    assert!(ended.text.contains("what is complete is kept"), "{}", ended.text);
    let results = Results::of(&out);
    assert_eq!(results.summary().len(), 1, "the complete batch and no other");
    results.check_with_python();
    assert_eq!(results.run_json()["status"], "interrupted");
    let journal = results.journal();
    assert_eq!((journal.len(), journal[1]["accepted"].as_bool()), (2, Some(false)));
    let cut = results.text("attempts/ws-10-60.0-1-attempt-1.jsonl");
    assert_eq!(cut.lines().count(), 10);
    assert!(cut.lines().all(|line| line.contains(r#""error_type":"cancelled""#)), "{cut}");
}

/// A scheduler may signal the job, its steps and the launcher, so that the same signal arrives several times.
#[test]
fn sigterm_however_often_waits_for_what_there_is() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let mut coordinator = long_run(&server, &out, &["--local", "2"]);
    coordinator.line_with("ws 10 x 60.0 s, rep 1: open 10");
    for _ in 0..3 {
        coordinator.signal(Signal::SIGTERM);
    }
    let ended = coordinator.end();
    assert_eq!(ended.code(), Some(130), "{}", ended.text);
    assert!(ended.text.contains("go on with: coordinator run --resume"), "{}", ended.text);
    let results = Results::of(&out);
    assert_eq!(results.text("attempts/ws-10-60.0-1-attempt-1.jsonl").lines().count(), 10);
    assert_eq!((results.journal().len(), results.run_json()["status"].as_str()), (2, Some("interrupted")));
}

#[test]
fn ctrl_c_twice_ends_at_once() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let mut coordinator = long_run(&server, &out, &["--agents", "1", "--listen", "127.0.0.1:0"]);
    let line = coordinator.line_with("start each with: agent --coordinator ");
    let agent = agent(line.rsplit(' ').next().expect("address"), &["--name", "a", "--reconnect-for", "0.5"]);
    coordinator.line_with("ws 10 x 60.0 s, rep 1: open 10");
    // A stopped agent can't report, and the coordinator waits for it.
    agent.signal(Signal::SIGSTOP);
    coordinator.signal(Signal::SIGINT);
    coordinator.line_with("once more to stop at once");
    coordinator.signal(Signal::SIGINT);
    let ended = coordinator.end();
    assert_eq!(ended.code(), Some(130), "{}", ended.text);
    assert_eq!(Results::of(&out).summary().len(), 1);
    // The agent ends its sessions: it is dismissed if that order still reached it, else it finds no coordinator.
    agent.signal(Signal::SIGCONT);
    assert!(matches!(agent.end().code(), Some(0 | 11)));
}

#[test]
fn an_agent_that_dies_costs_one_attempt() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let mut command = coordinator();
    command
        .args(["run", "--target", &server.url, "--batch-sizes", "12", "--wait", "4", "--reps", "1", "--agents", "3"])
        .args(["--listen", "127.0.0.1:0", "-v", "--output"])
        .arg(&out);
    let mut coordinator = Process::start(command);
    let line = coordinator.line_with("start each with: agent --coordinator ");
    let address = line.rsplit(' ').next().expect("address").to_owned();
    let agents: Vec<Process> = (1..=3).map(|n| agent(&address, &["--name", &format!("n{n}")])).collect();
    // The agent is killed while it runs sessions, so that the attempt's records show the loss.
    let target = agents[1].pid();
    coordinator.line_with("batch under way");
    nix::sys::signal::kill(target, Signal::SIGKILL).expect("killed");
    let ended = coordinator.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    assert!(ended.text.contains("attempt 1 does not count: agent n2 was lost"), "{}", ended.text);
    let results = Results::of(&out);
    let summary = results.summary();
    assert_eq!((summary.len(), summary[0]["attempt"].as_str(), summary[0]["agents"].as_str()), (1, "2", "2"));
    assert_eq!(summary[0]["successful"], "12");
    let journal = results.journal();
    assert_eq!(journal[0]["summary"]["ledger"]["lost"], 4);
    assert_eq!(journal[0]["summary"]["verdict"]["worth"], "degraded");
    results.check_with_python();
}

#[test]
fn no_agent_or_server_outlives_a_coordinator_that_is_killed() {
    let dir = tempfile::tempdir().expect("dir");
    let mut command = coordinator();
    command
        .args([
            "run",
            "--set",
            "target.embedded=true",
            "--batch-sizes",
            "10",
            "--wait",
            "60",
            "--local",
            "2",
            "--output",
        ])
        .arg(dir.path().join("out"));
    let mut coordinator = Process::start(command);
    coordinator.line_with("ws 10 x 60.0 s, rep 1: open 10");
    let children = children_of(coordinator.pid().as_raw());
    assert_eq!(children.len(), 3, "two agents and a server");
    coordinator.signal(Signal::SIGKILL);
    // The children's output goes through the same pipes, which close when the last child ends.
    coordinator.end();
    for pid in children {
        assert!(!Path::new(&format!("/proc/{pid}/exe")).exists(), "{pid} is still there");
    }
}

fn children_of(pid: i32) -> Vec<i32> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("proc").filter_map(Result::ok) {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // After the command's name in brackets come the state and the parent.
        let parent =
            stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)).and_then(|p| p.parse::<i32>().ok());
        if parent == Some(pid) {
            all.push(child);
        }
    }
    all
}

/// Sessions refused by a server that is gone are no measurement: the batch stays open for a resumed run.
#[test]
fn a_server_that_goes_away_leaves_its_batch_open() {
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let server = Server::start(&[]);
    let place = server.address().to_owned();
    let mut command = coordinator();
    command
        .args(["run", "--target", &server.url, "--batch-sizes", "8", "--wait", "0.5", "--reps", "6", "--local", "1"])
        .args(["--set", "target.ready_timeout_seconds=2", "--output"])
        .arg(&out);
    let mut process = Process::start(command);
    process.line_with(" 1/6 ");
    drop(server);
    let ended = process.end();
    assert_eq!(ended.code(), Some(4), "{}", ended.text);
    assert!(
        ended.text.contains("the target is not there any more, after a batch of which 0 of 8 sessions succeeded"),
        "{}",
        ended.text
    );
    assert!(ended.text.contains("--resume"), "{}", ended.text);
    let results = Results::of(&out);
    let before = results.summary();
    assert!((1..6).contains(&before.len()) && before.iter().all(|row| row["successful"] != "0"), "{before:?}");

    let _server = Server::start(&["--listen", &place]);
    let mut command = coordinator();
    command.args(["run", "--resume"]).arg(&out);
    let ended = run(command);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    let after = results.summary();
    assert_eq!(after.len(), 6);
    assert_eq!(after[..before.len()], before[..]);
    assert!(after[before.len()..].iter().all(|row| row["successful"] == "8"), "{after:?}");
    results.check_with_python();
}
