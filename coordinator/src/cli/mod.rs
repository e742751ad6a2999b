//! The command line: flags, and what each command does with them.

mod balancer;
mod begin;
mod check;
mod health;
mod identity;
mod report;
mod run;
mod source;

use std::ffi::OsString;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::exit;
use crate::store::fault::Faults;
use crate::{children, plan::template::TEMPLATE};

const EXIT_CODES: &str = "\
Exit codes:
  0 done   1 internal fault   2 usage   3 plan invalid   4 target not ready   5 too few agents
  6 host requirement not met   7 success criteria not met (--enforce)
  8 finished but degraded or invalid (--enforce: also generator-limited)   130 interrupted";

const RUN_EXAMPLES: &str = "\
Examples:
  coordinator run experiments/plans/quickstart.toml
  coordinator run --target http://127.0.0.1:8000 --batch-sizes 32,128 --wait 1.0 --local 2
  coordinator run plan.toml --set grid.repetitions=1 --set session.timeout_seconds=30
  coordinator run plan.toml --agents 4            (on each node: agent --coordinator THIS_HOST:50051)
  coordinator run --resume experiments/results/local/2026-11-24";

const REPORT_EXAMPLES: &str = "\
Examples:
  coordinator report experiments/results/local-uvicorn/2026-11-24
  coordinator report experiments/results/*/2026-11-24 --published experiments/reports/published.csv > overview.md";

const BALANCER_EXAMPLES: &str = "\
Examples:
  coordinator balancer haproxy --sessions 16384 --backend n1:9000 --backend n2:9000 --node n1 --node n2 --out balancer
  coordinator balancer envoy --sessions 65536 --backend n1:9000 --node n1=10.0.0.1,10.0.0.2,10.0.0.3 --out balancer

The folder gets one configuration a process, proxies.tsv (number, node, url, file) and connection.toml for the plan.";

#[derive(Debug, Parser)]
#[command(
    name = "coordinator",
    version,
    about = "How many stateful environments does a server really hold? Muster splits each batch of sessions over agents, \
             starts them together, and merges what they measured.",
    after_help = EXIT_CODES
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a plan: split each batch over agents, merge what they measured, write the results
    #[command(after_help = RUN_EXAMPLES)]
    Run(Box<RunArgs>),
    /// Check a plan: its faults, or the grid in order, the expected duration, and what it needs
    Check(Box<PlanArgs>),
    /// Write the configurations of the proxies in front of several servers, as many as descriptors and ports ask for
    #[command(after_help = BALANCER_EXAMPLES)]
    Balancer(balancer::BalancerArgs),
    /// Whether a coordinator of this machine waits for agents: for health checks of containers
    #[command(hide = true)]
    Health(health::HealthArgs),
    /// Who may connect: the identity that coordinator and agents share
    Identity {
        #[command(subcommand)]
        command: identity::IdentityCommand,
    },
    /// Tables of finished runs, from their folders alone
    #[command(after_help = REPORT_EXAMPLES)]
    Report(report::ReportArgs),
    /// Help with plans
    Plan {
        #[command(subcommand)]
        command: PlanCommand,
    },
}

#[derive(Debug, Subcommand)]
enum PlanCommand {
    /// Print a commented plan with every key
    Init,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ModeArg {
    Ws,
    Http,
    Compare,
}

/// A plan and what overrides it.
#[derive(Debug, Args)]
struct PlanArgs {
    /// The plan (TOML); may be left out when --target and --batch-sizes say enough
    #[arg(value_name = "PLAN")]
    plan: Option<PathBuf>,

    /// Override any key of the plan
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,

    /// URL of the target (target.urls); may be repeated
    #[arg(long, value_name = "URL")]
    target: Vec<String>,

    /// Sessions open at once (grid.batch_sizes)
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    batch_sizes: Vec<u64>,

    /// What each step asks the server to wait, seconds (grid.wait_seconds)
    #[arg(long, value_name = "SECONDS,SECONDS", value_delimiter = ',')]
    wait: Vec<f64>,

    /// Repetitions of each batch (grid.repetitions)
    #[arg(long, value_name = "N")]
    reps: Option<u32>,

    /// Protocol of the sessions (target.mode)
    #[arg(long, value_enum)]
    mode: Option<ModeArg>,

    /// Start this many agents as child processes (agents.local); alone it is also the total
    #[arg(long, value_name = "N")]
    local: Option<u32>,

    /// Start when this many agents are ready (agents.count)
    #[arg(long, value_name = "N")]
    agents: Option<u32>,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    plan: PlanArgs,

    /// Where agents dial in [default: a free port of the loopback when all agents are local, else 0.0.0.0:50051]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,

    /// Folder of the results (output.dir); an existing one gets -2, -3
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,

    /// Show what would be run, and run nothing
    #[arg(long)]
    dry_run: bool,

    /// Make missed success criteria (7) and generator-limited batches (8) the exit code
    #[arg(long)]
    enforce: bool,

    /// Print one JSON document to standard output instead of tables
    #[arg(long)]
    json: bool,

    /// Say only where the results are, and what went wrong
    #[arg(short, long, conflicts_with = "verbose")]
    quiet: bool,

    /// Say more
    #[arg(short, long)]
    verbose: bool,

    /// Go on with the run in DIR: what is complete stands, the rest is done. The plan comes from there, one that is given
    /// must be the same; --agents and --local may differ
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    resume: Option<PathBuf>,

    /// Identity folder, made if it is not there; agents need the same [default: ~/.config/muster/identity]
    #[arg(long, value_name = "DIR", conflicts_with = "insecure_plaintext")]
    identity: Option<PathBuf>,

    /// Accept any agent over unencrypted, unauthenticated connections
    #[arg(long)]
    insecure_plaintext: bool,

    /// Make the disk fail on purpose: for tests
    #[arg(long, value_name = "FAULT", hide = true)]
    fault: Option<Faults>,

    /// Web page with live progress (not supported yet)
    #[arg(long, value_name = "ADDR", num_args = 0..=1, hide = true)]
    ui: Option<Option<String>>,
}

/// A command that did not end well, with what to print.
#[derive(Debug)]
struct Problem {
    code: u8,
    text: String,
}

impl Problem {
    fn usage(text: impl Into<String>) -> Self {
        Self { code: exit::USAGE, text: text.into() }
    }

    fn internal(text: impl Into<String>) -> Self {
        Self { code: exit::INTERNAL, text: text.into() }
    }
}

/// The program. `args` includes its name.
#[must_use]
pub fn main_from(args: Vec<OsString>) -> ExitCode {
    // A child of a run is this same executable in another role.
    match args.get(1).and_then(|role| role.to_str()) {
        Some(children::AGENT) => {
            let rest = args.into_iter().skip(2);
            return agent::cli::main_from([OsString::from("agent")].into_iter().chain(rest));
        }
        Some(children::REFSERVER) => return refserver::main_from(&[children::REFSERVER], args.into_iter().skip(2)),
        _ => {}
    }
    let cli = match Cli::try_parse_from(args.clone()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output and are no failure.
            let _ = error.print();
            return exit::status(if error.use_stderr() { exit::USAGE } else { exit::DONE });
        }
    };
    let result = match cli.command {
        Command::Run(run_args) => run::run(*run_args, args),
        Command::Check(plan_args) => {
            source::plan(&plan_args, None).and_then(|loaded| print(&check::describe(&loaded.plan)))
        }
        Command::Balancer(args) => balancer::run(args),
        Command::Health(args) => health::run(&args),
        Command::Identity { command } => identity::run(&command),
        Command::Report(args) => report::run(&args),
        Command::Plan { command: PlanCommand::Init } => print(TEMPLATE),
    };
    match result {
        Ok(code) => exit::status(code),
        Err(problem) => {
            // With standard error gone there is nobody left to tell.
            let _ = writeln!(std::io::stderr(), "{}", problem.text.trim_end());
            exit::status(problem.code)
        }
    }
}

/// To standard output; a closed pipe is the reader's choice.
fn print(text: &str) -> Result<u8, Problem> {
    let mut stdout = std::io::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(exit::DONE),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(exit::DONE),
        Err(error) => Err(Problem::internal(format!("standard output: {error}"))),
    }
}
