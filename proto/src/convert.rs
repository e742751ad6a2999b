//! Converts between messages of the network and the domain, and validates what comes from the network: whatever gets
//! through is in range.
//!
//! Every message has one list of fields, in `orders` (from the coordinator) or `reports` (from an agent).

mod invalid;
mod orders;
mod reports;
mod value;

pub use self::invalid::Invalid;
use self::invalid::{Checked, need};
use self::value::{Value, at_most};
use crate::limits as max;
use crate::message::{FromAgent, FromCoordinator};
use crate::pb;
use crate::spec::Mode;

/// Converts between the two forms of a stream's messages. `whole` variants hold a type that has a message of its own.
/// The others are given with their fields: in brackets those that are messages themselves, then all others. `check`
/// sees the converted value.
macro_rules! bodies {
    ($domain:ident = $message:ident in $module:ident {
        whole { $($whole:ident),+ }
        fields { $($variant:ident $shape:tt = $([$inner:ident])? $($field:ident),*;)+ }
        check $check:expr
    }) => {
        impl From<$domain> for pb::$message {
            fn from(message: $domain) -> Self {
                use pb::$module::Body;
                Self {
                    body: Some(match message {
                        $($domain::$whole(value) => Body::$whole(Value::encode(value)),)+
                        $($domain::$variant $shape => Body::$variant(pb::$variant {
                            $($inner: Some(Value::encode($inner)),)?
                            $($field: Value::encode($field),)*
                        }),)+
                    }),
                }
            }
        }

        impl TryFrom<pb::$message> for $domain {
            type Error = Invalid;

            fn try_from(message: pb::$message) -> Checked<Self> {
                use pb::$module::Body;
                let value = match need("body", message.body)? {
                    $(Body::$whole(value) => Self::$whole(Value::decode(stringify!($whole), value)?),)+
                    $(Body::$variant(pb::$variant { $($inner,)? $($field,)* }) => {
                        $(let $inner = Value::decode(stringify!($inner), need(stringify!($inner), $inner)?)?;)?
                        $(let $field = Value::decode(stringify!($field), $field)?;)*
                        Self::$variant $shape
                    })+
                };
                let check: fn(&Self) -> Checked<()> = $check;
                check(&value)?;
                Ok(value)
            }
        }
    };
}

bodies!(FromAgent = AgentMessage in agent_message {
    whole { Hello, Progress, Report, Records, Pong }
    fields {
        Leaving(reason) = reason;
        Probed(results) = results;
        Armed(attempt) = [attempt];
        Trouble { attempt, problem } = [attempt] problem;
        Goodbye(reason) = reason;
        Surveyed { number, capacity } = [capacity] number;
    }
    check |message| match message {
        FromAgent::Probed(results) => {
            at_most("results", results.len() as u64, (Mode::ALL.len() * max::URLS_MAX) as u64)
        }
        _ => Ok(()),
    }
});

bodies!(FromCoordinator = CoordinatorMessage in coordinator_message {
    whole { Welcome, Refused, Probe, Prepare, Resend }
    fields {
        Go { attempt, start_at_us } = [attempt] start_at_us;
        Abort { attempt, reason } = [attempt] reason;
        Stored(attempt) = [attempt];
        Dismiss(reason) = reason;
        Ping { sequence } = sequence;
        Survey { number, addresses, sessions } = number, addresses, sessions;
    }
    check |message| match message {
        FromCoordinator::Go { start_at_us, .. } => at_most("start_at_us", *start_at_us, max::CLOCK_US_MAX),
        FromCoordinator::Survey { addresses, sessions, .. } => {
            at_most("sessions", *sessions, max::SESSIONS_MAX)?;
            at_most("addresses", addresses.len() as u64, max::URLS_MAX as u64)
        }
        _ => Ok(()),
    }
});

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
    use crate::spec::{Assignment, Launch, Process, Script, Target};
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
