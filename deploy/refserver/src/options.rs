//! How a worker serves.

use std::path::PathBuf;
use std::time::Duration;

use crate::faults::{Faults, seconds};

/// Settings of one worker process. The default is a faultless server with the benchmark app's limits.
#[derive(Debug, Clone, PartialEq, clap::Args)]
pub struct Options {
    /// WebSocket sessions at a time in each worker process; 0 is no limit
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub max_concurrent_envs: usize,
    /// Host name told in observations as host_url, NAME:PORT [default: the system's]
    #[arg(long, value_name = "NAME")]
    pub host_name: Option<String>,
    /// Seconds between pings to each WebSocket client; 0 is never
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "20")]
    pub ping_interval: Duration,
    /// Seconds to wait for the answer to a ping before giving the client up
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "20")]
    pub ping_timeout: Duration,
    /// Append what the server itself saw of each WebSocket session to this file, a line of JSON each
    ///
    /// One line when a session has ended: session_hash, pid, accepted_us, upgraded_us and closed_us (microseconds since
    /// 1970 on this machine's clock) and replies, a list with an entry for the answer to the handshake, to each reset
    /// and to each step: phase, intended_us (the delay to be kept), achieved_us (from the read of the request to just
    /// before the write of the reply) and held_us (the same from when the kernel received the request; null where it
    /// did not say). Workers may share the file. Without this flag nothing is measured.
    #[arg(long, value_name = "FILE")]
    pub truth: Option<PathBuf>,
    #[command(flatten)]
    pub faults: Faults,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            max_concurrent_envs: 100,
            host_name: None,
            ping_interval: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(20),
            truth: None,
            faults: Faults::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    #[test]
    fn the_default_is_what_an_empty_command_line_gives() {
        assert_eq!(Line::parse_from(["x"]).options, Options::default());
    }

    #[test]
    fn bad_durations_are_refused() {
        assert!(Line::try_parse_from(["x", "--ping-interval", "-1"]).is_err());
        assert!(Line::try_parse_from(["x", "--ping-timeout", "soon"]).is_err());
    }
}
