//! The whole program against real behaviour of servers: pings, refusals, restarts, large replies, episodes that end.
//! Faults of the generator must not be blamed on the server, and faults of the server must be named.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Ended, Process, Results, Server, agent, coordinator, run};

struct Runs {
    dir: tempfile::TempDir,
}

impl Runs {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("dir") }
    }

    fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// Runs one batch without a warm-up with one local agent and these settings of the plan.
    fn one(&self, url: &str, batch: &str, wait: &str, settings: &[&str]) -> Ended {
        run(self.command(url, batch, wait, settings))
    }

    fn command(&self, url: &str, batch: &str, wait: &str, settings: &[&str]) -> std::process::Command {
        let mut command = coordinator();
        command.args(["run", "--target", url, "--batch-sizes", batch, "--wait", wait, "--reps", "1", "--output"]);
        command.arg(self.out()).args(["--set", "grid.warmup=false"]);
        command.args(settings.iter().flat_map(|setting| ["--set", setting]));
        command
    }

    /// The only row, after `scripts/check_results.py` has checked the folder.
    fn row(&self) -> BTreeMap<String, String> {
        let results = Results::of(&self.out());
        results.check_with_python();
        let mut rows = results.summary();
        assert_eq!(rows.len(), 1);
        rows.remove(0)
    }
}

fn says(row: &BTreeMap<String, String>, part: &str) {
    assert!(row["verdict_reasons"].contains(part), "{part:?} in {:?}", row["verdict_reasons"]);
}

fn judged(row: &BTreeMap<String, String>) -> (&str, &str) {
    (&row["verdict"], &row["limit"])
}

#[test]
fn sessions_that_think_for_longer_than_a_server_waits_for_pings_live() {
    let server = Server::start(&["--ping-interval", "1", "--ping-timeout", "1"]);
    let runs = Runs::new();
    let ended = runs.one(&server.url, "16", "0.1", &["session.think_seconds=4", "session.steps=2"]);
    let row = runs.row();
    assert_eq!((row["successful"].as_str(), judged(&row)), ("16", ("valid", "none")), "{}", ended.text);
    assert!(!row["ping_late_p99"].is_empty(), "pings came, and how late they were read is known");
}

/// The server closes for want of a pong that the agent did send: it is the server's fault.
#[test]
fn a_server_that_does_not_hear_pongs_is_to_blame() {
    let server = Server::start(&["--ping-interval", "1", "--ping-timeout", "1", "--pong-deaf"]);
    let runs = Runs::new();
    let ended = runs.one(&server.url, "8", "4", &[]);
    let row = runs.row();
    assert_eq!((row["successful"].as_str(), judged(&row)), ("0", ("valid", "server")), "{}", ended.text);
    says(&row, "closed(1011)");
}

/// The same close code, but the agent was held up for longer than the server waits: it is the generator's fault.
#[test]
fn pings_that_an_agent_answered_too_late_are_the_generators() {
    let server = Server::start(&["--ping-interval", "1", "--ping-timeout", "1"]);
    let runs = Runs::new();
    let mut command = runs.command(&server.url, "8", "10", &[]);
    command.args(["--agents", "1", "--listen", "127.0.0.1:0"]);
    let mut coordinator = Process::start(command);
    let line = coordinator.line_with("agent --coordinator ");
    let address = line.split_whitespace().last().expect("an address").to_owned();
    let held = agent(&address, &["--name", "held"]);
    coordinator.line_with("rep 1: ");
    // The pause is longer than ping interval and timeout together, and shorter than a lease.
    held.signal(Signal::SIGSTOP);
    std::thread::park_timeout(Duration::from_secs(3));
    held.signal(Signal::SIGCONT);
    let ended = coordinator.end();
    let row = runs.row();
    assert_eq!((row["successful"].as_str(), judged(&row)), ("0", ("generator-limited", "generator")), "{}", ended.text);
    says(&row, "had not heard from their agent");
    says(&row, "agent held answered pings up to");
}

#[test]
fn refusals_near_the_criterion_are_the_servers() {
    let server = Server::start(&["--workers", "1", "--max-concurrent-envs", "100"]);
    let runs = Runs::new();
    let ended = runs.one(&server.url, "103", "1", &[]);
    let row = runs.row();
    assert_eq!((row["successful"].as_str(), row["open_max"].as_str()), ("100", "100"), "{}", ended.text);
    assert_eq!(judged(&row), ("valid", "none"), "{}", ended.text);
}

/// Waits until a batch has sessions open, sends the signal, and starts a server again at the same address.
fn restarted(runs: &Runs, signal: Signal, settings: &[&str]) -> Ended {
    let server = Server::start(&[]);
    let address = server.address().to_owned();
    let mut coordinator = Process::start(runs.command(&server.url, "32", "6", settings));
    coordinator.line_with("open 32");
    server.signal(signal);
    drop(server);
    let _again = Server::start(&["--listen", &address]);
    coordinator.end()
}

#[test]
fn a_restart_is_named_and_the_undisturbed_attempt_counts() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let runs = Runs::new();
        let ended = restarted(&runs, signal, &[]);
        assert_eq!(ended.code(), Some(0), "{signal}: {}", ended.text);
        let row = runs.row();
        assert_eq!((row["attempt"].as_str(), row["successful"].as_str()), ("2", "32"), "{signal}: {}", ended.text);
        assert_eq!(judged(&row), ("valid", "none"));
        let results = Results::of(&runs.out());
        let first = &results.journal()[0];
        let verdict = &first["summary"]["verdict"];
        assert_eq!(
            (first["accepted"].as_bool(), verdict["outage"]["cut"].as_u64()),
            (Some(false), Some(32)),
            "{first}"
        );
        assert!(verdict["reasons"][0].as_str().is_some_and(|why| why.contains("was restarted")), "{verdict}");
        let before = &results.run_json()["batches"][0]["summary"]["refused_before"][0];
        assert!(before.as_str().is_some_and(|why| why.contains("attempt 1: the server was restarted")), "{before}");
        assert!(results.text("report.md").contains("attempt 1: the server was restarted"), "the report names it");
    }
}

#[test]
fn a_restart_may_be_kept_or_end_the_run() {
    let runs = Runs::new();
    let ended = restarted(&runs, Signal::SIGTERM, &["target.on_restart=\"keep\""]);
    assert_eq!(ended.code(), Some(8), "{}", ended.text);
    let row = runs.row();
    assert_eq!((judged(&row), row["outage"].as_str(), row["attempt"].as_str()), (("degraded", "unknown"), "32", "1"));

    let runs = Runs::new();
    let ended = restarted(&runs, Signal::SIGTERM, &["target.on_restart=\"abort\""]);
    assert_eq!(ended.code(), Some(8), "{}", ended.text);
    let results = Results::of(&runs.out());
    assert!(results.summary().is_empty(), "the batch is left open");
    assert_eq!(results.journal().len(), 1);
}

/// A server that crashes in each attempt at a batch is the bottleneck.
#[test]
fn a_server_that_crashes_each_time_is_the_limit() {
    let server = Server::start(&["--workers", "2", "--exit-after", "1"]);
    let runs = Runs::new();
    let ended = runs.one(&server.url, "32", "4", &["agents.max_attempts=2"]);
    let row = runs.row();
    assert_eq!((judged(&row), row["attempt"].as_str()), (("valid", "server"), "2"), "{}", ended.text);
    says(&row, "it crashed in 2 of 2 attempts");
}

#[test]
fn large_replies_are_read_and_our_own_limit_is_ours() {
    let server = Server::start(&["--reply-bytes", "1500000", "--reply-growth-bytes", "120000"]);
    let runs = Runs::new();
    let ended = runs.one(&server.url, "8", "0", &["session.steps=10", "success.overhead_seconds=60"]);
    let row = runs.row();
    assert_eq!((row["successful"].as_str(), judged(&row)), ("8", ("valid", "none")), "{}", ended.text);

    let growing = Server::start(&["--reply-growth-bytes", "120000"]);
    let runs = Runs::new();
    let ended = runs.one(&growing.url, "8", "0", &["session.steps=10", "session.message_bytes_max=500000"]);
    let row = runs.row();
    assert_eq!(judged(&row), ("generator-limited", "generator"), "{}", ended.text);
    says(&row, "raise session.message_bytes_max");
    assert!(Results::of(&runs.out()).raw().iter().all(|line| line["error_type"] == "client_limit"));

    // In the readiness check such a reply ends the run at once: waiting would not help.
    let runs = Runs::new();
    let ended = runs.one(&server.url, "8", "0", &["session.message_bytes_max=500000"]);
    assert_eq!(ended.code(), Some(4), "{}", ended.text);
    assert!(ended.text.contains("raise session.message_bytes_max"), "{}", ended.text);
    assert!(!ended.text.contains("does not look like"), "{}", ended.text);
}

#[test]
fn an_episode_that_is_done_ends_there() {
    let server = Server::start(&["--done-after", "3"]);
    let runs = Runs::new();
    let ended = runs.one(&server.url, "16", "0.2", &["session.steps=5"]);
    let row = runs.row();
    assert_eq!((row["successful"].as_str(), row["done"].as_str(), judged(&row)), ("16", "16", ("valid", "none")));
    assert!(ended.text.contains("16 ended with done"), "{}", ended.text);
    assert!(
        Results::of(&runs.out())
            .raw()
            .iter()
            .all(|line| line["step_latencies"].as_array().is_some_and(|s| s.len() == 3))
    );
}

/// A proxy or a server that leaves closing the connection to the client for a second.
#[test]
fn the_end_of_a_connection_is_in_no_latency_and_no_rate() {
    let server = Server::start(&["--linger-ms", "900"]);
    for mode in ["http", "ws"] {
        let runs = Runs::new();
        let mode = format!("target.mode=\"{mode}\"");
        let ended = runs.one(&server.url, "16", "0.2", &[&mode]);
        let row = runs.row();
        let number = |column: &str| row[column].parse::<f64>().expect(column);
        assert_eq!(row["successful"], "16", "{}", ended.text);
        assert!(number("total_wall_time") < 0.9, "{mode}: {row:?}");
        let agent = &Results::of(&runs.out()).run_json()["batches"][0]["summary"]["by_agent"][0]["vitals"];
        assert!(agent["let_go_us_max"].as_u64().is_some_and(|us| us >= 800_000), "it is measured apart: {agent}");
    }
    let untidy = Server::start(&["--close-answer", "cut"]);
    let runs = Runs::new();
    let ended = runs.one(&untidy.url, "16", "0.2", &[]);
    let row = runs.row();
    assert_eq!((row["successful"].as_str(), row["untidy"].as_str()), ("16", "16"), "{}", ended.text);
    assert!(ended.text.contains("16 did not end tidily"), "{}", ended.text);
}

#[test]
fn the_table_says_what_was_beyond_what_was_asked() {
    let server = Server::start(&["--step-delay", "40"]);
    let runs = Runs::new();
    let ended = runs.one(&server.url, "32", "1", &[]);
    let row = runs.row();
    let beyond = row["beyond_p50"].parse::<f64>().expect("a number");
    assert!((0.04..0.5).contains(&beyond), "{row:?}");
    let wire = row["wire_beyond_p50"].parse::<f64>().expect("a number");
    assert!((0.039..0.5).contains(&wire), "{row:?}");
    for name in
        ["open at once", "success", "sessions/s", "beyond what was asked", "step wire", "own delay", "per worker"]
    {
        assert!(ended.text.contains(name), "{name}: {}", ended.text);
    }
}

#[test]
fn environments_of_others_succeed() {
    for kind in ["foreign", "nan", "list", "text", "anonymous"] {
        let server = Server::start(&["--observation", kind]);
        let runs = Runs::new();
        let ended = runs.one(&server.url, "8", "0", &["target.mode=\"compare\"", "session.steps=2"]);
        assert_eq!(ended.code(), Some(0), "{kind}: {}", ended.text);
        let results = Results::of(&runs.out());
        results.check_with_python();
        assert!(results.summary().iter().all(|row| row["successful"] == "8"), "{kind}: {}", ended.text);
    }
}

#[test]
fn connections_that_were_cut_at_one_age_are_told_as_such() {
    let server = Server::start(&["--idle-cut", "1.0"]);
    let runs = Runs::new();
    let ended = runs.one(&server.url, "16", "3", &[]);
    let row = runs.row();
    assert_eq!((row["successful"].as_str(), judged(&row)), ("0", ("valid", "server")), "{}", ended.text);
    says(&row, "16 connections were cut without an answer at the same age, 1.0");
    assert_eq!(row["outage"], "", "the server is the same after it");
}

#[test]
fn what_the_server_takes_is_known_before_it_refuses() {
    let server = Server::start(&["--workers", "2", "--max-concurrent-envs", "20"]);
    let runs = Runs::new();
    let connection = runs.dir.path().join("connection.toml");
    std::fs::write(&connection, format!("urls = [\"{}\"]\nworkers = 2\nmax_concurrent_envs = 20\n", server.url))
        .expect("written");
    let plan = runs.dir.path().join("plan.toml");
    std::fs::write(
        &plan,
        "[server]\nconnection = \"connection.toml\"\n[grid]\nbatch_sizes = [16, 64]\nwait_seconds = [0.5]\nrepetitions = 1\n",
    )
    .expect("written");
    let known = "2 workers x 20 environments = 40";
    let mut check = coordinator();
    check.arg("check").arg(&plan);
    let ended = run(check);
    assert!(ended.text.contains(known) && ended.text.contains("a batch of 64 has more sessions"), "{}", ended.text);
    let mut go = coordinator();
    go.arg("run").arg(&plan).arg("--output").arg(runs.out());
    let ended = run(go);
    assert!(ended.text.contains(known), "{}", ended.text);
    let results = Results::of(&runs.out());
    let row = &results.summary()[1];
    assert_eq!(judged(row), ("valid", "server"), "{}", ended.text);
    assert!(row["fullest_worker"].parse::<u64>().is_ok_and(|n| n >= 20), "{row:?}");
}

/// What the readiness check says and how long it waits, by the server's answer.
#[test]
fn the_readiness_check_tells_what_passes_from_what_does_not() {
    let passing = Server::start(&["--unready", "503:2:1"]);
    let runs = Runs::new();
    let ended = runs.one(&passing.url, "4", "0", &[]);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    assert_eq!(runs.row()["successful"], "4");

    for (flags, said) in [
        (&["--refuse-upgrade", "401"][..], "needs a token"),
        (&["--refuse-upgrade", "302"], "it says to go to /elsewhere, which is not followed"),
        (&["--refuse-upgrade", "404"], "there is no /ws at this URL"),
    ] {
        let server = Server::start(flags);
        let runs = Runs::new();
        let begun = Instant::now();
        let ended = runs.one(&server.url, "4", "0", &[]);
        assert_eq!(ended.code(), Some(4), "{}", ended.text);
        assert!(ended.text.contains(said), "{said:?} in {}", ended.text);
        assert!(!ended.text.contains("does not look like"), "{}", ended.text);
        assert!(begun.elapsed() < Duration::from_secs(40), "no whole minute for an answer that does not change");
    }
}

#[test]
fn a_port_where_nothing_listens_is_said_soon_and_waited_for() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("port");
    let address = free.local_addr().expect("address").to_string();
    drop(free);
    let runs = Runs::new();
    let mut coordinator = Process::start(runs.command(&format!("http://{address}"), "4", "0", &[]));
    let line = coordinator.line_with("nothing listens on ");
    assert!(line.contains(&address) && line.contains("waiting up to 60 s"), "{line}");
    let _server = Server::start(&["--listen", &address]);
    let ended = coordinator.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
}

#[test]
fn flags_that_say_what_is_run_are_not_ignored_when_a_run_goes_on() {
    let server = Server::start(&[]);
    let runs = Runs::new();
    let ended = runs.one(&server.url, "4", "0", &[]);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    let mut again = coordinator();
    again.arg("run").arg("--resume").arg(runs.out()).arg("--compare");
    let ended = run(again);
    assert_eq!(ended.code(), Some(2), "{}", ended.text);
    assert!(ended.text.contains("can't be changed"), "{}", ended.text);
}
