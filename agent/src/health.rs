//! `agent health`: is the agent of this network namespace connected to its coordinator? For health checks of containers.
//!
//! The kernel is asked, not the agent: nothing is added to the process that measures, and a coordinator sees no stranger
//! at its door.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{self, Write as _};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::process::ExitCode;

use clap::Parser;

use crate::capacity::diag;

/// The word that leads here, as the first argument.
pub(crate) const COMMAND: &str = "health";

/// Says whether an agent of this network namespace is connected to its coordinator: 0 if it is, 1 and why if not.
#[derive(Debug, Parser)]
#[command(name = "agent health", version)]
struct Args {
    /// The coordinator that the agent was given
    #[arg(long, value_name = "HOST:PORT", env = "MUSTER_COORDINATOR")]
    coordinator: String,
}

/// `args` includes the name of the program, and no longer the command.
pub(crate) fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let (line, code) = match Args::try_parse_from(args) {
        Ok(args) => match judge(&args.coordinator) {
            Ok(line) => (line, ExitCode::SUCCESS),
            Err(line) => (line, ExitCode::FAILURE),
        },
        // Docker has no use for another code than 1.
        Err(error) => (error.to_string(), if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS }),
    };
    // Whoever asked may not want to know why.
    let _ = writeln!(io::stdout(), "{}", line.trim_end());
    code
}

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
