//! `coordinator identity`: creates identities and issues folders to agents that don't share the home folder.

use std::path::PathBuf;

use agent::identity::Identity;
use clap::Subcommand;

use super::output::{Problem, VerbosityFlags};
use crate::net::identity;

#[derive(Debug, Subcommand)]
pub(super) enum IdentityCommand {
    /// Make the identity, if it is not there, and say where it is
    Init {
        /// Where [default: ~/.config/muster/identity]
        #[arg(long, value_name = "DIR")]
        identity: Option<PathBuf>,
    },
    /// Make a folder for an agent on a machine that must not hold the authority's key
    IssueAgent {
        /// The new folder; copy it to the agent's machine
        #[arg(value_name = "DIR")]
        dir: PathBuf,

        /// How long it is good for
        #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=3650))]
        days: u32,

        /// Issued from [default: ~/.config/muster/identity]
        #[arg(long, value_name = "DIR")]
        identity: Option<PathBuf>,
    },
}

pub(super) fn run(command: &IdentityCommand, verbosity: VerbosityFlags) -> Result<u8, Problem> {
    let usage = |error: agent::identity::IdentityError| Problem::usage(error.to_string());
    match command {
        IdentityCommand::Init { identity } => {
            let dir = identity::place(identity.as_deref()).map_err(usage)?;
            let (identity, made) = identity::load_or_create(&dir).map_err(usage)?;
            identity.server().map_err(usage)?;
            let how = if made { "made in" } else { "is there already:" };
            verbosity.print(&format!("identity {how} {}\n", dir.display()))
        }
        IdentityCommand::IssueAgent { dir, days, identity } => {
            let from = identity::place(identity.as_deref()).map_err(usage)?;
            let from = Identity::load(&from).map_err(usage)?;
            identity::issue_agent(&from, dir, *days).map_err(usage)?;
            verbosity.print(&format!(
                "made {0}, good for {days} days; copy it to the agent's machine, keep its mode (cp -a, rsync -a), and start: \
                 agent --coordinator HOST:50051 --identity {0}\n",
                dir.display()
            ))
        }
    }
}
