//! Carrying a share: when sessions start ([`pace`]), what one does ([`session`]), the loop that launches and collects
//! ([`engine`]), what is kept of it ([`recorder`]), and the threads it runs on ([`squad`]).

pub mod engine;
pub mod overshoot;
pub mod pace;
pub mod recorder;
pub mod session;
pub mod squad;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use proto::Assignment;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::recorder::Counters;
use self::squad::{Measured, Squad};
use crate::driver::Way;
use crate::probe::Means;
use crate::target::{Endpoints, TargetError};

/// How long a name may fail to resolve, and between two tries.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(10);
const LOOKUP_RETRY: Duration = Duration::from_millis(250);

/// A share that waits for its start. Dropping it ends whatever it has begun.
pub trait Carry: Send {
    fn counters(&self) -> Arc<Counters>;

    /// Cuts the sessions in flight; [`Carry::finish`] then returns soon.
    fn canceller(&self) -> CancellationToken;

    /// Lets the sessions go at `start` and waits until each has ended.
    fn finish(self: Box<Self>, start: Instant) -> Later<Measured>;
}

/// Something that is known later, or why not.
pub type Later<T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send>>;

type Arm = dyn Fn(Assignment, Means, u32) -> Later<Box<dyn Carry>> + Send + Sync;

/// How shares are carried: by threads and sockets, unless a simulation has its own way.
#[derive(Clone)]
pub struct Loader(Arc<Arm>);

impl Loader {
    /// `arm` is given the share, what the agent brings to any target, and how many threads it may use.
    pub fn new(arm: impl Fn(Assignment, Means, u32) -> Later<Box<dyn Carry>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(arm))
    }

    pub async fn arm(&self, share: Assignment, means: Means, threads: u32) -> Result<Box<dyn Carry>, String> {
        (self.0)(share, means, threads).await
    }
}

/// A resolver that stumbles once is no reason to lose an agent.
async fn looked_up(means: &Means, share: &Assignment) -> Result<Endpoints, TargetError> {
    let over = Instant::now() + LOOKUP_PATIENCE;
    loop {
        match means.endpoints(&share.target, share.mode).await {
            Err(TargetError::Resolve { .. }) if Instant::now() < over => tokio::time::sleep(LOOKUP_RETRY).await,
            known => return known,
        }
    }
}

impl fmt::Debug for Loader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Loader")
    }
}

impl Default for Loader {
    fn default() -> Self {
        Self::new(|share, means, threads| {
            Box::pin(async move {
                let endpoints = looked_up(&means, &share).await.map_err(|error| error.to_string())?;
                let way = Way { endpoints, source_ips: means.source_ips.clone() };
                Ok(Box::new(Squad::arm(share, way, threads).await?) as Box<dyn Carry>)
            })
        })
    }
}
