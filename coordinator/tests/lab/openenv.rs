//! The real server: openenv-core under uvicorn, started by the script that users start it with.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use crate::support::{Ended, Process, Results, coordinator, run, workspace};

/// A process of `deploy/local/run_uvicorn.sh` with two workers.
struct Uvicorn {
    process: Option<Process>,
    connection: PathBuf,
}

impl Uvicorn {
    fn start(dir: &Path, max_concurrent_envs: u32) -> Self {
        Self::start_with(dir, max_concurrent_envs, "2", &[])
    }

    fn start_with(dir: &Path, max_concurrent_envs: u32, workers: &str, variables: &[(&str, &str)]) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("port");
        let port = free.local_addr().expect("address").port();
        drop(free);
        let connection = dir.join("connection.toml");
        let mut command = Command::new(workspace().join("deploy/local/run_uvicorn.sh"));
        command
            .env("WORKERS", workers)
            .env("PORT", port.to_string())
            .env("MAX_CONCURRENT_ENVS", max_concurrent_envs.to_string())
            .env("CONNECTION_FILE", &connection)
            .envs(variables.iter().copied());
        let mut process = Process::start(command);
        // The script writes the connection file once the server answers, and names it then.
        process.line_with("connection.toml");
        assert!(connection.exists(), "the script names its connection file once it is there");
        Self { process: Some(process), connection }
    }

    /// The url in the connection file.
    fn url(&self) -> String {
        let text = std::fs::read_to_string(&self.connection).expect("a connection file");
        text.split('"').nth(1).expect("a url").to_owned()
    }

    fn bench(&self, out: &Path, flags: &[&str]) -> Ended {
        let mut command = coordinator();
        command
            .args(["run", "experiments/plans/local-uvicorn.toml", "--wait", "1.0", "--reps", "1"])
            .arg("--set")
            .arg(format!("server.connection={}", self.connection.display()))
            .args(flags)
            .arg("--output")
            .arg(out)
            .current_dir(workspace());
        run(command)
    }
}

impl Drop for Uvicorn {
    fn drop(&mut self) {
        // The script ends its workers too if it is terminated.
        if let Some(process) = self.process.take() {
            process.signal(Signal::SIGTERM);
            process.end();
        }
    }
}

#[test]
fn two_workers_hold_512_sessions() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Uvicorn::start(dir.path(), 512);
    let out = dir.path().join("out");
    let ended = server.bench(&out, &["--batch-sizes", "128,512"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    let results = Results::of(&out);
    let summary = results.summary();
    assert_eq!(summary.len(), 2);
    for row in &summary {
        assert_eq!(row["successful"], row["num_requests"], "{row:?}\n{}", ended.text);
        assert_eq!(row["unique_pids"], "2", "both workers: {row:?}");
        assert_eq!(row["unique_sessions"], row["num_requests"]);
    }
    results.check_with_python();
    let server_facts = &results.run_json()["plan"]["server"];
    assert_eq!((server_facts["workers"].as_u64(), server_facts["max_concurrent_envs"].as_u64()), (Some(2), Some(512)));
    assert!(server_facts["start_command"].as_str().is_some_and(|command| command.contains("run_uvicorn.sh")));
}

/// A full server accepts first and refuses afterwards, often before the client has sent anything.
#[test]
fn a_full_server_is_told_as_capacity_reached_and_not_as_closed() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Uvicorn::start(dir.path(), 20);
    let out = dir.path().join("out");
    let ended = server.bench(&out, &["--batch-sizes", "128"]);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    let results = Results::of(&out);
    let raw = results.raw();
    let refused = raw.iter().filter(|row| row["error_type"] == "capacity_reached").count();
    let succeeded = raw.iter().filter(|row| row["success"] == true).count();
    assert_eq!(refused + succeeded, 128, "nothing else happens to a session:\n{}", ended.text);
    assert!((20..=60).contains(&succeeded), "two workers with 20 each, a few more as places come free: {succeeded}");
    assert_eq!(results.summary()[0]["limit"], "server");
}

const VERSIONS: [&str; 2] = ["0.3.0", "0.10.0"];

/// Runs one batch without a warm-up; returns the row, after `scripts/check_results.py` has checked the folder.
fn one(server: &Uvicorn, out: &Path, batch: &str, wait: &str, settings: &[&str]) -> (BTreeMap<String, String>, Ended) {
    let mut command = coordinator();
    command.args(["run", "--target", &server.url(), "--batch-sizes", batch, "--wait", wait, "--reps", "1"]);
    command.args(["--set", "grid.warmup=false", "--set", "success.overhead_seconds=5"]);
    command.args(settings.iter().flat_map(|setting| ["--set", setting])).arg("--output").arg(out);
    let ended = run(command);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    let results = Results::of(out);
    results.check_with_python();
    (results.summary().remove(0), ended)
}

/// Real servers with pings while sessions think, refusals near the criterion, and other names than the benchmark's.
#[test]
fn real_servers_of_both_versions_are_judged_as_they_are() {
    for version in VERSIONS {
        let dir = tempfile::tempdir().expect("dir");
        let pings = "--ws-ping-interval 1 --ws-ping-timeout 1";
        let server = Uvicorn::start_with(dir.path(), 100, "1", &[("OPENENV", version), ("UVICORN_FLAGS", pings)]);
        let think = ["session.think_seconds=3", "session.steps=2"];
        let (row, ended) = one(&server, &dir.path().join("pings"), "16", "0.1", &think);
        assert_eq!((row["successful"].as_str(), row["verdict"].as_str()), ("16", "valid"), "{version}: {}", ended.text);
        let (row, ended) = one(&server, &dir.path().join("refused"), "103", "2", &[]);
        assert_eq!((row["successful"].as_str(), row["open_max"].as_str()), ("100", "100"), "{version}: {}", ended.text);
        assert_eq!((row["verdict"].as_str(), row["limit"].as_str()), ("valid", "none"), "{version}: {}", ended.text);
        drop(server);

        let app = workspace().join("coordinator/tests/lab/environments");
        let variables = [
            ("OPENENV", version),
            ("APP_DIR", app.to_str().expect("a plain path")),
            ("APP", "as_it_is:app"),
            ("DONE_AFTER", "3"),
            ("REPLY_BYTES", "1500000"),
            ("NEEDS", ""),
        ];
        let server = Uvicorn::start_with(dir.path(), 8, "1", &variables);
        let (row, ended) = one(&server, &dir.path().join("done"), "4", "0.1", &["session.steps=5"]);
        assert_eq!((row["successful"].as_str(), row["done"].as_str()), ("4", "4"), "{version}: {}", ended.text);
        // A server whose replies can't be read gets no batch, and the remedy is named.
        let ended = refused(&server, &["session.message_bytes_max=1000000"]);
        assert!(ended.text.contains("raise session.message_bytes_max"), "{version}: {}", ended.text);
        drop(server);

        let needs = variables.map(|(name, value)| (name, if name == "NEEDS" { "direction" } else { value }));
        let server = Uvicorn::start_with(dir.path(), 8, "1", &needs);
        let ended = refused(&server, &[]);
        assert!(ended.text.contains("direction"), "the field that is missing is named: {version}: {}", ended.text);
        assert!(!ended.text.contains("does not look like"), "{version}: {}", ended.text);
    }
}

/// A run that ends before its first batch.
fn refused(server: &Uvicorn, settings: &[&str]) -> Ended {
    let mut command = coordinator();
    command.args(["run", "--target", &server.url(), "--batch-sizes", "4", "--wait", "0.1", "--reps", "1"]);
    command.args(settings.iter().flat_map(|setting| ["--set", setting]));
    let out = tempfile::tempdir().expect("dir");
    command.arg("--output").arg(out.path().join("out"));
    let ended = run(command);
    assert_eq!(ended.code(), Some(4), "{}", ended.text);
    ended
}

/// uvicorn is terminated or killed in the middle of a batch, and started again a little later.
#[test]
fn a_restart_of_a_real_server_is_named() {
    let signals = [Signal::SIGTERM, Signal::SIGKILL];
    for (version, signal) in VERSIONS.into_iter().flat_map(|version| signals.map(|signal| (version, signal))) {
        let dir = tempfile::tempdir().expect("dir");
        let server = Uvicorn::start_with(dir.path(), 100, "1", &[("OPENENV", version)]);
        let url = server.url();
        let port = url.rsplit(':').next().expect("a port").to_owned();
        let out = dir.path().join("out");
        let mut command = coordinator();
        command.args(["run", "--target", &url, "--batch-sizes", "32", "--wait", "8", "--reps", "1"]);
        command.args(["--set", "grid.warmup=false", "--output"]).arg(&out);
        let mut coordinator = Process::start(command);
        coordinator.line_with("open 32");
        for pid in serving(&port) {
            nix::sys::signal::kill(pid, signal).expect("signal sent");
        }
        drop(server);
        let _again = Uvicorn::start_with(dir.path(), 100, "1", &[("OPENENV", version), ("PORT", &port)]);
        let ended = coordinator.end();
        assert_eq!(ended.code(), Some(0), "{version}: {}", ended.text);
        let results = Results::of(&out);
        let row = results.summary().remove(0);
        assert_eq!(
            (row["attempt"].as_str(), row["successful"].as_str()),
            ("2", "32"),
            "{version}, {signal}: {}",
            ended.text
        );
        let outage = &results.journal()[0]["summary"]["verdict"]["outage"];
        assert_eq!(outage["cut"].as_u64(), Some(32), "{version}, {signal}: {outage}");
    }
}

/// The uvicorn process of a port.
fn serving(port: &str) -> Vec<nix::unistd::Pid> {
    let wanted = format!("uvicorn\0benchmark_env.app:app\0--host\0127.0.0.1\0--port\0{port}\0");
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    processes
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains(&wanted)))
        .map(nix::unistd::Pid::from_raw)
        .collect()
}
