//! Where a run puts its results.

use std::io;

use crate::results::attempt::FinishedAttempt;
use crate::results::metadata::RunState;

/// Where finished attempts go.
pub trait ResultSink: Send + Sized + 'static {
    /// Whether [`ResultSink::put`] may wait for a disk. Long work is done on other threads then; where time is simulated it is
    /// `false`, and everything stays on the thread of the event loop.
    const BLOCKS: bool;

    /// Keeps one attempt. When this returns, it survives a crash.
    ///
    /// # Errors
    /// What went wrong, where, and how much room it takes.
    fn put(&mut self, finished: &FinishedAttempt) -> io::Result<()>;

    /// Replaces what is known of the run as a whole.
    ///
    /// # Errors
    /// With the path that could not be written.
    fn put_run(&self, run: &RunState<'_>) -> io::Result<()>;

    /// Where it all is.
    fn place(&self) -> String;
}
