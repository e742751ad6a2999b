//! Agents and targets that are held back: the number that must show it does, and the others do not change.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Process, Results, Server, agent, coordinator, run};

fn seconds(row: &BTreeMap<String, String>, column: &str) -> f64 {
    row[column].parse().unwrap_or_else(|_| panic!("{column} in {row:?}"))
}

/// Stops and continues a process in turn, until this is dropped.
struct DutyCycle {
    pid: Pid,
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl DutyCycle {
    fn start(pid: Pid, on: Duration, off: Duration) -> Self {
        let (end, ended) = channel::<()>();
        let thread = std::thread::spawn(move || {
            for (signal, time) in [(Signal::SIGSTOP, off), (Signal::SIGCONT, on)].into_iter().cycle() {
                // The process may have ended; the test fails for that reason then.
                let _ = kill(pid, signal);
                if ended.recv_timeout(time).is_err_and(|error| error == std::sync::mpsc::RecvTimeoutError::Disconnected)
                {
                    return;
                }
            }
        });
        Self { pid, end: Some(end), thread: Some(thread) }
    }
}

impl Drop for DutyCycle {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.thread.take().map(JoinHandle::join);
        let _ = kill(self.pid, Signal::SIGCONT);
    }
}

/// A run over four agents from outside: 400 sessions of 1 s each, spread evenly over 4 s. The criterion is
/// 1.2 x (1 s + 0.1 s).
struct Fleet {
    coordinator: Process,
    agents: Vec<Process>,
}

impl Fleet {
    fn start(url: &str, out: &Path) -> Self {
        let mut command = coordinator();
        command
            .args(["run", "--target", url, "--batch-sizes", "400", "--wait", "1", "--reps", "2", "--agents", "4"])
            .args(["--listen", "127.0.0.1:0", "--set", "session.launch={kind=\"ramp\",over_seconds=4}"])
            .args(["--set", "success.max_latency_multiplier=1.2", "--set", "success.overhead_seconds=0.1", "--output"])
            .arg(out);
        let mut coordinator = Process::start(command);
        let line = coordinator.line_with("start each with: agent --coordinator ");
        let address = line.rsplit(' ').next().expect("an address").to_owned();
        let agents = (1..=4).map(|n| agent(&address, &["--name", &format!("n{n}"), "--threads", "1"])).collect();
        Self { coordinator, agents }
    }
}

#[test]
fn a_starved_agent_moves_service_times_and_verdict_but_not_the_wire() {
    let server = Server::start(&["--max-concurrent-envs", "0", "--reset-delay", "20"]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let mut fleet = Fleet::start(&server.url, &out);
    // The first repetition is undisturbed; in the second, one agent gets a tenth of its time.
    fleet.coordinator.line_with("  valid");
    // The cycle does not divide the second that a step takes: replies would arrive in the phase that sent the requests.
    let starving = DutyCycle::start(fleet.agents[1].pid(), Duration::from_millis(70), Duration::from_millis(630));
    let ended = fleet.coordinator.end();
    drop(starving);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    let results = Results::of(&out);
    results.check_with_python();
    let summary = results.summary();
    let (free, starved) = (&summary[0], &summary[1]);
    assert_eq!((free["verdict"].as_str(), free["limit"].as_str()), ("valid", "none"), "{free:?}");
    for column in ["wire_p50", "wire_p99"] {
        let apart = seconds(starved, column) / seconds(free, column) - 1.0;
        assert!(apart.abs() <= 0.05, "{column} moved by {:.1} %", apart * 100.0);
    }
    let moved = seconds(starved, "step_p99") / seconds(free, "step_p99") - 1.0;
    assert!(moved > 0.05, "the program's step p99 moved by {:.1} % only", moved * 100.0);
    assert_eq!(
        (starved["verdict"].as_str(), starved["limit"].as_str()),
        ("generator-limited", "generator"),
        "{starved:?}"
    );
    let reasons = &starved["verdict_reasons"];
    assert!(reasons.contains("agent n2") && reasons.contains("add agents"), "{reasons}");
    for agent in fleet.agents {
        assert_eq!(agent.end().code(), Some(0));
    }
}

/// Sessions arrive whether or not earlier ones have ended, but only eight are open at once. While the target is
/// stopped, the others wait for a place, which is in no service time.
#[test]
fn a_target_that_freezes_shows_in_response_times() {
    let server = Server::start(&["--max-concurrent-envs", "0"]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let mut command = coordinator();
    command
        .args([
            "run",
            "--target",
            &server.url,
            "--wait",
            "0.02",
            "--reps",
            "1",
            "--agents",
            "1",
            "--listen",
            "127.0.0.1:0",
        ])
        .args(["--set", "session.launch={kind=\"arrivals\",per_second=100,for_seconds=16,process=\"poisson\"}"])
        .args(["--set", "grid.warmup=false", "--output"])
        .arg(&out);
    let mut run = Process::start(command);
    let line = run.line_with("start each with: agent --coordinator ");
    let _agent = agent(line.rsplit(' ').next().expect("an address"), &["--max-sessions", "8"]);
    run.line_with("done ");
    server.signal(Signal::SIGSTOP);
    run.line_with("done ");
    server.signal(Signal::SIGCONT);
    let ended = run.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    let results = Results::of(&out);
    results.check_with_python();
    let row = &results.summary()[0];
    assert_eq!(row["successful"], "1600", "{row:?}");
    let (service, response) = (seconds(row, "total_p99"), seconds(row, "response_p99"));
    // Between two progress lines, the target was stopped for 5 s.
    assert!(service < 1.0 && response > 3.0, "service p99 {service}, response p99 {response}");
    let reasons = &row["verdict_reasons"];
    assert_eq!(row["verdict"], "generator-limited", "{row:?}");
    assert!(reasons.contains("all of its 8 places were taken"), "{reasons}");
}

/// One session in twenty is never answered.
#[test]
fn timeouts_stay_in_the_response_times_and_out_of_the_success_columns() {
    let server = Server::start(&["--max-concurrent-envs", "0", "--stall-rate", "0.05", "--seed", "7"]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let mut command = coordinator();
    command
        .args(["run", "--target", &server.url, "--batch-sizes", "400", "--wait", "0.2", "--reps", "1", "--local", "2"])
        .args(["--set", "session.step_timeout_seconds=3", "--set", "grid.warmup=false", "--output"])
        .arg(&out);
    let ended = run(command);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    let results = Results::of(&out);
    results.check_with_python();
    let row = &results.summary()[0];
    let timed_out: u64 = row["timed_out"].parse().expect("a number");
    assert!((5..60).contains(&timed_out), "a twentieth of 400: {row:?}");
    assert!(seconds(row, "response_p99") >= 3.2, "{row:?}");
    assert!(seconds(row, "total_p99") < 3.0 && seconds(row, "step_p99") < 3.0, "successes only: {row:?}");
    let told = format!("{timed_out} of 400 timed out: their response times are known only to be longer");
    assert!(ended.text.contains(&told), "{told:?} in:\n{}", ended.text);
}
