//! The command line: the flags, and one file per command.
//!
//! What belongs here: flags, the files that they name, standard output, and exit codes. What does not: anything that a
//! command decides.

mod args;
mod balancer;
mod check;
mod health;
mod identity;
mod log;
mod output;
mod prepare;
mod report;
mod run;
mod shell;
mod source;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

use self::args::{PlanArgs, RunArgs};
use self::output::{VerbosityFlags, print, tell};

use crate::exit;
use crate::{children, plan::schema};

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

/// The help of `run` lists the exit codes, since scripts depend on them.
fn run_help() -> String {
    format!("{RUN_EXAMPLES}\n\n{EXIT_CODES}")
}

const CHECK_EXAMPLES: &str = "\
Examples:
  coordinator check experiments/plans/slurm-multi.toml
  coordinator check --target http://127.0.0.1:8000 --batch-sizes 32,128
  coordinator check plan.toml -q && sbatch deploy/slurm/sweep.sbatch plan.toml";

const REPORT_EXAMPLES: &str = "\
Examples:
  coordinator report experiments/results/local-uvicorn/2026-11-24
  coordinator report experiments/results/*/2026-11-24 --output all           (several runs in one report)
  coordinator report old-results/local-docker/2026-01-13                     (summary.csv of the Python script)
  coordinator report experiments/results/*/2026-11-24 --print > report.md";

const LOG_EXAMPLES: &str = "\
Examples:
  coordinator log experiments/results/slurm-multi/2026-11-24 --into experiments/reports/EXPERIMENT_LOG.md

The same again renews the entry: what was written by hand is kept, between its lines and below them.";

const IDENTITY_EXAMPLES: &str = "\
Examples:
  coordinator identity init
  coordinator identity issue-agent ./agent-identity --days 30";

const PLAN_EXAMPLES: &str = "\
Examples:
  coordinator plan init > plan.toml";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  coordinator completions bash > ~/.local/share/bash-completion/completions/coordinator
  coordinator completions zsh > ~/.zfunc/_coordinator
  coordinator completions fish --for agent > ~/.config/fish/completions/agent.fish";

const MAN_EXAMPLES: &str = "\
Examples:
  coordinator man | man -l -
  coordinator man --output ~/.local/share/man/man1";

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
    #[command(flatten)]
    verbosity: VerbosityFlags,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a plan: split each batch over agents, merge what they measured, write the results
    #[command(after_help = run_help())]
    Run(Box<RunArgs>),
    /// Check a plan: its faults, or the grid in order, the expected duration, and what it needs
    #[command(after_help = CHECK_EXAMPLES)]
    Check(Box<PlanArgs>),
    /// Write the configurations of the proxies in front of several servers, as many as descriptors and ports ask for
    #[command(after_help = BALANCER_EXAMPLES)]
    Balancer(balancer::BalancerArgs),
    /// Whether a coordinator of this machine waits for agents: for health checks of containers
    #[command(hide = true)]
    Health(health::HealthArgs),
    /// Who may connect: the identity that coordinator and agents share
    #[command(after_help = IDENTITY_EXAMPLES)]
    Identity {
        #[command(subcommand)]
        command: identity::IdentityCommand,
    },
    /// Tables, figures and a page of finished runs, from their folders alone
    #[command(after_help = REPORT_EXAMPLES)]
    Report(report::ReportArgs),
    /// Put a run into the experiment log: its entry, newest first, the overview, its figures
    #[command(after_help = LOG_EXAMPLES)]
    Log(log::LogArgs),
    /// Help with plans
    #[command(after_help = PLAN_EXAMPLES)]
    Plan {
        #[command(subcommand)]
        command: PlanCommand,
    },
    /// Print what a shell needs to complete our commands
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions(shell::CompletionsArgs),
    /// Print the manual page, or write those of all commands
    #[command(after_help = MAN_EXAMPLES)]
    Man(shell::ManArgs),
}

#[derive(Debug, Subcommand)]
enum PlanCommand {
    /// Print a commented plan with every key
    Init,
}

/// Runs the program. `args` includes its name.
#[must_use]
pub fn main_from(args: Vec<OsString>) -> ExitCode {
    // Child processes of a run are this same executable in another role.
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
    let verbosity = cli.verbosity;
    let result = match cli.command {
        Command::Run(run_args) => run::run(*run_args, verbosity, args),
        Command::Check(plan_args) => {
            source::plan(&plan_args, None).and_then(|loaded| verbosity.print(&check::describe(&loaded.plan)))
        }
        Command::Balancer(args) => balancer::run(args, verbosity),
        Command::Health(args) => health::run(&args),
        Command::Identity { command } => identity::run(&command, verbosity),
        Command::Report(args) => report::run(&args, verbosity),
        Command::Log(args) => log::run(&args, verbosity),
        Command::Plan { command: PlanCommand::Init } => print(&schema::template()),
        Command::Completions(args) => shell::completions(&args, &Cli::command()),
        Command::Man(args) => shell::man(&args, &Cli::command()),
    };
    match result {
        Ok(code) => exit::status(code),
        Err(problem) => {
            tell(problem.text.trim_end());
            exit::status(problem.code)
        }
    }
}
