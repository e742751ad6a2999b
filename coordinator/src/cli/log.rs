//! `coordinator log`: a run becomes an entry of the experiment log.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{Problem, Talk};
use crate::exit;
use crate::report::charts;
use crate::report::entry::{Links, body};
use crate::report::figures::Figure;
use crate::report::logbook::{EMPTY, Logged, NewEntry, heading_of, log};
use crate::report::overview::OverviewRow;
use crate::report::published;
use crate::report::run::Run;
use crate::report::summary::rfc3339;
use crate::store::publish;
use crate::store::read::read;

#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// Results folders
    #[arg(value_name = "DIR", required = true)]
    dirs: Vec<PathBuf>,

    /// The log, a Markdown file; it is begun if it is not there. Figures and summary.csv are copied beside it
    #[arg(long, value_name = "FILE")]
    into: PathBuf,
}

pub(super) fn run(args: &LogArgs, talk: Talk) -> Result<u8, Problem> {
    let mut runs = Vec::new();
    for dir in &args.dirs {
        runs.push((dir, read(dir).map_err(|error| Problem::usage(error.to_string()))?));
    }
    for (dir, run) in &runs {
        let said = one(dir, run, &args.into)?;
        talk.print(&said)?;
    }
    Ok(exit::DONE)
}

/// Files first, the log last: what it links to is there.
fn one(dir: &Path, run: &Run, into: &Path) -> Result<String, Problem> {
    let unwritten = |error: io::Error| Problem::internal(format!("the run is not in the log: {error}"));
    let text = match fs::read_to_string(into) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => EMPTY.to_owned(),
        Err(error) => return Err(Problem::usage(format!("--into {}: {error}", into.display()))),
    };
    let no_log =
        |error: crate::report::logbook::LogError| Problem::usage(format!("--into {}: {error}", into.display()));
    let heading = heading_of(&text, &run.id, &run.title()).map_err(no_log)?;
    let beside = into.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let links = files(dir, run, beside, heading.strip_prefix(&run.title()).unwrap_or_default()).map_err(unwritten)?;
    let entry = NewEntry {
        id: run.id.clone(),
        started: rfc3339(run.started),
        body: body(run, &links),
        row: OverviewRow::of(run),
    };
    let logged = log(&text, &run.title(), &entry).map_err(no_log)?;
    if logged.text != text {
        publish::replace(into, logged.text.as_bytes()).map_err(unwritten)?;
    }
    Ok(said(&heading, into, &logged, run))
}

/// Copies what the entry links to. `again` tells this run from others of its infrastructure and day: `-2`, `-3`.
fn files(dir: &Path, run: &Run, beside: &Path, again: &str) -> io::Result<Links> {
    let name = format!("{}-{}{again}", run.name(), run.date());
    let figures: Vec<Figure> = charts::of_run(run, &published::built_in());
    publish::figures(&beside.join("figures").join(&name), &figures.iter().collect::<Vec<_>>())?;
    let summary = match fs::read(dir.join("summary.csv")) {
        Ok(bytes) => {
            let folder = beside.join("summaries");
            fs::create_dir_all(&folder)?;
            publish::replace(&folder.join(format!("{name}.csv")), &bytes)?;
            Some(format!("summaries/{name}.csv"))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    let titles = figures.into_iter().map(|figure| (figure.name, figure.title)).collect();
    Ok(Links { summary, figures: Some((format!("figures/{name}/"), titles)) })
}

fn said(heading: &str, into: &Path, logged: &Logged, run: &Run) -> String {
    let what = if logged.renewed { "renewed" } else { "put" };
    let mut text = format!("{heading} {what} in {}", into.display());
    if logged.carried > 0 {
        text.push_str(&format!("; {} lines that were written by hand are kept", logged.carried));
    }
    if !logged.in_overview {
        text.push_str(&format!("; the overview keeps the newer run of {}", run.name()));
    }
    text.push('\n');
    text
}
