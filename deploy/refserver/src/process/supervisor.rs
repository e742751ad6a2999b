//! Runs several workers behind one listening socket, as uvicorn does. The kernel spreads the connections.

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
    let mut supervisor = Supervisor { listener, prefix, args, stop: CancellationToken::new(), workers: JoinSet::new() };
    if cli.exit_with_stdin {
        stop_with_stdin(supervisor.stop.clone())?;
    }
    // This thread starts the workers, because they die with the thread that started them.
    runtime()?.block_on(async {
        stop_with_signals(supervisor.stop.clone())?;
        let started = supervisor.start_all(cli.workers).await;
        if started.is_ok() && !supervisor.stop.is_cancelled() {
            announce(address)?;
        }
        let supervised = match started {
            Ok(()) => supervisor.keep_up().await,
            Err(error) => Err(error),
        };
        supervisor.stop.cancel();
        drop(supervisor.listener);
        while supervisor.workers.join_next().await.is_some() {}
        supervised
    })
}

struct Supervisor<'a> {
    listener: TcpListener,
    prefix: &'a [&'a str],
    args: &'a [OsString],
    stop: CancellationToken,
    workers: JoinSet<()>,
}

impl Supervisor<'_> {
    async fn start_all(&mut self, count: u16) -> io::Result<()> {
        let starting: Vec<Child> = (0..count).map(|_| self.spawn()).collect::<io::Result<_>>()?;
        for child in starting {
            self.watch_once_ready(child).await?;
        }
        Ok(())
    }

    /// Replaces workers that die until `stop`.
    async fn keep_up(&mut self) -> io::Result<()> {
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                Some(_) = self.workers.join_next() => {
                    if self.stop.is_cancelled() {
                        return Ok(());
                    }
                    tracing::warn!("a worker died; starting another");
                    let child = self.spawn()?;
                    self.watch_once_ready(child).await?;
                }
            }
        }
    }

    async fn watch_once_ready(&mut self, child: Child) -> io::Result<()> {
        let child = ready(child, &self.stop).await?;
        self.workers.spawn(watch(child, self.stop.clone()));
        Ok(())
    }

    /// Runs this executable again as a worker whose standard input is the listening socket.
    fn spawn(&self) -> io::Result<Child> {
        Command::new(std::env::current_exe()?)
            .args(self.prefix)
            .args(self.args)
            .arg(format!("--worker-of={}", std::process::id()))
            .stdin(Stdio::from(OwnedFd::from(self.listener.try_clone()?)))
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
    }
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
