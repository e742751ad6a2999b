//! The command line and the processes: one worker in this very process, or a supervisor of several.

mod supervisor;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::options::Options;
use crate::worker::{Worker, serve};
use crate::{health, stamp, truth};

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
struct Cli {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8000")]
    listen: SocketAddr,
    /// Worker processes that share the listening socket
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=512))]
    workers: u16,
    /// Threads in each worker [default: the available cores with one worker, 1 with several]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=512))]
    threads: Option<u16>,
    /// Connections that may wait to be accepted
    #[arg(long, value_name = "N", default_value_t = 2048, value_parser = clap::value_parser!(i32).range(1..))]
    backlog: i32,
    /// Say only what is wrong
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,
    /// Say more; RUST_LOG says exactly what
    #[arg(short, long)]
    verbose: bool,
    /// Exit when standard input reaches its end, so as not to outlive the process that holds the other side
    #[arg(long)]
    exit_with_stdin: bool,
    /// Be a worker of the supervisor with this pid: the listening socket is standard input
    #[arg(long, hide = true, value_name = "PID")]
    worker_of: Option<i32>,
    #[command(flatten)]
    options: Options,
}

/// Runs the server as an executable would, with `args` its arguments behind the executable's name. `prefix` is what
/// leads to this function in the running executable's command line: workers are started by running that again.
pub fn main_from(prefix: &[&str], args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some((_, rest)) = args.split_first().filter(|(word, _)| *word == health::COMMAND) {
        return health::main_from(rest.iter().cloned());
    }
    let cli = match Cli::try_parse_from(std::iter::once("refserver".into()).chain(args.iter().cloned())) {
        Ok(cli) => cli,
        Err(error) => {
            // Standard output or error may be closed; the exit code says it all the same.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    // Someone else may have set the subscriber of the process already, and then it is theirs.
    let _ = tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env()
                .unwrap_or_else(|_| level(cli.quiet, cli.verbose).into()),
        )
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

fn level(quiet: bool, verbose: bool) -> &'static str {
    match (quiet, verbose) {
        (true, _) => "refserver=warn",
        (_, true) => "refserver=debug",
        _ => "refserver=info",
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

/// What would stop every worker is said once and before anything is bound.
fn check(options: &Options) -> io::Result<()> {
    options.truth.as_deref().map_or(Ok(()), |path| truth::open(path).map(drop))
}

fn bind(address: SocketAddr, backlog: i32) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    // A restart must not wait for the TIME_WAIT of the connections this server has closed.
    socket.set_reuse_address(true)?;
    socket
        .bind(&address.into())
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {address}: {error}")))?;
    socket.listen(backlog)?;
    Ok(socket.into())
}

/// Prepares a listening socket for [`serve`] by `worker`; must be called on the runtime that is to use it.
pub(crate) fn into_tokio(listener: std::net::TcpListener, worker: &Worker) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    // Accepted connections inherit this and the next: one system call for all of them.
    socket2::SockRef::from(&listener).set_tcp_nodelay(true)?;
    if worker.truth.is_some() {
        stamp::enable(&listener);
    }
    TcpListener::from_std(listener)
}

/// The supervisor's socket. The kernel kills this process when the supervisor dies, however it dies.
fn inherited_listener(supervisor: i32) -> io::Result<std::net::TcpListener> {
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    // It may have died before the line above.
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
        // Every thread of every worker is woken by every connection: no more of them than cores.
        None if cli.workers > 1 => 1,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    // A runtime of its own for each thread: a connection never moves, and no two threads share timers or queues.
    let mut others = Vec::new();
    for index in 1..threads {
        let (listener, worker, stop) = (listener.try_clone()?, Arc::clone(&worker), stop.clone());
        others.push(std::thread::Builder::new().name(format!("serve-{index}")).spawn(move || {
            let served = runtime().and_then(|runtime| {
                runtime.block_on(async { serve(into_tokio(listener, &worker)?, worker, stop.child_token()).await })
            });
            // One thread that cannot serve ends the process rather than leave it at half its strength.
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

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

#[expect(clippy::print_stdout, reason = "the one line that whoever starts the server waits for")]
fn announce(address: SocketAddr) -> io::Result<()> {
    println!("listening on {address}");
    io::stdout().flush()
}

/// Cancels `stop` on SIGTERM or SIGINT; these are caught when this returns.
fn stop_with_signals(stop: CancellationToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}

/// Cancels `stop` at the end of standard input. The thread is left behind at exit: a blocking read has no other end.
fn stop_with_stdin(stop: CancellationToken) -> io::Result<()> {
    std::thread::Builder::new().name("stdin".into()).spawn(move || {
        let mut buffer = [0; 256];
        while let Ok(1..) = io::stdin().read(&mut buffer) {}
        stop.cancel();
    })?;
    Ok(())
}
