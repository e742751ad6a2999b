//! The real thing: openenv-core under uvicorn, started by the script that users start it with.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use crate::support::{Ended, Process, Results, coordinator, run, workspace};

/// `deploy/local/run_uvicorn.sh` with two workers.
struct Uvicorn {
    process: Option<Process>,
    connection: PathBuf,
}

impl Uvicorn {
    fn start(dir: &Path, max_concurrent_envs: u32) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("port");
        let port = free.local_addr().expect("address").port();
        drop(free);
        let connection = dir.join("connection.toml");
        let mut command = Command::new(workspace().join("deploy/local/run_uvicorn.sh"));
        command
            .env("WORKERS", "2")
            .env("PORT", port.to_string())
            .env("MAX_CONCURRENT_ENVS", max_concurrent_envs.to_string())
            .env("CONNECTION_FILE", &connection);
        let mut process = Process::start(command);
        // The connection file is written when it answers, and named then.
        process.line_with("connection.toml");
        assert!(connection.exists(), "the script names its connection file once it is there");
        Self { process: Some(process), connection }
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
        // Asked to end, it takes its workers with it.
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

/// The server accepts first and says that it is full after: often before the client has sent anything.
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
