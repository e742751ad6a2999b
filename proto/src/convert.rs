//! Converts between messages of the network and the domain, and validates what comes from the network: whatever gets through
//! is in range.
//!
//! Every message has one list of fields, in `orders` (from the coordinator) or `reports` (from an agent).

mod orders;
mod reports;
mod value;

use std::time::Duration;

use self::value::{Value, at_most};
use crate::limits as max;
use crate::message::{FromAgent, FromCoordinator};
use crate::pb;

/// What is wrong with a message.
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

/// Decodes a field that must be there.
fn required<T: Value>(field: &'static str, wire: Option<T::Wire>) -> Checked<T> {
    T::decode(field, need(field, wire)?)
}

/// Microseconds of a duration; saturates (584,942 years).
#[must_use]
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl From<FromAgent> for pb::AgentMessage {
    fn from(message: FromAgent) -> Self {
        use pb::agent_message::Body;
        let body = match message {
            FromAgent::Hello(hello) => Body::Hello(hello.into()),
            FromAgent::Leaving(reason) => Body::Leaving(pb::Leaving { reason }),
            FromAgent::Probed(results) => Body::Probed(pb::Probed { results: results.encode() }),
            FromAgent::Armed(attempt) => Body::Armed(pb::Armed { attempt: Some(attempt.into()) }),
            FromAgent::Progress(progress) => Body::Progress(progress.into()),
            FromAgent::Report(report) => Body::Report(report.into()),
            FromAgent::Records(chunk) => Body::Records(chunk.into()),
            FromAgent::Trouble { attempt, problem } => {
                Body::Trouble(pb::Trouble { attempt: Some(attempt.into()), problem })
            }
            FromAgent::Goodbye(reason) => Body::Goodbye(pb::Goodbye { reason }),
            FromAgent::Pong(pong) => Body::Pong(pong.into()),
            FromAgent::Surveyed { number, capacity } => {
                Body::Surveyed(pb::Surveyed { number, capacity: Some(capacity.into()) })
            }
        };
        Self { body: Some(body) }
    }
}

impl TryFrom<pb::AgentMessage> for FromAgent {
    type Error = Invalid;

    fn try_from(message: pb::AgentMessage) -> Checked<Self> {
        use pb::agent_message::Body;
        Ok(match need("body", message.body)? {
            Body::Hello(hello) => Self::Hello(hello.try_into()?),
            Body::Leaving(pb::Leaving { reason }) => Self::Leaving(Value::decode("reason", reason)?),
            Body::Probed(pb::Probed { results }) => {
                let results: Vec<_> = Value::decode("results", results)?;
                reports::check_results(&results)?;
                Self::Probed(results)
            }
            Body::Armed(pb::Armed { attempt }) => Self::Armed(required("attempt", attempt)?),
            Body::Progress(progress) => Self::Progress(progress.try_into()?),
            Body::Report(report) => Self::Report(report.try_into()?),
            Body::Records(chunk) => Self::Records(chunk.try_into()?),
            Body::Trouble(pb::Trouble { attempt, problem }) => {
                Self::Trouble { attempt: required("attempt", attempt)?, problem: Value::decode("problem", problem)? }
            }
            Body::Goodbye(pb::Goodbye { reason }) => Self::Goodbye(Value::decode("reason", reason)?),
            Body::Pong(pong) => Self::Pong(pong.try_into()?),
            Body::Surveyed(pb::Surveyed { number, capacity }) => {
                Self::Surveyed { number, capacity: required("capacity", capacity)? }
            }
        })
    }
}

impl From<FromCoordinator> for pb::CoordinatorMessage {
    fn from(message: FromCoordinator) -> Self {
        use pb::coordinator_message::Body;
        let body = match message {
            FromCoordinator::Welcome(welcome) => Body::Welcome(welcome.into()),
            FromCoordinator::Refused(refused) => Body::Refused(refused.into()),
            FromCoordinator::Probe(probe) => Body::Probe((*probe).into()),
            FromCoordinator::Prepare(assignment) => Body::Prepare((*assignment).into()),
            FromCoordinator::Go { attempt, start_at_us } => {
                Body::Go(pb::Go { attempt: Some(attempt.into()), start_at_us })
            }
            FromCoordinator::Abort { attempt, reason } => {
                Body::Abort(pb::Abort { attempt: Some(attempt.into()), reason })
            }
            FromCoordinator::Stored(attempt) => Body::Stored(pb::Stored { attempt: Some(attempt.into()) }),
            FromCoordinator::Dismiss(reason) => Body::Dismiss(pb::Dismiss { reason }),
            FromCoordinator::Ping { sequence } => Body::Ping(pb::Ping { sequence }),
            FromCoordinator::Survey { number, addresses, sessions } => {
                Body::Survey(pb::Survey { number, addresses, sessions })
            }
            FromCoordinator::Resend(resend) => Body::Resend(resend.into()),
        };
        Self { body: Some(body) }
    }
}

impl TryFrom<pb::CoordinatorMessage> for FromCoordinator {
    type Error = Invalid;

    fn try_from(message: pb::CoordinatorMessage) -> Checked<Self> {
        use pb::coordinator_message::Body;
        Ok(match need("body", message.body)? {
            Body::Welcome(welcome) => Self::Welcome(welcome.try_into()?),
            Body::Refused(refused) => Self::Refused(refused.try_into()?),
            Body::Probe(probe) => Self::Probe(Box::new(probe.try_into()?)),
            Body::Prepare(prepare) => Self::Prepare(Box::new(prepare.try_into()?)),
            Body::Go(pb::Go { attempt, start_at_us }) => {
                at_most("start_at_us", start_at_us, max::CLOCK_US_MAX)?;
                Self::Go { attempt: required("attempt", attempt)?, start_at_us }
            }
            Body::Abort(pb::Abort { attempt, reason }) => {
                Self::Abort { attempt: required("attempt", attempt)?, reason: Value::decode("reason", reason)? }
            }
            Body::Stored(pb::Stored { attempt }) => Self::Stored(required("attempt", attempt)?),
            Body::Dismiss(pb::Dismiss { reason }) => Self::Dismiss(Value::decode("reason", reason)?),
            Body::Ping(pb::Ping { sequence }) => Self::Ping { sequence },
            Body::Resend(resend) => Self::Resend(resend.try_into()?),
            Body::Survey(pb::Survey { number, addresses, sessions }) => {
                at_most("sessions", sessions, max::SESSIONS_MAX)?;
                at_most("addresses", addresses.len() as u64, max::URLS_MAX as u64)?;
                Self::Survey { number, addresses: Value::decode("addresses", addresses)?, sessions }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use std::time::Duration;

    use super::*;
    use crate::Silence;
    use crate::histograms::Bounds;
    use crate::ids::{AttemptId, PlanHash, RunId};
    use crate::message::Report;
    use crate::outcome::{FailureKind, Ledger, Outcome, Phase};
    use crate::record::{SessionRecord, Split, WireRecord};
    use crate::spec::{Assignment, Launch, Mode, Process, Script, Target};
    use crate::vitals::{Vitals, WireState};

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
                until_done: true,
                message_bytes_max: 1 << 20,
            },
            launch: Launch::Arrivals { over_us: 12, process: Process::Poisson },
            first_session: 10,
            sessions: 20,
            batch_size: 30,
            seed: 1,
            agent_index: 1,
            agent_count: 2,
            bounds: Bounds::STANDARD,
            kernel_timestamps: true,
            clock_step_us_max: 2_000,
            in_flight_max: 5,
        }
    }

    #[test]
    fn assignment_survives_the_wire() {
        let sent = FromCoordinator::Prepare(Box::new(assignment()));
        assert_eq!(FromCoordinator::try_from(pb::CoordinatorMessage::from(sent.clone())), Ok(sent));
    }

    #[test]
    fn a_share_outside_its_batch_is_refused() {
        let good = pb::Prepare::from(assignment());
        let bad = [
            pb::Prepare { first_session: 11, ..good.clone() },
            pb::Prepare { sessions: u64::MAX, ..good.clone() },
            pb::Prepare { agent_index: 2, ..good.clone() },
            pb::Prepare {
                bounds: Some(pb::Bounds { low_us: 1, high_us: u64::MAX, significant_digits: 5 }),
                ..good.clone()
            },
            pb::Prepare { plan_hash: vec![1], ..good.clone() },
            pb::Prepare { in_flight_max: 0, ..good.clone() },
            pb::Prepare { target: None, ..good },
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
            vitals: Box::new(Vitals { wire: WireState::Off, ..Vitals::default() }),
        };
        let refused = Report::try_from(pb::Report::from(report));
        assert_eq!(refused.map_err(|e| e.field), Err("ledger"));
    }

    fn optional_us() -> impl Strategy<Value = Option<u64>> {
        proptest::option::of(any::<u64>())
    }

    proptest! {
        #[test]
        fn records_survive_the_wire(
            outcome in 0_u8..5, us in proptest::collection::vec(optional_us(), 6), steps in proptest::collection::vec(any::<u64>(), 0..5),
            message in ".{0,40}", hash in proptest::option::of("[0-9a-f]{12}"), started in any::<u64>(), stamped in any::<bool>(),
        ) {
            let outcome = match outcome {
                0 => Outcome::Succeeded,
                1 => Outcome::Failed(FailureKind::Closed(1012), Phase::Step),
                2 => Outcome::TimedOut(Phase::Close),
                3 => Outcome::Lost,
                _ => Outcome::NeverStarted,
            };
            let splits = if stamped { steps.iter().map(|us| Split { wire_us: *us, lag_us: us / 2 }).collect() } else { Vec::new() };
            let reset_split = stamped.then_some(Split { wire_us: 1, lag_us: 2 });
            let lived = !matches!(outcome, Outcome::Lost | Outcome::NeverStarted);
            let record = SessionRecord {
                session: 5, outcome, error_message: message, intended_us: 9,
                started_us: lived.then_some(started), connect_us: us[0], reset_us: us[1], step_us: steps, close_us: us[2],
                total_us: lived.then_some(started), waited_us: us[3],
                asked_us: started, step_wait_us: started / 2, done: stamped, untidy: stamped.then_some(FailureKind::Closed(1001)), pid: us[4], session_hash: hash.clone(), host_url: hash,
                wire: WireRecord { reset: reset_split, steps: splits, own_delay_us: us[5], connect_own_us: us[4], handshake_rtt_us: us[0], syn_retransmits: None,
                    open_own_us: us[1], pings: 3, ping_late_us: us[2], silence: us[3].map(|us| Silence { us, own_us: 1 }) },
            };
            prop_assert_eq!(SessionRecord::try_from(pb::Record::from(record.clone())), Ok(record));
        }
    }
}
