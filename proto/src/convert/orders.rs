//! What the coordinator asks for: target, script, launch, a share of a batch.

use super::basics::{
    Checked, Invalid, at_most, attempt, bounds, duration, invalid, micros, mode, need, plan_hash, text, wire_mode,
};
use crate::limits as max;
use crate::pb;
use crate::spec::{Assignment, Launch, Process, Script, Target};

impl From<&Target> for pb::Target {
    fn from(target: &Target) -> Self {
        Self { urls: target.urls.clone(), ca_pem: target.ca_pem.clone() }
    }
}

pub(super) fn target(value: Option<pb::Target>) -> Checked<Target> {
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

impl From<&Script> for pb::Script {
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
            until_done: script.until_done,
            message_bytes_max: script.message_bytes_max as u64,
        }
    }
}

pub(super) fn script(value: Option<pb::Script>) -> Checked<Script> {
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
        until_done: value.until_done,
        message_bytes_max: usize::try_from(at_most(
            "script.message_bytes_max",
            value.message_bytes_max,
            max::REPLY_BYTES_MAX,
        )?)
        .or_else(|_| invalid("script.message_bytes_max", "more than this machine can address"))?,
    })
}

impl From<Launch> for pb::Launch {
    fn from(launch: Launch) -> Self {
        let kind = match launch {
            Launch::Burst => pb::launch::Kind::Burst(pb::Burst {}),
            Launch::Ramp { over_us } => pb::launch::Kind::Ramp(pb::Ramp { over_us }),
            Launch::Arrivals { over_us, process } => {
                pb::launch::Kind::Arrivals(pb::Arrivals { over_us, poisson: process == Process::Poisson })
            }
        };
        Self { kind: Some(kind) }
    }
}

pub(super) fn launch(value: Option<pb::Launch>) -> Checked<Launch> {
    Ok(match need("launch.kind", need("launch", value)?.kind)? {
        pb::launch::Kind::Burst(_) => Launch::Burst,
        pb::launch::Kind::Ramp(ramp) => {
            Launch::Ramp { over_us: at_most("launch.ramp.over_us", ramp.over_us, max::DURATION_US_MAX)? }
        }
        pb::launch::Kind::Arrivals(arrivals) => Launch::Arrivals {
            over_us: at_most("launch.arrivals.over_us", arrivals.over_us, max::DURATION_US_MAX)?,
            process: if arrivals.poisson { Process::Poisson } else { Process::Uniform },
        },
    })
}

impl From<&Assignment> for pb::Prepare {
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
            bounds: Some(pb::Bounds {
                low_us: a.bounds.low_us,
                high_us: a.bounds.high_us,
                significant_digits: a.bounds.significant_digits.into(),
            }),
            kernel_timestamps: a.kernel_timestamps,
            clock_step_us_max: a.clock_step_us_max,
            in_flight_max: a.in_flight_max,
        }
    }
}

impl TryFrom<pb::Prepare> for Assignment {
    type Error = Invalid;

    fn try_from(value: pb::Prepare) -> Checked<Self> {
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
            kernel_timestamps: value.kernel_timestamps,
            clock_step_us_max: value.clock_step_us_max,
            in_flight_max: match value.in_flight_max {
                0 => return invalid("in_flight_max", "0 sessions at once"),
                most => at_most("in_flight_max", most, max::SESSIONS_MAX)?,
            },
        })
    }
}
