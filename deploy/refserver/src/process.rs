//! The program: one worker in this process, or a supervisor of several.

mod cli;
mod runtime;
mod supervisor;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio_util::sync::CancellationToken;

use self::cli::Cli;
use self::runtime::{announce, runtime, stop_with_signals, stop_with_stdin};
use crate::accept::{into_tokio, serve};
use crate::options::Options;
use crate::worker::Worker;
use crate::{health, truth};

/// Runs the program with `args`, the arguments after the executable's name. `prefix` are the arguments that lead to
/// this function in the running executable: workers are started by running it again.
pub fn main_from(prefix: &[&str], args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some((_, rest)) = args.split_first().filter(|(word, _)| *word == health::COMMAND) {
        return health::main_from(rest.iter().cloned());
    }
    let cli = match Cli::try_parse_from(std::iter::once("refserver".into()).chain(args.iter().cloned())) {
        Ok(cli) => cli,
        Err(error) => {
            // This fails if standard output or error is closed; the exit code remains.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    // This fails if the process has a subscriber already, which then stays.
    let _ = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
        .with_env_filter(tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| cli.level().into()))
        .try_init();
    raise_file_limit();
    let result = match cli.worker_of {
        Some(supervisor) => inherited_listener(supervisor).and_then(|listener| work(&cli, listener)),
        None => check(&cli.options).and_then(|()| bind(cli.listen, cli.backlog)).and_then(|listener| {
            if cli.workers == 1 { work(&cli, listener) } else { supervisor::supervise(&cli, listener, prefix, &args) }
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The definition of the flags: for completions and man pages.
#[must_use]
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Every session is a file descriptor; the soft limit is often 1024.
fn raise_file_limit() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Reports what would stop every worker, once and before anything is bound.
fn check(options: &Options) -> io::Result<()> {
    options.truth.as_deref().map_or(Ok(()), |path| truth::open(path).map(drop))
}

fn bind(address: SocketAddr, backlog: i32) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    // Without this option a restart would wait for connections in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket
        .bind(&address.into())
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// The supervisor's socket. Asks the kernel to kill this process when the supervisor dies.
fn inherited_listener(supervisor: i32) -> io::Result<std::net::TcpListener> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    // The supervisor may have died before the line above.
    if nix::unistd::getppid().as_raw() != supervisor {
        return Err(io::Error::other("the supervisor has gone"));
    }
    Ok(io::stdin().as_fd().try_clone_to_owned()?.into())
}

/// Serves as one worker, in this process, until told to stop.
fn work(cli: &Cli, listener: std::net::TcpListener) -> io::Result<()> {
    let address = listener.local_addr()?;
    let worker = Worker::new(cli.options.clone(), address.port())?;
    let stop = CancellationToken::new();
    if cli.exit_with_stdin && cli.worker_of.is_none() {
        stop_with_stdin(stop.clone())?;
    }
    let threads = match cli.threads {
        Some(threads) => usize::from(threads),
        // Each connection wakes every thread of every worker, so there should be no more of them than cores.
        None if cli.workers > 1 => 1,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    // Each thread has a runtime of its own: a connection never moves, and threads share no timers or queues.
    let mut others = Vec::new();
    for index in 1..threads {
        let (listener, worker, stop) = (listener.try_clone()?, Arc::clone(&worker), stop.clone());
        others.push(std::thread::Builder::new().name(format!("serve-{index}")).spawn(move || {
            let served = runtime().and_then(|runtime| {
                runtime.block_on(async { serve(into_tokio(listener, &worker)?, worker, stop.child_token()).await })
            });
            // A thread that can't serve ends the process, which would otherwise go on with fewer threads.
            stop.cancel();
            served
        })?);
    }
    let served = runtime()?.block_on(async {
        stop_with_signals(stop.clone())?;
        let listener = into_tokio(listener, &worker)?;
        announce(address)?;
        serve(listener, worker, stop.child_token()).await
    });
    stop.cancel();
    others.into_iter().fold(served, |served, other| {
        served.and(other.join().unwrap_or_else(|_| Err(io::Error::other("a serving thread panicked"))))
    })
}
