//! Child processes that run this same executable: local agents and the embedded target.
//!
//! Each has its own descriptors and threads. None outlives its parent: a child ends when its standard input closes, and
//! the kernel closes the other end of that pipe however this process ends.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

use crate::run::event_loop::Outside;

/// First argument of a child process that is an agent.
pub const AGENT: &str = "__agent";
/// First argument of a child process that is the reference server.
pub const REFSERVER: &str = "__refserver";

const SERVER_START_TIMEOUT: Duration = Duration::from_secs(20);

fn command(role: &str) -> Result<Command, String> {
    let executable = std::env::current_exe().map_err(|error| format!("this executable can't be found: {error}"))?;
    let mut command = Command::new(executable);
    command
        .arg(role)
        .arg("--exit-with-stdin")
        .stdin(Stdio::piped())
        // Ctrl-C in a terminal reaches the whole process group: only the coordinator is to handle it.
        .process_group(0)
        .kill_on_drop(true);
    Ok(command)
}

/// Starts the reference server on a free loopback port and returns its URL.
///
/// # Errors
/// If the server does not start in time.
pub async fn target(workers: u64, max_concurrent_envs: u64) -> Result<(Child, String), String> {
    let mut command = command(REFSERVER)?;
    command
        .args(["--listen", "127.0.0.1:0", "--workers", &workers.to_string()])
        .args(["--max-concurrent-envs", &max_concurrent_envs.to_string()])
        .stdout(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("the embedded target can't be started: {error}"))?;
    let stdout = child.stdout.take().ok_or("the embedded target has no output")?;
    let mut lines = BufReader::new(stdout).lines();
    let line = tokio::time::timeout(SERVER_START_TIMEOUT, lines.next_line())
        .await
        .map_err(|_| format!("the embedded target did not come up within {} s", SERVER_START_TIMEOUT.as_secs()))?
        .map_err(|error| format!("the embedded target: {error}"))?
        .ok_or("the embedded target ended at once; its message is above")?;
    let address: SocketAddr = line
        .strip_prefix("listening on ")
        .and_then(|address| address.parse().ok())
        .ok_or_else(|| format!("the embedded target said {line:?} instead of where it listens"))?;
    Ok((child, format!("http://{address}")))
}

/// Starts `count` agents that connect to `coordinator` and divide the cores; `flags` hold their authentication.
///
/// # Errors
/// If an agent can't be started.
pub fn agents(
    count: u32,
    coordinator: SocketAddr,
    flags: &[String],
    verbose: bool,
) -> Result<Vec<(String, Child)>, String> {
    let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    let threads = (cores / count.max(1)).max(1).to_string();
    (1..=count)
        .map(|n| {
            let name = format!("local-{n}");
            let mut command = command(AGENT)?;
            command
                .args(["--coordinator", &coordinator.to_string(), "--name", &name, "--threads", &threads])
                .args(flags)
                .stdout(Stdio::null());
            if !verbose {
                command.env("MUSTER_LOG", "error");
            }
            let child = command.spawn().map_err(|error| format!("agent {name} can't be started: {error}"))?;
            Ok((name, child))
        })
        .collect()
}

/// Reports when a child ends unsuccessfully; the child is killed when the returned handle is dropped.
pub fn watch(
    name: String,
    mut child: Child,
    outside: mpsc::Sender<Outside>,
) -> tokio_util::task::AbortOnDropHandle<()> {
    // `wait` would close the pipe first, which ends the child.
    let stdin = child.stdin.take();
    tokio_util::task::AbortOnDropHandle::new(tokio::spawn(async move {
        let _stdin = stdin;
        let how = match child.wait().await {
            Ok(status) if status.success() => return,
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        // The event loop may have ended.
        let _ = outside.send(Outside::ChildEnded(format!("{name} ended ({how})"))).await;
    }))
}
