//! Resumes a results folder: whole batches are kept, the rest is cut off and run again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use proto::{Metric, RunId};
use serde_json::{Map, Value};

use super::fault::Faults;
use super::schema::format::Head;
use super::schema::journal::{Entry, Journal, Lengths};
use super::schema::run_json::RunJson;
use super::{
    ATTEMPTS, FORMAT, HISTOGRAMS, JOURNAL, RUN, SUMMARY, Store, attempt_name, hlog, lock, named, raw_name, tag,
};
use crate::plan::Raw;
use crate::results::cells::CellHistograms;
use crate::results::history::History;
use crate::text::count;

/// Why a folder can't be resumed.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    #[error("{0}")]
    NotResumable(String),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The state of a run that is resumed.
#[derive(Debug)]
pub struct Resumed {
    pub store: Store,
    pub run: RunId,
    pub started: Timestamp,
    /// The times at which the run was resumed before.
    pub resumed: Vec<String>,
    pub agents: Map<String, Value>,
    /// The command that started the run. It defines what is measured; a resuming command does not.
    pub command: Vec<String>,
    pub history: History,
    pub cells: CellHistograms,
    /// Notes on what was cut off.
    pub notes: Vec<String>,
}

fn not(text: impl Into<String>) -> ResumeError {
    ResumeError::NotResumable(text.into())
}

/// Reads run.json in `dir`, and changes nothing.
///
/// # Errors
/// If there is no run, or another version has written it.
pub fn stored(dir: &Path) -> Result<RunJson<'static>, ResumeError> {
    let path = dir.join(RUN);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let why = if dir.join(JOURNAL).exists() {
                "the run ended before it began; start it again without --resume"
            } else {
                "it is no results folder; give the one that the run printed"
            };
            return Err(not(format!("{}: there is no {RUN}: {why}", dir.display())));
        }
        Err(error) => return Err(not(format!("{}: {error}", path.display()))),
    };
    let unreadable =
        |error: serde_json::Error| not(format!("{}: {error}; it is not the {RUN} of a run", path.display()));
    let head = Head::of(&text).map_err(unreadable)?;
    if !head.is_own() {
        return Err(not(format!(
            "{} was written by version {} (format {}), this is {} (format {FORMAT}); go on with that version, \
             so that one ruler measures the whole run",
            path.display(),
            head.version,
            head.format,
            proto::VERSION
        )));
    }
    let stored: RunJson<'static> = serde_json::from_slice(&text).map_err(unreadable)?;
    if stored.plan.hash().to_string() != stored.plan_hash {
        return Err(not(format!(
            "{}: the plan in it was changed since the run (its hash is another one); put it back as it was, or start a \
             new run",
            path.display()
        )));
    }
    Ok(stored)
}

/// Resumes the run: cuts every file back to the last whole attempt, and returns what was decided.
///
/// # Errors
/// If another coordinator is writing to the folder, or a file can't be read or cut.
pub fn resume(dir: PathBuf, stored: RunJson<'static>, faults: Faults) -> Result<Resumed, ResumeError> {
    let plan = &stored.plan;
    let open = |name: &str| {
        let path = dir.join(name);
        // A run that was killed early may not have created every file.
        OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(named(&path))
    };
    let store = Store {
        raw: plan.output.raw,
        raw_file: raw_name(plan.output.raw).map(open).transpose()?,
        summary: open(SUMMARY)?,
        histograms: open(HISTOGRAMS)?,
        journal: open(JOURNAL)?,
        started: stored.started,
        faults,
        dir: dir.clone(),
    };
    lock(&store.journal, &dir)?;
    let whole = Whole::of(&store)?;
    // Everything is read before anything is cut.
    let path = dir.join(HISTOGRAMS);
    let text = fs::read(&path).map_err(named(&path))?;
    let kept = usize::try_from(whole.to.histograms).unwrap_or(usize::MAX).min(text.len());
    let (history, cells) = decided(&whole.entries, &text[..kept]).map_err(|problem| {
        not(format!("{}: {problem}; the run can't go on from it: start a new one", path.display()))
    })?;
    let mut notes = whole.notes;
    store.cut_back(whole.to, whole.journal_to)?;
    if whole.entries.is_empty() {
        store.write_headers()?;
    }
    remove_strays(&dir, &whole.entries, &mut notes)?;
    Ok(Resumed {
        store,
        run: stored.run,
        started: stored.started,
        resumed: stored.resumed.into_owned(),
        agents: stored.agents,
        command: stored.command.into_owned(),
        history,
        cells,
        notes,
    })
}

/// What is intact in the files, and how far they are cut.
struct Whole {
    entries: Vec<Entry<'static>>,
    to: Lengths,
    journal_to: u64,
    notes: Vec<String>,
}

impl Whole {
    fn of(store: &Store) -> Result<Self, ResumeError> {
        let path = store.dir.join(JOURNAL);
        let text = fs::read(&path).map_err(named(&path))?;
        let mut journal = Journal::read(&text).map_err(|error| not(format!("{}: {error}", path.display())))?;
        let there = store.lengths()?;
        let mut notes = Vec::new();
        // Files are synced before the journal: only the last batch can be incomplete, if the disk ignored a sync.
        if journal.entries.last().is_some_and(|(entry, _)| !there.cover(&entry.bytes))
            && let Some((entry, _)) = journal.entries.pop()
        {
            notes.push(format!("batch {} is in the journal and not whole in the files", entry.batch));
            let rest = journal.entries.last().map(|(entry, _)| entry.bytes);
            let shorter = rest.is_some_and(|bytes| !there.cover(&bytes));
            if shorter || rest.is_none() && entry.accepted && there.any_empty() {
                return Err(not(format!(
                    "{}: the files are shorter than the journal says ({}): no crash does that; put them back as they were, \
                     or start a new run",
                    store.dir.display(),
                    short_of(store.raw, &there, &rest.unwrap_or(entry.bytes))
                )));
            }
        }
        let journal_to = journal.entries.last().map_or(0, |(_, end)| *end);
        let header_only = journal.entries.is_empty();
        let to = match journal.entries.last() {
            Some((entry, _)) => entry.bytes,
            None => Lengths { raw: store.raw_file.as_ref().map(|_| 0), summary: 0, histograms: 0 },
        };
        let mut cut = |name: &str, from: u64, to: u64, why: &str| {
            // Headers are written again.
            if from > to && !(header_only && why.is_empty()) {
                let (from, to) = (count(from), count(to));
                notes.push(format!("{name} is cut back from {from} to {to} bytes{why}"));
            }
        };
        let half = ": what is beyond belongs to a batch that was not finished";
        if let (Some(name), Some(from), Some(to)) = (raw_name(store.raw), there.raw, to.raw) {
            cut(name, from, to, half);
        }
        let why = if header_only { "" } else { half };
        cut(SUMMARY, there.summary, to.summary, why);
        cut(HISTOGRAMS, there.histograms, to.histograms, why);
        let why = journal.stopped.as_ref().map_or(String::new(), |why| format!(": {why}"));
        cut(JOURNAL, text.len() as u64, journal_to, &why);
        let entries = journal.entries.into_iter().map(|(entry, _)| entry).collect();
        Ok(Self { entries, to, journal_to, notes })
    }
}

/// Names the files that are shorter than the journal says.
fn short_of(raw: Raw, there: &Lengths, said: &Lengths) -> String {
    [
        (raw_name(raw).unwrap_or_default(), there.raw.unwrap_or(0), said.raw.unwrap_or(0)),
        (SUMMARY, there.summary, said.summary),
        (HISTOGRAMS, there.histograms, said.histograms),
    ]
    .into_iter()
    .filter(|(_, there, said)| there < said)
    .map(|(name, there, said)| format!("{name} has {} of {} bytes", count(there), count(said)))
    .collect::<Vec<_>>()
    .join(", ")
}

/// Removes records of refused attempts that the journal does not list: these attempts were not finished.
fn remove_strays(dir: &Path, entries: &[Entry<'_>], notes: &mut Vec<String>) -> io::Result<()> {
    let known: BTreeSet<String> =
        entries.iter().filter(|entry| !entry.accepted).map(|entry| attempt_name(&entry.summary)).collect();
    let found = match fs::read_dir(dir.join(ATTEMPTS)) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for file in found {
        let name = file?.file_name().to_string_lossy().into_owned();
        let numbered = |rest: &str| rest.strip_suffix(".jsonl").is_some_and(|n| n.parse::<u32>().is_ok());
        let ours = name.rsplit_once("-attempt-").is_some_and(|(_, rest)| numbered(rest));
        if ours && !known.contains(&name) {
            fs::remove_file(dir.join(ATTEMPTS).join(&name))?;
            notes.push(format!("{ATTEMPTS}/{name} is removed: it belongs to an attempt that was not finished"));
        }
    }
    Ok(())
}

/// What the journal says about each batch, and the merged totals of the accepted attempts.
fn decided(entries: &[Entry<'_>], histograms: &[u8]) -> Result<(History, CellHistograms), String> {
    let mut history = History::default();
    for entry in entries {
        if entry.in_summary {
            history.decided.insert(entry.batch, entry.summary.clone().into_owned());
        } else {
            let last = history.refused.entry(entry.batch).or_default();
            *last = entry.attempt.max(*last);
            let why = entry.summary.verdict.reasons.first().map_or("it did not count", String::as_str);
            history.told.entry(entry.batch).or_default().push(format!("attempt {}: {why}", entry.attempt));
        }
    }
    let accepted: BTreeMap<String, &Entry<'_>> = entries
        .iter()
        .filter(|entry| entry.accepted)
        .map(|entry| (tag(&entry.summary, Metric::Total), entry))
        .collect();
    let totals = hlog::read(histograms, |tag| accepted.contains_key(tag))?;
    let mut cells = CellHistograms::default();
    for (tag, entry) in accepted {
        let total = totals.get(&tag).ok_or_else(|| format!("there is no {tag}"))?;
        cells.add_one(&entry.summary.batch, Metric::Total, total)?;
    }
    Ok((history, cells))
}
