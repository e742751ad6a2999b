//! The `testnet` executable: a relay that is controlled by commands on standard input.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use testnet::{Command, Options, Relay};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A TCP relay that behaves like a bad network, for tests.
///
/// Prints "listening on IP:PORT", then obeys words on standard input, one a line, and answers each with "ok WORD":
/// stall (nothing goes on, nothing is lost), resume; half-open (what is sent vanishes, connections stay open and are
/// dead), cut (connections are reset, new ones too), heal (ends both for new connections). SIGTERM ends it.
#[derive(Debug, clap::Parser)]
#[command(name = "testnet", version)]
struct Cli {
    /// Address to listen on; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where connections go on to
    #[arg(long, value_name = "IP:PORT")]
    to: SocketAddr,
    /// Milliseconds that everything is held back, in each direction; fractions allowed
    #[arg(long, value_name = "MS", value_parser = milliseconds, default_value = "0")]
    delay_ms: Duration,
    /// Up to as many milliseconds more, drawn evenly for each chunk that is read; the order stays
    #[arg(long, value_name = "MS", value_parser = milliseconds, default_value = "0")]
    jitter_ms: Duration,
    /// Seed of the jitter
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Exit when standard input reaches its end, so as not to outlive the process that holds the other side
    #[arg(long)]
    exit_with_stdin: bool,
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    const MS_MAX: f64 = 86_400_000.0;
    match text.parse() {
        Ok(ms) if (0.0..=MS_MAX).contains(&ms) => Ok(Duration::from_secs_f64(ms / 1e3)),
        _ => Err(format!("expected milliseconds, from 0 to {MS_MAX}")),
    }
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // This fails if standard error is closed; the exit code remains.
            let _ = writeln!(io::stderr(), "testnet: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> io::Result<()> {
    let listener = TcpListener::bind(cli.listen)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot listen on {}: {error}", cli.listen)))?;
    let options = Options { to: cli.to, delay: cli.delay_ms, jitter: cli.jitter_ms, seed: cli.seed };
    let relay = Arc::new(Relay::start(listener, options)?);
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        say(&format!("listening on {}", relay.address()))?;
        let end_of_commands = run_commands(Arc::clone(&relay))?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = end_of_commands.cancelled(), if cli.exit_with_stdin => {}
        }
        Ok(())
    })
}

/// Reads commands from standard input. The token is cancelled at its end. The thread is not joined, because a blocking
/// read can't be interrupted.
fn run_commands(relay: Arc<Relay>) -> io::Result<CancellationToken> {
    let end = CancellationToken::new();
    let guard = end.clone().drop_guard();
    std::thread::Builder::new().name("stdin".into()).spawn(move || {
        let _guard = guard;
        for line in io::stdin().lines().map_while(Result::ok) {
            let answer = match line.trim().parse::<Command>() {
                Ok(command) => {
                    relay.send(command);
                    format!("ok {command}")
                }
                Err(error) => format!("error: {error}"),
            };
            // Commands are carried out even if nobody reads the answers.
            let _ = say(&answer);
        }
    })?;
    Ok(end)
}

fn say(line: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{line}")?;
    stdout.flush()
}
