//! The `refserver` executable: everything is in the library, so that other executables can embed it.

use std::process::ExitCode;

fn main() -> ExitCode {
    refserver::main_from(&[], std::env::args_os().skip(1))
}
