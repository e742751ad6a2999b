//! The `agent` program: its flags, their checks, and its exit codes.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Read as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use proto::limits::{CHUNK_BYTES_TARGET, NAME_CHARS_MAX};
use proto::message::{Hello, RefusedWhy};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::control::agent_loop::{Outcome, Settings, serve};
use crate::control::clock::Clock;
use crate::control::heartbeat::Executor;
use crate::control::link::{Connector, Link, Security};
use crate::control::machine::End;
use crate::control::probe::Prober;
use crate::host::capacity::{self, CapacityOptions, host_name};
use crate::host::health;
use crate::host::slurm::{self, Task};
use crate::identity::{self, Identity, IdentityError};
use crate::load::armed::LoadFactory;
use crate::net::allow::AllowRule;
use crate::net::resolver::TargetResolver;

/// The coordinator dismissed this agent: the run is over.
pub const EXIT_DISMISSED: u8 = 0;
/// A flag is wrong, or two of them exclude each other.
pub const EXIT_USAGE: u8 = 2;
/// There is no identity, or the coordinator has another one.
pub const EXIT_IDENTITY: u8 = 10;
/// There was no coordinator for longer than `--reconnect-for`.
pub const EXIT_COORDINATOR_LOST: u8 = 11;
/// Coordinator and agent have different versions or plans.
pub const EXIT_MISMATCH: u8 = 12;
/// SIGINT or SIGTERM was received.
pub const EXIT_INTERRUPTED: u8 = 130;

/// Pause between two looks for an identity.
const IDENTITY_RETRY: Duration = Duration::from_millis(250);

const EXAMPLES: &str = "\
Examples:
  agent --coordinator 127.0.0.1:50051
  srun agent --coordinator head-node:50051
  agent --coordinator head-node:50051 --identity ./agent-identity --allow-target 10.0.0.0/8
  agent health --coordinator head-node:50051      (is the agent of this machine connected? for health checks)

Exit codes:
  0 dismissed, 2 usage, 10 identity refused or missing, 11 coordinator lost for longer than --reconnect-for,
  12 version or plan mismatch, 130 interrupted";

/// Muster's load generator: dials the coordinator, carries its share of every batch, reports what it measured.
#[derive(Debug, Clone, Parser)]
#[command(name = "agent", version, about, after_help = EXAMPLES)]
pub struct Args {
    /// The coordinator
    #[arg(long, value_name = "HOST:PORT", env = "MUSTER_COORDINATOR")]
    coordinator: String,

    /// Name of this agent in tables and records [default: the host's name; under srun NODE-RANK]
    #[arg(long)]
    name: Option<String>,

    /// Load threads; also the weight of this agent's share [default: one a core; under srun SLURM_CPUS_PER_TASK]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    threads: Option<u32>,

    /// Source address of sessions, of the target's family; may be repeated, each brings its own ephemeral ports
    #[arg(long, value_name = "IP")]
    source_ip: Vec<IpAddr>,

    /// Never carry more sessions at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_sessions: Option<u64>,

    /// Load only this target: HOST, HOST:PORT, an address, or a network in CIDR notation; may be repeated
    #[arg(long, value_name = "HOST[:PORT]|CIDR")]
    allow_target: Vec<AllowRule>,

    /// How long to look for the coordinator before giving up, seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0, value_parser = seconds)]
    reconnect_for: f64,

    /// Identity folder, shared with the coordinator or issued by it [default: ~/.config/muster/identity]
    #[arg(long, value_name = "DIR", conflicts_with = "insecure_plaintext")]
    identity: Option<PathBuf>,

    /// Take orders over an unencrypted, unauthenticated connection; --allow-target is then required
    #[arg(long)]
    insecure_plaintext: bool,

    /// Say only what is wrong
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,

    /// Say more; MUSTER_LOG (as RUST_LOG) says exactly what
    #[arg(short, long)]
    verbose: bool,

    /// End when standard input ends: for agents that are children of another process
    #[arg(long, hide = true)]
    exit_with_stdin: bool,

    /// Show another time to the coordinator than this machine's: for tests of how clocks are compared
    #[arg(long, hide = true, default_value_t = 0, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-3_600_000..=3_600_000))]
    clock_offset_ms: i64,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.0..=31_536_000.0).contains(&value) => Ok(value),
        _ => Err("give seconds, 0 to 31536000".to_owned()),
    }
}

/// Runs the program. `args` includes its name.
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let mut args: Vec<OsString> = args.into_iter().collect();
    if args.get(1).is_some_and(|word| word == health::COMMAND) {
        args.remove(1);
        return health::main_from(args);
    }
    let args = match Args::try_parse_from(args) {
        Ok(args) => args,
        Err(error) => {
            // Help and version go to standard output and are no failure.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    let level = match (args.quiet, args.verbose) {
        (true, _) => "warn",
        (_, true) => "debug",
        _ => "info",
    };
    let filter = EnvFilter::try_from_env("MUSTER_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    // This fails if the process has a subscriber already, which then stays.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours())
        .with_target(false)
        .try_init();
    match run(args) {
        Ok(code) => ExitCode::from(code),
        Err(problem) => {
            complain(&problem);
            ExitCode::from(EXIT_USAGE)
        }
    }
}

/// Whether standard error may be coloured: it is a terminal, and nobody has asked for none (<https://no-color.org>).
#[must_use]
pub fn colours() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The definition of the flags: for completions and man pages.
#[must_use]
pub fn command() -> clap::Command {
    <Args as clap::CommandFactory>::command()
}

#[expect(clippy::print_stderr, reason = "the error message of the program")]
fn complain(problem: &str) {
    eprintln!("agent: {problem}");
}

fn run(args: Args) -> Result<u8, String> {
    check(&args)?;
    if args.exit_with_stdin {
        end_with_stdin();
    }
    let settings = settings(&args);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| format!("can't start: {error}"))?;
    let reconnect_for = Duration::from_secs_f64(args.reconnect_for);
    let outcome = runtime.block_on(async {
        let interrupt = interrupt()?;
        let security = if args.insecure_plaintext {
            Security::Plaintext
        } else {
            let found = tokio::select! {
                found = find_identity(args.identity.as_deref(), reconnect_for) => found,
                () = interrupt.cancelled() => return Ok(Outcome::End(End::Interrupted)),
            };
            match found {
                Ok(security) => security,
                Err(problem) => return Ok(Outcome::Identity(problem)),
            }
        };
        let link = Link::new(Connector::new(args.coordinator, security), reconnect_for, settings.clock);
        Ok::<_, String>(serve(settings, link, interrupt).await)
    })?;
    runtime.shutdown_timeout(Duration::from_millis(200));
    Ok(conclude(&outcome))
}

/// Measures this machine and puts together what is fixed for the life of the agent.
fn settings(args: &Args) -> Settings {
    let task = Task::of(&slurm::variable);
    let capacity_options = CapacityOptions {
        threads: args.threads.or(task.as_ref().and_then(|task| task.cpus)),
        max_sessions: args.max_sessions,
        source_ips: args.source_ip.clone(),
    };
    let capacity = capacity::measure(&capacity_options);
    let host = host_name();
    let name = args.name.clone().unwrap_or_else(|| valid_name(&task.map_or_else(|| host.clone(), |task| task.name())));
    tracing::info!(
        "{name}: {} threads, {} descriptors and {} ports for sessions; dialling {}",
        capacity.threads,
        capacity.descriptors,
        capacity.ports,
        args.coordinator
    );
    let hello = Hello {
        protocol: proto::PROTOCOL,
        version: proto::VERSION.to_owned(),
        name,
        host,
        pid: std::process::id(),
        instance: proto::RunId::random().0.into_bytes(),
        plan_hash: None,
        capacity,
        holding: None,
    };
    Settings {
        hello,
        resolver: TargetResolver {
            allow: args.allow_target.clone(),
            source_ips: args.source_ip.clone(),
            ..TargetResolver::default()
        },
        capacity_options,
        clock: Clock::shifted(args.clock_offset_ms.saturating_mul(1_000)),
        load_factory: LoadFactory::default(),
        prober: Prober::default(),
        heartbeat: Executor::Thread,
        chunk_bytes: CHUNK_BYTES_TARGET,
    }
}

/// Looks for the identity for up to `wait`. The coordinator makes it when it first runs; agents may be started earlier,
/// on machines where the shared home folder shows it a little later.
async fn find_identity(given: Option<&Path>, wait: Duration) -> Result<Security, String> {
    let dir = given
        .map(Path::to_path_buf)
        .or_else(identity::default_dir)
        .ok_or("no home folder to look for an identity in ($HOME is not set); give --identity DIR")?;
    let begun = tokio::time::Instant::now();
    let mut warned = false;
    loop {
        match Identity::load(&dir) {
            Ok(found) => return found.client().map(Security::Tls).map_err(|error| error.to_string()),
            Err(IdentityError::Missing(_)) if begun.elapsed() < wait => {
                if !std::mem::replace(&mut warned, true) {
                    tracing::warn!("no identity in {} yet; looking for {} s", dir.display(), wait.as_secs_f64());
                }
                tokio::time::sleep(IDENTITY_RETRY).await;
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}

/// Prints why the agent ended, and returns the exit code.
fn conclude(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::End(End::Dismissed(reason)) => {
            tracing::info!("dismissed: {reason}");
            EXIT_DISMISSED
        }
        Outcome::End(End::Interrupted) => EXIT_INTERRUPTED,
        Outcome::End(End::Refused(refused)) => {
            complain(&format!("refused by the coordinator: {}", refused.message));
            match refused.why {
                RefusedWhy::Version | RefusedWhy::Plan => EXIT_MISMATCH,
                RefusedWhy::Full | RefusedWhy::Malformed => EXIT_USAGE,
            }
        }
        Outcome::Lost(problem) => {
            complain(problem);
            EXIT_COORDINATOR_LOST
        }
        Outcome::Identity(problem) => {
            complain(problem);
            EXIT_IDENTITY
        }
    }
}

/// Checks flags that clap can't check by itself.
fn check(args: &Args) -> Result<(), String> {
    match args.coordinator.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => {}
        _ => return Err(format!("--coordinator {}: give HOST:PORT", args.coordinator)),
    }
    if let Some(name) = args.name.as_ref().filter(|name| **name != valid_name(name)) {
        return Err(format!("--name {name}: give 1 to {NAME_CHARS_MAX} letters, digits, '-', '_' or '.'"));
    }
    for ip in &args.source_ip {
        // Without this check every session would fail, as if no port were free.
        if let Err(error) = std::net::UdpSocket::bind((*ip, 0)) {
            return Err(format!("--source-ip {ip}: no address of this machine ({error})"));
        }
    }
    if args.insecure_plaintext {
        if args.allow_target.is_empty() {
            return Err("--insecure-plaintext lets anyone on the network give orders: name what may be loaded with \
                        --allow-target HOST[:PORT] or a network such as 10.0.0.0/8"
                .to_owned());
        }
        tracing::warn!(
            "orders are taken over an unencrypted, unauthenticated connection: whoever reaches it can give them"
        );
    }
    Ok(())
}

/// Makes an agent's name of a host name: characters that are not allowed become `-`.
fn valid_name(host: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let name: String = host.chars().map(|c| if allowed(c) { c } else { '-' }).take(NAME_CHARS_MAX).collect();
    if name.is_empty() { "agent".to_owned() } else { name }
}

/// Ends this process when its standard input ends: the process that holds the other end is gone. It has a thread of its
/// own, so that it works whatever the runtimes are doing.
fn end_with_stdin() {
    std::thread::spawn(|| {
        let mut buffer = [0_u8; 64];
        while matches!(std::io::stdin().read(&mut buffer), Ok(n) if n > 0) {}
        #[expect(clippy::exit, reason = "the parent is gone; there is nobody to return to")]
        std::process::exit(EXIT_COORDINATOR_LOST.into());
    });
}

/// A token that SIGINT and SIGTERM cancel. A second SIGINT ends the process at once. A second SIGTERM does not, because
/// schedulers send it several times: to a job, to its steps, and through `srun`.
fn interrupt() -> Result<CancellationToken, String> {
    use tokio::signal::unix::{SignalKind, signal};
    let token = CancellationToken::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let mut stream = signal(kind).map_err(|error| format!("can't listen for signals: {error}"))?;
        let token = token.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if token.is_cancelled() && kind == SignalKind::interrupt() {
                    #[expect(clippy::exit, reason = "said twice: nothing is waited for")]
                    std::process::exit(EXIT_INTERRUPTED.into());
                }
                token.cancel();
            }
        });
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(flags: &[&str]) -> Result<(), String> {
        check(&Args::try_parse_from([&["agent", "--coordinator"], flags].concat()).expect("flags"))
    }

    #[test]
    fn plaintext_must_be_asked_for_and_limited() {
        assert_eq!(checked(&["127.0.0.1:1"]), Ok(()));
        assert_eq!(checked(&["10.0.0.1:1"]), Ok(()));
        for host in ["10.0.0.1:1", "127.0.0.1:1"] {
            assert!(checked(&[host, "--insecure-plaintext"]).is_err_and(|e| e.contains("--allow-target")));
        }
        assert_eq!(checked(&["h:1", "--insecure-plaintext", "--allow-target", "10.0.0.0/8"]), Ok(()));
        for bad in ["h", ":1", "h:0", "h:x"] {
            assert!(checked(&[bad]).is_err_and(|e| e.contains("HOST:PORT")), "{bad}");
        }
    }

    #[test]
    fn host_names_become_agent_names() {
        assert_eq!(valid_name("ip-10-0-0-1.local"), "ip-10-0-0-1.local");
        assert_eq!(valid_name("müller pc"), "m-ller-pc");
        assert_eq!(valid_name(""), "agent");
    }
}
