//! The flags that say what is run.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::plan::Modes;
use crate::store::fault::Faults;

fn modes() -> impl TypedValueParser<Value = Modes> {
    PossibleValuesParser::new(Modes::NAMED.map(|(name, _)| name)).try_map(Modes::try_from)
}

fn sessions(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "give whole numbers with commas between them, as 32,128".to_owned())
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "give seconds with commas between them, as 1.0,5.0".to_owned())
}

/// A plan and what overrides it.
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// The plan (TOML); may be left out when --target and --batch-sizes say enough
    #[arg(value_name = "PLAN")]
    pub(super) plan: Option<PathBuf>,

    /// Override any key of the plan
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,

    /// URL of the target (target.urls); may be repeated
    #[arg(long, value_name = "URL", alias = "url")]
    pub(super) target: Vec<String>,

    /// Sessions open at once (grid.batch_sizes)
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = sessions, aliases = ["batch-size", "batch-size-grid", "requests", "requests-grid"])]
    pub(super) batch_sizes: Vec<u64>,

    /// What each step asks the server to wait, seconds (grid.wait_seconds)
    #[arg(long, value_name = "SECONDS,SECONDS", value_delimiter = ',', value_parser = seconds, alias = "wait-grid")]
    pub(super) wait: Vec<f64>,

    /// Repetitions of each batch (grid.repetitions)
    #[arg(long, value_name = "N")]
    pub(super) reps: Option<u32>,

    /// Protocol of the sessions (target.mode)
    #[arg(long, value_parser = modes())]
    pub(super) mode: Option<Modes>,

    /// As the Python script calls --mode compare
    #[arg(long, hide = true, conflicts_with = "mode")]
    pub(super) compare: bool,

    /// Start this many agents as child processes (agents.local); alone it is also the total
    #[arg(long, value_name = "N")]
    pub(super) local: Option<u32>,

    /// Start when this many agents are ready (agents.count)
    #[arg(long, value_name = "N")]
    pub(super) agents: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) plan: PlanArgs,

    /// Where agents dial in [default: a free port of the loopback when all agents are local, else 0.0.0.0:50051]
    #[arg(long, value_name = "ADDR:PORT")]
    pub(super) listen: Option<SocketAddr>,

    /// Folder of the results (output.dir); an existing one gets -2, -3
    #[arg(long, value_name = "DIR", alias = "output-dir")]
    pub(super) output: Option<PathBuf>,

    /// Show what would be run, and run nothing
    #[arg(long)]
    pub(super) dry_run: bool,

    /// Make missed success criteria (7) and generator-limited batches (8) the exit code
    #[arg(long)]
    pub(super) enforce: bool,

    /// Print one JSON document to standard output instead of tables
    #[arg(long)]
    pub(super) json: bool,

    /// Go on with the run in DIR: what is complete stands, the rest is done. The plan comes from there, one that is given
    /// must be the same; --agents and --local may differ
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    pub(super) resume: Option<PathBuf>,

    /// Identity folder, made if it is not there; agents need the same [default: ~/.config/muster/identity]
    #[arg(long, value_name = "DIR", conflicts_with = "insecure_plaintext")]
    pub(super) identity: Option<PathBuf>,

    /// Accept any agent over unencrypted, unauthenticated connections
    #[arg(long)]
    pub(super) insecure_plaintext: bool,

    /// Make the disk fail on purpose: for tests
    #[arg(long, value_name = "FAULT", hide = true)]
    pub(super) fault: Option<Faults>,

    /// Web page with live progress (not supported yet)
    #[arg(long, value_name = "ADDR", num_args = 0..=1, hide = true)]
    pub(super) ui: Option<Option<String>>,
}
