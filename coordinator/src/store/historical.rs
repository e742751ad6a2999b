//! A folder that holds summary.csv, and perhaps raw.jsonl, and nothing of how the run came about: what the historical
//! Python script leaves, or what somebody kept of a run of ours.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use proto::{Bounds, HistogramSet, Ledger, Mode, Outcome, SessionRecord};
use serde::Deserialize;
use serde_json::Map;
use sha2::{Digest as _, Sha256};

use super::SUMMARY;
use super::lives::us;
use super::read::ReadError;
use crate::plan::check::plan_of;
use crate::plan::expand::Batch;
use crate::plan::{Modes, Plan};
use crate::report::cells::{CellHistograms, Done};
use crate::report::facts::{Limit, Verdict, Worth};
use crate::report::run::{Client, Run};
use crate::report::summary::{Context, Percentiles, Summary};

const RAW: &str = "raw.jsonl";

/// A line of summary.csv: the historical columns, and those of ours that a report needs.
#[derive(Debug, Deserialize)]
struct Line {
    mode: Mode,
    url: String,
    num_requests: u64,
    batch_size: u64,
    wait_seconds: f64,
    repetition: u32,
    timestamp: String,
    hardware: String,
    successful: u64,
    total_wall_time: f64,
    connect_p50: f64,
    connect_p95: f64,
    connect_p99: f64,
    reset_p50: f64,
    reset_p95: f64,
    reset_p99: f64,
    step_p50: f64,
    step_p95: f64,
    step_p99: f64,
    total_min: f64,
    total_max: f64,
    total_avg: f64,
    total_p50: f64,
    total_p90: f64,
    total_p95: f64,
    total_p99: f64,
    requests_per_second: f64,
    effective_concurrency: f64,
    unique_pids: u64,
    unique_sessions: u64,
    unique_hosts: u64,
    agents: Option<u64>,
    attempt: Option<u32>,
    timed_out: Option<u64>,
    lost: Option<u64>,
    never_started: Option<u64>,
    open_max: Option<u64>,
    response_p50: Option<f64>,
    response_p99: Option<f64>,
    wire_p50: Option<f64>,
    wire_p99: Option<f64>,
    launch_window: Option<f64>,
    launch_lag_p99: Option<f64>,
    receive_lag_p99: Option<f64>,
    start_skew: Option<f64>,
    over_range: Option<u64>,
    limit: Option<Limit>,
    verdict: Option<Worth>,
    verdict_reasons: Option<String>,
    accepted: Option<bool>,
    done: Option<u64>,
    beyond_p50: Option<f64>,
    beyond_p99: Option<f64>,
    wire_beyond_p50: Option<f64>,
    wire_beyond_p99: Option<f64>,
    generator_delay_p99: Option<f64>,
}

/// A line of raw.jsonl, as far as it is needed.
#[derive(Debug, Deserialize)]
struct Session {
    mode: Mode,
    wait_requested: f64,
    batch_size: u64,
    connect_latency: Option<f64>,
    reset_latency: Option<f64>,
    step_latency: Option<f64>,
    /// Of ours: one a step.
    step_latencies: Option<Vec<f64>>,
    total_latency: Option<f64>,
    host_url: Option<String>,
    success: bool,
    error_type: Option<String>,
}

/// More than any run has: what is above is no count.
const COUNT_MAX: u64 = 1_000_000_000;
const HOSTS_MAX: u64 = 1_000_000;

impl Line {
    /// What can't be, in words.
    fn fault(&self) -> Option<String> {
        let counts = [
            ("num_requests", self.num_requests),
            ("batch_size", self.batch_size),
            ("successful", self.successful),
            ("unique_pids", self.unique_pids),
            ("unique_sessions", self.unique_sessions),
            ("timed_out", self.timed_out.unwrap_or(0)),
            ("lost", self.lost.unwrap_or(0)),
            ("never_started", self.never_started.unwrap_or(0)),
        ];
        let many = counts.iter().find(|(_, count)| *count > COUNT_MAX).copied();
        let many = many.or((self.unique_hosts > HOSTS_MAX).then_some(("unique_hosts", self.unique_hosts)));
        match many {
            Some((column, count)) => Some(format!("{column} is {count}: no run has that many")),
            None if self.successful > self.num_requests => {
                Some(format!("{} of {} sessions succeeded", self.successful, self.num_requests))
            }
            None => None,
        }
    }
}

/// The lines that can be read, and what stopped the reading.
fn lines(path: &Path) -> Result<(Vec<Line>, Option<String>), String> {
    let mut reader = csv::Reader::from_path(path).map_err(|error| error.to_string())?;
    let mut lines: Vec<Line> = Vec::new();
    for line in reader.deserialize::<Line>() {
        let line = line.map_err(|error| error.to_string());
        let line = line.and_then(|line| match line.fault() {
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

/// The batches of the plan that summary.csv has and `known` has not.
pub(super) fn beyond(dir: &Path, plan: &Plan, known: &[Done]) -> Vec<Summary> {
    let Ok((lines, _)) = lines(&dir.join(SUMMARY)) else { return Vec::new() };
    let key = |batch: &Batch| (batch.mode, batch.batch_size, batch.wait_us, batch.repetition);
    let grid = plan.batches();
    let mut found = Vec::new();
    for mut summary in lines.iter().map(|line| summary(0, line, 0)) {
        let planned = grid.iter().find(|batch| key(batch) == key(&summary.batch));
        if let Some(batch) = planned.filter(|batch| !known.iter().any(|done| key(done.batch()) == key(batch))) {
            summary.batch = *batch;
            found.push(summary);
        }
    }
    found
}

/// Reads it. The infrastructure is taken from the folder, `.../{infrastructure}/{date}`.
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
        // What stands before it is whole.
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
        // The script leaves a summary of what it finished, and nothing of how it ended.
        status: if ours { "unknown" } else { "complete" }.to_owned(),
        failure: None,
        again: super::read::again(dir),
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

/// What tells the run from others, where nobody gave it a name: its infrastructure and its first line.
fn id_of(infrastructure: &str, path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let first: Vec<u8> = text.split(|byte| *byte == b'\n').nth(1).unwrap_or_default().to_vec();
    let mut hash = Sha256::new();
    hash.update(infrastructure.as_bytes());
    hash.update(first);
    hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The last two folders of the path are the infrastructure and the date; a name that a plan could not have is not taken.
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

/// A plan that would have asked for these batches.
fn plan(dir: &Path, lines: &[Line]) -> Result<Plan, String> {
    let mut plan = plan_of("[target]\nurls=\"http://unknown\"\n[grid]\nbatch_sizes=[1]\n")?;
    let modes = distinct(lines.iter().map(|line| line.mode));
    plan.target.mode = match modes[..] {
        [Mode::Ws] => Modes::Ws,
        [Mode::Http] => Modes::Http,
        _ => Modes::Compare,
    };
    plan.target.urls = distinct(lines.iter().flat_map(|line| line.url.split(' ').map(str::to_owned)));
    plan.experiment.infrastructure = infrastructure(dir);
    plan.experiment.hardware = distinct(lines.iter().map(|line| line.hardware.clone())).join(", ");
    plan.grid.batch_sizes = distinct(lines.iter().map(|line| line.batch_size));
    plan.grid.waits_us = distinct(lines.iter().map(|line| us(line.wait_seconds)));
    plan.grid.repetitions = lines.iter().map(|line| line.repetition).max().unwrap_or(1).max(1);
    Ok(plan)
}

/// In the order of the file. The script counts repetitions from 0 or from 1: here the first is 1.
fn summaries(lines: &[Line]) -> Vec<Summary> {
    let first = lines.iter().map(|line| line.repetition).min().unwrap_or(1);
    let shift = u32::from(first == 0);
    (0..).zip(lines).map(|(index, line)| summary(index, line, shift)).collect()
}

fn summary(index: u32, line: &Line, shift: u32) -> Summary {
    let wait_us = us(line.wait_seconds);
    let batch = Batch {
        index,
        mode: line.mode,
        batch_size: line.batch_size,
        wait_us,
        repetition: line.repetition.saturating_add(shift),
    };
    let context = Context {
        batch,
        url: &line.url,
        hardware: &line.hardware,
        timestamp: time_of(&line.timestamp).unwrap_or(Timestamp::UNIX_EPOCH),
        asked_wait_us: wait_us,
        agents: line.agents.unwrap_or(1),
        attempt: line.attempt.unwrap_or(1),
    };
    let mut summary = Summary::of(&context, &[], &HistogramSet::new(Bounds::STANDARD));
    let of = |p50: f64, p90: f64, p95: f64, p99: f64| Percentiles {
        p50_us: us(p50),
        p90_us: us(p90),
        p95_us: us(p95),
        p99_us: us(p99),
    };
    let (timed_out, lost) = (line.timed_out.unwrap_or(0), line.lost.unwrap_or(0));
    let never_started = line.never_started.unwrap_or(0);
    let failed = line.num_requests.saturating_sub(line.successful + timed_out + lost + never_started);
    summary.ledger =
        Ledger { planned: line.num_requests, succeeded: line.successful, failed, timed_out, lost, never_started };
    summary.total_wall_us = us(line.total_wall_time);
    summary.connect = of(line.connect_p50, 0.0, line.connect_p95, line.connect_p99);
    summary.reset = of(line.reset_p50, 0.0, line.reset_p95, line.reset_p99);
    summary.step = of(line.step_p50, 0.0, line.step_p95, line.step_p99);
    summary.total = of(line.total_p50, line.total_p90, line.total_p95, line.total_p99);
    summary.response = line.response_p99.map(|p99| of(line.response_p50.unwrap_or(0.0), 0.0, 0.0, p99));
    summary.beyond = line.beyond_p99.map(|p99| of(line.beyond_p50.unwrap_or(0.0), 0.0, 0.0, p99));
    summary.wire_beyond = line.wire_beyond_p99.map(|p99| of(line.wire_beyond_p50.unwrap_or(0.0), 0.0, 0.0, p99));
    summary.own_delay_p99_us = line.generator_delay_p99.map(us);
    summary.done = line.done.unwrap_or(0);
    summary.wire = line.wire_p99.map(|p99| of(line.wire_p50.unwrap_or(0.0), 0.0, 0.0, p99));
    (summary.total_min_us, summary.total_max_us) = (us(line.total_min), us(line.total_max));
    summary.total_avg_us = line.total_avg * 1e6;
    summary.requests_per_second = line.requests_per_second;
    summary.effective_concurrency = line.effective_concurrency;
    (summary.unique_pids, summary.unique_sessions) = (line.unique_pids, line.unique_sessions);
    // Their names are in the records only.
    summary.hosts = (1..=line.unique_hosts).map(|n| (format!("host {n}"), 0)).collect();
    summary.open_max = line.open_max.unwrap_or(0);
    summary.launch_window_us = line.launch_window.map(us);
    summary.launch_lag_p99_us = line.launch_lag_p99.map(us);
    summary.receive_lag_p99_us = line.receive_lag_p99.map(us);
    summary.start_skew_us = line.start_skew.map(us);
    summary.over_range = line.over_range.unwrap_or(0);
    summary.accepted = line.accepted.unwrap_or(true);
    summary.verdict = Verdict {
        worth: line.verdict.unwrap_or_default(),
        limit: line.limit.unwrap_or_default(),
        reasons: line.verdict_reasons.iter().filter(|text| !text.is_empty()).cloned().collect(),
        ..Verdict::default()
    };
    summary
}

/// RFC 3339, a date and time without zone (Python's `isoformat()`, taken for UTC), or seconds since 1970.
fn time_of(text: &str) -> Option<Timestamp> {
    let plain = || format!("{text}Z").parse::<Timestamp>().ok();
    let seconds = || Timestamp::from_microsecond(micros(text.parse::<f64>().ok()?)).ok();
    text.parse::<Timestamp>().ok().or_else(plain).or_else(seconds)
}

#[expect(clippy::cast_possible_truncation, reason = "saturates, and what is no time is refused by who takes it")]
fn micros(seconds: f64) -> i64 {
    (seconds * 1e6).round() as i64
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

/// What there is to say of raw.jsonl.
struct Found {
    notes: Vec<String>,
    /// Steps of a session, as far as records tell.
    steps: u32,
}

/// Adds what the records say: merged histograms, hosts by name, what failed. The script wrote a batch's lines one after
/// another, and no repetition into them: the first `num_requests` lines of a cell are its first one's.
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
                steps = steps.max(session.step_latencies.as_ref().map_or(1, Vec::len));
                let cell = (session.mode, session.batch_size, us(session.wait_requested));
                last = Some(cell);
                by_cell.entry(cell).or_default().push(Some(session));
            }
            Err(error) => {
                bad += 1;
                if bad == 1 {
                    first_bad = format!("line {}: {error}", number + 1);
                }
                // It was one session of the batch that the line before it is of: those behind it stay where they are.
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

/// Python writes numbers that are none as words that JSON does not have.
fn session(text: &str) -> Result<Session, serde_json::Error> {
    serde_json::from_str(text).or_else(|error| {
        if !(text.contains("NaN") || text.contains("Infinity")) {
            return Err(error);
        }
        let plain = [": -Infinity", ": Infinity", ": NaN", ":-Infinity", ":Infinity", ":NaN"]
            .iter()
            .fold(text.to_owned(), |text, word| text.replace(word, ": null"));
        serde_json::from_str(&plain)
    })
}

fn add(summary: &mut Summary, sessions: &[Session], cells: &mut CellHistograms) -> Result<(), String> {
    let mut histograms = HistogramSet::new(Bounds::STANDARD);
    let (mut hosts, mut errors) = (BTreeMap::<String, u64>::new(), BTreeMap::<String, u64>::new());
    for session in sessions {
        if session.success {
            let mut record = SessionRecord::without_life(0, Outcome::Succeeded, String::new());
            // The script writes 0 for a phase that it did not measure: over HTTP the connect.
            let measured = |seconds: Option<f64>| seconds.filter(|seconds| *seconds > 0.0).map(us);
            record.connect_us = measured(session.connect_latency);
            record.reset_us = measured(session.reset_latency);
            match &session.step_latencies {
                Some(steps) => record.step_us.extend(steps.iter().copied().map(us)),
                None => record.step_us.extend(measured(session.step_latency)),
            }
            record.total_us = session.total_latency.map(us);
            histograms.record(&record);
            if let Some(host) = session.host_url.as_ref().filter(|host| !host.is_empty()) {
                *hosts.entry(host.clone()).or_default() += 1;
            }
        } else {
            *errors.entry(session.error_type.clone().unwrap_or_else(|| "unknown".to_owned())).or_default() += 1;
        }
    }
    if hosts.len() == summary.hosts.len() {
        summary.hosts = hosts;
    }
    summary.errors = errors.into_iter().collect();
    summary.errors.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for metric in [proto::Metric::Connect, proto::Metric::Reset, proto::Metric::Step, proto::Metric::Total] {
        cells.add_one(&summary.batch, metric, histograms.get(metric))?;
    }
    Ok(())
}
