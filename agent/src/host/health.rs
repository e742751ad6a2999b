//! `agent health`: whether the agent of this network namespace is connected to its coordinator, for health checks of
//! containers.
//!
//! The kernel is asked, not the agent: the process that measures does no extra work, and the coordinator sees no extra
//! connection.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::process::ExitCode;

use clap::Parser;

use super::capacity::diag;

/// The first argument that selects this command.
pub(crate) const COMMAND: &str = "health";

/// Says whether an agent of this network namespace is connected to its coordinator: 0 if it is, 1 and why if not.
#[derive(Debug, Parser)]
#[command(name = "agent health", version)]
struct Args {
    /// The coordinator that the agent was given
    #[arg(long, value_name = "HOST:PORT", env = "MUSTER_COORDINATOR")]
    coordinator: String,
}

/// Runs the command. `args` includes the name of the program, but not the name of the command.
pub(crate) fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (line, code) = match Args::try_parse_from(args) {
        Ok(args) => match judge(&args.coordinator) {
            Ok(line) => (line, ExitCode::SUCCESS),
            Err(line) => (line, ExitCode::FAILURE),
        },
        // Docker knows no failure code but 1.
        Err(error) => (error.to_string(), if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS }),
    };
    // Standard output may be closed.
    let _ = writeln!(io::stdout(), "{}", line.trim_end());
    code
}

/// The line to print: `Ok` if an agent is connected, `Err` if none is.
fn judge(coordinator: &str) -> Result<String, String> {
    let found = coordinator.to_socket_addrs().map_err(|error| {
        format!("{coordinator} does not resolve: {error}; give HOST:PORT in --coordinator or MUSTER_COORDINATOR")
    })?;
    let places: BTreeSet<SocketAddr> = found.collect();
    let mut connections = 0;
    for place in &places {
        connections += diag::established_towards(place)
            .map_err(|error| format!("the kernel does not say what is connected to {place}: {error}"))?;
    }
    let list = places.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ");
    if connections == 0 {
        return Err(format!(
            "no connection to the coordinator {coordinator} ({list}): the agent's log says what it waits for"
        ));
    }
    Ok(format!("{connections} connection(s) to the coordinator {coordinator} ({list})"))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn only_an_open_connection_is_health() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("port");
        let place = listener.local_addr().expect("address").to_string();
        let none = judge(&place).expect_err("nobody is connected");
        assert!(none.contains("no connection to the coordinator 127.0.0.1:"), "{none}");
        let open = TcpStream::connect(&place).expect("connected");
        let accepted = listener.accept().expect("accepted").0;
        assert_eq!(judge(&place), Ok(format!("1 connection(s) to the coordinator {place} ({place})")));
        // The client closes first: its side lives on in TIME_WAIT, which is no connection.
        drop(open);
        drop(accepted);
        assert!(judge(&place).is_err());
    }

    #[test]
    fn what_does_not_resolve_is_named() {
        let fault = judge("no-such-host.invalid:1").expect_err("the name of nobody (RFC 6761)");
        assert!(fault.starts_with("no-such-host.invalid:1 does not resolve"), "{fault}");
        assert!(judge("127.0.0.1").is_err_and(|fault| fault.contains("HOST:PORT")));
    }
}
