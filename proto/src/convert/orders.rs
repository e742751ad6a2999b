//! The coordinator's orders.

use super::invalid::{Checked, Invalid, invalid, need};
use super::value::{Value, at_most, mirror};
use crate::limits as max;
use crate::message::{Heartbeat, Probe, Refused, RefusedWhy, Resend, Welcome};
use crate::pb;
use crate::spec::{Assignment, Launch, Mode, Process, Script, Target};

mirror!(Heartbeat = Heartbeat in "" { values { instance, sequence } });

mirror!(Welcome = Welcome in "" {
    values { run, plan_hash, name }
    renamed { lease = lease_us }
    check |welcome| match welcome.lease {
        lease if lease < max::LEASE_MIN => invalid("lease_us", format!("{} us", lease.as_micros())),
        _ => Ok(()),
    }
});

mirror!(Refused = Refused in "" { values { why, message } });

impl Value for RefusedWhy {
    type Wire = i32;

    fn encode(self) -> i32 {
        match self {
            Self::Version => pb::refused::Why::Version,
            Self::Plan => pb::refused::Why::Plan,
            Self::Full => pb::refused::Why::Full,
            Self::Malformed => pb::refused::Why::Malformed,
        }
        .into()
    }

    /// A reason that this version does not know still is a refusal.
    fn decode(_field: &'static str, wire: i32) -> Checked<Self> {
        Ok(match pb::refused::Why::try_from(wire).unwrap_or_default() {
            pb::refused::Why::Version => Self::Version,
            pb::refused::Why::Plan => Self::Plan,
            pb::refused::Why::Full => Self::Full,
            pb::refused::Why::Malformed | pb::refused::Why::Unspecified => Self::Malformed,
        })
    }
}

mirror!(Probe = Probe in "" {
    messages { target, script }
    values { plan_hash, modes, sessions }
    renamed { deadline = deadline_us }
    check |probe| {
        if !(1..=Mode::ALL.len()).contains(&probe.modes.len()) {
            return invalid("modes", format!("{} of them", probe.modes.len()));
        }
        match probe.sessions {
            1..=max::PROBE_SESSIONS_MAX => Ok(()),
            other => invalid("sessions", format!("{other}, 1 to {}", max::PROBE_SESSIONS_MAX)),
        }
    }
});

mirror!(Resend = Resend in "" {
    messages { attempt }
    values { report, sequences, from }
    check |resend| {
        at_most("sequences", resend.sequences.len() as u64, max::RESEND_MAX as u64)?;
        let mut chunks = resend.sequences.iter().chain(&resend.from);
        chunks.try_for_each(|sequence| at_most("sequences", *sequence, max::CHUNKS_MAX))
    }
});

mirror!(Target = Target in "target." {
    values { urls, ca_pem }
    check |target| {
        if target.urls.is_empty() || target.urls.len() > max::URLS_MAX {
            return invalid("target.urls", format!("{} urls, 1 to {}", target.urls.len(), max::URLS_MAX));
        }
        at_most("target.ca_pem", target.ca_pem.len() as u64, max::CA_BYTES_MAX as u64)
    }
});

mirror!(Script = Script in "script." {
    values { steps, until_done, message_bytes_max }
    renamed {
        wait = wait_us, think = think_us, connect_timeout = connect_timeout_us, reset_timeout = reset_timeout_us,
        step_timeout = step_timeout_us, close_timeout = close_timeout_us, total_timeout = total_timeout_us
    }
    check |script| {
        at_most("script.steps", script.steps.into(), max::STEPS_MAX.into())?;
        at_most("script.message_bytes_max", script.message_bytes_max as u64, max::REPLY_BYTES_MAX)
    }
});

impl Value for Launch {
    type Wire = pb::Launch;

    fn encode(self) -> pb::Launch {
        use pb::launch::Kind;
        pb::Launch {
            kind: Some(match self {
                Self::Burst => Kind::Burst(pb::Burst {}),
                Self::Ramp { over_us } => Kind::Ramp(pb::Ramp { over_us }),
                Self::Arrivals { over_us, process } => {
                    Kind::Arrivals(pb::Arrivals { over_us, poisson: process == Process::Poisson })
                }
            }),
        }
    }

    fn decode(_field: &'static str, wire: pb::Launch) -> Checked<Self> {
        use pb::launch::Kind;
        let launch = match need("launch.kind", wire.kind)? {
            Kind::Burst(pb::Burst {}) => Self::Burst,
            Kind::Ramp(pb::Ramp { over_us }) => Self::Ramp { over_us },
            Kind::Arrivals(pb::Arrivals { over_us, poisson }) => {
                Self::Arrivals { over_us, process: if poisson { Process::Poisson } else { Process::Uniform } }
            }
        };
        at_most("launch.over_us", launch.over_us(), max::DURATION_US_MAX)?;
        Ok(launch)
    }
}

mirror!(Assignment = Prepare in "" {
    messages { attempt, target, script, launch, bounds }
    values {
        plan_hash, mode, first_session, sessions, batch_size, seed, agent_index, agent_count, kernel_timestamps,
        clock_step_us_max, in_flight_max
    }
    check |share| {
        at_most("batch_size", share.batch_size, max::SESSIONS_MAX)?;
        at_most("sessions", share.sessions, share.batch_size)?;
        at_most("first_session", share.first_session, share.batch_size - share.sessions)?;
        if share.agent_index >= share.agent_count {
            return invalid("agent_index", format!("{} of {} agents", share.agent_index, share.agent_count));
        }
        if share.in_flight_max == 0 {
            return invalid("in_flight_max", "0 sessions at once");
        }
        at_most("in_flight_max", share.in_flight_max, max::SESSIONS_MAX)
    }
});
