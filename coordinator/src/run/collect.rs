//! PURE: checks the uploads of an attempt and merges them.
//!
//! Reports stay encoded and records stay apart until every agent has uploaded or was lost; then they are decoded and
//! added one by one. So nothing has to be subtracted if an agent is lost late.

use std::sync::Arc;

use jiff::Timestamp;
use proto::{AttemptId, Bounds, HistogramSet, Ledger, Outcome, SessionRecord};

use super::clock::{Started, start_skew_us};
use super::outage;
use super::upload::{Share, ShareProgress};
use crate::plan::Plan;
use crate::plan::expand::Batch;
use crate::results::agent::AgentResult;
use crate::results::attempt::FinishedAttempt;
use crate::results::batch::{Context, Summary};
use crate::results::row::Row;

/// The uploads of an attempt that expects no more of them.
#[derive(Debug)]
pub struct Uploads {
    pub plan: Arc<Plan>,
    pub batch: Batch,
    pub id: AttemptId,
    pub urls: Vec<String>,
    /// The coordinator's wall clock at the start.
    pub started: Timestamp,
    pub shares: Vec<Share>,
}

/// A merged attempt without a verdict, and what its rows show about the target.
#[derive(Debug)]
pub struct Collected {
    /// The attempt; its verdict is not made yet.
    pub attempt: FinishedAttempt,
    /// Whether the server rejected a session explicitly.
    pub server_answered: bool,
    /// Whether sessions were cut together, as by a restart.
    pub cut_together: bool,
    /// Number of server processes named in answers.
    pub processes: usize,
}

/// The decoded share of one agent.
struct Opened {
    rows: Vec<Row>,
    histograms: Option<HistogramSet>,
    result: AgentResult,
}

/// Decodes a share; errors in it are added to `faults`.
fn open(share: Share, batch: &Batch, bounds: Bounds, faults: &mut Vec<String>) -> Opened {
    let agent = share.agent.clone();
    let (lost, leaving, never) = match share.progress {
        ShareProgress::Lost(why) | ShareProgress::Rejected(why) => (Some(why), None, None),
        ShareProgress::Leaving(why) => (None, Some(why), None),
        ShareProgress::NeverStarted(why) => (None, None, Some(why)),
        ShareProgress::Open | ShareProgress::Away { .. } => (None, None, None),
    };
    let mut result = AgentResult {
        name: agent.to_string(),
        sessions: share.sessions,
        ledger: Ledger::planned(share.sessions),
        at_once: Some(share.in_flight_max),
        clock_error_us: share.clock.map(|offset| offset.error_us),
        lost: lost.clone().or(leaving),
        ..AgentResult::default()
    };
    let row = |record| Row { agent: agent.clone(), record };
    let absent = |outcome: Outcome, why: &str| -> Vec<Row> {
        (share.first..share.first + share.sessions)
            .map(|session| row(SessionRecord::without_life(session, outcome.clone(), why.to_owned())))
            .collect()
    };
    if let Some(why) = &lost {
        result.ledger.lost = share.sessions;
        let rows = absent(Outcome::Lost, &format!("agent {agent} {why}"));
        return Opened { rows, histograms: None, result };
    }
    let Some(report) = share.report else {
        result.ledger.never_started = share.sessions;
        let why = never.as_deref().unwrap_or("the attempt was given up");
        return Opened { rows: absent(Outcome::NeverStarted, why), histograms: None, result };
    };
    let mut rows: Vec<Row> = share.chunks.into_values().flatten().map(row).collect();
    rows.sort_by_key(|row| row.record.session);
    let mut counted = Ledger::planned(share.sessions);
    for row in &rows {
        counted.count(&row.record.outcome);
    }
    let expected = share.first..share.first + share.sessions;
    if !rows.iter().map(|row| row.record.session).eq(expected.clone()) {
        faults.push(format!(
            "agent {agent} sent {} records that are not exactly sessions {}..{} of {}",
            rows.len(),
            expected.start,
            expected.end,
            batch.batch_size
        ));
        // Every planned session keeps exactly one row, whatever an agent sends.
        result.ledger.lost = share.sessions;
        let why = format!("agent {agent} sent records that are not those of its sessions");
        return Opened { rows: absent(Outcome::Lost, &why), histograms: None, result };
    }
    if counted != report.ledger {
        faults.push(format!("agent {agent}: its ledger ({}) is not that of its records ({counted})", report.ledger));
    }
    result.ledger = report.ledger;
    result.start_offset_us = Some(report.start_offset_us);
    result.measured(&rows, *report.vitals);
    let histograms = HistogramSet::decode(bounds, &report.histograms);
    let histograms = histograms.map_err(|error| faults.push(format!("agent {agent}: {error}"))).ok();
    Opened { rows, histograms, result }
}

/// Merges the shares of an attempt.
#[must_use]
pub fn collect(uploads: Uploads) -> Collected {
    let Uploads { plan, batch, id, urls, started, shares } = uploads;
    let mut faults = Vec::new();
    let mut rows = Vec::with_capacity(usize::try_from(batch.batch_size).unwrap_or(0));
    let bounds = plan.bounds();
    let mut histograms = HistogramSet::new(bounds);
    let mut agents = Vec::with_capacity(shares.len());
    let mut lost = Vec::new();
    for share in shares {
        let opened = open(share, &batch, bounds, &mut faults);
        rows.extend(opened.rows);
        if let Some(set) = opened.histograms
            && let Err(error) = histograms.merge(&set)
        {
            faults.push(format!("agent {}: {error}", opened.result.name));
        }
        if let Some(why) = &opened.result.lost {
            lost.push(format!("{} was lost: {why}", opened.result.name));
        }
        agents.push(opened.result);
    }
    rows.sort_by_key(|row| row.record.session);

    // The merged histograms must equal those of all records, bucket by bucket.
    let mut derived = HistogramSet::new(bounds);
    for row in &rows {
        derived.record(&row.record);
    }
    if derived.encode() != histograms.encode() {
        faults.push("the merged histograms are not those of the records".to_owned());
    }

    let context = Context {
        batch,
        url: &urls.join(" "),
        hardware: &plan.experiment.hardware,
        timestamp: started,
        asked_wait_us: u64::from(plan.session.steps).saturating_mul(batch.wait_us),
        agents: agents.iter().filter(|agent| agent.sessions > 0).count() as u64,
        attempt: id.attempt,
    };
    let mut summary = Summary::of(&context, &rows, &histograms);
    summary.by_agent = agents;
    summary.start_skew_us = start_skew(&summary.by_agent);
    let rejects = |row: &Row| matches!(&row.record.outcome, Outcome::Failed(kind, _) if kind.is_answer());
    Collected {
        server_answered: rows.iter().any(rejects),
        cut_together: outage::is_suspect(&rows, urls.len()),
        processes: outage::processes(&rows),
        attempt: FinishedAttempt { id, summary, rows, histograms, stands: true, faults, lost },
    }
}

/// The bound of the start skew; `None` unless the achieved start of every agent with sessions is known.
fn start_skew(agents: &[AgentResult]) -> Option<u64> {
    let started: Option<Vec<Started>> = agents
        .iter()
        .filter(|agent| agent.sessions > 0)
        .map(|agent| {
            let (offset_us, clock_error_us) = (agent.start_offset_us?, agent.clock_error_us?);
            Some(Started { offset_us, clock_error_us })
        })
        .collect();
    started.map(|started| start_skew_us(&started))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proto::{Metric, Mode, RunId};

    use proto::message::{RecordChunk, Report};

    use super::*;
    use crate::plan::check::plan_of;
    use crate::results::verdict::Validity;
    use crate::run::job::judged;
    use crate::run::verdict::Fate;

    const SIZE: u64 = 20;

    fn plan() -> Plan {
        plan_of("[target]\nurls=\"http://h\"\n[grid]\nbatch_sizes=[20]\n").expect("plan")
    }

    fn id() -> AttemptId {
        AttemptId { run: RunId(uuid::Uuid::nil()), batch: 0, attempt: 1 }
    }

    fn record(session: u64) -> SessionRecord {
        let mut record = SessionRecord::without_life(session, Outcome::Succeeded, String::new());
        record.started_us = Some(session);
        record.connect_us = Some(10);
        record.reset_us = Some(10);
        record.total_us = Some(1_000_000 + session);
        record
    }

    fn report(records: &[SessionRecord], chunks: u64) -> Report {
        let mut histograms = HistogramSet::new(Bounds::STANDARD);
        let mut ledger = Ledger::planned(records.len() as u64);
        for record in records {
            histograms.record(record);
            ledger.count(&record.outcome);
        }
        let vitals = Box::default();
        Report { attempt: id(), ledger, start_offset_us: 7, chunks, histograms: histograms.encode(), vitals }
    }

    fn chunk(sequence: u64, records: &[SessionRecord]) -> RecordChunk {
        RecordChunk { attempt: id(), sequence, records: records.to_vec() }
    }

    fn finished(parts: Vec<Share>) -> FinishedAttempt {
        let batch = Batch { index: 0, mode: Mode::Ws, batch_size: SIZE, wait_us: 1_000_000, repetition: 1 };
        let (plan, urls) = (Arc::new(plan()), vec!["http://h".to_owned()]);
        let uploads =
            Uploads { plan: plan.clone(), batch, id: id(), urls, started: Timestamp::UNIX_EPOCH, shares: parts };
        judged(collect(uploads), &plan, &Fate::default())
    }

    /// Two complete shares with ten sessions each.
    fn parts() -> Vec<Share> {
        (0..2)
            .map(|n| {
                let records: Vec<_> = (n * 10..n * 10 + 10).map(record).collect();
                let mut part = Share::new(&format!("a{n}"), n * 10, 10);
                part.take_report(report(&records, 2));
                part.take_chunk(chunk(0, &records[..4]));
                part.take_chunk(chunk(1, &records[4..]));
                part
            })
            .collect()
    }

    #[test]
    fn whole_parts_make_a_valid_batch() {
        let finished = finished(parts());
        assert_eq!(finished.summary.verdict.validity, Validity::Valid, "{:?}", finished.summary.verdict);
        assert_eq!(finished.summary.ledger.succeeded, SIZE);
        assert!(finished.rows.iter().map(|row| row.record.session).eq(0..SIZE));
        assert_eq!(finished.histograms.get(Metric::Total).len(), SIZE);
        assert_eq!(finished.summary.open_max, SIZE);
    }

    #[test]
    fn a_lost_agent_leaves_a_row_for_each_of_its_sessions() {
        let mut parts = parts();
        parts[1] = Share::new("a1", 10, 10);
        parts[1].lose("was silent for 10 s");
        let finished = finished(parts);
        assert_eq!(finished.summary.ledger.lost, 10);
        assert!(finished.summary.ledger.balances());
        assert_eq!(finished.summary.verdict.validity, Validity::Degraded);
        assert_eq!(finished.summary.verdict.reasons, ["agent a1 was lost: was silent for 10 s"]);
        assert_eq!(finished.rows.len(), 20);
    }

    #[test]
    fn an_agent_that_reported_before_it_left_is_not_lost() {
        let mut parts = parts();
        parts[1].lose("left");
        assert_eq!(finished(parts).summary.verdict.validity, Validity::Valid);
    }

    #[test]
    fn an_agent_that_floods_is_not_believed_and_holds_no_memory() {
        let mut part = Share::new("a0", 0, 10);
        let records: Vec<_> = (0..8).map(record).collect();
        for sequence in 0..1_000 {
            part.take_chunk(chunk(sequence, &records));
        }
        assert!(part.is_lost() && part.chunks.is_empty());
        let mut empty = Share::new("a0", 0, 10);
        empty.take_chunk(chunk(0, &[]));
        assert!(empty.is_lost());
        let mut beyond = Share::new("a0", 0, 10);
        beyond.take_report(report(&records, 1));
        beyond.take_chunk(chunk(1, &records));
        assert!(beyond.is_lost() && !beyond.is_complete());
    }

    type Spoil = fn(&mut Vec<Share>);

    #[test]
    fn whatever_does_not_add_up_is_never_valid() {
        let spoils: [(&str, Spoil); 4] = [
            ("a session twice", |parts| {
                let doubled: Vec<_> = [0, 1, 2, 3, 4, 5, 6, 7, 8, 8].map(record).to_vec();
                let mut part = Share::new("a0", 0, 10);
                part.take_report(report(&doubled, 1));
                part.take_chunk(chunk(0, &doubled));
                parts[0] = part;
            }),
            ("histograms of other records", |parts| {
                let records: Vec<_> = (0..10).map(record).collect();
                let mut other = records.clone();
                other[3].total_us = Some(9_000_000);
                let mut part = Share::new("a0", 0, 10);
                part.take_report(report(&other, 1));
                part.take_chunk(chunk(0, &records));
                parts[0] = part;
            }),
            ("a missing histogram", |parts| {
                if let Some(report) = &mut parts[0].report {
                    report.histograms.pop();
                }
            }),
            ("an agent that is not there at all", |parts| {
                parts.pop();
            }),
        ];
        for (what, spoil) in spoils {
            let mut parts = parts();
            spoil(&mut parts);
            let verdict = finished(parts).summary.verdict;
            assert_eq!(verdict.validity, Validity::Invalid, "{what}: {verdict:?}");
            assert!(!verdict.reasons.is_empty());
        }
    }

    proptest! {
        /// Repeated and reordered uploads give the same result; a share is complete only once everything is there.
        #[test]
        fn uploads_may_come_in_any_order_and_more_than_once(order in proptest::collection::vec(0_usize..6, 0..30)) {
            let records: Vec<_> = (0..10).map(record).collect();
            let mut part = Share::new("a0", 0, 10);
            let mut seen = [false; 6];
            for step in order.iter().copied().chain(0..6) {
                let all = seen.iter().all(|s| *s);
                prop_assert_eq!(part.is_complete(), all);
                seen[step] = true;
                if step == 5 {
                    part.take_report(report(&records, 5));
                } else {
                    part.take_chunk(chunk(step as u64, &records[step * 2..step * 2 + 2]));
                }
            }
            prop_assert!(part.is_complete());
            let second = parts().remove(1);
            prop_assert_eq!(finished(vec![part, second]).rows, finished(parts()).rows);
        }
    }
}
