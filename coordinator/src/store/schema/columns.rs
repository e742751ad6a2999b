//! The columns of summary.csv: one list of their names, units, meanings and values, for writing and for reading.
//!
//! To add a column, add an entry to the list: its name, type, unit and meaning, how to get its value from a summary,
//! and how to set it in a summary that is read from this file alone. The historical script's columns come first and
//! keep their order; new ones go to the end.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proto::Mode;
use serde::{Deserialize, Serialize};

use super::number::{Fraction, Mean, Rate, Seconds, ShortSeconds};
use crate::plan::expand::Batch;
use crate::results::batch::{Percentiles, Summary};
use crate::results::verdict::{Bottleneck, Validity};
use crate::text::rfc3339;

/// The name, unit and meaning of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// `s` for seconds, `1/s` for a rate, `1` for a count or a fraction, empty for text.
    pub unit: &'static str,
    pub meaning: &'static str,
}

macro_rules! columns {
    ($($name:ident: $type:ty, $unit:literal, $meaning:literal, $get:expr, $set:expr;)*) => {
        /// A line of summary.csv. An `Option` may be empty, or is missing in files of the historical script.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        pub struct Line {
            $(pub $name: $type,)*
        }

        /// All columns in their order.
        pub const COLUMNS: &[Column] =
            &[$(Column { name: stringify!($name), unit: $unit, meaning: $meaning },)*];

        impl Line {
            /// The line of a batch. Unmeasured values are `None`, never 0, except in the historical columns.
            #[must_use]
            pub fn of(summary: &Summary) -> Self {
                fn typed<T>(value: impl FnOnce(&Summary) -> T, summary: &Summary) -> T {
                    value(summary)
                }
                Self { $($name: typed::<$type>($get, summary),)* }
            }

            /// Sets the values of the line in a summary; what the line lacks stays empty.
            fn fill(self, summary: &mut Summary) {
                fn typed<T>(fill: impl FnOnce(&mut Summary, T), summary: &mut Summary, value: T) {
                    fill(summary, value);
                }
                $(typed::<$type>($set, summary, self.$name);)*
            }
        }
    };
}

columns! {
    mode: Mode, "", "protocol: `ws` or `http`",
        |s| s.batch.mode, |s, v| s.batch.mode = v;
    url: String, "", "urls of the target, separated by spaces",
        |s| s.url.clone(), |s, v| s.url = v;
    num_requests: u64, "1", "sessions planned",
        |s| s.ledger.planned, |s, v| s.ledger.planned = v;
    batch_size: u64, "1", "sessions of the batch",
        |s| s.batch.batch_size, |s, v| s.batch.batch_size = v;
    wait_seconds: ShortSeconds, "s", "what each step asked the server to wait",
        |s| ShortSeconds(s.batch.wait_us), |s, v| s.batch.wait_us = v.0;
    repetition: u32, "1", "which repetition of its cell, from 1",
        |s| s.batch.repetition, |s, v| s.batch.repetition = v;
    timestamp: String, "", "start of the batch, RFC 3339, UTC",
        |s| rfc3339(s.timestamp), |s, v| s.timestamp = time_of(&v);
    hardware: String, "", "`experiment.hardware` of the plan",
        |s| s.hardware.clone(), |s, v| s.hardware = v;
    successful: u64, "1", "sessions that succeeded",
        |s| s.ledger.succeeded, |s, v| s.ledger.succeeded = v;
    failed: Option<u64>, "1", "sessions that did not",
        |s| Some(s.ledger.planned - s.ledger.succeeded), |_, _| ();
    error_rate: Option<Fraction>, "1", "`failed` as a fraction of `num_requests`",
        |s| Some(Fraction(error_rate(s))), |_, _| ();
    total_wall_time: Seconds, "s", "from the start to the last answer of any session",
        |s| Seconds(s.total_wall_us), |s, v| s.total_wall_us = v.0;
    connect_p50: Seconds, "s", "time to connect: TCP, TLS and upgrade; succeeded sessions",
        |s| Seconds(s.connect.p50_us), |s, v| s.connect.p50_us = v.0;
    connect_p95: Seconds, "s", "the same",
        |s| Seconds(s.connect.p95_us), |s, v| s.connect.p95_us = v.0;
    connect_p99: Seconds, "s", "the same",
        |s| Seconds(s.connect.p99_us), |s, v| s.connect.p99_us = v.0;
    reset_p50: Seconds, "s", "time to the reply to the reset; succeeded sessions",
        |s| Seconds(s.reset.p50_us), |s, v| s.reset.p50_us = v.0;
    reset_p95: Seconds, "s", "the same",
        |s| Seconds(s.reset.p95_us), |s, v| s.reset.p95_us = v.0;
    reset_p99: Seconds, "s", "the same",
        |s| Seconds(s.reset.p99_us), |s, v| s.reset.p99_us = v.0;
    step_p50: Seconds, "s", "time to the reply to a step, one value a step; succeeded sessions",
        |s| Seconds(s.step.p50_us), |s, v| s.step.p50_us = v.0;
    step_p95: Seconds, "s", "the same",
        |s| Seconds(s.step.p95_us), |s, v| s.step.p95_us = v.0;
    step_p99: Seconds, "s", "the same",
        |s| Seconds(s.step.p99_us), |s, v| s.step.p99_us = v.0;
    total_min: Seconds, "s", "from a session's actual start to its last answer (service time); succeeded sessions; exact",
        |s| Seconds(s.total_min_us), |s, v| s.total_min_us = v.0;
    total_max: Seconds, "s", "the same; exact",
        |s| Seconds(s.total_max_us), |s, v| s.total_max_us = v.0;
    total_avg: Mean, "s", "the same; exact mean",
        |s| Mean(s.total_avg_us), |s, v| s.total_avg_us = v.0;
    total_p50: Seconds, "s", "the same; percentiles are the upper edge of a histogram's bucket, at most the largest value",
        |s| Seconds(s.total.p50_us), |s, v| s.total.p50_us = v.0;
    total_p90: Seconds, "s", "the same",
        |s| Seconds(s.total.p90_us), |s, v| s.total.p90_us = v.0;
    total_p95: Seconds, "s", "the same",
        |s| Seconds(s.total.p95_us), |s, v| s.total.p95_us = v.0;
    total_p99: Seconds, "s", "the same",
        |s| Seconds(s.total.p99_us), |s, v| s.total.p99_us = v.0;
    requests_per_second: Rate, "1/s", "`successful` / `total_wall_time`",
        |s| Rate(s.requests_per_second), |s, v| s.requests_per_second = v.0;
    effective_concurrency: Rate, "1", "`num_requests` x steps x wait / `total_wall_time`",
        |s| Rate(s.effective_concurrency), |s, v| s.effective_concurrency = v.0;
    unique_pids: u64, "1", "different process ids in the replies to succeeded sessions",
        |s| s.unique_pids, |s, v| s.unique_pids = v;
    unique_sessions: u64, "1", "different session hashes in these replies",
        |s| s.unique_sessions, |s, v| s.unique_sessions = v;
    unique_hosts: u64, "1", "different hosts in these replies",
        |s| s.unique_hosts(), |s, v| s.hosts = unnamed(v);
    agents: Option<u64>, "1", "agents that had a share",
        |s| Some(s.agents), |s, v| s.agents = v.unwrap_or(1);
    attempt: Option<u32>, "1", "which attempt at the batch this is, from 1",
        |s| Some(s.attempt), |s, v| s.attempt = v.unwrap_or(1);
    timed_out: Option<u64>, "1", "part of `failed`: a time limit ended the session",
        |s| Some(s.ledger.timed_out), |s, v| s.ledger.timed_out = v.unwrap_or(0);
    lost: Option<u64>, "1", "part of `failed`: its agent was lost",
        |s| Some(s.ledger.lost), |s, v| s.ledger.lost = v.unwrap_or(0);
    never_started: Option<u64>, "1", "part of `failed`: the session was not started",
        |s| Some(s.ledger.never_started), |s, v| s.ledger.never_started = v.unwrap_or(0);
    open_max: Option<u64>, "1", "most sessions open at one instant, each from its first answer to its last",
        |s| Some(s.open_max), |s, v| s.open_max = v.unwrap_or(0);
    response_p50: Option<Seconds>, "s", "time from the intended start; timed-out sessions count at the value at which they were cut",
        |s| s.response.map(|r| Seconds(r.p50_us)), |s, v| part(&mut s.response, v, |p| &mut p.p50_us);
    response_p99: Option<Seconds>, "s", "the same",
        |s| s.response.map(|r| Seconds(r.p99_us)), |s, v| part(&mut s.response, v, |p| &mut p.p99_us);
    wire_p50: Option<Seconds>, "s", "time until the kernel had the reply to a step; empty unless it stamped (nearly) all of them",
        |s| s.wire.map(|w| Seconds(w.p50_us)), |s, v| part(&mut s.wire, v, |p| &mut p.p50_us);
    wire_p99: Option<Seconds>, "s", "the same",
        |s| s.wire.map(|w| Seconds(w.p99_us)), |s, v| part(&mut s.wire, v, |p| &mut p.p99_us);
    launch_window: Option<Seconds>, "s", "last actual start minus first",
        |s| s.launch_window_us.map(Seconds), |s, v| s.launch_window_us = v.map(|v| v.0);
    launch_lag_p99: Option<Seconds>, "s", "actual start minus intended start",
        |s| s.launch_lag_p99_us.map(Seconds), |s, v| s.launch_lag_p99_us = v.map(|v| v.0);
    receive_lag_p99: Option<Seconds>, "s", "from the kernel's receipt of a reply to the agent's reading of it",
        |s| s.receive_lag_p99_us.map(Seconds), |s, v| s.receive_lag_p99_us = v.map(|v| v.0);
    start_skew: Option<Seconds>, "s", "the largest possible difference between the first starts of two agents, clock errors included; 0 for one agent",
        |s| s.start_skew_us.map(Seconds), |s, v| s.start_skew_us = v.map(|v| v.0);
    over_range: Option<u64>, "1", "values above the range of the histograms; in percentiles they count as its end",
        |s| Some(s.over_range), |s, v| s.over_range = v.unwrap_or(0);
    limit: Option<Bottleneck>, "", "what limited the batch: `server`, `generator`, `none` or `unknown`",
        |s| Some(s.verdict.limit), |s, v| s.verdict.limit = v.unwrap_or_default();
    verdict: Option<Validity>, "", "`valid`, `generator-limited`, `degraded` or `invalid`",
        |s| Some(s.verdict.validity), |s, v| s.verdict.validity = v.unwrap_or_default();
    verdict_reasons: Option<String>, "", "why, separated by `; `",
        |s| Some(s.verdict.reasons.join("; ")), |s, v| s.verdict.reasons = v.into_iter().filter(|text| !text.is_empty()).collect();
    accepted: Option<bool>, "", "whether the attempt counts",
        |s| Some(s.accepted), |s, v| s.accepted = v.unwrap_or(true);
    handshake_rtt_p50: Option<Seconds>, "s", "round trip of the TCP handshake as the kernel measured it; succeeded sessions",
        |s| s.handshake_rtt.map(|rtt| Seconds(rtt.p50_us)), |_, _| ();
    handshake_rtt_p99: Option<Seconds>, "s", "the same",
        |s| s.handshake_rtt.map(|rtt| Seconds(rtt.p99_us)), |_, _| ();
    syn_retransmissions: Option<u64>, "1", "SYN segments sent again, all sessions",
        |s| s.syn_retransmits, |_, _| ();
    done: Option<u64>, "1", "sessions whose episode the environment called done",
        |s| Some(s.done), |s, v| s.done = v.unwrap_or(0);
    fullest_worker: Option<u64>, "1", "most sessions that one process of the server answered",
        |s| s.workers.values().max().copied(), |_, _| ();
    untidy: Option<u64>, "1", "succeeded sessions whose connection did not end properly: closed with another code than 1000, cut without a close frame, or with an unrequested frame",
        |s| Some(s.untidy.values().sum()), |_, _| ();
    outage: Option<u64>, "1", "sessions cut because the server went away; empty if it did not",
        |s| s.verdict.outage.as_ref().map(|outage| outage.cut), |_, _| ();
    beyond_p50: Option<Seconds>, "s", "total time beyond the waits and pauses that the session asked for",
        |s| s.beyond.map(|b| Seconds(b.p50_us)), |s, v| part(&mut s.beyond, v, |p| &mut p.p50_us);
    beyond_p99: Option<Seconds>, "s", "the same",
        |s| s.beyond.map(|b| Seconds(b.p99_us)), |s, v| part(&mut s.beyond, v, |p| &mut p.p99_us);
    wire_beyond_p50: Option<Seconds>, "s", "`wire` of a step beyond its wait",
        |s| s.wire_beyond.map(|b| Seconds(b.p50_us)), |s, v| part(&mut s.wire_beyond, v, |p| &mut p.p50_us);
    wire_beyond_p99: Option<Seconds>, "s", "the same",
        |s| s.wire_beyond.map(|b| Seconds(b.p99_us)), |s, v| part(&mut s.wire_beyond, v, |p| &mut p.p99_us);
    generator_delay_p99: Option<Seconds>, "s", "what the agent added to a session after its start",
        |s| s.own_delay_p99_us.map(Seconds), |s, v| s.own_delay_p99_us = v.map(|v| v.0);
    ping_late_p99: Option<Seconds>, "s", "the longest that a ping of the server stayed unanswered, of sessions that got one",
        |s| s.ping_late_p99_us.map(Seconds), |_, _| ();
}

impl Line {
    /// The batch of the line, with this index in its run.
    #[must_use]
    pub fn into_summary(self, index: u32) -> Summary {
        let batch = Batch { index, mode: self.mode, batch_size: 0, wait_us: 0, repetition: 0 };
        let mut summary = Summary::empty(batch);
        self.fill(&mut summary);
        let ledger = &mut summary.ledger;
        ledger.failed = 0;
        ledger.failed = ledger.planned.saturating_sub(ledger.accounted());
        summary
    }
}

/// Sets one percentile; an empty value leaves `whole` as it is.
fn part(whole: &mut Option<Percentiles>, value: Option<Seconds>, at: fn(&mut Percentiles) -> &mut u64) {
    if let Some(value) = value {
        *at(whole.get_or_insert_default()) = value.0;
    }
}

/// Hosts without their names, which only the records have.
fn unnamed(hosts: u64) -> BTreeMap<String, u64> {
    (1..=hosts).map(|n| (format!("host {n}"), 0)).collect()
}

/// Reads RFC 3339, a time without zone (Python's `isoformat()`, taken as UTC), or seconds since 1970; 1970 otherwise.
fn time_of(text: &str) -> Timestamp {
    let plain = || format!("{text}Z").parse::<Timestamp>().ok();
    let seconds = || Timestamp::from_microsecond(micros(text.parse::<f64>().ok()?)).ok();
    text.parse::<Timestamp>().ok().or_else(plain).or_else(seconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[expect(clippy::cast_possible_truncation, reason = "saturates, and what is no time is refused by who takes it")]
fn micros(seconds: f64) -> i64 {
    (seconds * 1e6).round() as i64
}

#[expect(clippy::cast_precision_loss, reason = "a fraction")]
fn error_rate(summary: &Summary) -> f64 {
    let l = &summary.ledger;
    if l.planned == 0 { 0.0 } else { (l.planned - l.succeeded) as f64 / l.planned as f64 }
}

/// The header of the file.
///
/// # Errors
/// Errors of the writer.
pub fn header() -> csv::Result<Vec<u8>> {
    written(|writer| writer.write_record(COLUMNS.iter().map(|column| column.name)))
}

/// The line of a batch, as written to the file.
///
/// # Errors
/// Errors of the writer.
pub fn line(summary: &Summary) -> csv::Result<Vec<u8>> {
    written(|writer| writer.serialize(Line::of(summary)))
}

fn written(write: impl FnOnce(&mut csv::Writer<Vec<u8>>) -> csv::Result<()>) -> csv::Result<Vec<u8>> {
    let mut writer = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
    write(&mut writer)?;
    writer.into_inner().map_err(|error| std::io::Error::other(error.to_string()).into())
}

/// Formats the columns as a page of the documentation.
#[must_use]
pub fn reference() -> String {
    let mut page = "# Columns of summary.csv\n\nOne line a batch. Seconds have six decimals. An empty cell is a value that was not \
                    measured.\n\n| column | unit | meaning |\n| --- | --- | --- |\n"
        .to_owned();
    for Column { name, unit, meaning } in COLUMNS {
        page.push_str(&format!("| `{name}` | {unit} | {meaning} |\n"));
    }
    page
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::{Bounds, HistogramSet, Outcome, SessionRecord};

    use super::*;
    use crate::results::batch::Context;
    use crate::results::row::Row;
    use crate::results::samples::{context, row};

    /// The cells of a summary's line.
    fn cells(summary: &Summary) -> Vec<String> {
        let line = line(summary).expect("a line");
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(line.as_slice());
        let record = reader.records().next().expect("a record").expect("cells");
        assert_eq!(record.len(), COLUMNS.len());
        record.iter().map(str::to_owned).collect()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let rows = [row(5, 38_000), row(5, 39_000), row(5, 30_000)];
        let mut histograms = HistogramSet::new(Bounds::STANDARD);
        rows.iter().for_each(|row| histograms.record(&row.record));
        let batch = Batch { index: 7, mode: Mode::Http, batch_size: 3, wait_us: 1_500_000, repetition: 2 };
        let timestamp = "2026-01-09T23:59:59.999999Z".parse().expect("a time");
        let context =
            Context { batch, url: "http://h", hardware: "a, b", timestamp, asked_wait_us: 0, agents: 2, attempt: 3 };
        let summary = Summary::of(&context, &rows, &histograms);
        let text = [header().expect("a header"), line(&summary).expect("a line")].concat();
        let mut reader = csv::Reader::from_reader(text.as_slice());
        let read: Line = reader.deserialize().next().expect("a line").expect("that can be read");
        let again = read.into_summary(7);
        // Columns whose values can't be set in a summary are empty the second time.
        let one_way = ["handshake_rtt_p50", "handshake_rtt_p99", "syn_retransmissions", "fullest_worker", "untidy"];
        for ((before, after), column) in cells(&summary).iter().zip(cells(&again)).zip(COLUMNS) {
            assert!(*before == after || one_way.contains(&column.name), "{}: {before:?}, {after:?}", column.name);
        }
    }

    #[test]
    fn nothing_successful_gives_zeros_that_scripts_can_read() {
        let batch = Batch { index: 0, mode: Mode::Ws, batch_size: 1, wait_us: 100_000, repetition: 1 };
        let context = context(batch);
        let rows = [Row {
            agent: Arc::from("a"),
            record: SessionRecord::without_life(0, Outcome::NeverStarted, String::new()),
        }];
        let summary = Summary::of(&context, &rows, &HistogramSet::new(Bounds::STANDARD));
        let cells = cells(&summary);
        for (column, cell) in COLUMNS.iter().map(|column| column.name).zip(&cells) {
            let number = cell.parse::<f64>();
            let latency = ["connect_", "reset_", "step_", "total_"].iter().any(|p| column.starts_with(p));
            assert!(!latency || number == Ok(0.0), "{column} = {cell:?}");
            let nothing = ["response_", "launch_", "beyond_", "wire_"].iter().any(|p| column.starts_with(p));
            assert!(!nothing || cell.is_empty(), "a percentile of nothing is no zero: {column} = {cell:?}");
        }
        assert_eq!(cells[6], "1970-01-01T00:00:00.000000Z");
        assert_eq!(cells[4], "0.1");
    }

    /// Sessions of 3,800 s in histograms that end at an hour: no value becomes 0, and clipping is always noted.
    #[test]
    fn values_beyond_the_range_stand_at_its_end() {
        let batch = Batch { index: 0, mode: Mode::Ws, batch_size: 3, wait_us: 1_900_000_000, repetition: 1 };
        let context = Context { asked_wait_us: 3_800_000_000, ..context(batch) };
        let rows = [row(5, 3_800_000_000), row(5, 3_900_000_000), row(5, 3_000_000_000)];
        let of = |bounds: Bounds| {
            let mut histograms = HistogramSet::new(bounds);
            rows.iter().for_each(|row| histograms.record(&row.record));
            Summary::of(&context, &rows, &histograms)
        };
        let hour = of(Bounds::STANDARD);
        assert_eq!((hour.total.p50_us, hour.total.p99_us), (3_600_000_000, 3_600_000_000));
        assert_eq!((hour.total_over_range, hour.range_us), (2, 3_600_000_000));
        let total_p99 = COLUMNS.iter().position(|column| column.name == "total_p99").expect("a column");
        assert_eq!(cells(&hour)[total_p99], "3600.000000");
        let two_hours = of(Bounds::reaching(3_900_000_000));
        assert_eq!((two_hours.total.p99_us, two_hours.total_over_range), (3_900_000_000, 0));
        assert!(hour.total_min_us < hour.total.p50_us && two_hours.total_min_us < two_hours.total.p50_us);
    }
}
