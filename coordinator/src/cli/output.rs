//! What every command shares: how much it says, where it prints, and how it fails.

use std::io::Write as _;

use clap::Args;

use crate::exit;

/// How much is said.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct VerbosityFlags {
    /// Say only where results are, and what is wrong
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(super) quiet: bool,

    /// Say more; MUSTER_LOG (as RUST_LOG) says exactly what
    #[arg(short, long, global = true)]
    pub(super) verbose: bool,
}

/// Why a command failed: its exit code, and the message to print.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) code: u8,
    pub(super) text: String,
}

impl Problem {
    pub(super) fn usage(text: impl Into<String>) -> Self {
        Self { code: exit::USAGE, text: text.into() }
    }

    pub(super) fn internal(text: impl Into<String>) -> Self {
        Self { code: exit::INTERNAL, text: text.into() }
    }
}

impl VerbosityFlags {
    /// Prints to standard output, unless `--quiet` was given.
    pub(super) fn print(self, text: &str) -> Result<u8, Problem> {
        if self.quiet { Ok(exit::DONE) } else { print(text) }
    }
}

/// Prints a line to standard error. If that fails, it can't be reported anywhere.
pub(super) fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Prints to standard output; a closed pipe is the reader's choice.
pub(super) fn print(text: &str) -> Result<u8, Problem> {
    let mut stdout = std::io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(exit::DONE),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(exit::DONE),
        Err(error) => Err(Problem::internal(format!("standard output: {error}"))),
    }
}
