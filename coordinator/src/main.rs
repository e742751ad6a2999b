//! The `coordinator` program; see [`coordinator::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    coordinator::cli::main_from(std::env::args_os().collect())
}
