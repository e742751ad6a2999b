//! `coordinator completions` and `coordinator man`: from the very definition of the flags.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory as _, ValueEnum};
use clap_complete::{Shell, generate};

use super::{Cli, Problem, print};
use crate::exit;

/// A program of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Program {
    Coordinator,
    Agent,
    Refserver,
}

impl Program {
    fn command(self) -> Command {
        match self {
            Self::Coordinator => Cli::command(),
            Self::Agent => agent::cli::command(),
            Self::Refserver => refserver::command(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Agent => "agent",
            Self::Refserver => "refserver",
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,

    /// For which program
    #[arg(long = "for", value_name = "PROGRAM", default_value = "coordinator")]
    program: Program,
}

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Write all pages, those of agent and refserver too, into this folder [default: print coordinator's]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub(super) fn completions(args: &CompletionsArgs) -> Result<u8, Problem> {
    let mut script = Vec::new();
    generate(args.shell, &mut args.program.command(), args.program.name(), &mut script);
    print(&String::from_utf8_lossy(&script))
}

pub(super) fn man(args: &ManArgs) -> Result<u8, Problem> {
    let Some(dir) = &args.output else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Program::Coordinator.command())
            .render(&mut page)
            .map_err(|error| Problem::internal(error.to_string()))?;
        return print(&String::from_utf8_lossy(&page));
    };
    pages(dir).map_err(|error| {
        Problem::internal(format!("{}: {error}; give a folder that can be written to", dir.display()))
    })?;
    print(&format!("man pages in {}; read one with: man -l {}/coordinator-run.1\n", dir.display(), dir.display()))?;
    Ok(exit::DONE)
}

/// One page a command.
fn pages(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for program in Program::value_variants() {
        clap_mangen::generate_to(program.command().name(program.name()), dir)?;
    }
    Ok(())
}
