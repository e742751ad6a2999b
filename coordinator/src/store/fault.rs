//! Deliberate faults, for tests of what a crash or a bad disk leaves behind (`--fault`, hidden).
//!
//! Every write to the results folder has a number, from 1. A kill is a real SIGKILL of this process: nothing is flushed
//! or cleaned up.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, raise};

/// The faults to cause; none by default.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// The process is killed once this write is on disk.
    kill_after: Option<u64>,
    /// The process is killed once half of this write is on disk.
    kill_within: Option<u64>,
    /// Every write takes this much longer.
    slow: Duration,
    writes: Arc<AtomicU64>,
}

impl FromStr for Faults {
    type Err = String;

    /// Parses `kill-after=N`, `kill-within=N`, `slow-ms=N`, separated by commas.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut faults = Self::default();
        for part in text.split(',') {
            let unknown = || format!("{part}: give kill-after=N, kill-within=N or slow-ms=N");
            let (name, value) = part.split_once('=').ok_or_else(unknown)?;
            let number: u64 = value.parse().map_err(|_| unknown())?;
            match name {
                "kill-after" => faults.kill_after = Some(number),
                "kill-within" => faults.kill_within = Some(number),
                "slow-ms" => faults.slow = Duration::from_millis(number),
                _ => return Err(unknown()),
            }
        }
        Ok(faults)
    }
}

/// One write to one file, in any number of pieces; it is on disk once [`Sink::finish`] returns.
#[derive(Debug)]
pub(super) struct Sink<'a> {
    file: &'a File,
    path: &'a Path,
    faults: &'a Faults,
    number: u64,
}

impl<'a> Sink<'a> {
    pub(super) fn new(file: &'a File, path: &'a Path, faults: &'a Faults) -> Self {
        let number = faults.writes.fetch_add(1, Ordering::Relaxed) + 1;
        if !faults.slow.is_zero() {
            // A slow disk blocks its thread too; the store writes on a thread that may block.
            std::thread::sleep(faults.slow);
        }
        Self { file, path, faults, number }
    }

    pub(super) fn finish(self) -> io::Result<()> {
        self.file.sync_data().map_err(|error| self.named(error))?;
        if self.faults.kill_after == Some(self.number) {
            die();
        }
        Ok(())
    }

    fn named(&self, error: io::Error) -> io::Error {
        // An error made from the kind alone would lose "No space left on device".
        io::Error::new(error.kind(), format!("{}: {error}", self.path.display()))
    }
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = self.file;
        if self.faults.kill_within == Some(self.number) {
            // This may write less than half; the process ends here in any case.
            let _ = file.write_all(&bytes[..bytes.len() / 2]).and_then(|()| file.sync_data());
            die();
        }
        file.write(bytes).map_err(|error| self.named(error))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn die() {
    // SIGKILL ends the process, so that this does not return.
    let _ = raise(Signal::SIGKILL);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read() {
        let faults: Faults = "kill-after=3,slow-ms=20".parse().expect("faults");
        assert_eq!((faults.kill_after, faults.kill_within, faults.slow), (Some(3), None, Duration::from_millis(20)));
        for bad in ["", "kill-after", "kill-after=x", "burn=1"] {
            assert!(bad.parse::<Faults>().is_err(), "{bad}");
        }
    }
}
