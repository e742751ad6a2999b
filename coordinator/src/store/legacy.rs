//! Reads a folder that holds only summary.csv and perhaps raw.jsonl: the output of the historical Python script, or
//! what somebody kept of a run of this program.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use proto::{Bounds, HistogramSet, Mode, Outcome, SessionRecord};
use serde_json::Map;
use sha2::{Digest as _, Sha256};

use super::SUMMARY;
use super::read_error::{ReadError, again};
use super::schema::columns::Line;
use super::schema::number::JsonSeconds;
use super::schema::raw;
use crate::plan::check::plan_of;
use crate::plan::expand::Batch;
use crate::plan::{Modes, Plan};
use crate::results::batch::Summary;
use crate::results::cells::{CellHistograms, Done};
use crate::results::failure::FailedAs;
use crate::results::run::{Client, Run, Status};

const RAW: &str = "raw.jsonl";

/// Larger values are no counts: no run has as many.
const COUNT_MAX: u64 = 1_000_000_000;
const HOSTS_MAX: u64 = 1_000_000;

/// What is impossible about a line, in words.
fn fault(line: &Line) -> Option<String> {
    let counts = [
        ("num_requests", line.num_requests),
        ("batch_size", line.batch_size),
        ("successful", line.successful),
        ("unique_pids", line.unique_pids),
        ("unique_sessions", line.unique_sessions),
        ("timed_out", line.timed_out.unwrap_or(0)),
        ("lost", line.lost.unwrap_or(0)),
        ("never_started", line.never_started.unwrap_or(0)),
    ];
    let many = counts.iter().find(|(_, count)| *count > COUNT_MAX).copied();
    let many = many.or((line.unique_hosts > HOSTS_MAX).then_some(("unique_hosts", line.unique_hosts)));
    match many {
        Some((column, count)) => Some(format!("{column} is {count}: no run has that many")),
        None if line.successful > line.num_requests => {
            Some(format!("{} of {} sessions succeeded", line.successful, line.num_requests))
        }
        None => None,
    }
}

/// The readable lines, and why reading stopped.
fn lines(path: &Path) -> Result<(Vec<Line>, Option<String>), String> {
    let mut reader = csv::Reader::from_path(path).map_err(|error| error.to_string())?;
    let mut lines: Vec<Line> = Vec::new();
    for line in reader.deserialize::<Line>() {
        let line = line.map_err(|error| error.to_string());
        let line = line.and_then(|line| match fault(&line) {
            Some(fault) => Err(format!("line {}: {fault}", lines.len() + 2)),
            None => Ok(line),
        });
        match line {
            Ok(line) => lines.push(line),
            Err(problem) => return Ok((lines, Some(problem))),
        }
    }
    Ok((lines, None))
}

/// The batches of the plan that summary.csv has and `known` lacks.
pub(super) fn beyond(dir: &Path, plan: &Plan, known: &[Done]) -> Vec<Summary> {
    let Ok((lines, _)) = lines(&dir.join(SUMMARY)) else { return Vec::new() };
    let key = |batch: &Batch| (batch.mode, batch.batch_size, batch.wait_us, batch.repetition);
    let grid = plan.batches();
    let mut found = Vec::new();
    for mut summary in lines.into_iter().map(|line| line.into_summary(0)) {
        let planned = grid.iter().find(|batch| key(batch) == key(&summary.batch));
        if let Some(batch) = planned.filter(|batch| !known.iter().any(|done| key(done.batch()) == key(batch))) {
            summary.batch = *batch;
            found.push(summary);
        }
    }
    found
}

/// Reads the folder. The infrastructure is taken from its path, `.../{infrastructure}/{date}`.
///
/// # Errors
/// If summary.csv can't be read, or lacks columns.
pub(super) fn read(dir: &Path) -> Result<Run, ReadError> {
    let path = dir.join(SUMMARY);
    let unreadable = |problem: String| ReadError::Unreadable { path: path.clone(), problem };
    let (lines, stopped) = lines(&path).map_err(unreadable)?;
    let mut notes = Vec::new();
    match stopped {
        Some(problem) if lines.is_empty() => {
            return Err(unreadable(format!("{problem}; it is not the {SUMMARY} of a run")));
        }
        // The lines before it are intact.
        Some(problem) => notes.push(format!("{SUMMARY}: {problem}; the {} lines before it are reported", lines.len())),
        None if lines.is_empty() => return Err(unreadable("it has no lines: no batch was finished".to_owned())),
        None => {}
    }
    let mut results = summaries(&lines);
    let mut cells = CellHistograms::default();
    let mut steps = 1;
    match sessions(&dir.join(RAW), &mut results, &mut cells) {
        Ok(found) => {
            notes.extend(found.notes);
            steps = found.steps;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => notes.push(format!(
            "{RAW} is missing: where a cell has several repetitions its p99 is the largest of theirs, which the merged one \
             does not exceed; what failed, and how, is not known"
        )),
        Err(error) => notes.push(format!("{RAW}: {error}; it is left out")),
    }
    let (started, ended) = began_and_ended(&results);
    let ours = lines.iter().any(|line| line.verdict.is_some());
    let version = "of an unknown version".to_owned();
    let mut plan = plan(dir, &lines).map_err(unreadable)?;
    plan.session.steps = steps;
    Ok(Run {
        place: dir.display().to_string(),
        client: if ours { Client::Muster { version } } else { Client::Script },
        // The script writes summaries of finished batches, and nothing on how the run ended.
        status: if ours { Status::Unknown } else { Status::Complete },
        failure: None,
        again: again(dir),
        id: id_of(&infrastructure(dir), &path),
        started,
        ended: Some(ended),
        command: Vec::new(),
        output: String::new(),
        urls: distinct(lines.iter().flat_map(|line| line.url.split(' ').map(str::to_owned))),
        plan,
        agents: Map::new(),
        results: results.into_iter().map(|summary| Done::Ran(Box::new(summary))).collect(),
        cells,
        traced: Vec::new(),
        raw: dir.join(RAW).is_file().then(|| RAW.to_owned()),
        notes,
    })
}

/// An id for a run that has none: a hash of its infrastructure and the first line of its table.
fn id_of(infrastructure: &str, path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let first: Vec<u8> = text.split(|byte| *byte == b'\n').nth(1).unwrap_or_default().to_vec();
    let mut hash = Sha256::new();
    hash.update(infrastructure.as_bytes());
    hash.update(first);
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The infrastructure from the path's end `{infrastructure}/{date}`, unless it is a name that no plan may have.
fn infrastructure(dir: &Path) -> String {
    let dir = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
    let name = |path: Option<&Path>| path?.file_name()?.to_str().map(str::to_owned);
    let plain = |name: &String| {
        !name.is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
            && !name.starts_with('.')
    };
    let is_date = |name: &String| name.starts_with(|c: char| c.is_ascii_digit());
    let own = name(Some(&dir)).filter(plain);
    match own {
        Some(own) if !is_date(&own) => own,
        _ => name(dir.parent()).filter(plain).unwrap_or_else(|| "unknown".to_owned()),
    }
}

fn distinct<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut values: Vec<T> = values.collect();
    values.sort();
    values.dedup();
    values
}

/// A plan with these batches.
fn plan(dir: &Path, lines: &[Line]) -> Result<Plan, String> {
    let mut plan = plan_of("[target]\nurls=\"http://unknown\"\n[grid]\nbatch_sizes=[1]\n")?;
    let modes = distinct(lines.iter().map(|line| line.mode));
    plan.target.mode = match modes[..] {
        [mode] => Modes::One(mode),
        _ => Modes::Compare,
    };
    plan.target.urls = distinct(lines.iter().flat_map(|line| line.url.split(' ').map(str::to_owned)));
    plan.experiment.infrastructure = infrastructure(dir);
    plan.experiment.hardware = distinct(lines.iter().map(|line| line.hardware.clone())).join(", ");
    plan.grid.batch_sizes = distinct(lines.iter().map(|line| line.batch_size));
    plan.grid.waits_us = distinct(lines.iter().map(|line| line.wait_seconds.0));
    plan.grid.repetitions = lines.iter().map(|line| line.repetition).max().unwrap_or(1).max(1);
    Ok(plan)
}

/// The summaries in the order of the file. The script counts repetitions from 0 or from 1; here they begin at 1.
fn summaries(lines: &[Line]) -> Vec<Summary> {
    let first = lines.iter().map(|line| line.repetition).min().unwrap_or(1);
    let mut summaries: Vec<Summary> = (0..).zip(lines).map(|(index, line)| line.clone().into_summary(index)).collect();
    for summary in summaries.iter_mut().filter(|_| first == 0) {
        summary.batch.repetition = summary.batch.repetition.saturating_add(1);
    }
    summaries
}

fn began_and_ended(results: &[Summary]) -> (Timestamp, Timestamp) {
    let times = || results.iter().map(|summary| summary.timestamp);
    let started = times().min().unwrap_or(Timestamp::UNIX_EPOCH);
    let lasted = |summary: &Summary| {
        let wall = SignedDuration::from_micros(i64::try_from(summary.total_wall_us).unwrap_or(0));
        summary.timestamp.checked_add(wall).unwrap_or(summary.timestamp)
    };
    (started, results.iter().map(lasted).max().unwrap_or(started))
}

/// What was found in raw.jsonl.
struct Found {
    notes: Vec<String>,
    /// Steps per session, as far as the records show.
    steps: u32,
}

/// Adds histograms, hosts by name and failures from the records. The script wrote a batch's lines together and without
/// the repetition: the first `num_requests` lines of a cell belong to its first repetition.
fn sessions(path: &Path, results: &mut [Summary], cells: &mut CellHistograms) -> io::Result<Found> {
    let mut by_cell: BTreeMap<(Mode, u64, u64), Vec<Option<Session>>> = BTreeMap::new();
    let (mut notes, mut steps, mut bad, mut first_bad) = (Vec::new(), 1, 0_u64, String::new());
    let mut last = None;
    for (number, line) in BufReader::new(File::open(path)?).split(b'\n').enumerate() {
        let line = line?;
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_start_matches('\u{feff}').trim();
        if text.is_empty() {
            continue;
        }
        match session(text) {
            Ok(session) => {
                steps = steps.max(session.step_us.len());
                let cell = (session.mode, session.batch_size, session.wait_us);
                last = Some(cell);
                by_cell.entry(cell).or_default().push(Some(session));
            }
            Err(error) => {
                bad += 1;
                if bad == 1 {
                    first_bad = format!("line {}: {error}", number + 1);
                }
                // The bad line counts as a session of the line before it, so that later lines keep their repetition.
                if let Some(cell) = last {
                    by_cell.entry(cell).or_default().push(None);
                }
            }
        }
    }
    let mut lacking = 0_u64;
    for summary in results {
        let b = &summary.batch;
        let rest = by_cell.entry((b.mode, b.batch_size, b.wait_us)).or_default();
        let own = usize::try_from(summary.ledger.planned).unwrap_or(usize::MAX).min(rest.len());
        let own: Vec<Session> = rest.drain(..own).flatten().collect();
        let succeeded = own.iter().filter(|session| session.success).count() as u64;
        if own.len() as u64 != summary.ledger.planned || succeeded != summary.ledger.succeeded {
            lacking += 1;
            continue;
        }
        add(summary, &own, cells).map_err(io::Error::other)?;
    }
    if bad > 0 {
        notes.push(format!("{RAW}: {bad} lines can't be read ({first_bad})"));
    }
    if lacking > 0 {
        notes.push(format!("{RAW} does not have the sessions of {lacking} batches; what they would tell is left out"));
    }
    Ok(Found { notes, steps: u32::try_from(steps).unwrap_or(1) })
}

/// The values used from a line of raw.jsonl.
struct Session {
    mode: Mode,
    wait_us: u64,
    batch_size: u64,
    connect_us: Option<u64>,
    reset_us: Option<u64>,
    step_us: Vec<u64>,
    total_us: Option<u64>,
    host: Option<String>,
    success: bool,
    error_type: Option<String>,
}

impl Session {
    fn of(line: raw::Line<'_>) -> Self {
        // The script writes 0 for a phase that it did not measure, as for connect over HTTP.
        let measured = |seconds: Option<JsonSeconds>| seconds.map(|seconds| seconds.0).filter(|us| *us > 0);
        let steps = line.step_latencies.map(|steps| steps.iter().map(|step| step.0).collect());
        Self {
            mode: line.mode,
            wait_us: line.wait_requested.0,
            batch_size: line.batch_size,
            connect_us: measured(line.connect_latency),
            reset_us: measured(line.reset_latency),
            step_us: steps.unwrap_or_else(|| measured(line.step_latency).into_iter().collect()),
            total_us: line.total_latency.map(|total| total.0),
            host: line.host_url.filter(|host| !host.is_empty()).map(Cow::into_owned),
            success: line.success,
            error_type: line.error_type,
        }
    }
}

/// Reads a line. Python writes NaN and infinity as words that JSON does not have.
fn session(text: &str) -> Result<Session, serde_json::Error> {
    let read = |text: &str| serde_json::from_str(text).map(Session::of);
    read(text).or_else(|error| {
        if !(text.contains("NaN") || text.contains("Infinity")) {
            return Err(error);
        }
        let plain = [": -Infinity", ": Infinity", ": NaN", ":-Infinity", ":Infinity", ":NaN"]
            .iter()
            .fold(text.to_owned(), |text, word| text.replace(word, ": null"));
        read(&plain)
    })
}

fn add(summary: &mut Summary, sessions: &[Session], cells: &mut CellHistograms) -> Result<(), String> {
    let mut histograms = HistogramSet::new(Bounds::STANDARD);
    let (mut hosts, mut errors) = (BTreeMap::<String, u64>::new(), BTreeMap::<String, u64>::new());
    for session in sessions {
        if session.success {
            let mut record = SessionRecord::without_life(0, Outcome::Succeeded, String::new());
            record.connect_us = session.connect_us;
            record.reset_us = session.reset_us;
            record.step_us.clone_from(&session.step_us);
            record.total_us = session.total_us;
            histograms.record(&record);
            if let Some(host) = &session.host {
                *hosts.entry(host.clone()).or_default() += 1;
            }
        } else {
            *errors.entry(session.error_type.clone().unwrap_or_else(|| "unknown".to_owned())).or_default() += 1;
        }
    }
    if hosts.len() == summary.hosts.len() {
        summary.hosts = hosts;
    }
    summary.errors = errors.into_iter().map(|(what, n)| (FailedAs::from(what), n)).collect();
    summary.errors.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for metric in [proto::Metric::Connect, proto::Metric::Reset, proto::Metric::Step, proto::Metric::Total] {
        cells.add_one(&summary.batch, metric, histograms.get(metric))?;
    }
    Ok(())
}
