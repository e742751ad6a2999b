//! Between messages of the network and the domain. Decoding validates: whatever gets through is in range.

use std::time::Duration;

use uuid::Uuid;

use crate::histograms::{Bounds, EncodedHistogram, Metric};
use crate::ids::{AttemptId, PlanHash, RunId};
use crate::limits as max;
use crate::message::{
    FromAgent, FromCoordinator, Hello, Probe, ProbeResult, Progress, RecordChunk, Refused, RefusedWhy, Report, Welcome,
};
use crate::outcome::{Ledger, Outcome, Phase};
use crate::record::SessionRecord;
use crate::spec::{Assignment, Capacity, Launch, Mode, Script, Target};
use crate::wire;

/// What is wrong with a message, by field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    pub field: &'static str,
    pub problem: String,
}

type Checked<T> = Result<T, Invalid>;

fn invalid<T>(field: &'static str, problem: impl Into<String>) -> Checked<T> {
    Err(Invalid { field, problem: problem.into() })
}

fn need<T>(field: &'static str, value: Option<T>) -> Checked<T> {
    value.ok_or(Invalid { field, problem: "missing".to_owned() })
}

fn at_most(field: &'static str, value: u64, limit: u64) -> Checked<u64> {
    if value > limit { invalid(field, format!("{value} is above {limit}")) } else { Ok(value) }
}

fn duration(field: &'static str, value_us: u64) -> Checked<Duration> {
    Ok(Duration::from_micros(at_most(field, value_us, max::DURATION_US_MAX)?))
}

fn text(field: &'static str, value: String, bytes_max: usize) -> Checked<String> {
    if value.len() > bytes_max {
        invalid(field, format!("{} bytes, at most {bytes_max}", value.len()))
    } else {
        Ok(value)
    }
}

fn bytes<const N: usize>(field: &'static str, value: &[u8]) -> Checked<[u8; N]> {
    value.try_into().or_else(|_| invalid(field, format!("{} bytes instead of {N}", value.len())))
}

/// Microseconds of a duration; saturates (584,942 years).
#[must_use]
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

// ---- ids and small types ----

impl From<AttemptId> for wire::Attempt {
    fn from(id: AttemptId) -> Self {
        Self { run: id.run.0.as_bytes().to_vec(), batch: id.batch, attempt: id.attempt }
    }
}

fn attempt(value: Option<wire::Attempt>) -> Checked<AttemptId> {
    let value = need("attempt", value)?;
    Ok(AttemptId {
        run: RunId(Uuid::from_bytes(bytes("attempt.run", &value.run)?)),
        batch: value.batch,
        attempt: value.attempt,
    })
}

fn mode(value: i32) -> Checked<Mode> {
    match wire::Mode::try_from(value) {
        Ok(wire::Mode::Ws) => Ok(Mode::Ws),
        Ok(wire::Mode::Http) => Ok(Mode::Http),
        _ => invalid("mode", format!("unknown value {value}")),
    }
}

fn wire_mode(mode: Mode) -> i32 {
    match mode {
        Mode::Ws => wire::Mode::Ws,
        Mode::Http => wire::Mode::Http,
    }
    .into()
}

fn phase(value: Option<i32>) -> Checked<Phase> {
    let value = need("phase", value)?;
    match wire::Phase::try_from(value) {
        Ok(wire::Phase::Connect) => Ok(Phase::Connect),
        Ok(wire::Phase::Reset) => Ok(Phase::Reset),
        Ok(wire::Phase::Step) => Ok(Phase::Step),
        Ok(wire::Phase::Close) => Ok(Phase::Close),
        _ => invalid("phase", format!("unknown value {value}")),
    }
}

fn wire_phase(phase: Phase) -> i32 {
    match phase {
        Phase::Connect => wire::Phase::Connect,
        Phase::Reset => wire::Phase::Reset,
        Phase::Step => wire::Phase::Step,
        Phase::Close => wire::Phase::Close,
    }
    .into()
}

fn metric(value: i32) -> Checked<Metric> {
    Ok(match wire::Metric::try_from(value) {
        Ok(wire::Metric::Connect) => Metric::Connect,
        Ok(wire::Metric::Reset) => Metric::Reset,
        Ok(wire::Metric::Step) => Metric::Step,
        Ok(wire::Metric::Close) => Metric::Close,
        Ok(wire::Metric::Total) => Metric::Total,
        Ok(wire::Metric::Response) => Metric::Response,
        Ok(wire::Metric::Failed) => Metric::Failed,
        Ok(wire::Metric::LaunchLag) => Metric::LaunchLag,
        _ => return invalid("metric", format!("unknown value {value}")),
    })
}

fn wire_metric(metric: Metric) -> i32 {
    match metric {
        Metric::Connect => wire::Metric::Connect,
        Metric::Reset => wire::Metric::Reset,
        Metric::Step => wire::Metric::Step,
        Metric::Close => wire::Metric::Close,
        Metric::Total => wire::Metric::Total,
        Metric::Response => wire::Metric::Response,
        Metric::Failed => wire::Metric::Failed,
        Metric::LaunchLag => wire::Metric::LaunchLag,
    }
    .into()
}

fn plan_hash(value: &[u8]) -> Checked<PlanHash> {
    Ok(PlanHash(bytes("plan_hash", value)?))
}

fn bounds(value: Option<wire::Bounds>) -> Checked<Bounds> {
    let value = need("bounds", value)?;
    let bounds = Bounds {
        low_us: value.low_us,
        high_us: value.high_us,
        significant_digits: u8::try_from(value.significant_digits)
            .or_else(|_| invalid("bounds.significant_digits", "above 255"))?,
    };
    if bounds.valid() { Ok(bounds) } else { invalid("bounds", format!("{bounds:?} is no histogram")) }
}

fn ledger(value: Option<wire::Ledger>) -> Checked<Ledger> {
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

// ---- target, script, launch ----

impl From<&Target> for wire::Target {
    fn from(target: &Target) -> Self {
        Self { urls: target.urls.clone(), ca_pem: target.ca_pem.clone() }
    }
}

fn target(value: Option<wire::Target>) -> Checked<Target> {
    let value = need("target", value)?;
    if value.urls.is_empty() || value.urls.len() > max::URLS_MAX {
        return invalid("target.urls", format!("{} urls, 1 to {}", value.urls.len(), max::URLS_MAX));
    }
    if value.ca_pem.len() > max::CA_BYTES_MAX {
        return invalid("target.ca_pem", "too large");
    }
    let urls =
        value.urls.into_iter().map(|url| text("target.urls", url, max::TEXT_BYTES_MAX)).collect::<Checked<_>>()?;
    Ok(Target { urls, ca_pem: value.ca_pem })
}

impl From<&Script> for wire::Script {
    fn from(script: &Script) -> Self {
        Self {
            steps: script.steps,
            wait_us: micros(script.wait),
            think_us: micros(script.think),
            connect_timeout_us: micros(script.connect_timeout),
            reset_timeout_us: micros(script.reset_timeout),
            step_timeout_us: micros(script.step_timeout),
            close_timeout_us: micros(script.close_timeout),
            total_timeout_us: script.total_timeout.map(micros),
        }
    }
}

fn script(value: Option<wire::Script>) -> Checked<Script> {
    let value = need("script", value)?;
    if value.steps > max::STEPS_MAX {
        return invalid("script.steps", format!("{} is above {}", value.steps, max::STEPS_MAX));
    }
    Ok(Script {
        steps: value.steps,
        wait: duration("script.wait_us", value.wait_us)?,
        think: duration("script.think_us", value.think_us)?,
        connect_timeout: duration("script.connect_timeout_us", value.connect_timeout_us)?,
        reset_timeout: duration("script.reset_timeout_us", value.reset_timeout_us)?,
        step_timeout: duration("script.step_timeout_us", value.step_timeout_us)?,
        close_timeout: duration("script.close_timeout_us", value.close_timeout_us)?,
        total_timeout: value.total_timeout_us.map(|us| duration("script.total_timeout_us", us)).transpose()?,
    })
}

impl From<Launch> for wire::Launch {
    fn from(launch: Launch) -> Self {
        let kind = match launch {
            Launch::Burst => wire::launch::Kind::Burst(wire::Burst {}),
            Launch::Ramp { over_us } => wire::launch::Kind::Ramp(wire::Ramp { over_us }),
        };
        Self { kind: Some(kind) }
    }
}

fn launch(value: Option<wire::Launch>) -> Checked<Launch> {
    Ok(match need("launch.kind", need("launch", value)?.kind)? {
        wire::launch::Kind::Burst(_) => Launch::Burst,
        wire::launch::Kind::Ramp(ramp) => {
            Launch::Ramp { over_us: at_most("launch.ramp.over_us", ramp.over_us, max::DURATION_US_MAX)? }
        }
    })
}

impl From<&Assignment> for wire::Prepare {
    fn from(a: &Assignment) -> Self {
        Self {
            attempt: Some(a.attempt.into()),
            plan_hash: a.plan_hash.0.to_vec(),
            target: Some((&a.target).into()),
            mode: wire_mode(a.mode),
            script: Some((&a.script).into()),
            launch: Some(a.launch.into()),
            first_session: a.first_session,
            sessions: a.sessions,
            batch_size: a.batch_size,
            seed: a.seed,
            agent_index: a.agent_index,
            agent_count: a.agent_count,
            bounds: Some(wire::Bounds {
                low_us: a.bounds.low_us,
                high_us: a.bounds.high_us,
                significant_digits: a.bounds.significant_digits.into(),
            }),
        }
    }
}

impl TryFrom<wire::Prepare> for Assignment {
    type Error = Invalid;

    fn try_from(value: wire::Prepare) -> Checked<Self> {
        let batch_size = at_most("batch_size", value.batch_size, max::SESSIONS_MAX)?;
        let sessions = at_most("sessions", value.sessions, batch_size)?;
        let first_session = at_most("first_session", value.first_session, batch_size - sessions)?;
        if value.agent_index >= value.agent_count {
            return invalid("agent_index", format!("{} of {} agents", value.agent_index, value.agent_count));
        }
        Ok(Self {
            attempt: attempt(value.attempt)?,
            plan_hash: plan_hash(&value.plan_hash)?,
            target: target(value.target)?,
            mode: mode(value.mode)?,
            script: script(value.script)?,
            launch: launch(value.launch)?,
            first_session,
            sessions,
            batch_size,
            seed: value.seed,
            agent_index: value.agent_index,
            agent_count: value.agent_count,
            bounds: bounds(value.bounds)?,
        })
    }
}

// ---- hello ----

impl From<Hello> for wire::Hello {
    fn from(hello: Hello) -> Self {
        let c = hello.capacity;
        Self {
            protocol: hello.protocol,
            version: hello.version,
            name: hello.name,
            host: hello.host,
            pid: hello.pid,
            instance: hello.instance.to_vec(),
            plan_hash: hello.plan_hash.map(|hash| hash.0.to_vec()).unwrap_or_default(),
            capacity: Some(wire::Capacity {
                threads: c.threads,
                descriptors: c.descriptors,
                ports: c.ports,
                port_pool: c.port_pool,
                memory_bytes: c.memory_bytes,
                max_sessions: c.max_sessions,
            }),
        }
    }
}

impl TryFrom<wire::Hello> for Hello {
    type Error = Invalid;

    fn try_from(value: wire::Hello) -> Checked<Self> {
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
        if capacity.threads == 0 || capacity.threads > 4_096 {
            return invalid("capacity.threads", format!("{}, 1 to 4096", capacity.threads));
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
            capacity: Capacity {
                threads: capacity.threads,
                descriptors: capacity.descriptors,
                ports: capacity.ports,
                port_pool: text("capacity.port_pool", capacity.port_pool, max::TEXT_BYTES_MAX)?,
                memory_bytes: capacity.memory_bytes,
                max_sessions: capacity.max_sessions,
            },
        })
    }
}

// ---- records ----

impl From<SessionRecord> for wire::Record {
    fn from(record: SessionRecord) -> Self {
        let outcome = match &record.outcome {
            Outcome::Succeeded => wire::Outcome::Succeeded,
            Outcome::Failed(..) => wire::Outcome::Failed,
            Outcome::TimedOut(_) => wire::Outcome::TimedOut,
            Outcome::Lost => wire::Outcome::Lost,
            Outcome::NeverStarted => wire::Outcome::NeverStarted,
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
        }
    }
}

impl TryFrom<wire::Record> for SessionRecord {
    type Error = Invalid;

    fn try_from(value: wire::Record) -> Checked<Self> {
        let outcome = match wire::Outcome::try_from(value.outcome) {
            Ok(wire::Outcome::Succeeded) => Outcome::Succeeded,
            Ok(wire::Outcome::Failed) => Outcome::Failed(
                text("error_type", value.error_type, max::TEXT_BYTES_MAX)?
                    .parse()
                    .or_else(|()| invalid("error_type", "unknown kind"))?,
                phase(value.phase)?,
            ),
            Ok(wire::Outcome::TimedOut) => Outcome::TimedOut(phase(value.phase)?),
            Ok(wire::Outcome::Lost) => Outcome::Lost,
            Ok(wire::Outcome::NeverStarted) => Outcome::NeverStarted,
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
            pid: value.pid,
            session_hash: short("session_hash", value.session_hash)?,
            host_url: short("host_url", value.host_url)?,
        })
    }
}

impl From<Report> for wire::Report {
    fn from(report: Report) -> Self {
        let l = report.ledger;
        Self {
            attempt: Some(report.attempt.into()),
            ledger: Some(wire::Ledger {
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
                .map(|h| wire::MetricHistogram {
                    metric: wire_metric(h.metric),
                    data: h.data,
                    over_range: h.over_range,
                })
                .collect(),
        }
    }
}

impl TryFrom<wire::Report> for Report {
    type Error = Invalid;

    fn try_from(value: wire::Report) -> Checked<Self> {
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
        })
    }
}

// ---- whole messages ----

impl From<FromAgent> for wire::AgentMessage {
    fn from(message: FromAgent) -> Self {
        use wire::agent_message::Body;
        let body = match message {
            FromAgent::Hello(hello) => Body::Hello(hello.into()),
            FromAgent::Heartbeat => Body::Heartbeat(wire::Heartbeat {}),
            FromAgent::Probed(results) => Body::Probed(wire::Probed {
                results: results
                    .into_iter()
                    .map(|r| wire::ProbeResult {
                        url: r.url,
                        mode: wire_mode(r.mode),
                        ready: r.ready,
                        r#final: r.last_word,
                        problem: r.problem,
                        addresses: r.addresses,
                    })
                    .collect(),
            }),
            FromAgent::Armed(attempt) => Body::Armed(wire::Armed { attempt: Some(attempt.into()) }),
            FromAgent::Progress(p) => Body::Progress(wire::Progress {
                attempt: Some(p.attempt.into()),
                launched: p.launched,
                open: p.open,
                succeeded: p.succeeded,
                failed: p.failed,
            }),
            FromAgent::Report(report) => Body::Report(report.into()),
            FromAgent::Records(chunk) => Body::Records(wire::RecordChunk {
                attempt: Some(chunk.attempt.into()),
                sequence: chunk.sequence,
                records: chunk.records.into_iter().map(Into::into).collect(),
            }),
            FromAgent::Trouble { attempt, problem } => {
                Body::Trouble(wire::Trouble { attempt: Some(attempt.into()), problem })
            }
            FromAgent::Goodbye(reason) => Body::Goodbye(wire::Goodbye { reason }),
        };
        Self { body: Some(body) }
    }
}

impl TryFrom<wire::AgentMessage> for FromAgent {
    type Error = Invalid;

    fn try_from(value: wire::AgentMessage) -> Checked<Self> {
        use wire::agent_message::Body;
        Ok(match need("body", value.body)? {
            Body::Hello(hello) => Self::Hello(hello.try_into()?),
            Body::Heartbeat(_) => Self::Heartbeat,
            Body::Probed(probed) => {
                if probed.results.len() > 2 * max::URLS_MAX {
                    return invalid("results", "more than there are urls");
                }
                let results = probed.results.into_iter().map(|r| {
                    Ok(ProbeResult {
                        url: text("results.url", r.url, max::TEXT_BYTES_MAX)?,
                        mode: mode(r.mode)?,
                        ready: r.ready,
                        last_word: r.r#final,
                        problem: text("results.problem", r.problem, max::TEXT_BYTES_MAX)?,
                        addresses: if r.addresses.len() > max::URLS_MAX {
                            return invalid("results.addresses", "too many");
                        } else {
                            r.addresses
                                .into_iter()
                                .map(|a| text("results.addresses", a, max::TEXT_BYTES_MAX))
                                .collect::<Checked<_>>()?
                        },
                    })
                });
                Self::Probed(results.collect::<Checked<_>>()?)
            }
            Body::Armed(armed) => Self::Armed(attempt(armed.attempt)?),
            Body::Progress(p) => Self::Progress(Progress {
                attempt: attempt(p.attempt)?,
                launched: at_most("launched", p.launched, max::SESSIONS_MAX)?,
                open: at_most("open", p.open, max::SESSIONS_MAX)?,
                succeeded: at_most("succeeded", p.succeeded, max::SESSIONS_MAX)?,
                failed: at_most("failed", p.failed, max::SESSIONS_MAX)?,
            }),
            Body::Report(report) => Self::Report(report.try_into()?),
            Body::Records(chunk) => {
                if chunk.records.len() > max::CHUNK_RECORDS_MAX {
                    return invalid("records", "too many in one chunk");
                }
                Self::Records(RecordChunk {
                    attempt: attempt(chunk.attempt)?,
                    sequence: at_most("sequence", chunk.sequence, max::CHUNKS_MAX)?,
                    records: chunk.records.into_iter().map(TryInto::try_into).collect::<Checked<_>>()?,
                })
            }
            Body::Trouble(trouble) => Self::Trouble {
                attempt: attempt(trouble.attempt)?,
                problem: text("problem", trouble.problem, max::TEXT_BYTES_MAX)?,
            },
            Body::Goodbye(goodbye) => Self::Goodbye(text("reason", goodbye.reason, max::TEXT_BYTES_MAX)?),
        })
    }
}

impl From<FromCoordinator> for wire::CoordinatorMessage {
    fn from(message: FromCoordinator) -> Self {
        use wire::coordinator_message::Body;
        let body = match message {
            FromCoordinator::Welcome(w) => Body::Welcome(wire::Welcome {
                run: w.run.0.as_bytes().to_vec(),
                plan_hash: w.plan_hash.0.to_vec(),
                name: w.name,
                lease_us: micros(w.lease),
            }),
            FromCoordinator::Refused(refused) => Body::Refused(wire::Refused {
                why: match refused.why {
                    RefusedWhy::Version => wire::refused::Why::Version,
                    RefusedWhy::Plan => wire::refused::Why::Plan,
                    RefusedWhy::Full => wire::refused::Why::Full,
                    RefusedWhy::Malformed => wire::refused::Why::Malformed,
                }
                .into(),
                message: refused.message,
            }),
            FromCoordinator::Probe(probe) => Body::Probe(wire::Probe {
                plan_hash: probe.plan_hash.0.to_vec(),
                target: Some((&probe.target).into()),
                modes: probe.modes.into_iter().map(wire_mode).collect(),
                deadline_us: micros(probe.deadline),
                script: Some((&probe.script).into()),
            }),
            FromCoordinator::Prepare(assignment) => Body::Prepare(assignment.as_ref().into()),
            FromCoordinator::Go { attempt, start_after } => {
                Body::Go(wire::Go { attempt: Some(attempt.into()), start_after_us: micros(start_after) })
            }
            FromCoordinator::Abort { attempt, reason } => {
                Body::Abort(wire::Abort { attempt: Some(attempt.into()), reason })
            }
            FromCoordinator::Stored(attempt) => Body::Stored(wire::Stored { attempt: Some(attempt.into()) }),
            FromCoordinator::Dismiss(reason) => Body::Dismiss(wire::Dismiss { reason }),
        };
        Self { body: Some(body) }
    }
}

impl TryFrom<wire::CoordinatorMessage> for FromCoordinator {
    type Error = Invalid;

    fn try_from(value: wire::CoordinatorMessage) -> Checked<Self> {
        use wire::coordinator_message::Body;
        Ok(match need("body", value.body)? {
            Body::Welcome(w) => Self::Welcome(Welcome {
                run: RunId(Uuid::from_bytes(bytes("run", &w.run)?)),
                plan_hash: plan_hash(&w.plan_hash)?,
                name: text("name", w.name, max::TEXT_BYTES_MAX)?,
                lease: duration("lease_us", w.lease_us)?,
            }),
            Body::Refused(refused) => Self::Refused(Refused {
                why: match refused.why() {
                    wire::refused::Why::Version => RefusedWhy::Version,
                    wire::refused::Why::Plan => RefusedWhy::Plan,
                    wire::refused::Why::Full => RefusedWhy::Full,
                    wire::refused::Why::Malformed | wire::refused::Why::Unspecified => RefusedWhy::Malformed,
                },
                message: text("message", refused.message, max::TEXT_BYTES_MAX)?,
            }),
            Body::Probe(probe) => Self::Probe(Probe {
                plan_hash: plan_hash(&probe.plan_hash)?,
                target: target(probe.target)?,
                modes: match probe.modes.len() {
                    1 | 2 => probe.modes.into_iter().map(mode).collect::<Checked<_>>()?,
                    n => return invalid("modes", format!("{n} of them")),
                },
                deadline: duration("deadline_us", probe.deadline_us)?,
                script: script(probe.script)?,
            }),
            Body::Prepare(prepare) => Self::Prepare(Box::new(prepare.try_into()?)),
            Body::Go(go) => {
                Self::Go { attempt: attempt(go.attempt)?, start_after: duration("start_after_us", go.start_after_us)? }
            }
            Body::Abort(abort) => Self::Abort {
                attempt: attempt(abort.attempt)?,
                reason: text("reason", abort.reason, max::TEXT_BYTES_MAX)?,
            },
            Body::Stored(stored) => Self::Stored(attempt(stored.attempt)?),
            Body::Dismiss(dismiss) => Self::Dismiss(text("reason", dismiss.reason, max::TEXT_BYTES_MAX)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::outcome::FailureKind;

    fn assignment() -> Assignment {
        Assignment {
            attempt: AttemptId { run: RunId::random(), batch: 3, attempt: 1 },
            plan_hash: PlanHash([7; 32]),
            target: Target { urls: vec!["http://127.0.0.1:1".to_owned()], ca_pem: Vec::new() },
            mode: Mode::Ws,
            script: Script {
                steps: 2,
                wait: Duration::from_millis(1_500),
                think: Duration::ZERO,
                connect_timeout: Duration::from_secs(1),
                reset_timeout: Duration::from_secs(2),
                step_timeout: Duration::from_secs(3),
                close_timeout: Duration::from_secs(4),
                total_timeout: Some(Duration::from_secs(5)),
            },
            launch: Launch::Ramp { over_us: 12 },
            first_session: 10,
            sessions: 20,
            batch_size: 30,
            seed: 1,
            agent_index: 1,
            agent_count: 2,
            bounds: Bounds::STANDARD,
        }
    }

    #[test]
    fn assignment_survives_the_wire() {
        let sent = FromCoordinator::Prepare(Box::new(assignment()));
        assert_eq!(FromCoordinator::try_from(wire::CoordinatorMessage::from(sent.clone())), Ok(sent));
    }

    #[test]
    fn a_share_outside_its_batch_is_refused() {
        let good = wire::Prepare::from(&assignment());
        let bad = [
            wire::Prepare { first_session: 11, ..good.clone() },
            wire::Prepare { sessions: u64::MAX, ..good.clone() },
            wire::Prepare { agent_index: 2, ..good.clone() },
            wire::Prepare {
                bounds: Some(wire::Bounds { low_us: 1, high_us: u64::MAX, significant_digits: 5 }),
                ..good.clone()
            },
            wire::Prepare { plan_hash: vec![1], ..good.clone() },
            wire::Prepare { target: None, ..good },
        ];
        for prepare in bad {
            assert!(Assignment::try_from(prepare.clone()).is_err(), "{prepare:?}");
        }
    }

    #[test]
    fn an_unbalanced_ledger_never_gets_in() {
        let report = Report {
            attempt: assignment().attempt,
            ledger: Ledger { planned: 3, succeeded: 2, ..Ledger::default() },
            start_offset_us: 0,
            chunks: 0,
            histograms: Vec::new(),
        };
        let refused = Report::try_from(wire::Report::from(report));
        assert_eq!(refused.map_err(|e| e.field), Err("ledger"));
    }

    fn optional_us() -> impl Strategy<Value = Option<u64>> {
        proptest::option::of(any::<u64>())
    }

    proptest! {
        #[test]
        fn records_survive_the_wire(
            outcome in 0_u8..5, us in proptest::collection::vec(optional_us(), 6), steps in proptest::collection::vec(any::<u64>(), 0..5),
            message in ".{0,40}", hash in proptest::option::of("[0-9a-f]{12}"), started in any::<u64>(),
        ) {
            let outcome = match outcome {
                0 => Outcome::Succeeded,
                1 => Outcome::Failed(FailureKind::Closed(1012), Phase::Step),
                2 => Outcome::TimedOut(Phase::Close),
                3 => Outcome::Lost,
                _ => Outcome::NeverStarted,
            };
            let lived = !matches!(outcome, Outcome::Lost | Outcome::NeverStarted);
            let record = SessionRecord {
                session: 5, outcome, error_message: message, intended_us: 9,
                started_us: lived.then_some(started), connect_us: us[0], reset_us: us[1], step_us: steps, close_us: us[2],
                total_us: lived.then_some(started), waited_us: us[3], pid: us[4], session_hash: hash.clone(), host_url: hash,
            };
            prop_assert_eq!(SessionRecord::try_from(wire::Record::from(record.clone())), Ok(record));
        }
    }
}
