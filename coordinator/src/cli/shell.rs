//! `coordinator completions` and `coordinator man`, generated from the definition of the flags.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command, ValueEnum};
use clap_complete::{Shell, generate};

use super::output::{Problem, print};
use crate::exit;

/// A program of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Program {
    Coordinator,
    Agent,
    Refserver,
}

impl Program {
    /// `own` is the coordinator's.
    fn command(self, own: &Command) -> Command {
        match self {
            Self::Coordinator => own.clone(),
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

pub(super) fn completions(args: &CompletionsArgs, own: &Command) -> Result<u8, Problem> {
    let mut script = Vec::new();
    generate(args.shell, &mut args.program.command(own), args.program.name(), &mut script);
    print(&String::from_utf8_lossy(&script))
}

pub(super) fn man(args: &ManArgs, own: &Command) -> Result<u8, Problem> {
    let Some(dir) = &args.output else {
        let mut command = Program::Coordinator.command(own);
        command.build();
        let page = page(&command, "coordinator").map_err(|error| Problem::internal(error.to_string()))?;
        return print(&String::from_utf8_lossy(&page));
    };
    pages(dir, own).map_err(|error| {
        Problem::internal(format!("{}: {error}; give a folder that can be written to", dir.display()))
    })?;
    print(&format!("man pages in {}; read one with: man -l {}/coordinator-run.1\n", dir.display(), dir.display()))?;
    Ok(exit::DONE)
}

/// Writes one page per command, named like `git-log` for `git log`.
fn pages(dir: &Path, own: &Command) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    for program in Program::value_variants() {
        let mut command = program.command(own);
        command.build();
        below(&command, program.name(), dir)?;
    }
    Ok(())
}

fn below(command: &Command, name: &str, dir: &Path) -> io::Result<()> {
    fs::write(dir.join(format!("{name}.1")), page(command, name)?)?;
    let shown = command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help");
    for sub in shown {
        below(sub, &format!("{name}-{}", sub.get_name()), dir)?;
    }
    Ok(())
}

/// One manual page. The text below the options is not filled, since people copy examples from it.
fn page(command: &Command, name: &str) -> io::Result<Vec<u8>> {
    let man = clap_mangen::Man::new(command.clone()).title(name);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    let after = command.get_after_long_help().or(command.get_after_help());
    if let Some(text) = after.map(ToString::to_string) {
        for part in text.split("\n\n") {
            page.extend(section(part).as_bytes());
        }
    }
    Ok(page)
}

/// Formats `Examples:` and the lines below it as a section that is not filled.
fn section(part: &str) -> String {
    let (title, text) = match part.split_once(":\n") {
        Some((title @ ("Examples" | "Exit codes"), rest)) => {
            (if title == "Examples" { "EXAMPLES" } else { "EXIT STATUS" }, rest)
        }
        _ => ("NOTES", part),
    };
    let lines = text.lines().map(|line| {
        let line = line.replace('\\', "\\e").replace('-', "\\-");
        // At the start of a line these two characters begin a roff command.
        if line.starts_with(['.', '\'']) { format!("\\&{line}\n") } else { format!("{line}\n") }
    });
    format!(".SH \"{title}\"\n.nf\n{}.fi\n", lines.collect::<String>())
}
