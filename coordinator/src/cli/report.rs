//! `coordinator report`: tables of finished runs, from their folders alone.

use std::fs;
use std::path::PathBuf;

use clap::Args;

use super::{Problem, print};
use crate::exit;
use crate::report::overview::{COMPARABLE, Run, overview, side_by_side};
use crate::report::published::{self, Published};
use crate::report::summary::rfc3339;
use crate::report::tables::final_tables;
use crate::store::read::{StoredRun, read};

#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// Results folders
    #[arg(value_name = "DIR", required = true)]
    dirs: Vec<PathBuf>,

    /// Rows that were published elsewhere, to show beside (experiments/reports/published.csv)
    #[arg(long, value_name = "FILE")]
    published: Option<PathBuf>,
}

pub(super) fn run(args: &ReportArgs) -> Result<u8, Problem> {
    let rows = match &args.published {
        None => Vec::new(),
        Some(path) => fs::read_to_string(path)
            .map_err(|error| error.to_string())
            .and_then(|text| published::parse(&text))
            .map_err(|problem| Problem::usage(format!("--published {}: {problem}", path.display())))?,
    };
    let mut runs = Vec::new();
    let mut problems = Vec::new();
    for dir in &args.dirs {
        match read(dir) {
            Ok(run) => runs.push(run),
            Err(error) => problems.push(error.to_string()),
        }
    }
    if !problems.is_empty() {
        return Err(Problem { code: exit::USAGE, text: problems.join("\n") });
    }
    print(&report(&runs, &rows))
}

/// Markdown.
fn report(stored: &[StoredRun], published: &[Published]) -> String {
    let dates: Vec<String> = stored.iter().map(|run| rfc3339(run.started).chars().take(10).collect()).collect();
    let runs: Vec<Run<'_>> = stored
        .iter()
        .zip(&dates)
        .map(|(run, date)| Run { plan: &run.plan, status: &run.status, date, results: &run.results, cells: &run.cells })
        .collect();
    let mut text = format!("## Overview\n\n{}", overview(&runs, published));
    for (run, stored) in runs.iter().zip(stored) {
        let experiment = &run.plan.experiment;
        let variant = if experiment.variant.is_empty() { String::new() } else { format!("-{}", experiment.variant) };
        text.push_str(&format!("\n## {}-{}{variant}\n\n", run.date, experiment.infrastructure));
        text.push_str(&format!("Hardware: {}. Agents: {}.", experiment.hardware, stored.agents.len()));
        if let Some(command) = &run.plan.server.start_command {
            text.push_str(&format!(" Server: `{command}`."));
        }
        if !experiment.notes.is_empty() {
            text.push_str(&format!(" {}", experiment.notes));
        }
        text.push('\n');
        for note in &stored.notes {
            text.push_str(&format!("\nNot whole: {note}.\n"));
        }
        text.push('\n');
        if published.is_empty() {
            text.push_str(&final_tables(run.plan, run.results, run.cells));
        } else {
            text.push_str(&side_by_side(run, published));
            text.push('\n');
        }
    }
    if !published.is_empty() {
        text.push_str(&format!("\n## What can be compared\n\n{COMPARABLE}"));
    }
    text
}
