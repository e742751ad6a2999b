//! The interface through which a run stores its results.

use std::io;

use crate::results::attempt::FinishedAttempt;
use crate::results::metadata::RunState;

/// Stores the results of a run.
pub trait ResultSink: Send + Sized + 'static {
    /// Whether [`ResultSink::put`] may wait for a disk, so that long work is done on other threads. Simulated time
    /// needs `false`, which keeps everything on the event loop's thread.
    const BLOCKS: bool;

    /// Stores one attempt. Once this has returned, the attempt survives a crash.
    ///
    /// # Errors
    /// The error names the path, the cause, and the space needed.
    fn put(&mut self, finished: &FinishedAttempt) -> io::Result<()>;

    /// Replaces the document on the run as a whole.
    ///
    /// # Errors
    /// The error names the path that could not be written.
    fn put_run(&self, run: &RunState<'_>) -> io::Result<()>;

    /// Where the results are stored, for people.
    fn place(&self) -> String;
}
