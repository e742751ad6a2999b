//! `coordinator log`: adds runs to the experiment log.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

use super::output::{Problem, VerbosityFlags};
use crate::exit;
use crate::log::entry::{Links, body};
use crate::log::logbook::{EMPTY, LogError, Logged, NewEntry, Overview, folder_of, log};
use crate::publish;
use crate::report::charts;
use crate::report::overview::OverviewRow;
use crate::report::published;
use crate::results::run::Run;
use crate::store::read::read;
use crate::store::{SUMMARY, named};
use crate::text::rfc3339;

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// Results folders
    #[arg(value_name = "DIR", required = true)]
    dirs: Vec<PathBuf>,

    /// The log, a Markdown file; it is begun if it is not there. Figures and summary.csv are copied beside it
    #[arg(long, value_name = "FILE")]
    into: PathBuf,
}

pub(super) fn run(args: &LogArgs, verbosity: VerbosityFlags) -> Result<u8, Problem> {
    let mut runs = Vec::new();
    for dir in &args.dirs {
        runs.push((dir, read(dir).map_err(|error| Problem::usage(error.to_string()))?));
    }
    for (dir, run) in &runs {
        let said = one(dir, run, &args.into, verbosity)?;
        verbosity.print(&said)?;
    }
    Ok(exit::DONE)
}

/// Adds one run. Everything is computed first; then the files that the entry links to are written, and the log last.
fn one(dir: &Path, run: &Run, into: &Path, verbosity: VerbosityFlags) -> Result<String, Problem> {
    let unwritten = |error: io::Error| Problem::internal(format!("the run is not in the log: {error}"));
    let beside = into.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(beside).map_err(|error| unwritten(named(beside)(error)))?;
    // Another process may be adding a run to the same log.
    let _one_at_a_time = lock(beside);
    let text = match fs::read_to_string(into) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => EMPTY.to_owned(),
        Err(error) => return Err(Problem::usage(format!("--into {}: {error}; give a Markdown file", into.display()))),
    };
    let no_log = |error: LogError| Problem::usage(format!("--into {}: {error}", into.display()));
    let base = format!("{}-{}{}", run.name(), run.date(), run.again);
    let name = folder_of(&text, &run.id, &base).map_err(no_log)?;
    let figures = charts::of_run(run, &published::built_in());
    let summary = match fs::read(dir.join(SUMMARY)) {
        Ok(bytes) => Some(bytes),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(unwritten(named(&dir.join(SUMMARY))(error))),
    };
    let links = Links {
        summary: summary.as_ref().map(|_| format!("summaries/{name}.csv")),
        figures: Some((
            format!("figures/{name}/"),
            figures.iter().map(|figure| (figure.name.clone(), figure.title.clone())).collect(),
        )),
    };
    let entry = NewEntry {
        id: run.id.clone(),
        started: rfc3339(run.started),
        body: body(run, &links),
        row: OverviewRow::of(run),
    };
    let logged = log(&text, &run.title(), &entry).map_err(no_log)?;
    let drawn = publish::figures(&beside.join("figures").join(&name), &figures.iter().collect::<Vec<_>>());
    for path in drawn.map_err(unwritten)?.iter().filter(|_| verbosity.verbose) {
        super::output::tell(&format!("wrote {}", path.display()));
    }
    if let Some(bytes) = summary {
        let folder = beside.join("summaries");
        fs::create_dir_all(&folder).map_err(|error| unwritten(named(&folder)(error)))?;
        publish::replace(&folder.join(format!("{name}.csv")), &bytes).map_err(unwritten)?;
    }
    if logged.text != text {
        publish::replace(into, logged.text.as_bytes()).map_err(unwritten)?;
    }
    Ok(said(into, &logged, run))
}

/// Locks the folder until the file is dropped. On a file system without locks the log is written without one.
fn lock(folder: &Path) -> Option<File> {
    let folder = File::open(folder).ok()?;
    folder.lock().ok().map(|()| folder)
}

fn said(into: &Path, logged: &Logged, run: &Run) -> String {
    let what = if logged.renewed { "renewed" } else { "put" };
    let mut text = format!("{} {what} in {}", logged.heading, into.display());
    if logged.carried > 0 {
        let lines = if logged.carried == 1 { "1 line" } else { &format!("{} lines", logged.carried) };
        text.push_str(&format!("; {lines} written by hand kept"));
    }
    match &logged.overview {
        Overview::Told => {}
        Overview::Replaced(row) => text.push_str(&format!("; it takes the place of this row of the overview: {row}")),
        Overview::Newer => text.push_str(&format!("; the overview keeps the newer run of {}", run.name())),
        Overview::Complete => {
            text.push_str(&format!("; it did not end well: the overview keeps the complete run of {}", run.name()));
        }
    }
    text.push('\n');
    text
}
