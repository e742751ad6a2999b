//! Reads a results folder for a report, and changes nothing in it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hdrhistogram::Histogram;
use proto::Metric;

use super::read_error::{ReadError, again};
use super::schema::format::Head;
use super::schema::journal::{Entry, Journal};
use super::schema::run_json::RunJson;
use super::{HISTOGRAMS, JOURNAL, RUN, SUMMARY, hlog, legacy, raw_name, session_intervals, tag};
use crate::plan::Plan;
use crate::plan::expand::Batch;
use crate::results::batch::Summary;
use crate::results::cells::{CellHistograms, Done, Grid};
use crate::results::run::{Client, Run};
use crate::results::timeline::BatchTimeline;

/// The metrics that are merged for the cells shown in detail.
const DETAILS: [Metric; 7] =
    [Metric::Connect, Metric::Reset, Metric::Step, Metric::Close, Metric::Response, Metric::Wire, Metric::LaunchLag];

/// The results folders below this one, as many as one reads.
fn below(dir: &Path) -> Vec<PathBuf> {
    const TOLD_MAX: usize = 5;
    let list = |dir: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    };
    let is_one = |path: &PathBuf| path.join(RUN).is_file() || path.join(SUMMARY).is_file();
    let mut found: Vec<PathBuf> = list(dir)
        .into_iter()
        .flat_map(|path| std::iter::once(path.clone()).chain(list(&path)))
        .filter(is_one)
        .collect();
    found.sort();
    found.truncate(TOLD_MAX);
    found
}

/// Reads the run in `dir`, written by this program or by the historical script.
///
/// # Errors
/// If there is no run, or none that this program can read. Incomplete data is left out and noted.
pub fn read(dir: &Path) -> Result<Run, ReadError> {
    let path = dir.join(RUN);
    let has_summary = dir.join(SUMMARY).is_file();
    match fs::read(&path) {
        Ok(text) => match own(dir, &text) {
            // run.json is incomplete, as after an interrupted copy. summary.csv has the tables' data too.
            Err(ReadError::Unreadable { path: which, problem }) if which == path && has_summary => {
                let mut run = legacy::read(dir)?;
                run.notes.insert(0, format!("{RUN} can't be read ({problem}): what follows is from {SUMMARY} alone"));
                Ok(run)
            }
            done => done,
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound && has_summary => {
            let mut run = legacy::read(dir)?;
            if run.judged() {
                run.notes.insert(0, format!("{RUN} is missing: what follows is from {SUMMARY} alone"));
            }
            Ok(run)
        }
        Err(_) if dir.is_file() => Err(ReadError::File(dir.to_path_buf())),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !dir.exists() => {
            Err(ReadError::Missing(dir.to_path_buf()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(ReadError::NoRun { dir: dir.to_path_buf(), below: below(dir) })
        }
        Err(error) => Err(ReadError::Unreadable { path, problem: error.to_string() }),
    }
}

fn own(dir: &Path, text: &[u8]) -> Result<Run, ReadError> {
    let unreadable = |error: serde_json::Error| ReadError::Unreadable {
        path: dir.join(RUN),
        problem: format!("{error}; it is not the whole {RUN} of a run"),
    };
    let head = Head::of(text).map_err(unreadable)?;
    if !head.is_readable() {
        return Err(ReadError::Format { path: dir.join(RUN), format: head.format, version: head.version });
    }
    let file: RunJson<'_> = serde_json::from_slice(text).map_err(unreadable)?;

    let mut notes = Vec::new();
    let entries = entries(dir, &mut notes)?;
    let (histograms, mut cells) = (Intervals::open(dir, &entries, &mut notes)?, CellHistograms::default());
    histograms.add(&mut cells, &[Metric::Total], |_| true, &mut notes)?;
    let mut results: Vec<Done> =
        entries.iter().filter(|entry| entry.in_summary).map(|entry| Done::Ran(Box::new(as_of_now(entry)))).collect();
    if head.format == 1 {
        notes.push(
            "this run took a session as open from its connection on; newer runs do so from its first answer: compare the \
             sessions open at once only with those of runs as old"
                .to_owned(),
        );
    }
    // Batches missing in the journal are taken from summary.csv, without their agents.
    let lost = legacy::beyond(dir, &file.plan, &results);
    if !lost.is_empty() {
        notes.push(format!(
            "{JOURNAL} lacks {} batches that {SUMMARY} has: they are taken from there, without their agents",
            lost.len()
        ));
        results.extend(lost.into_iter().map(|summary| Done::Ran(Box::new(summary))));
    }
    let skipped = file.batches.into_iter().filter_map(|batch| batch.skipped);
    results.extend(skipped.map(|skipped| Done::Skipped { batch: skipped.batch, why: skipped.why }));
    results.sort_by_key(|done| done.batch().index);
    let planned = file.plan.batches().len();
    if results.len() < planned {
        notes.push(format!("{} of {planned} batches were decided", results.len()));
    }
    let shown = shown(&file.plan, &results, &cells);
    histograms.add(&mut cells, &DETAILS, |batch| shown.iter().any(|one| same_cell(one, batch)), &mut notes)?;
    let traced = traced(dir, &file.plan, &entries, &shown, &mut notes);
    Ok(Run {
        place: dir.display().to_string(),
        client: Client::Muster { version: head.version },
        status: file.status,
        failure: file.failure,
        again: again(dir),
        id: file.run.to_string(),
        started: file.started,
        ended: file.ended,
        command: file.command.into_owned(),
        output: file.output,
        urls: file.urls.into_owned(),
        raw: raw_name(file.plan.output.raw).filter(|name| dir.join(name).is_file()).map(str::to_owned),
        plan: file.plan.into_owned(),
        agents: file.agents,
        results,
        cells,
        traced,
        notes,
    })
}

/// The summary of an entry in the current format: format 1 wrote response times of 0 for a batch without any.
fn as_of_now(entry: &Entry<'_>) -> Summary {
    let mut summary = entry.summary.clone().into_owned();
    if entry.format == 1 && summary.ledger.succeeded + summary.ledger.timed_out == 0 {
        summary.response = None;
    }
    summary
}

/// The batches of cells shown in detail: for each mode and wait the cell at maximum load, and the largest one.
pub(super) fn shown(plan: &Plan, results: &[Done], cells: &CellHistograms) -> Vec<Batch> {
    let grid = Grid::of(plan, results, cells);
    let mut shown: Vec<Batch> = Vec::new();
    for line in grid.lines.values() {
        let largest = line.iter().rposition(|cell| !cell.runs.is_empty());
        for n in [grid.max_load(line), largest].into_iter().flatten() {
            // The first accepted repetition stands for the others.
            let run = line[n].runs.iter().find(|run| run.accepted).or(line[n].runs.first());
            if let Some(run) = run.filter(|run| !shown.contains(&run.batch)) {
                shown.push(run.batch);
            }
        }
    }
    shown
}

fn same_cell(one: &Batch, other: &Batch) -> bool {
    (one.mode, one.batch_size, one.wait_us) == (other.mode, other.batch_size, other.wait_us)
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

fn entries(dir: &Path, notes: &mut Vec<String>) -> Result<Vec<Entry<'static>>, ReadError> {
    let text = file(dir, JOURNAL, notes)?;
    let journal = Journal::read(&text)
        .map_err(|error| ReadError::Unreadable { path: dir.join(JOURNAL), problem: error.to_string() })?;
    if let Some(why) = journal.stopped {
        notes.push(format!("{JOURNAL}: {why}; what comes before is reported"));
    }
    Ok(journal.entries.into_iter().map(|(entry, _)| entry).collect())
}

/// The text of histograms.hlog, and the accepted attempts.
struct Intervals<'a> {
    path: PathBuf,
    text: Vec<u8>,
    accepted: Vec<&'a Entry<'static>>,
}

impl<'a> Intervals<'a> {
    fn open(dir: &Path, entries: &'a [Entry<'static>], notes: &mut Vec<String>) -> Result<Self, ReadError> {
        let mut text = file(dir, HISTOGRAMS, notes)?;
        // Bytes beyond the last whole attempt may be incomplete.
        let whole = entries.last().map_or(0, |entry| usize::try_from(entry.bytes.histograms).unwrap_or(usize::MAX));
        text.truncate(whole);
        let accepted = entries.iter().filter(|entry| entry.accepted).collect();
        Ok(Self { path: dir.join(HISTOGRAMS), text, accepted })
    }

    /// Merges these metrics of the wanted batches, as far as the file has them.
    fn add(
        &self,
        cells: &mut CellHistograms,
        metrics: &[Metric],
        wanted: impl Fn(&Batch) -> bool,
        notes: &mut Vec<String>,
    ) -> Result<(), ReadError> {
        let mut tags = BTreeMap::new();
        for entry in self.accepted.iter().filter(|entry| wanted(&entry.summary.batch)) {
            for metric in metrics {
                tags.insert(tag(&entry.summary, *metric), (entry.summary.batch, *metric));
            }
        }
        let (found, problem): (BTreeMap<String, Histogram<u64>>, _) =
            hlog::read_whole(&self.text, |tag| tags.contains_key(tag));
        let mut missing: Vec<u32> = Vec::new();
        for (tag, (batch, metric)) in &tags {
            match found.get(tag) {
                Some(values) => cells
                    .add_one(batch, *metric, values)
                    .map_err(|problem| ReadError::Unreadable { path: self.path.clone(), problem })?,
                None if !missing.contains(&batch.index) => missing.push(batch.index),
                None => {}
            }
        }
        // A missing file has been noted already.
        if metrics == [Metric::Total] && self.path.is_file() && (problem.is_some() || !missing.is_empty()) {
            let why = problem.unwrap_or_else(|| "it ends early".to_owned());
            notes.push(format!(
                "{HISTOGRAMS}: {why}; it lacks {} of {} batches, so that the p99 of their cells is a bound, and details are left out",
                missing.len(),
                self.accepted.len()
            ));
        }
        Ok(())
    }
}

/// The timelines of the shown batches, for each mode at the smallest wait.
fn traced(
    dir: &Path,
    plan: &Plan,
    entries: &[Entry<'_>],
    shown: &[Batch],
    notes: &mut Vec<String>,
) -> Vec<BatchTimeline> {
    let Some(name) = raw_name(plan.output.raw) else { return Vec::new() };
    let path = dir.join(name);
    let mut traced = Vec::new();
    let mut from = 0;
    let mut problem = None;
    for entry in entries {
        let to = entry.bytes.raw.unwrap_or(from);
        let batch = &entry.summary.batch;
        let smallest = shown.iter().filter(|one| one.mode == batch.mode).map(|one| one.wait_us).min();
        if entry.accepted && shown.contains(batch) && smallest == Some(batch.wait_us) {
            match session_intervals::read(&path, from, to, entry.summary.ledger.planned) {
                Ok(lives) => traced.push(BatchTimeline::of(*batch, entry.summary.total_wall_us, &lives)),
                Err(error) => problem = Some(error),
            }
        }
        from = to;
    }
    if let Some(error) = problem {
        notes.push(format!("{name}: {error}; timelines that need it are left out"));
    } else if let Ok(there) = fs::metadata(&path).map(|file| file.len())
        && there < from
    {
        notes.push(format!("{name}: {there} of {from} bytes are there: the sessions at its end are missing"));
    }
    traced
}
