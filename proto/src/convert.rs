//! Between messages of the network and the domain. Decoding validates: whatever gets through is in range.

mod basics;
mod orders;
mod reports;
mod vitals;

use uuid::Uuid;

use self::basics::{Checked, at_most, attempt, bytes, duration, invalid, mode, need, plan_hash, text, wire_mode};
pub use self::basics::{Invalid, micros};
use self::orders::{script, target};
use crate::ids::RunId;
use crate::limits as max;
use crate::message::{
    FromAgent, FromCoordinator, Heartbeat, Pong, Probe, ProbeResult, Progress, RecordChunk, Refused, RefusedWhy,
    Resend, Served, Welcome,
};
use crate::pb;

impl From<FromAgent> for pb::AgentMessage {
    fn from(message: FromAgent) -> Self {
        use pb::agent_message::Body;
        let body = match message {
            FromAgent::Hello(hello) => Body::Hello(hello.into()),
            FromAgent::Leaving(reason) => Body::Leaving(pb::Leaving { reason }),
            FromAgent::Probed(results) => Body::Probed(pb::Probed {
                results: results
                    .into_iter()
                    .map(|r| pb::ProbeResult {
                        url: r.url,
                        mode: wire_mode(r.mode),
                        ready: r.ready,
                        r#final: r.last_word,
                        problem: r.problem,
                        addresses: r.addresses,
                        served_by: r
                            .served_by
                            .into_iter()
                            .map(|one| pb::Served { host_url: one.host_url, pid: one.pid })
                            .collect(),
                        refused_connects: r.refused_connects,
                    })
                    .collect(),
            }),
            FromAgent::Armed(attempt) => Body::Armed(pb::Armed { attempt: Some(attempt.into()) }),
            FromAgent::Progress(p) => Body::Progress(pb::Progress {
                attempt: Some(p.attempt.into()),
                launched: p.launched,
                open: p.open,
                succeeded: p.succeeded,
                failed: p.failed,
            }),
            FromAgent::Report(report) => Body::Report(report.into()),
            FromAgent::Records(chunk) => Body::Records(pb::RecordChunk {
                attempt: Some(chunk.attempt.into()),
                sequence: chunk.sequence,
                records: chunk.records.into_iter().map(Into::into).collect(),
            }),
            FromAgent::Trouble { attempt, problem } => {
                Body::Trouble(pb::Trouble { attempt: Some(attempt.into()), problem })
            }
            FromAgent::Goodbye(reason) => Body::Goodbye(pb::Goodbye { reason }),
            FromAgent::Pong(Pong { sequence, agent_us }) => Body::Pong(pb::Pong { sequence, agent_us }),
            FromAgent::Surveyed { number, capacity } => {
                Body::Surveyed(pb::Surveyed { number, capacity: Some(capacity.into()) })
            }
        };
        Self { body: Some(body) }
    }
}

fn served_by(value: Vec<pb::Served>) -> Checked<Vec<Served>> {
    if value.len() > max::PROBE_SESSIONS_MAX as usize * max::URLS_MAX {
        return invalid("results.served_by", "more than there were sessions");
    }
    let one = |one: pb::Served| {
        let host_url = one.host_url.map(|host| text("results.served_by.host_url", host, max::TEXT_BYTES_MAX));
        Ok(Served { host_url: host_url.transpose()?, pid: one.pid })
    };
    value.into_iter().map(one).collect()
}

impl TryFrom<pb::AgentMessage> for FromAgent {
    type Error = Invalid;

    fn try_from(value: pb::AgentMessage) -> Checked<Self> {
        use pb::agent_message::Body;
        Ok(match need("body", value.body)? {
            Body::Hello(hello) => Self::Hello(hello.try_into()?),
            Body::Leaving(leaving) => Self::Leaving(text("reason", leaving.reason, max::TEXT_BYTES_MAX)?),
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
                        served_by: served_by(r.served_by)?,
                        refused_connects: r.refused_connects,
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
            Body::Pong(pong) => Self::Pong(Pong {
                sequence: pong.sequence,
                agent_us: at_most("agent_us", pong.agent_us, max::CLOCK_US_MAX)?,
            }),
            Body::Surveyed(surveyed) => {
                Self::Surveyed { number: surveyed.number, capacity: need("capacity", surveyed.capacity)?.try_into()? }
            }
        })
    }
}

impl From<Heartbeat> for pb::Heartbeat {
    fn from(beat: Heartbeat) -> Self {
        Self { instance: beat.instance.to_vec(), sequence: beat.sequence }
    }
}

impl TryFrom<pb::Heartbeat> for Heartbeat {
    type Error = Invalid;

    fn try_from(value: pb::Heartbeat) -> Checked<Self> {
        Ok(Self { instance: bytes("instance", &value.instance)?, sequence: value.sequence })
    }
}

impl From<FromCoordinator> for pb::CoordinatorMessage {
    fn from(message: FromCoordinator) -> Self {
        use pb::coordinator_message::Body;
        let body = match message {
            FromCoordinator::Welcome(w) => Body::Welcome(pb::Welcome {
                run: w.run.0.as_bytes().to_vec(),
                plan_hash: w.plan_hash.0.to_vec(),
                name: w.name,
                lease_us: micros(w.lease),
            }),
            FromCoordinator::Refused(refused) => Body::Refused(pb::Refused {
                why: match refused.why {
                    RefusedWhy::Version => pb::refused::Why::Version,
                    RefusedWhy::Plan => pb::refused::Why::Plan,
                    RefusedWhy::Full => pb::refused::Why::Full,
                    RefusedWhy::Malformed => pb::refused::Why::Malformed,
                }
                .into(),
                message: refused.message,
            }),
            FromCoordinator::Probe(probe) => Body::Probe(pb::Probe {
                plan_hash: probe.plan_hash.0.to_vec(),
                target: Some((&probe.target).into()),
                modes: probe.modes.into_iter().map(wire_mode).collect(),
                deadline_us: micros(probe.deadline),
                script: Some((&probe.script).into()),
                sessions: probe.sessions,
            }),
            FromCoordinator::Prepare(assignment) => Body::Prepare(assignment.as_ref().into()),
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
            FromCoordinator::Resend(r) => Body::Resend(pb::Resend {
                attempt: Some(r.attempt.into()),
                report: r.report,
                sequences: r.sequences,
                from: r.from,
            }),
        };
        Self { body: Some(body) }
    }
}

impl TryFrom<pb::CoordinatorMessage> for FromCoordinator {
    type Error = Invalid;

    fn try_from(value: pb::CoordinatorMessage) -> Checked<Self> {
        use pb::coordinator_message::Body;
        Ok(match need("body", value.body)? {
            Body::Welcome(w) => Self::Welcome(Welcome {
                run: RunId(Uuid::from_bytes(bytes("run", &w.run)?)),
                plan_hash: plan_hash(&w.plan_hash)?,
                name: text("name", w.name, max::TEXT_BYTES_MAX)?,
                lease: match duration("lease_us", w.lease_us)? {
                    lease if lease < max::LEASE_MIN => return invalid("lease_us", format!("{} us", w.lease_us)),
                    lease => lease,
                },
            }),
            Body::Refused(refused) => Self::Refused(Refused {
                why: match refused.why() {
                    pb::refused::Why::Version => RefusedWhy::Version,
                    pb::refused::Why::Plan => RefusedWhy::Plan,
                    pb::refused::Why::Full => RefusedWhy::Full,
                    pb::refused::Why::Malformed | pb::refused::Why::Unspecified => RefusedWhy::Malformed,
                },
                message: text("message", refused.message, max::TEXT_BYTES_MAX)?,
            }),
            Body::Probe(probe) => Self::Probe(Box::new(Probe {
                plan_hash: plan_hash(&probe.plan_hash)?,
                target: target(probe.target)?,
                modes: match probe.modes.len() {
                    1 | 2 => probe.modes.into_iter().map(mode).collect::<Checked<_>>()?,
                    n => return invalid("modes", format!("{n} of them")),
                },
                deadline: duration("deadline_us", probe.deadline_us)?,
                script: script(probe.script)?,
                sessions: match probe.sessions {
                    most @ 1..=max::PROBE_SESSIONS_MAX => most,
                    other => return invalid("sessions", format!("{other}, 1 to {}", max::PROBE_SESSIONS_MAX)),
                },
            })),
            Body::Prepare(prepare) => Self::Prepare(Box::new(prepare.try_into()?)),
            Body::Go(go) => Self::Go {
                attempt: attempt(go.attempt)?,
                start_at_us: at_most("start_at_us", go.start_at_us, max::CLOCK_US_MAX)?,
            },
            Body::Abort(abort) => Self::Abort {
                attempt: attempt(abort.attempt)?,
                reason: text("reason", abort.reason, max::TEXT_BYTES_MAX)?,
            },
            Body::Stored(stored) => Self::Stored(attempt(stored.attempt)?),
            Body::Dismiss(dismiss) => Self::Dismiss(text("reason", dismiss.reason, max::TEXT_BYTES_MAX)?),
            Body::Ping(ping) => Self::Ping { sequence: ping.sequence },
            Body::Resend(r) => {
                if r.sequences.len() > max::RESEND_MAX {
                    return invalid("sequences", format!("{} of them", r.sequences.len()));
                }
                let sequence = |n| at_most("sequences", n, max::CHUNKS_MAX);
                Self::Resend(Resend {
                    attempt: attempt(r.attempt)?,
                    report: r.report,
                    sequences: r.sequences.into_iter().map(sequence).collect::<Checked<_>>()?,
                    from: r.from.map(sequence).transpose()?,
                })
            }
            Body::Survey(survey) => {
                if survey.addresses.len() > max::URLS_MAX {
                    return invalid("addresses", format!("{} of them", survey.addresses.len()));
                }
                Self::Survey {
                    number: survey.number,
                    sessions: at_most("sessions", survey.sessions, max::SESSIONS_MAX)?,
                    addresses: survey
                        .addresses
                        .into_iter()
                        .map(|address| text("addresses", address, max::TEXT_BYTES_MAX))
                        .collect::<Checked<_>>()?,
                }
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
    use crate::ids::{AttemptId, PlanHash};
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
        let good = pb::Prepare::from(&assignment());
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
