//! `coordinator health`: whether a coordinator in this network namespace waits for agents. For container health checks.
//!
//! It asks the kernel, because a connection would use up one of the listener's places.

use agent::host::capacity::diag;
use clap::Args;

use super::output::{Problem, print};
use crate::exit;

#[derive(Debug, Args)]
pub(super) struct HealthArgs {
    /// The port of --listen
    #[arg(long, value_name = "PORT", default_value_t = 50_051, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
}

pub(super) fn run(args: &HealthArgs) -> Result<u8, Problem> {
    let line = judge(args.port).map_err(|text| Problem { code: exit::INTERNAL, text })?;
    print(&line)
}

fn judge(port: u16) -> Result<String, String> {
    let listening = |v4| {
        diag::listening_on(v4, port).map_err(|error| format!("the kernel does not say what listens on {port}: {error}"))
    };
    if listening(true)? + listening(false)? == 0 {
        return Err(format!(
            "nothing listens on port {port}: the run is over, has not begun, or has another --listen (--port)"
        ));
    }
    Ok(format!("listening on port {port}\n"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_port_is_healthy_while_something_listens_on_it() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("port");
        let port = listener.local_addr().expect("address").port();
        assert_eq!(judge(port), Ok(format!("listening on port {port}\n")));
        drop(listener);
        assert!(judge(port).is_err_and(|text| text.contains(&format!("nothing listens on port {port}"))));
    }
}
