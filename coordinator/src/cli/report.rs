//! `coordinator report`: writes tables, figures and pages of runs, from their folders alone.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;

use super::output::{Problem, VerbosityFlags, print};
use crate::exit;
use crate::publish::{self, PAGE};
use crate::report::document::{Document, in_short, of_run, of_runs};
use crate::report::markdown;
use crate::report::published::{self, Published};
use crate::report::tables::final_tables;
use crate::results::run::Run;
use crate::store::read::read;

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Results folders; also such as hold only the summary.csv (and raw.jsonl) of the Python script
    #[arg(value_name = "DIR", required = true)]
    dirs: Vec<PathBuf>,

    /// Where report.md, report.html and figures/ are written [default: each into its own results folder; of several runs
    /// together only the overview is printed]
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,

    /// Print the whole report as Markdown, and write nothing
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

pub(super) fn run(args: &ReportArgs, verbosity: VerbosityFlags) -> Result<u8, Problem> {
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
        show(args, verbosity, runs, &rows)?;
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

fn show(
    args: &ReportArgs,
    verbosity: VerbosityFlags,
    runs: Vec<(&Path, Run)>,
    rows: &[Published],
) -> Result<(), Problem> {
    if let Some(output) = args.output.as_ref().filter(|_| runs.len() > 1) {
        let same = |dir: &Path| {
            dir == output || dir.canonicalize().ok().is_some_and(|dir| output.canonicalize().ok() == Some(dir))
        };
        if runs.iter().any(|(dir, _)| same(dir)) {
            return Err(Problem::usage(format!(
                "--output {}: that is the folder of one of the runs, whose own report would be lost; give another one",
                output.display()
            )));
        }
    }
    let mut written = Vec::new();
    if !args.print && args.output.is_none() {
        for (dir, run) in &runs {
            write(dir, &of_run(run, rows), verbosity)?;
            written.push(dir.join(PAGE));
        }
    }
    // A run's own report must not depend on the other runs, so names are made distinct only after it was written.
    let mut runs: Vec<Run> = runs.into_iter().map(|(_, run)| run).collect();
    apart(&mut runs);
    if let Some(output) = &args.output {
        write(output, &of_runs(&runs, rows), verbosity)?;
        written.push(output.join(PAGE));
    }
    if args.print {
        print(&markdown::render(&of_runs(&runs, rows), None))?;
    } else if !verbosity.quiet {
        for run in &runs {
            for note in &run.notes {
                super::output::tell(&format!("{}: {note}", run.place));
            }
        }
        match &runs[..] {
            [run] => print(&final_tables(&run.plan, &run.results, &run.cells))?,
            runs => print(&markdown::render(&in_short(runs, rows), None))?,
        };
    }
    for page in written {
        let said = if verbosity.quiet { page.display().to_string() } else { format!("report in {}", page.display()) };
        print(&format!("{said}\n"))?;
    }
    if runs.len() > 1 && args.output.is_none() && !args.print && !verbosity.quiet {
        super::output::tell(
            "--output DIR writes all runs into one report, with the tables and figures that compare them",
        );
    }
    Ok(())
}

/// Numbers runs of the same infrastructure and day whose folders have no distinct suffix.
fn apart(runs: &mut [Run]) {
    let mut seen = BTreeSet::new();
    for run in runs {
        let own = run.again.clone();
        let mut n = 2;
        while !seen.insert(run.title()) {
            run.again = format!("{own}-{n}");
            n += 1;
        }
    }
}

fn write(dir: &Path, document: &Document, verbosity: VerbosityFlags) -> Result<(), Problem> {
    let written = publish::report(dir, document).map_err(|error| {
        Problem::internal(format!(
            "the report can't be written: {error}; --output DIR writes it elsewhere, --print only prints it"
        ))
    })?;
    for path in written.iter().filter(|_| verbosity.verbose) {
        super::output::tell(&format!("wrote {}", path.display()));
    }
    Ok(())
}

/// Writes the report of a finished run. Returns the path of its page.
///
/// # Errors
/// Why there is no report; the results themselves are safe.
pub(super) fn of_finished(dir: &Path) -> Result<PathBuf, String> {
    let run = read(dir).map_err(|error| error.to_string())?;
    publish::report(dir, &of_run(&run, &published::built_in())).map_err(|error| error.to_string())?;
    Ok(dir.join(PAGE))
}
