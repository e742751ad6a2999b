//! PURE: what one batch amounts to: the row of summary.csv.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proto::{HistogramSet, Ledger, Metric};
use serde::{Deserialize, Serialize};

use super::format::{seconds_short, seconds6};
use super::tally::Tally;
use crate::plan::expand::Batch;
use crate::report::facts::{AgentResult, Row, Verdict, p99};

/// Percentiles of one metric in microseconds, from the merged histogram; a value above its range stands at the range's end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    pub p50_us: u64,
    pub p90_us: u64,
    pub p95_us: u64,
    pub p99_us: u64,
}

/// One batch. Latencies in microseconds; see `docs/results.md` for what each means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub batch: Batch,
    pub url: String,
    pub hardware: String,
    pub timestamp: Timestamp,
    pub ledger: Ledger,
    pub total_wall_us: u64,
    pub connect: Percentiles,
    pub reset: Percentiles,
    pub step: Percentiles,
    pub total: Percentiles,
    /// From the intended starts; `None` if no session succeeded or timed out.
    pub response: Option<Percentiles>,
    /// Of succeeded sessions, beyond the waits and pauses that they asked for.
    #[serde(default)]
    pub beyond: Option<Percentiles>,
    pub total_min_us: u64,
    pub total_max_us: u64,
    pub total_avg_us: f64,
    pub requests_per_second: f64,
    pub effective_concurrency: f64,
    pub unique_pids: u64,
    pub unique_sessions: u64,
    /// Succeeded sessions by host.
    pub hosts: BTreeMap<String, u64>,
    /// Sessions that had an answer, by the process that gave it: `host pid`.
    #[serde(default)]
    pub workers: BTreeMap<String, u64>,
    /// Episodes that the server said were over.
    #[serde(default)]
    pub done: u64,
    /// Succeeded sessions whose connections did not end as they should have, by how they did.
    #[serde(default)]
    pub untidy: BTreeMap<String, u64>,
    pub agents: u64,
    pub attempt: u32,
    pub accepted: bool,
    pub open_max: u64,
    /// `None` if no session was started.
    pub launch_window_us: Option<u64>,
    pub launch_lag_p99_us: Option<u64>,
    /// Values above the histograms' range, of all metrics, and of the totals alone.
    pub over_range: u64,
    #[serde(default)]
    pub total_over_range: u64,
    /// Where the histograms' range ends.
    #[serde(default)]
    pub range_us: u64,
    /// Of step replies; `None` unless the kernel stamped (nearly) all of them.
    pub wire: Option<Percentiles>,
    /// The same beyond the wait that each step asked for.
    #[serde(default)]
    pub wire_beyond: Option<Percentiles>,
    pub receive_lag_p99_us: Option<u64>,
    /// Of what the agents added to each session.
    #[serde(default)]
    pub own_delay_p99_us: Option<u64>,
    /// Of the longest that a ping of the server lay unanswered, in each session that had one.
    #[serde(default)]
    pub ping_late_p99_us: Option<u64>,
    /// Of the TCP handshakes of succeeded sessions, as the kernel measured them.
    pub handshake_rtt: Option<Percentiles>,
    /// SYN segments that had to be sent again, all sessions together; `None` where nobody asked the kernel.
    pub syn_retransmits: Option<u64>,
    /// The furthest apart that two agents' first sessions can have started, clock errors included.
    pub start_skew_us: Option<u64>,
    /// What each agent contributed, and how it was doing.
    pub by_agent: Vec<AgentResult>,
    /// What went wrong, by kind and phase, most frequent first.
    pub errors: Vec<(String, u64)>,
    pub verdict: Verdict,
    /// Why earlier attempts at this batch did not count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused_before: Vec<String>,
}

/// What [`Summary::of`] needs beside the rows.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    pub batch: Batch,
    pub url: &'a str,
    pub hardware: &'a str,
    pub timestamp: Timestamp,
    /// steps x wait.
    pub asked_wait_us: u64,
    pub agents: u64,
    pub attempt: u32,
}

impl Summary {
    /// Counts and exact values from the rows, percentiles from the merged histograms only.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "rates and means are floats in summary.csv")]
    pub fn of(context: &Context<'_>, rows: &[Row], histograms: &HistogramSet) -> Self {
        let tally = Tally::of(context.batch.batch_size, rows.iter().map(|row| &row.record));
        let mut largest = Largest::default();
        rows.iter().for_each(|row| largest.see(&row.record));
        let mut errors: Vec<(String, u64)> = tally.errors.into_iter().collect();
        errors.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let wall_seconds = tally.wall_us as f64 / 1e6;
        let of = |metric| percentiles(histograms, metric, &largest);
        let all_stamped = nearly_all(tally.stamped, tally.steps);
        let per_second = |value: f64| if tally.wall_us == 0 { 0.0 } else { value / wall_seconds };
        Self {
            batch: context.batch,
            url: context.url.to_owned(),
            hardware: context.hardware.to_owned(),
            timestamp: context.timestamp,
            total_wall_us: tally.wall_us,
            // The historical script's columns always hold a number: 0 where nothing succeeded.
            connect: of(Metric::Connect).unwrap_or_default(),
            reset: of(Metric::Reset).unwrap_or_default(),
            step: of(Metric::Step).unwrap_or_default(),
            total: of(Metric::Total).unwrap_or_default(),
            response: of(Metric::Response),
            beyond: of(Metric::Beyond),
            total_min_us: tally.totals.min_us(),
            total_max_us: tally.totals.max_us,
            total_avg_us: tally.totals.mean_us(),
            requests_per_second: per_second(tally.ledger.succeeded as f64),
            effective_concurrency: per_second(tally.ledger.planned as f64 * context.asked_wait_us as f64 / 1e6),
            unique_pids: tally.pids.len() as u64,
            unique_sessions: tally.sessions.len() as u64,
            hosts: tally.hosts,
            workers: tally.workers,
            done: tally.done,
            untidy: tally.untidy,
            agents: context.agents,
            attempt: context.attempt,
            accepted: true,
            open_max: open_max(rows),
            launch_window_us: tally.starts_us.map(|(first, last)| last - first),
            launch_lag_p99_us: of(Metric::LaunchLag).map(|lag| lag.p99_us),
            over_range: histograms.over_range(),
            total_over_range: histograms.over_range_of(Metric::Total),
            range_us: histograms.bounds().high_us,
            wire: of(Metric::Wire).filter(|_| all_stamped),
            wire_beyond: of(Metric::WireBeyond).filter(|_| all_stamped),
            receive_lag_p99_us: of(Metric::ReceiveLag).filter(|_| all_stamped).map(|lag| lag.p99_us),
            own_delay_p99_us: p99(tally.own_delays_us),
            ping_late_p99_us: p99(tally.pings_late_us),
            handshake_rtt: of(Metric::HandshakeRtt),
            syn_retransmits: tally.syn_retransmits,
            start_skew_us: None,
            by_agent: Vec::new(),
            errors,
            verdict: Verdict::default(),
            refused_before: Vec::new(),
            ledger: tally.ledger,
        }
    }

    #[must_use]
    pub fn unique_hosts(&self) -> u64 {
        self.hosts.len() as u64
    }

    /// Succeeded of planned, 0..1.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a fraction")]
    pub fn success_rate(&self) -> f64 {
        if self.ledger.planned == 0 { 0.0 } else { self.ledger.succeeded as f64 / self.ledger.planned as f64 }
    }
}

/// A percentile of less than this would be one of another population.
fn nearly_all(part: u64, whole: u64) -> bool {
    whole > 0 && part.saturating_mul(1_000) >= whole.saturating_mul(999)
}

/// The largest value of each metric, exactly.
#[derive(Default)]
struct Largest(BTreeMap<Metric, u64>);

impl Largest {
    fn see(&mut self, record: &proto::SessionRecord) {
        HistogramSet::values(record, |metric, value_us| {
            let largest = self.0.entry(metric).or_default();
            *largest = value_us.max(*largest);
        });
    }
}

/// A percentile is the upper edge of its bucket, which may lie beyond the largest value there was: no percentile is
/// above the maximum.
fn percentiles(histograms: &HistogramSet, metric: Metric, largest: &Largest) -> Option<Percentiles> {
    let largest = largest.0.get(&metric).copied().unwrap_or(u64::MAX);
    let at = |quantile: f64| histograms.quantile(metric, quantile).map(|us| us.min(largest));
    Some(Percentiles { p50_us: at(0.50)?, p90_us: at(0.90)?, p95_us: at(0.95)?, p99_us: at(0.99)? })
}

/// Most sessions that were open at one instant, over all agents, on the common time line of their start instants.
fn open_max(rows: &[Row]) -> u64 {
    most_at_once(rows.iter().filter_map(|row| Some((row.record.opened_us()?, row.record.ended_us()?))))
}

/// The most of these intervals that overlap at one instant; one that ends at the microsecond at which another begins does
/// not count twice.
pub fn most_at_once(intervals: impl Iterator<Item = (u64, u64)>) -> u64 {
    let mut changes: Vec<(u64, i64)> = intervals.flat_map(|(from, to)| [(from, 1), (to.max(from), -1)]).collect();
    changes.sort_unstable();
    let (mut open, mut most) = (0_i64, 0_i64);
    for (_, change) in changes {
        open += change;
        most = most.max(open);
    }
    u64::try_from(most).unwrap_or(0)
}

/// The columns of summary.csv, historical ones first, all in their fixed order.
pub const COLUMNS: [&str; 65] = [
    "mode",
    "url",
    "num_requests",
    "batch_size",
    "wait_seconds",
    "repetition",
    "timestamp",
    "hardware",
    "successful",
    "failed",
    "error_rate",
    "total_wall_time",
    "connect_p50",
    "connect_p95",
    "connect_p99",
    "reset_p50",
    "reset_p95",
    "reset_p99",
    "step_p50",
    "step_p95",
    "step_p99",
    "total_min",
    "total_max",
    "total_avg",
    "total_p50",
    "total_p90",
    "total_p95",
    "total_p99",
    "requests_per_second",
    "effective_concurrency",
    "unique_pids",
    "unique_sessions",
    "unique_hosts",
    "agents",
    "attempt",
    "timed_out",
    "lost",
    "never_started",
    "open_max",
    "response_p50",
    "response_p99",
    "wire_p50",
    "wire_p99",
    "launch_window",
    "launch_lag_p99",
    "receive_lag_p99",
    "start_skew",
    "over_range",
    "limit",
    "verdict",
    "verdict_reasons",
    "accepted",
    "handshake_rtt_p50",
    "handshake_rtt_p99",
    "syn_retransmissions",
    "done",
    "fullest_worker",
    "untidy",
    "outage",
    "beyond_p50",
    "beyond_p99",
    "wire_beyond_p50",
    "wire_beyond_p99",
    "generator_delay_p99",
    "ping_late_p99",
];

impl Summary {
    /// The cells in the order of [`COLUMNS`]. What was not measured is an empty cell, never a 0.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a fraction")]
    pub fn cells(&self) -> [String; COLUMNS.len()] {
        let l = &self.ledger;
        let measured = |us: Option<u64>| us.map(seconds6).unwrap_or_default();
        let failed = l.planned - l.succeeded;
        let error_rate = if l.planned == 0 { 0.0 } else { failed as f64 / l.planned as f64 };
        [
            self.batch.mode.to_string(),
            self.url.clone(),
            l.planned.to_string(),
            self.batch.batch_size.to_string(),
            seconds_short(self.batch.wait_us),
            self.batch.repetition.to_string(),
            rfc3339(self.timestamp),
            self.hardware.clone(),
            l.succeeded.to_string(),
            failed.to_string(),
            format!("{error_rate:.6}"),
            seconds6(self.total_wall_us),
            seconds6(self.connect.p50_us),
            seconds6(self.connect.p95_us),
            seconds6(self.connect.p99_us),
            seconds6(self.reset.p50_us),
            seconds6(self.reset.p95_us),
            seconds6(self.reset.p99_us),
            seconds6(self.step.p50_us),
            seconds6(self.step.p95_us),
            seconds6(self.step.p99_us),
            seconds6(self.total_min_us),
            seconds6(self.total_max_us),
            format!("{:.6}", self.total_avg_us / 1e6),
            seconds6(self.total.p50_us),
            seconds6(self.total.p90_us),
            seconds6(self.total.p95_us),
            seconds6(self.total.p99_us),
            format!("{:.6}", self.requests_per_second),
            format!("{:.6}", self.effective_concurrency),
            self.unique_pids.to_string(),
            self.unique_sessions.to_string(),
            self.unique_hosts().to_string(),
            self.agents.to_string(),
            self.attempt.to_string(),
            l.timed_out.to_string(),
            l.lost.to_string(),
            l.never_started.to_string(),
            self.open_max.to_string(),
            measured(self.response.map(|response| response.p50_us)),
            measured(self.response.map(|response| response.p99_us)),
            measured(self.wire.map(|wire| wire.p50_us)),
            measured(self.wire.map(|wire| wire.p99_us)),
            measured(self.launch_window_us),
            measured(self.launch_lag_p99_us),
            measured(self.receive_lag_p99_us),
            measured(self.start_skew_us),
            self.over_range.to_string(),
            self.verdict.limit.to_string(),
            self.verdict.worth.to_string(),
            self.verdict.reasons.join("; "),
            self.accepted.to_string(),
            measured(self.handshake_rtt.map(|rtt| rtt.p50_us)),
            measured(self.handshake_rtt.map(|rtt| rtt.p99_us)),
            self.syn_retransmits.map(|n| n.to_string()).unwrap_or_default(),
            self.done.to_string(),
            self.workers.values().max().map(u64::to_string).unwrap_or_default(),
            self.untidy.values().sum::<u64>().to_string(),
            self.verdict.outage.as_ref().map(|outage| outage.cut.to_string()).unwrap_or_default(),
            measured(self.beyond.map(|beyond| beyond.p50_us)),
            measured(self.beyond.map(|beyond| beyond.p99_us)),
            measured(self.wire_beyond.map(|beyond| beyond.p50_us)),
            measured(self.wire_beyond.map(|beyond| beyond.p99_us)),
            measured(self.own_delay_p99_us),
            measured(self.ping_late_p99_us),
        ]
    }
}

/// RFC 3339 in UTC with microseconds.
#[must_use]
pub fn rfc3339(timestamp: Timestamp) -> String {
    format!("{timestamp:.6}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proto::{Bounds, Mode, Outcome, SessionRecord};

    use super::*;

    fn row(opened: u64, ended: u64) -> Row {
        let mut record = SessionRecord::without_life(0, Outcome::Succeeded, String::new());
        record.started_us = Some(0);
        record.connect_us = Some(opened);
        record.reset_us = Some(0);
        record.total_us = Some(ended);
        Row { agent: Arc::from("a"), record }
    }

    #[test]
    fn open_max_is_the_highest_point_of_the_overlap() {
        assert_eq!(open_max(&[]), 0);
        assert_eq!(open_max(&[row(0, 10), row(5, 20), row(10, 30)]), 2, "one ends as another opens");
        assert_eq!(open_max(&[row(0, 10), row(5, 20), row(9, 30)]), 3);
        assert_eq!(open_max(&[row(5, 5)]), 0, "open for no time at all");
    }

    #[test]
    fn nothing_successful_gives_zeros_that_scripts_can_read() {
        let batch = Batch { index: 0, mode: Mode::Ws, batch_size: 1, wait_us: 100_000, repetition: 1 };
        let context = Context {
            batch,
            url: "http://h",
            hardware: "x",
            timestamp: Timestamp::UNIX_EPOCH,
            asked_wait_us: 100_000,
            agents: 1,
            attempt: 1,
        };
        let rows = [Row {
            agent: Arc::from("a"),
            record: SessionRecord::without_life(0, Outcome::NeverStarted, String::new()),
        }];
        let summary = Summary::of(&context, &rows, &HistogramSet::new(Bounds::STANDARD));
        let cells = summary.cells();
        for (column, cell) in COLUMNS.iter().zip(&cells) {
            let number = cell.parse::<f64>();
            let latency = ["connect_", "reset_", "step_", "total_"].iter().any(|p| column.starts_with(p));
            assert!(!latency || number == Ok(0.0), "{column} = {cell:?}");
            let nothing = ["response_", "launch_", "beyond_", "wire_"].iter().any(|p| column.starts_with(p));
            assert!(!nothing || cell.is_empty(), "a percentile of nothing is no zero: {column} = {cell:?}");
        }
        assert_eq!(cells[6], "1970-01-01T00:00:00.000000Z");
        assert_eq!(cells[4], "0.1");
    }

    /// Sessions of 3,800 s in histograms that end at an hour: nothing of them is a zero, and nothing is clipped without a word.
    #[test]
    fn values_beyond_the_range_stand_at_its_end() {
        let batch = Batch { index: 0, mode: Mode::Ws, batch_size: 3, wait_us: 1_900_000_000, repetition: 1 };
        let context = Context {
            batch,
            url: "http://h",
            hardware: "x",
            timestamp: Timestamp::UNIX_EPOCH,
            asked_wait_us: 3_800_000_000,
            agents: 1,
            attempt: 1,
        };
        let rows = [row(5, 3_800_000_000), row(5, 3_900_000_000), row(5, 3_000_000_000)];
        let of = |bounds: Bounds| {
            let mut histograms = HistogramSet::new(bounds);
            rows.iter().for_each(|row| histograms.record(&row.record));
            Summary::of(&context, &rows, &histograms)
        };
        let hour = of(Bounds::STANDARD);
        assert_eq!((hour.total.p50_us, hour.total.p99_us), (3_600_000_000, 3_600_000_000));
        assert_eq!((hour.total_over_range, hour.range_us), (2, 3_600_000_000));
        let total_p99 = COLUMNS.iter().position(|column| *column == "total_p99").expect("a column");
        assert_eq!(hour.cells()[total_p99], "3600.000000");
        let two_hours = of(Bounds::reaching(3_900_000_000));
        assert_eq!((two_hours.total.p99_us, two_hours.total_over_range), (3_900_000_000, 0));
        assert!(hour.total_min_us < hour.total.p50_us && two_hours.total_min_us < two_hours.total.p50_us);
    }
}
