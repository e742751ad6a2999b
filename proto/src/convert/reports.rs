//! What an agent tells: who it is, its records, its report.

use super::basics::{
    Checked, Invalid, at_most, attempt, bytes, invalid, ledger, metric, need, phase, plan_hash, text, wire_metric,
    wire_phase,
};
use crate::histograms::{EncodedHistogram, Metric};
use crate::limits as max;
use crate::message::{Hello, Report};
use crate::outcome::{FailureKind, Outcome};
use crate::pb;
use crate::record::{SessionRecord, Silence, Split, WireRecord};
use crate::spec::Capacity;

impl From<Hello> for pb::Hello {
    fn from(hello: Hello) -> Self {
        Self {
            protocol: hello.protocol,
            version: hello.version,
            name: hello.name,
            host: hello.host,
            pid: hello.pid,
            instance: hello.instance.to_vec(),
            plan_hash: hello.plan_hash.map(|hash| hash.0.to_vec()).unwrap_or_default(),
            capacity: Some(hello.capacity.into()),
            holding: hello.holding.map(Into::into),
        }
    }
}

impl TryFrom<pb::Hello> for Hello {
    type Error = Invalid;

    fn try_from(value: pb::Hello) -> Checked<Self> {
        let capacity = need("capacity", value.capacity)?;
        if value.name.is_empty()
            || value.name.chars().count() > max::NAME_CHARS_MAX
            || !value.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        {
            return invalid(
                "name",
                format!("{:?}: give 1 to {} letters, digits, '-', '_' or '.'", value.name, max::NAME_CHARS_MAX),
            );
        }
        let hash = if value.plan_hash.is_empty() { None } else { Some(plan_hash(&value.plan_hash)?) };
        Ok(Self {
            protocol: value.protocol,
            version: text("version", value.version, max::NAME_CHARS_MAX)?,
            name: value.name,
            host: text("host", value.host, max::TEXT_BYTES_MAX)?,
            pid: value.pid,
            instance: bytes("instance", &value.instance)?,
            plan_hash: hash,
            capacity: capacity.try_into()?,
            holding: value.holding.map(|id| attempt(Some(id))).transpose()?,
        })
    }
}

impl From<Capacity> for pb::Capacity {
    fn from(c: Capacity) -> Self {
        Self {
            threads: c.threads,
            descriptors: c.descriptors,
            ports: c.ports,
            port_pool: c.port_pool,
            memory_bytes: c.memory_bytes,
            max_sessions: c.max_sessions,
            ports_taken: c.ports_taken,
            ports_waiting: c.ports_waiting,
            ports_back_us: c.ports_back_us,
            conntrack_room: c.conntrack_room,
        }
    }
}

impl TryFrom<pb::Capacity> for Capacity {
    type Error = Invalid;

    fn try_from(c: pb::Capacity) -> Checked<Self> {
        if c.threads == 0 || c.threads > 4_096 {
            return invalid("capacity.threads", format!("{}, 1 to 4096", c.threads));
        }
        if c.ports_taken > c.ports || c.ports_waiting > c.ports_taken {
            return invalid("capacity.ports_taken", "more than there are");
        }
        Ok(Self {
            threads: c.threads,
            descriptors: c.descriptors,
            ports: c.ports,
            port_pool: text("capacity.port_pool", c.port_pool, max::TEXT_BYTES_MAX)?,
            memory_bytes: c.memory_bytes,
            max_sessions: c.max_sessions,
            ports_taken: c.ports_taken,
            ports_waiting: c.ports_waiting,
            ports_back_us: at_most("capacity.ports_back_us", c.ports_back_us, max::DURATION_US_MAX)?,
            conntrack_room: c.conntrack_room,
        })
    }
}

impl From<SessionRecord> for pb::Record {
    fn from(record: SessionRecord) -> Self {
        let outcome = match &record.outcome {
            Outcome::Succeeded => pb::Outcome::Succeeded,
            Outcome::Failed(..) => pb::Outcome::Failed,
            Outcome::TimedOut(_) => pb::Outcome::TimedOut,
            Outcome::Lost => pb::Outcome::Lost,
            Outcome::NeverStarted => pb::Outcome::NeverStarted,
        };
        Self {
            session: record.session,
            outcome: outcome.into(),
            phase: record.outcome.phase().map(wire_phase),
            error_type: match &record.outcome {
                Outcome::Failed(kind, _) => kind.to_string(),
                _ => String::new(),
            },
            error_message: record.error_message,
            intended_us: record.intended_us,
            started_us: record.started_us,
            connect_us: record.connect_us,
            reset_us: record.reset_us,
            step_us: record.step_us,
            close_us: record.close_us,
            total_us: record.total_us,
            waited_us: record.waited_us,
            pid: record.pid,
            session_hash: record.session_hash,
            host_url: record.host_url,
            reset_wire_us: record.wire.reset.map(|split| split.wire_us),
            reset_lag_us: record.wire.reset.map(|split| split.lag_us),
            step_wire_us: record.wire.steps.iter().map(|split| split.wire_us).collect(),
            step_lag_us: record.wire.steps.iter().map(|split| split.lag_us).collect(),
            own_delay_us: record.wire.own_delay_us,
            connect_own_us: record.wire.connect_own_us,
            open_own_us: record.wire.open_own_us,
            asked_us: record.asked_us,
            step_wait_us: record.step_wait_us,
            done: record.done,
            untidy: record.untidy.map(|kind| kind.to_string()),
            pings: record.wire.pings,
            ping_late_us: record.wire.ping_late_us,
            silence_us: record.wire.silence.map(|silence| silence.us),
            silence_own_us: record.wire.silence.map(|silence| silence.own_us),
            handshake_rtt_us: record.wire.handshake_rtt_us,
            syn_retransmits: record.wire.syn_retransmits,
        }
    }
}

fn failure_kind(field: &'static str, value: String) -> Checked<FailureKind> {
    text(field, value, max::TEXT_BYTES_MAX)?.parse().or_else(|()| invalid(field, "unknown kind"))
}

impl TryFrom<pb::Record> for SessionRecord {
    type Error = Invalid;

    fn try_from(value: pb::Record) -> Checked<Self> {
        let outcome = match pb::Outcome::try_from(value.outcome) {
            Ok(pb::Outcome::Succeeded) => Outcome::Succeeded,
            Ok(pb::Outcome::Failed) => {
                Outcome::Failed(failure_kind("error_type", value.error_type)?, phase(value.phase)?)
            }
            Ok(pb::Outcome::TimedOut) => Outcome::TimedOut(phase(value.phase)?),
            Ok(pb::Outcome::Lost) => Outcome::Lost,
            Ok(pb::Outcome::NeverStarted) => Outcome::NeverStarted,
            _ => return invalid("outcome", format!("unknown value {}", value.outcome)),
        };
        let lived = !matches!(outcome, Outcome::Lost | Outcome::NeverStarted);
        if lived != value.started_us.is_some() || lived != value.total_us.is_some() {
            return invalid(
                "started_us",
                format!("session {} is {} and has or lacks a life", value.session, outcome.as_str()),
            );
        }
        if value.step_us.len() > max::STEPS_MAX as usize {
            return invalid("step_us", "more steps than a session can have");
        }
        let stamped = value.step_wire_us.len();
        if stamped != value.step_lag_us.len() || (stamped > 0 && stamped != value.step_us.len()) {
            return invalid("step_wire_us", "not one a step");
        }
        let steps = value.step_wire_us.into_iter().zip(value.step_lag_us);
        let wire = WireRecord {
            reset: value.reset_wire_us.zip(value.reset_lag_us).map(|(wire_us, lag_us)| Split { wire_us, lag_us }),
            steps: steps.map(|(wire_us, lag_us)| Split { wire_us, lag_us }).collect(),
            own_delay_us: value.own_delay_us,
            connect_own_us: value.connect_own_us,
            open_own_us: value.open_own_us,
            pings: value.pings,
            ping_late_us: value.ping_late_us,
            silence: value.silence_us.zip(value.silence_own_us).map(|(us, own_us)| Silence { us, own_us }),
            handshake_rtt_us: value.handshake_rtt_us,
            syn_retransmits: value.syn_retransmits,
        };
        let short = |field, value: Option<String>| value.map(|v| text(field, v, max::TEXT_BYTES_MAX)).transpose();
        Ok(Self {
            session: at_most("session", value.session, max::SESSIONS_MAX)?,
            outcome,
            error_message: text("error_message", value.error_message, max::ERROR_BYTES_MAX)?,
            intended_us: at_most("intended_us", value.intended_us, max::DURATION_US_MAX)?,
            started_us: value.started_us,
            connect_us: value.connect_us,
            reset_us: value.reset_us,
            step_us: value.step_us,
            close_us: value.close_us,
            total_us: value.total_us,
            waited_us: value.waited_us,
            asked_us: value.asked_us,
            step_wait_us: value.step_wait_us,
            done: value.done,
            untidy: value.untidy.map(|kind| failure_kind("untidy", kind)).transpose()?,
            pid: value.pid,
            session_hash: short("session_hash", value.session_hash)?,
            host_url: short("host_url", value.host_url)?,
            wire,
        })
    }
}

impl From<Report> for pb::Report {
    fn from(report: Report) -> Self {
        let l = report.ledger;
        Self {
            attempt: Some(report.attempt.into()),
            ledger: Some(pb::Ledger {
                planned: l.planned,
                succeeded: l.succeeded,
                failed: l.failed,
                timed_out: l.timed_out,
                lost: l.lost,
                never_started: l.never_started,
            }),
            start_offset_us: report.start_offset_us,
            chunks: report.chunks,
            histograms: report
                .histograms
                .into_iter()
                .map(|h| pb::MetricHistogram { metric: wire_metric(h.metric), data: h.data, over_range: h.over_range })
                .collect(),
            vitals: Some((*report.vitals).into()),
        }
    }
}

impl TryFrom<pb::Report> for Report {
    type Error = Invalid;

    fn try_from(value: pb::Report) -> Checked<Self> {
        if value.histograms.len() > Metric::ALL.len() {
            return invalid("histograms", format!("{} of them", value.histograms.len()));
        }
        let histograms = value
            .histograms
            .into_iter()
            .map(|h| {
                if h.data.len() > max::HISTOGRAM_BYTES_MAX {
                    return invalid("histograms.data", "too large");
                }
                Ok(EncodedHistogram { metric: metric(h.metric)?, data: h.data, over_range: h.over_range })
            })
            .collect::<Checked<_>>()?;
        Ok(Self {
            attempt: attempt(value.attempt)?,
            ledger: ledger(value.ledger)?,
            start_offset_us: at_most("start_offset_us", value.start_offset_us, max::DURATION_US_MAX)?,
            chunks: at_most("chunks", value.chunks, max::CHUNKS_MAX)?,
            histograms,
            vitals: Box::new(need("vitals", value.vitals)?.try_into()?),
        })
    }
}
