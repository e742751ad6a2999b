//! What the connections of one worker process share, and the loop that accepts them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, raise};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection;
use crate::environment::Identity;
use crate::faults::Injector;
use crate::options::Options;
use crate::stamp::wall_clock;
use crate::truth::{self, Log, Sink};

/// How long open connections may take to end once the server stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Pause after an accept failed for want of file descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(5);

/// State of one worker process.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) identity: Identity,
    pub(crate) faults: Injector,
    /// `usize::MAX` when unlimited.
    pub(crate) max_concurrent_envs: usize,
    /// `None` when the server does not ping.
    pub(crate) ping_interval: Option<Duration>,
    pub(crate) ping_timeout: Duration,
    /// `None` when nothing is to be measured.
    pub(crate) truth: Option<Sink>,
    active_sessions: AtomicUsize,
}

impl Worker {
    /// A worker that serves `port`, its name taken from the system unless `options` has one.
    ///
    /// # Errors
    /// When the truth cannot be written.
    pub(crate) fn new(options: Options, port: u16) -> io::Result<Arc<Self>> {
        let system_name = || nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        let host_name = options.host_name.or_else(system_name).unwrap_or_else(|| "localhost".into());
        let truth = options.truth.map(|path| truth::open(&path).and_then(Sink::new)).transpose()?;
        Ok(Arc::new(Self {
            identity: Identity::new(&host_name, port),
            faults: Injector::new(options.faults),
            max_concurrent_envs: match options.max_concurrent_envs {
                0 => usize::MAX,
                limit => limit,
            },
            ping_interval: Some(options.ping_interval).filter(|interval| !interval.is_zero()),
            ping_timeout: options.ping_timeout,
            truth,
            active_sessions: AtomicUsize::new(0),
        }))
    }
}

/// One session's place among the worker's sessions, given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Worker>);

impl Slot {
    /// # Errors
    /// The number of active sessions, when that is the maximum.
    pub(crate) fn take(worker: &Arc<Worker>) -> Result<Self, usize> {
        let below = |active| (active < worker.max_concurrent_envs).then_some(active + 1);
        worker.active_sessions.fetch_update(Ordering::AcqRel, Ordering::Acquire, below)?;
        Ok(Self(Arc::clone(worker)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.active_sessions.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Kills this process after a time, as a crash would.
pub(crate) fn end_process(after: Duration) {
    tokio::spawn(async move {
        tokio::time::sleep(after).await;
        tracing::warn!("the process ends on purpose");
        if let Err(error) = raise(Signal::SIGKILL) {
            tracing::error!(%error, "cannot kill itself");
        }
    });
}

/// Accepts connections until `stop`, then lets the open ones say goodbye for a bounded time.
///
/// # Errors
/// When accepting fails in a way that does not pass.
pub(crate) async fn serve(listener: TcpListener, worker: Arc<Worker>, stop: CancellationToken) -> io::Result<()> {
    let connections = TaskTracker::new();
    let accepted = accept_all(&listener, &worker, &connections, &stop).await;
    drop(listener);
    stop.cancel();
    connections.close();
    // Sessions bound themselves to less; this is for what nobody has thought of.
    let _ = tokio::time::timeout(SHUTDOWN_GRACE, connections.wait()).await;
    accepted
}

async fn accept_all(
    listener: &TcpListener,
    worker: &Arc<Worker>,
    connections: &TaskTracker,
    stop: &CancellationToken,
) -> io::Result<()> {
    let mut complained = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let log = worker.truth.as_ref().map(|_| Box::new(Log::new(wall_clock())));
                connections.spawn(connection::serve(stream, log, Arc::clone(worker), stop.clone()));
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) if is_shortage(&error) => {
                if !complained {
                    tracing::warn!(%error, "cannot accept for now");
                    complained = true;
                }
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// accept(2) reports errors already pending on the new connection.
fn is_about_one_connection(error: &io::Error) -> bool {
    use nix::libc::{EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH, ENONET, ENOPROTOOPT, EOPNOTSUPP, EPERM, EPROTO};
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
        || matches!(
            error.raw_os_error(),
            Some(
                EHOSTDOWN | EHOSTUNREACH | ENETDOWN | ENETUNREACH | ENONET | ENOPROTOOPT | EOPNOTSUPP | EPERM | EPROTO
            )
        )
}

fn is_shortage(error: &io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}
