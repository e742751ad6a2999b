//! Runs several workers behind one listening socket, as uvicorn does. The kernel spreads connections over those that accept.

use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::cli::Cli;
use super::runtime::{announce, runtime, stop_with_signals, stop_with_stdin};

/// How long workers may take to stop before they are killed. They need less by themselves.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Starts `cli.workers` workers, replaces one that dies, and stops them all when told to.
pub(super) fn supervise(cli: &Cli, listener: TcpListener, prefix: &[&str], args: &[OsString]) -> io::Result<()> {
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    if cli.exit_with_stdin {
        stop_with_stdin(stop.clone())?;
    }
    // This thread starts the workers, because they die with the thread that started them.
    runtime()?.block_on(async {
        stop_with_signals(stop.clone())?;
        let mut workers = JoinSet::new();
        let started = start_all(cli.workers, &listener, prefix, args, &stop, &mut workers).await;
        if started.is_ok() && !stop.is_cancelled() {
            announce(address)?;
        }
        let supervised = match started {
            Ok(()) => keep_up(&listener, prefix, args, &stop, &mut workers).await,
            Err(error) => Err(error),
        };
        stop.cancel();
        drop(listener);
        while workers.join_next().await.is_some() {}
        supervised
    })
}

async fn start_all(
    count: u16,
    listener: &TcpListener,
    prefix: &[&str],
    args: &[OsString],
    stop: &CancellationToken,
    workers: &mut JoinSet<()>,
) -> io::Result<()> {
    let mut starting = Vec::new();
    for _ in 0..count {
        starting.push(spawn(listener, prefix, args)?);
    }
    for child in starting {
        let child = ready(child, stop).await?;
        workers.spawn(watch(child, stop.clone()));
    }
    Ok(())
}

/// Replaces workers that die until `stop`.
async fn keep_up(
    listener: &TcpListener,
    prefix: &[&str],
    args: &[OsString],
    stop: &CancellationToken,
    workers: &mut JoinSet<()>,
) -> io::Result<()> {
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            Some(_) = workers.join_next() => {
                if stop.is_cancelled() {
                    return Ok(());
                }
                tracing::warn!("a worker died; starting another");
                let child = ready(spawn(listener, prefix, args)?, stop).await?;
                workers.spawn(watch(child, stop.clone()));
            }
        }
    }
}

/// Runs this executable again as a worker whose standard input is the listening socket.
fn spawn(listener: &TcpListener, prefix: &[&str], args: &[OsString]) -> io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .args(prefix)
        .args(args)
        .arg(format!("--worker-of={}", std::process::id()))
        .stdin(Stdio::from(OwnedFd::from(listener.try_clone()?)))
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
}

/// Waits until the worker has said that it listens, or `stop`.
async fn ready(mut child: Child, stop: &CancellationToken) -> io::Result<Child> {
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        tokio::select! {
            read = async { BufReader::new(stdout).read_line(&mut line).await } => read.map(|_| ())?,
            () = stop.cancelled() => return Ok(child),
        }
    }
    if line.starts_with("listening on ") { Ok(child) } else { Err(io::Error::other("a worker did not start")) }
}

/// Waits until the worker has ended; after `stop` it is told to, and killed if it does not.
async fn watch(mut child: Child, stop: CancellationToken) {
    tokio::select! {
        _ = child.wait() => return,
        () = stop.cancelled() => {}
    }
    // The worker is not reaped yet, so the pid is still its own.
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
    if tokio::time::timeout(STOP_GRACE, child.wait()).await.is_err() {
        tracing::warn!("a worker did not stop in time and is killed");
        let _ = child.kill().await;
    }
}
