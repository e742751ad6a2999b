//! What one agent contributed to a batch.

use hdrhistogram::Histogram;
use proto::{Ledger, Vitals, WireState};
use serde::{Deserialize, Serialize};

use crate::results::row::Row;

/// What one agent contributed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AgentResult {
    pub name: String,
    pub sessions: u64,
    pub ledger: Ledger,
    /// As many of them it might have open at one time.
    pub at_once: Option<u64>,
    /// How much later than ordered its first session started; `None` if it never reported.
    pub start_offset_us: Option<u64>,
    /// How far the ordered instant may have been from the one that was meant, on this agent's clock.
    pub clock_error_us: Option<u64>,
    pub launch_lag_p99_us: Option<u64>,
    /// Of what the agent added to each of its sessions after their start.
    pub own_delay_p99_us: Option<u64>,
    /// How late its load threads' own timers fired.
    pub timer_overshoot: Option<Overshoot>,
    pub vitals: Option<Vitals>,
    /// How late its sessions answered pings of the server; `None` if none came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pings: Option<Pings>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
}

/// Of pings that a server sent to the sessions of one agent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pings {
    pub sessions: u64,
    pub pings: u64,
    /// Of the longest that one lay unanswered in each session; `None` where the kernel did not stamp them.
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

/// What is kept of a histogram of late timers, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overshoot {
    /// How often it was looked at; a look that came very late stands for those that it kept from being made.
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
    /// Fills in what its records and its own report say.
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

/// The value that 99 of 100 do not exceed.
pub fn p99(mut values: Vec<u64>) -> Option<u64> {
    let rank = (values.len() * 99).div_ceil(100).checked_sub(1)?;
    Some(*values.select_nth_unstable(rank).1)
}
