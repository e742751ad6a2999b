//! Numbers, texts, ids and enums: the checks that every message is made of.

use std::time::Duration;

use uuid::Uuid;

use crate::histograms::{Bounds, Metric};
use crate::ids::{AttemptId, PlanHash, RunId};
use crate::limits as max;
use crate::outcome::{Ledger, Phase};
use crate::pb;
use crate::spec::Mode;

/// What is wrong with a message, by field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    pub field: &'static str,
    pub problem: String,
}

pub(super) type Checked<T> = Result<T, Invalid>;

pub(super) fn invalid<T>(field: &'static str, problem: impl Into<String>) -> Checked<T> {
    Err(Invalid { field, problem: problem.into() })
}

pub(super) fn need<T>(field: &'static str, value: Option<T>) -> Checked<T> {
    value.ok_or(Invalid { field, problem: "missing".to_owned() })
}

pub(super) fn at_most(field: &'static str, value: u64, limit: u64) -> Checked<u64> {
    if value > limit { invalid(field, format!("{value} is above {limit}")) } else { Ok(value) }
}

pub(super) fn duration(field: &'static str, value_us: u64) -> Checked<Duration> {
    Ok(Duration::from_micros(at_most(field, value_us, max::DURATION_US_MAX)?))
}

pub(super) fn text(field: &'static str, value: String, bytes_max: usize) -> Checked<String> {
    if value.len() > bytes_max {
        invalid(field, format!("{} bytes, at most {bytes_max}", value.len()))
    } else {
        Ok(value)
    }
}

pub(super) fn bytes<const N: usize>(field: &'static str, value: &[u8]) -> Checked<[u8; N]> {
    value.try_into().or_else(|_| invalid(field, format!("{} bytes instead of {N}", value.len())))
}

/// Microseconds of a duration; saturates (584,942 years).
#[must_use]
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
impl From<AttemptId> for pb::Attempt {
    fn from(id: AttemptId) -> Self {
        Self { run: id.run.0.as_bytes().to_vec(), batch: id.batch, attempt: id.attempt }
    }
}

pub(super) fn attempt(value: Option<pb::Attempt>) -> Checked<AttemptId> {
    let value = need("attempt", value)?;
    if value.attempt == 0 {
        return invalid("attempt.attempt", "0, they count from 1");
    }
    Ok(AttemptId {
        run: RunId(Uuid::from_bytes(bytes("attempt.run", &value.run)?)),
        batch: value.batch,
        attempt: value.attempt,
    })
}

pub(super) fn mode(value: i32) -> Checked<Mode> {
    match pb::Mode::try_from(value) {
        Ok(pb::Mode::Ws) => Ok(Mode::Ws),
        Ok(pb::Mode::Http) => Ok(Mode::Http),
        _ => invalid("mode", format!("unknown value {value}")),
    }
}

pub(super) fn wire_mode(mode: Mode) -> i32 {
    match mode {
        Mode::Ws => pb::Mode::Ws,
        Mode::Http => pb::Mode::Http,
    }
    .into()
}

pub(super) fn phase(value: Option<i32>) -> Checked<Phase> {
    let value = need("phase", value)?;
    match pb::Phase::try_from(value) {
        Ok(pb::Phase::Connect) => Ok(Phase::Connect),
        Ok(pb::Phase::Reset) => Ok(Phase::Reset),
        Ok(pb::Phase::Step) => Ok(Phase::Step),
        Ok(pb::Phase::Close) => Ok(Phase::Close),
        _ => invalid("phase", format!("unknown value {value}")),
    }
}

pub(super) fn wire_phase(phase: Phase) -> i32 {
    match phase {
        Phase::Connect => pb::Phase::Connect,
        Phase::Reset => pb::Phase::Reset,
        Phase::Step => pb::Phase::Step,
        Phase::Close => pb::Phase::Close,
    }
    .into()
}

pub(super) fn metric(value: i32) -> Checked<Metric> {
    Ok(match pb::Metric::try_from(value) {
        Ok(pb::Metric::Connect) => Metric::Connect,
        Ok(pb::Metric::Reset) => Metric::Reset,
        Ok(pb::Metric::Step) => Metric::Step,
        Ok(pb::Metric::Close) => Metric::Close,
        Ok(pb::Metric::Total) => Metric::Total,
        Ok(pb::Metric::Response) => Metric::Response,
        Ok(pb::Metric::Failed) => Metric::Failed,
        Ok(pb::Metric::LaunchLag) => Metric::LaunchLag,
        Ok(pb::Metric::Wire) => Metric::Wire,
        Ok(pb::Metric::ReceiveLag) => Metric::ReceiveLag,
        Ok(pb::Metric::HandshakeRtt) => Metric::HandshakeRtt,
        Ok(pb::Metric::Beyond) => Metric::Beyond,
        Ok(pb::Metric::WireBeyond) => Metric::WireBeyond,
        _ => return invalid("metric", format!("unknown value {value}")),
    })
}

pub(super) fn wire_metric(metric: Metric) -> i32 {
    match metric {
        Metric::Connect => pb::Metric::Connect,
        Metric::Reset => pb::Metric::Reset,
        Metric::Step => pb::Metric::Step,
        Metric::Close => pb::Metric::Close,
        Metric::Total => pb::Metric::Total,
        Metric::Response => pb::Metric::Response,
        Metric::Failed => pb::Metric::Failed,
        Metric::LaunchLag => pb::Metric::LaunchLag,
        Metric::Wire => pb::Metric::Wire,
        Metric::ReceiveLag => pb::Metric::ReceiveLag,
        Metric::HandshakeRtt => pb::Metric::HandshakeRtt,
        Metric::Beyond => pb::Metric::Beyond,
        Metric::WireBeyond => pb::Metric::WireBeyond,
    }
    .into()
}

pub(super) fn plan_hash(value: &[u8]) -> Checked<PlanHash> {
    Ok(PlanHash(bytes("plan_hash", value)?))
}

pub(super) fn bounds(value: Option<pb::Bounds>) -> Checked<Bounds> {
    let value = need("bounds", value)?;
    let bounds = Bounds {
        low_us: value.low_us,
        high_us: value.high_us,
        significant_digits: u8::try_from(value.significant_digits)
            .or_else(|_| invalid("bounds.significant_digits", "above 255"))?,
    };
    if bounds.valid() { Ok(bounds) } else { invalid("bounds", format!("{bounds:?} is no histogram")) }
}

pub(super) fn ledger(value: Option<pb::Ledger>) -> Checked<Ledger> {
    let value = need("ledger", value)?;
    let ledger = Ledger {
        planned: at_most("ledger.planned", value.planned, max::SESSIONS_MAX)?,
        succeeded: value.succeeded,
        failed: value.failed,
        timed_out: value.timed_out,
        lost: value.lost,
        never_started: value.never_started,
    };
    if ledger.balances() { Ok(ledger) } else { invalid("ledger", format!("does not balance: {ledger}")) }
}
