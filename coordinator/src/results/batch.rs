//! PURE: the summary of one batch, which is its row in summary.csv.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proto::{Bounds, HistogramSet, Ledger, Metric};
use serde::{Deserialize, Serialize};

use crate::plan::expand::Batch;
use crate::results::agent::{AgentResult, p99};
use crate::results::failure::FailedAs;
use crate::results::row::Row;
use crate::results::tally::Tally;
use crate::results::verdict::Verdict;

/// Percentiles of one metric in microseconds, from the merged histogram. Values above its range count as its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    pub p50_us: u64,
    pub p90_us: u64,
    pub p95_us: u64,
    pub p99_us: u64,
}

/// The summary of one batch. Latencies are in microseconds; `docs/results.md` defines each field.
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
    /// Total latency from the intended starts; `None` if no session succeeded or timed out.
    pub response: Option<Percentiles>,
    /// Total latency of succeeded sessions less the waits and pauses that they asked for.
    #[serde(default)]
    pub beyond: Option<Percentiles>,
    pub total_min_us: u64,
    pub total_max_us: u64,
    pub total_avg_us: f64,
    pub requests_per_second: f64,
    pub effective_concurrency: f64,
    pub unique_pids: u64,
    pub unique_sessions: u64,
    /// Succeeded sessions, by host.
    pub hosts: BTreeMap<String, u64>,
    /// Sessions that had an answer, by the process that gave it, as `host pid`.
    #[serde(default)]
    pub workers: BTreeMap<String, u64>,
    /// Episodes that the server reported as over.
    #[serde(default)]
    pub done: u64,
    /// Succeeded sessions whose connection did not close properly, by how it closed.
    #[serde(default)]
    pub untidy: BTreeMap<String, u64>,
    pub agents: u64,
    pub attempt: u32,
    pub accepted: bool,
    pub open_max: u64,
    /// `None` if no session was started.
    pub launch_window_us: Option<u64>,
    pub launch_lag_p99_us: Option<u64>,
    /// Number of values above the histograms' range, over all metrics; below it, the same number for the totals alone.
    pub over_range: u64,
    #[serde(default)]
    pub total_over_range: u64,
    /// Upper end of the histograms' range.
    #[serde(default)]
    pub range_us: u64,
    /// Latency of step replies by the kernel's stamps; `None` unless the kernel stamped (nearly) all of them.
    pub wire: Option<Percentiles>,
    /// `wire` less the wait that each step asked for.
    #[serde(default)]
    pub wire_beyond: Option<Percentiles>,
    pub receive_lag_p99_us: Option<u64>,
    /// The delay that the agents added to a session.
    #[serde(default)]
    pub own_delay_p99_us: Option<u64>,
    /// Percentile over the pinged sessions of the longest time that a ping of the server lay unanswered.
    #[serde(default)]
    pub ping_late_p99_us: Option<u64>,
    /// TCP handshakes of succeeded sessions, as the kernel measured them.
    pub handshake_rtt: Option<Percentiles>,
    /// SYN segments that were sent again, over all sessions; `None` if no session asked the kernel.
    pub syn_retransmits: Option<u64>,
    /// Upper bound of the time between the first sessions of any two agents, clock errors included.
    pub start_skew_us: Option<u64>,
    /// The results of each agent.
    pub by_agent: Vec<AgentResult>,
    /// What went wrong, by kind and phase, most frequent first.
    pub errors: Vec<(FailedAs, u64)>,
    pub verdict: Verdict,
    /// Why earlier attempts at this batch did not count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused_before: Vec<String>,
}

/// The inputs of [`Summary::of`] besides the rows and histograms.
#[derive(Debug, Clone)]
pub struct Context<'a> {
    pub batch: Batch,
    pub url: &'a str,
    pub hardware: &'a str,
    pub timestamp: Timestamp,
    /// Number of steps times the wait of each.
    pub asked_wait_us: u64,
    pub agents: u64,
    pub attempt: u32,
}

impl Summary {
    /// A summary without any results.
    #[must_use]
    pub fn empty(batch: Batch) -> Self {
        let context = Context {
            batch,
            url: "",
            hardware: "",
            timestamp: Timestamp::UNIX_EPOCH,
            asked_wait_us: 0,
            agents: 0,
            attempt: 0,
        };
        Self::of(&context, &[], &HistogramSet::new(Bounds::STANDARD))
    }

    /// Summarizes the rows. Percentiles are those of the merged histograms, except for own delays and pings.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "rates and means are floats in summary.csv")]
    pub fn of(context: &Context<'_>, rows: &[Row], histograms: &HistogramSet) -> Self {
        let tally = Tally::of(context.batch.batch_size, rows.iter().map(|row| &row.record));
        let mut largest = Largest::default();
        rows.iter().for_each(|row| largest.see(&row.record));
        let mut errors: Vec<(FailedAs, u64)> = tally.errors.into_iter().collect();
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
            // The columns of the historical script always hold a number: 0 where nothing succeeded.
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

    /// Succeeded sessions as a fraction of the planned ones, 0 to 1.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a fraction")]
    pub fn success_rate(&self) -> f64 {
        if self.ledger.planned == 0 { 0.0 } else { self.ledger.succeeded as f64 / self.ledger.planned as f64 }
    }
}

/// Whether enough values are there for a percentile of them to stand for all.
fn nearly_all(part: u64, whole: u64) -> bool {
    whole > 0 && part.saturating_mul(1_000) >= whole.saturating_mul(999)
}

/// The exact largest value of each metric.
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

/// A histogram's quantile is the upper edge of a bucket, which may exceed the largest value. It is therefore cut to the
/// exact maximum.
fn percentiles(histograms: &HistogramSet, metric: Metric, largest: &Largest) -> Option<Percentiles> {
    let largest = largest.0.get(&metric).copied().unwrap_or(u64::MAX);
    let at = |quantile: f64| histograms.quantile(metric, quantile).map(|us| us.min(largest));
    Some(Percentiles { p50_us: at(0.50)?, p90_us: at(0.90)?, p95_us: at(0.95)?, p99_us: at(0.99)? })
}

/// The most sessions open at one instant over all agents, on the time line that begins at their start instants.
fn open_max(rows: &[Row]) -> u64 {
    most_at_once(rows.iter().filter_map(|row| Some((row.record.opened_us()?, row.record.ended_us()?))))
}

/// The most intervals that overlap at one instant. One that ends in the microsecond in which another begins does not
/// overlap it.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::samples::row;

    #[test]
    fn open_max_is_the_highest_point_of_the_overlap() {
        assert_eq!(open_max(&[]), 0);
        assert_eq!(open_max(&[row(0, 10), row(5, 20), row(10, 30)]), 2, "one ends as another opens");
        assert_eq!(open_max(&[row(0, 10), row(5, 20), row(9, 30)]), 3);
        assert_eq!(open_max(&[row(5, 5)]), 0, "open for no time at all");
    }
}
