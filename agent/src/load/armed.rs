//! The interface between the control side and the load: a share is armed, started, and then measured.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use proto::{Assignment, HistogramSet, Ledger, SessionRecord, Vitals};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::recorder::Counters;
use crate::net::resolver::TargetResolver;

/// A share that waits for its start. Dropping it ends whatever it has started.
pub trait ArmedLoad: Send {
    fn counters(&self) -> Arc<Counters>;

    /// Cancelling the token cuts the sessions in flight; [`ArmedLoad::finish`] then returns soon.
    fn canceller(&self) -> CancellationToken;

    /// Starts the sessions at `start` and waits until each has ended.
    fn finish(self: Box<Self>, start: Instant) -> LoadFuture<Measured>;
}

/// An agent's whole measurement of one attempt.
#[derive(Debug)]
pub struct Measured {
    pub ledger: Ledger,
    pub histograms: HistogramSet,
    /// Sorted by session number.
    pub records: Vec<SessionRecord>,
    /// How much later than intended the first session started.
    pub start_offset_us: u64,
    pub vitals: Vitals,
}

/// A result that is known later. The error says what went wrong, for people.
pub type LoadFuture<T> = Pin<Box<dyn Future<Output = Result<T, String>> + Send>>;

type Arm = dyn Fn(Assignment, TargetResolver, u32) -> LoadFuture<Box<dyn ArmedLoad>> + Send + Sync;

/// Makes armed loads. The default uses threads and sockets (see `workers`); a simulation brings its own.
#[derive(Clone)]
pub struct LoadFactory(Arc<Arm>);

impl LoadFactory {
    /// `arm` is given the share, the resolver of its target, and the number of threads it may use.
    pub fn new(
        arm: impl Fn(Assignment, TargetResolver, u32) -> LoadFuture<Box<dyn ArmedLoad>> + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(arm))
    }

    /// Prepares a share.
    pub fn arm(&self, share: Assignment, resolver: TargetResolver, threads: u32) -> LoadFuture<Box<dyn ArmedLoad>> {
        (self.0)(share, resolver, threads)
    }
}

impl fmt::Debug for LoadFactory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoadFactory")
    }
}
