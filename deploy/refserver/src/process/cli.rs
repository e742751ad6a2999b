//! The command line.

use std::net::SocketAddr;

use crate::options::Options;

const EXAMPLES: &str = "\
Examples:
  refserver --listen 0.0.0.0:8000 --workers 4 --max-concurrent-envs 500
  refserver --listen 127.0.0.1:8000 --step-delay 50      (every step is answered 50 ms late)
  refserver health --listen 127.0.0.1:8000                     (does the server of this machine answer?)";

/// The OpenEnv benchmark environment server, without Python.
///
/// Prints "listening on IP:PORT" once it accepts. SIGTERM and SIGINT close every session with 1012. `refserver health`
/// says whether a server of this machine answers.
#[derive(Debug, clap::Parser)]
#[command(name = "refserver", version, after_help = EXAMPLES)]
pub(super) struct Cli {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8000")]
    pub(super) listen: SocketAddr,
    /// Worker processes that share the listening socket
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(super) workers: u16,
    /// Threads in each worker [default: the available cores with one worker, 1 with several]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(super) threads: Option<u16>,
    /// Connections that may wait to be accepted
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(i32).range(1..))]
    pub(super) backlog: i32,
    /// Say only what is wrong
    #[arg(short, long, conflicts_with = "verbose")]
    pub(super) quiet: bool,
    /// Say more; RUST_LOG says exactly what
    #[arg(short, long)]
    pub(super) verbose: bool,
    /// Exit when standard input reaches its end, so as not to outlive the process that holds the other side
    #[arg(long)]
    pub(super) exit_with_stdin: bool,
    /// Be a worker of the supervisor with this pid: the listening socket is standard input
    #[arg(long, hide = true, value_name = "PID")]
    pub(super) worker_of: Option<i32>,
    #[command(flatten)]
    pub(super) options: Options,
}

impl Cli {
    /// What is logged unless RUST_LOG says otherwise.
    pub(super) fn level(&self) -> &'static str {
        match (self.quiet, self.verbose) {
            (true, _) => "refserver=warn",
            (_, true) => "refserver=debug",
            _ => "refserver=info",
        }
    }
}
