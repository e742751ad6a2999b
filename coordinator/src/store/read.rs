//! A results folder, read and not touched: what a report is made of.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use proto::Metric;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::journal::{Entry, Journal};
use super::{FORMAT, HISTOGRAMS, JOURNAL, RUN, hlog, tag};
use crate::plan::Plan;
use crate::plan::expand::Batch;
use crate::report::cells::{CellHistograms, Done};

/// A run as it was written down.
#[derive(Debug)]
pub struct StoredRun {
    pub dir: PathBuf,
    /// `running`, `complete`, `interrupted` or `failed`; a run that was killed is still called running.
    pub status: String,
    pub started: Timestamp,
    pub ended: Option<Timestamp>,
    pub version: String,
    pub command: Vec<String>,
    pub urls: Vec<String>,
    pub plan: Plan,
    pub agents: Map<String, Value>,
    pub results: Vec<Done>,
    pub cells: CellHistograms,
    /// What is missing, or was not whole.
    pub notes: Vec<String>,
}

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("{0}: there is no {RUN}: it is no results folder; give the one that the run printed")]
    NoRun(PathBuf),
    #[error("{path}: {problem}")]
    Unreadable { path: PathBuf, problem: String },
    #[error(
        "{path} is of format {format} (version {version}), this program reads format {FORMAT}: report it with version {version}"
    )]
    Format { path: PathBuf, format: u32, version: String },
}

#[derive(Debug, Deserialize)]
struct RunFile {
    status: String,
    started: Timestamp,
    ended: Option<Timestamp>,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    urls: Vec<String>,
    plan: Plan,
    #[serde(default)]
    agents: Map<String, Value>,
    #[serde(default)]
    batches: Vec<BatchFile>,
}

#[derive(Debug, Deserialize)]
struct BatchFile {
    skipped: Option<Skipped>,
}

#[derive(Debug, Deserialize)]
struct Skipped {
    batch: Batch,
    why: String,
}

/// Reads the run in `dir`.
///
/// # Errors
/// If there is none, or one that this program can't read. What is half written is left out, and noted.
pub fn read(dir: &Path) -> Result<StoredRun, ReadError> {
    #[derive(Deserialize)]
    struct Any {
        format: u32,
        version: String,
    }
    let path = dir.join(RUN);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ReadError::NoRun(dir.to_path_buf())),
        Err(error) => return Err(ReadError::Unreadable { path, problem: error.to_string() }),
    };
    let unreadable = |problem: String| ReadError::Unreadable {
        path: path.clone(),
        problem: format!("{problem}; it is not the {RUN} of a run"),
    };
    let any: Any = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;
    if any.format != FORMAT {
        return Err(ReadError::Format { path, format: any.format, version: any.version });
    }
    let run: RunFile = serde_json::from_slice(&text).map_err(|error| unreadable(error.to_string()))?;

    let mut notes = Vec::new();
    let entries = entries(dir, &mut notes)?;
    let cells = cells(dir, &entries, &mut notes)?;
    let mut results: Vec<Done> =
        entries.into_iter().filter(|entry| entry.in_summary).map(|entry| Done::Ran(Box::new(entry.summary))).collect();
    let skipped = run.batches.into_iter().filter_map(|batch| batch.skipped);
    results.extend(skipped.map(|skipped| Done::Skipped { batch: skipped.batch, why: skipped.why }));
    results.sort_by_key(|done| done.batch().index);
    if results.len() < run.plan.batches().len() {
        notes.push(format!("{} of {} batches were decided", results.len(), run.plan.batches().len()));
    }
    Ok(StoredRun {
        dir: dir.to_path_buf(),
        status: run.status,
        started: run.started,
        ended: run.ended,
        version: any.version,
        command: run.command,
        urls: run.urls,
        plan: run.plan,
        agents: run.agents,
        results,
        cells,
        notes,
    })
}

fn file(dir: &Path, name: &str, notes: &mut Vec<String>) -> Result<Vec<u8>, ReadError> {
    let path = dir.join(name);
    match fs::read(&path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            notes.push(format!("{name} is missing"));
            Ok(Vec::new())
        }
        Err(error) => Err(ReadError::Unreadable { path, problem: error.to_string() }),
    }
}

fn entries(dir: &Path, notes: &mut Vec<String>) -> Result<Vec<Entry>, ReadError> {
    let text = file(dir, JOURNAL, notes)?;
    let journal = Journal::read(&text)
        .map_err(|error| ReadError::Unreadable { path: dir.join(JOURNAL), problem: error.to_string() })?;
    if let Some(why) = journal.stopped {
        notes.push(format!("{JOURNAL}: {why}; what comes before is reported"));
    }
    Ok(journal.entries.into_iter().map(|(entry, _)| entry).collect())
}

/// The merged totals of what was accepted, as far as the histograms are there.
fn cells(dir: &Path, entries: &[Entry], notes: &mut Vec<String>) -> Result<CellHistograms, ReadError> {
    let mut cells = CellHistograms::default();
    let text = file(dir, HISTOGRAMS, notes)?;
    // Up to the last whole attempt: what lies beyond may be half written.
    let whole = entries.last().map_or(0, |entry| usize::try_from(entry.bytes.histograms).unwrap_or(usize::MAX));
    let accepted: Vec<&Entry> = entries.iter().filter(|entry| entry.accepted).collect();
    let totals = hlog::read(&text[..whole.min(text.len())], |found| {
        accepted.iter().any(|entry| tag(&entry.summary, Metric::Total) == found)
    });
    let totals = match totals {
        Ok(totals) => totals,
        Err(problem) => {
            notes.push(format!("{HISTOGRAMS}: {problem}; percentiles over repetitions are left out"));
            return Ok(cells);
        }
    };
    let mut missing = 0_u64;
    for entry in accepted {
        match totals.get(&tag(&entry.summary, Metric::Total)) {
            Some(total) => cells
                .add_total(&entry.summary.batch, total)
                .map_err(|problem| ReadError::Unreadable { path: dir.join(HISTOGRAMS), problem })?,
            None => missing += 1,
        }
    }
    if missing > 0 {
        notes.push(format!("{HISTOGRAMS} lacks {missing} batches; percentiles over repetitions leave them out"));
    }
    Ok(cells)
}
