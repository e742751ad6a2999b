//! The results of one agent in a batch.

use hdrhistogram::Histogram;
use proto::{Ledger, Vitals, WireState};
use serde::{Deserialize, Serialize};

use crate::results::row::Row;

/// The results of one agent in a batch.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentResult {
    pub name: String,
    pub sessions: u64,
    pub ledger: Ledger,
    /// The agent's limit of sessions open at one time.
    pub at_once: Option<u64>,
    /// How much later than ordered the agent's first session started; `None` if the agent never reported.
    pub start_offset_us: Option<u64>,
    /// Bound of the error with which the ordered start instant was converted to this agent's clock.
    pub clock_error_us: Option<u64>,
    pub launch_lag_p99_us: Option<u64>,
    /// The delay that the agent itself added to a session after its start.
    pub own_delay_p99_us: Option<u64>,
    /// How late the timers of the agent's load threads fired.
    pub timer_overshoot: Option<Overshoot>,
    pub vitals: Option<Vitals>,
    /// How late the agent's sessions answered the server's pings; `None` if there were no pings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pings: Option<Pings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
}

/// The pings that a server sent to the sessions of one agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pings {
    pub sessions: u64,
    pub pings: u64,
    /// Percentile over sessions of the longest delay of an answer; `None` where the kernel did not stamp the pings.
    pub late_p99_us: Option<u64>,
    pub late_us_max: Option<u64>,
}

impl Pings {
    fn of(rows: &[Row]) -> Option<Self> {
        let pinged = || rows.iter().map(|row| &row.record.wire).filter(|wire| wire.pings > 0);
        let late: Vec<u64> = pinged().filter_map(|wire| wire.ping_late_us).collect();
        let pings = Self {
            sessions: pinged().count() as u64,
            pings: pinged().map(|wire| u64::from(wire.pings)).sum(),
            late_us_max: late.iter().copied().max(),
            late_p99_us: p99(late),
        };
        (pings.sessions > 0).then_some(pings)
    }
}

/// A summary of the histogram of timer delays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overshoot {
    /// Number of samples, including those that the correction for coordinated omission adds for a late timer.
    pub looks: u64,
    pub mean_us: u64,
    pub p50_us: u64,
    pub p90_us: u64,
    pub p99_us: u64,
    pub p999_us: u64,
    pub max_us: u64,
}

impl Overshoot {
    fn of(late: &Histogram<u64>) -> Self {
        let at = |quantile: f64| late.value_at_quantile(quantile).min(late.max());
        Self {
            looks: late.len(),
            mean_us: mean(late),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p999_us: at(0.999),
            max_us: late.max(),
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between the least and the most")]
fn mean(late: &Histogram<u64>) -> u64 {
    late.mean() as u64
}

impl AgentResult {
    /// Fills in the values that come from the agent's records and from its report.
    pub fn measured(&mut self, rows: &[Row], vitals: Vitals) {
        self.launch_lag_p99_us = p99(rows.iter().filter_map(|row| row.record.launch_lag_us()).collect());
        self.own_delay_p99_us = p99(rows.iter().filter_map(|row| row.record.wire.own_delay_us).collect());
        self.pings = Pings::of(rows);
        let overshoot = proto::histograms::decode_one(&vitals.overshoot).ok();
        self.timer_overshoot = overshoot.filter(|o| !o.is_empty()).map(|o| Overshoot::of(&o));
        self.vitals = Some(vitals);
    }

    #[must_use]
    pub fn timer_overshoot_p99_us(&self) -> Option<u64> {
        self.timer_overshoot.map(|late| late.p99_us)
    }

    #[must_use]
    pub fn wire(&self) -> Option<WireState> {
        self.vitals.as_ref().map(|vitals| vitals.wire)
    }
}

/// The 99th percentile by nearest rank; `None` if there are no values.
pub fn p99(mut values: Vec<u64>) -> Option<u64> {
    let rank = (values.len() * 99).div_ceil(100).checked_sub(1)?;
    Some(*values.select_nth_unstable(rank).1)
}
