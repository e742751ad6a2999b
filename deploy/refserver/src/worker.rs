//! The state that all connections of one worker process share.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, raise};

use crate::environment::Identity;
use crate::faults::Injector;
use crate::options::Options;
use crate::truth::{self, Sink};

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
    /// `None` if nothing is measured.
    pub(crate) truth: Option<Sink>,
    active_sessions: AtomicUsize,
}

impl Worker {
    /// A worker that serves `port`. Without a host name in `options` it takes the system's.
    ///
    /// # Errors
    /// If the file of [`Options::truth`] can't be opened.
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

/// One session's place among the worker's sessions. Dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Slot(Arc<Worker>);

impl Slot {
    /// Takes a place.
    ///
    /// # Errors
    /// The number of active sessions, if that is the maximum.
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
pub(crate) fn crash(after: Duration) {
    tokio::spawn(async move {
        tokio::time::sleep(after).await;
        tracing::warn!("the process ends on purpose");
        if let Err(error) = raise(Signal::SIGKILL) {
            tracing::error!(%error, "cannot kill itself");
        }
    });
}
