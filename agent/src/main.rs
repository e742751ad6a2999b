//! The `agent` program; see [`agent::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    agent::cli::main_from(std::env::args_os())
}
