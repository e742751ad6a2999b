//! `coordinator report`: tables, figures and pages of runs, from their folders alone.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Problem, Talk, print};
use crate::exit;
use crate::report::document::{Document, of_run, of_runs};
use crate::report::markdown;
use crate::report::published::{self, Published};
use crate::report::run::Run;
use crate::store::publish::{self, PAGE};
use crate::store::read::read;

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Results folders; also such as hold only the summary.csv (and raw.jsonl) of the Python script
    #[arg(value_name = "DIR", required = true)]
    dirs: Vec<PathBuf>,

    /// Where report.md, report.html and figures/ are written [default: each into its own results folder; of several runs
    /// together only the text is printed]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,

    /// Print the text, and write nothing
    #[arg(long, conflicts_with = "output")]
    print: bool,

    /// Rows that were published elsewhere, to show beside runs of the same infrastructure [default: those of the experiment
    /// log until January 2026, which come with the program]
    #[arg(long, value_name = "FILE", conflicts_with = "no_published")]
    published: Option<PathBuf>,

    /// Show no rows that were published elsewhere
    #[arg(long)]
    no_published: bool,
}

pub(super) fn run(args: &ReportArgs, talk: Talk) -> Result<u8, Problem> {
    let rows = rows(args)?;
    let mut runs = Vec::new();
    let mut problems = Vec::new();
    for dir in &args.dirs {
        match read(dir) {
            Ok(run) => runs.push((dir.as_path(), run)),
            Err(error) => problems.push(error.to_string()),
        }
    }
    if !runs.is_empty() {
        show(args, talk, runs, &rows)?;
    }
    if problems.is_empty() { Ok(exit::DONE) } else { Err(Problem { code: exit::USAGE, text: problems.join("\n") }) }
}

fn rows(args: &ReportArgs) -> Result<Vec<Published>, Problem> {
    match &args.published {
        None if args.no_published => Ok(Vec::new()),
        None => Ok(published::built_in()),
        Some(path) => fs::read_to_string(path)
            .map_err(|error| error.to_string())
            .and_then(|text| published::parse(&text))
            .map_err(|problem| Problem::usage(format!("--published {}: {problem}", path.display()))),
    }
}

fn show(args: &ReportArgs, talk: Talk, runs: Vec<(&Path, Run)>, rows: &[Published]) -> Result<(), Problem> {
    let mut written = Vec::new();
    if !args.print && args.output.is_none() {
        for (dir, run) in &runs {
            write(dir, &of_run(run, rows))?;
            written.push(dir.join(PAGE));
        }
    }
    let runs: Vec<Run> = runs.into_iter().map(|(_, run)| run).collect();
    let document = of_runs(&runs, rows);
    if let Some(output) = &args.output {
        write(output, &document)?;
        written.push(output.join(PAGE));
    }
    if !talk.quiet {
        print(&markdown::render(&document, None))?;
    }
    for page in written {
        // Standard output is the text, whoever takes it.
        if talk.quiet {
            print(&format!("{}\n", page.display()))?;
        } else {
            super::tell(&format!("report in {}", page.display()));
        }
    }
    if runs.len() > 1 && args.output.is_none() && !args.print && !talk.quiet {
        super::tell("--output DIR writes all runs together, with the figures that compare them");
    }
    Ok(())
}

fn write(dir: &Path, document: &Document) -> Result<(), Problem> {
    publish::report(dir, document).map_err(|error| {
        Problem::internal(format!(
            "the report can't be written: {error}; --output DIR writes it elsewhere, --print only prints it"
        ))
    })
}

/// After a run: what it wrote, seen as a report. Returns the page.
///
/// # Errors
/// Why there is none; the results themselves are safe.
pub(super) fn of_finished(dir: &Path) -> Result<PathBuf, String> {
    let run = read(dir).map_err(|error| error.to_string())?;
    publish::report(dir, &of_run(&run, &published::built_in())).map_err(|error| error.to_string())?;
    Ok(dir.join(PAGE))
}
