//! PURE: what comes back of one attempt, checked and put together.
//!
//! Reports wait encoded and records undisturbed until the set of agents is complete; then they are decoded and added
//! one by one. An agent that dies late leaves nothing to subtract.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use proto::limits::RESEND_MAX;
use proto::message::{RecordChunk, Report, Resend};
use proto::{AttemptId, Bounds, HistogramSet, Ledger, Outcome, SessionRecord};

use super::clock::{Offset, Started, start_skew_us};
use super::verdict::{self, Evidence, Fate};
use crate::plan::Plan;
use crate::plan::expand::Batch;
use crate::results::agent::AgentResult;
use crate::results::attempt::FinishedAttempt;
use crate::results::attempt::Row;
use crate::results::batch::{Context, Summary};

/// One agent's share of an attempt, and what has arrived of it.
#[derive(Debug, Clone)]
pub struct Part {
    pub agent: Arc<str>,
    pub first: u64,
    pub sessions: u64,
    at_once: u64,
    report: Option<Report>,
    chunks: BTreeMap<u64, Vec<SessionRecord>>,
    /// How well its start is known.
    clock: Option<Offset>,
    /// Why it will not come.
    lost: Option<String>,
    /// What it sent can't be.
    liar: bool,
    /// The attempt was given up before this agent was let go.
    never: Option<String>,
    /// It was told to end and has cut its sessions; what it has of them is on its way.
    leaving: Option<String>,
    /// Its connection broke in the middle of its upload: how long it may take to come back.
    pub away_until: Option<Duration>,
    /// When something new came last, or was asked for; and how long to wait from there.
    news: Duration,
    patience: Duration,
}

impl Part {
    #[must_use]
    pub fn new(agent: &str, first: u64, sessions: u64) -> Self {
        Self {
            agent: Arc::from(agent),
            first,
            sessions,
            at_once: sessions,
            report: None,
            chunks: BTreeMap::new(),
            clock: None,
            lost: None,
            liar: false,
            never: None,
            leaving: None,
            away_until: None,
            news: Duration::ZERO,
            patience: Duration::ZERO,
        }
    }

    /// It may have this many of its sessions open at one time.
    #[must_use]
    pub fn at_once(self, at_once: u64) -> Self {
        Self { at_once, ..self }
    }

    /// How many of its sessions may have to follow each other in one place.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.sessions.div_ceil(self.at_once.max(1)).max(1)
    }

    /// It was told to start by this knowledge of its clock.
    pub fn clock_is(&mut self, offset: Offset) {
        self.clock = Some(offset);
    }

    /// Whether anything of its results is there: its sessions are over.
    #[must_use]
    pub fn uploading(&self) -> bool {
        !self.settled() && (self.report.is_some() || !self.chunks.is_empty())
    }

    /// Something came just now; when nothing new does for `patience`, it is asked for.
    pub fn heard(&mut self, now: Duration, patience: Duration) {
        (self.news, self.patience) = (now, patience);
    }

    /// When to ask for what has not come.
    #[must_use]
    pub fn ask_at(&self) -> Option<Duration> {
        (self.uploading() && self.away_until.is_none()).then_some(self.news + self.patience)
    }

    /// Asked for at `now`. Again after twice the time: on a slow line asking only adds to what is under way.
    pub fn asked(&mut self, now: Duration) {
        (self.news, self.patience) = (now, self.patience * 2);
    }

    /// The last piece is there, and others are not.
    #[must_use]
    pub fn has_gap(&self) -> bool {
        let last = self.chunks.last_key_value().map(|(last, _)| last + 1);
        !self.settled() && self.report.as_ref().is_some_and(|report| last == Some(report.chunks))
    }

    /// What has not arrived yet.
    #[must_use]
    pub fn missing(&self, attempt: AttemptId) -> Resend {
        let beyond = self.chunks.last_key_value().map_or(0, |(last, _)| last + 1);
        let until = self.report.as_ref().map_or(beyond, |report| report.chunks);
        let sequences = (0..until).filter(|n| !self.chunks.contains_key(n)).take(RESEND_MAX).collect();
        let from = self.report.is_none().then_some(beyond);
        Resend { attempt, report: self.report.is_none(), sequences, from }
    }

    /// It was told to end. Its sessions were cut, so the attempt is none; what it has of them may still come.
    pub fn leaves(&mut self, why: &str) {
        if !self.settled() {
            self.leaving = Some(why.to_owned());
        }
    }

    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// A second report changes nothing.
    pub fn take_report(&mut self, report: Report) {
        if self.chunks.last_key_value().is_some_and(|(last, _)| *last >= report.chunks) {
            self.disbelieve("sent more chunks than its report tells of");
        }
        if self.lost.is_none() {
            self.report.get_or_insert(report);
        }
    }

    fn disbelieve(&mut self, why: &str) {
        self.chunks.clear();
        self.report = None;
        self.away_until = None;
        self.liar = true;
        self.lost = Some(why.to_owned());
    }

    /// A chunk that is there already changes nothing; the order does not matter. An agent that sends more records than
    /// it has sessions is not believed, and its records are not kept.
    pub fn take_chunk(&mut self, chunk: RecordChunk) {
        let held: usize = self.chunks.values().map(Vec::len).sum();
        if self.lost.is_some() || self.chunks.contains_key(&chunk.sequence) {
            return;
        }
        if (held + chunk.records.len()) as u64 > self.sessions {
            self.disbelieve(&format!("sent more records than its {} sessions", self.sessions));
        } else if chunk.records.is_empty() || self.report.as_ref().is_some_and(|r| chunk.sequence >= r.chunks) {
            self.disbelieve("sent an empty chunk, or more than its report tells of");
        } else {
            self.chunks.insert(chunk.sequence, chunk.records);
        }
    }

    pub fn lose(&mut self, why: &str) {
        self.away_until = None;
        if !self.complete() {
            self.lost = Some(why.to_owned());
        }
    }

    pub fn never_start(&mut self, why: &str) {
        if !self.complete() && self.lost.is_none() {
            self.never = Some(why.to_owned());
        }
    }

    /// The attempt is none for want of it, whether or not its results came.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.lost.is_some() || self.leaving.is_some()
    }

    /// Report and every chunk are there.
    #[must_use]
    pub fn complete(&self) -> bool {
        self.report.as_ref().is_some_and(|report| report.chunks == self.chunks.len() as u64)
    }

    /// What was wrong with what it sent, if that is why it is lost.
    #[must_use]
    pub fn disbelieved(&self) -> Option<&str> {
        self.lost.as_deref().filter(|_| self.liar)
    }

    /// Nothing more is expected of it.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.complete() || self.lost.is_some() || self.never.is_some()
    }

    /// This agent's rows and histograms, and what is wrong with them.
    fn open(
        self,
        batch: &Batch,
        bounds: Bounds,
        faults: &mut Vec<String>,
    ) -> (Vec<Row>, Option<HistogramSet>, AgentResult) {
        let agent = self.agent.clone();
        let mut result = AgentResult {
            name: agent.to_string(),
            sessions: self.sessions,
            ledger: Ledger::planned(self.sessions),
            at_once: Some(self.at_once),
            start_offset_us: None,
            clock_error_us: self.clock.map(|offset| offset.error_us),
            launch_lag_p99_us: None,
            own_delay_p99_us: None,
            timer_overshoot: None,
            vitals: None,
            pings: None,
            lost: self.lost.clone().or_else(|| self.leaving.clone()),
        };
        let row = |record| Row { agent: agent.clone(), record };
        let absent = |outcome: Outcome, why: &str| -> Vec<Row> {
            (self.first..self.first + self.sessions)
                .map(|session| row(SessionRecord::without_life(session, outcome.clone(), why.to_owned())))
                .collect()
        };
        if let Some(why) = &self.lost {
            result.ledger.lost = self.sessions;
            return (absent(Outcome::Lost, &format!("agent {agent} {why}")), None, result);
        }
        let Some(report) = self.report else {
            result.ledger.never_started = self.sessions;
            let why = self.never.as_deref().unwrap_or("the attempt was given up");
            return (absent(Outcome::NeverStarted, why), None, result);
        };
        let mut rows: Vec<Row> = self.chunks.into_values().flatten().map(row).collect();
        rows.sort_by_key(|row| row.record.session);
        let mut counted = Ledger::planned(self.sessions);
        for row in &rows {
            counted.count(&row.record.outcome);
        }
        let expected = self.first..self.first + self.sessions;
        if !rows.iter().map(|row| row.record.session).eq(expected.clone()) {
            faults.push(format!(
                "agent {agent} sent {} records that are not exactly sessions {}..{} of {}",
                rows.len(),
                expected.start,
                expected.end,
                batch.batch_size
            ));
            // Every planned session keeps exactly one row, whatever a peer sends.
            result.ledger.lost = self.sessions;
            let why = format!("agent {agent} sent records that are not those of its sessions");
            return (absent(Outcome::Lost, &why), None, result);
        }
        if counted != report.ledger {
            faults
                .push(format!("agent {agent}: its ledger ({}) is not that of its records ({counted})", report.ledger));
        }
        result.ledger = report.ledger;
        result.start_offset_us = Some(report.start_offset_us);
        result.measured(&rows, *report.vitals);
        let histograms = HistogramSet::decode(bounds, &report.histograms);
        let histograms = histograms.map_err(|error| faults.push(format!("agent {agent}: {error}"))).ok();
        (rows, histograms, result)
    }
}

/// Puts the parts of an attempt together. `started` is the coordinator's wall clock at the start instant.
#[must_use]
pub fn finish(
    plan: &Plan,
    batch: Batch,
    id: AttemptId,
    url: &str,
    started: Timestamp,
    parts: Vec<Part>,
) -> FinishedAttempt {
    let mut faults = Vec::new();
    let mut rows = Vec::with_capacity(usize::try_from(batch.batch_size).unwrap_or(0));
    let bounds = plan.bounds();
    let mut histograms = HistogramSet::new(bounds);
    let mut agents = Vec::with_capacity(parts.len());
    let mut lost = Vec::new();
    for part in parts {
        let (part_rows, part_histograms, result) = part.open(&batch, bounds, &mut faults);
        rows.extend(part_rows);
        if let Some(set) = part_histograms
            && let Err(error) = histograms.merge(&set)
        {
            faults.push(format!("agent {}: {error}", result.name));
        }
        if let Some(why) = &result.lost {
            lost.push(format!("{} was lost: {why}", result.name));
        }
        agents.push(result);
    }
    rows.sort_by_key(|row| row.record.session);

    // The merge must be the histogram of all records, bucket by bucket.
    let mut derived = HistogramSet::new(bounds);
    for row in &rows {
        derived.record(&row.record);
    }
    if derived.encode() != histograms.encode() {
        faults.push("the merged histograms are not those of the records".to_owned());
    }

    let context = Context {
        batch,
        url,
        hardware: &plan.experiment.hardware,
        timestamp: started,
        asked_wait_us: u64::from(plan.session.steps).saturating_mul(batch.wait_us),
        agents: agents.iter().filter(|agent| agent.sessions > 0).count() as u64,
        attempt: id.attempt,
    };
    let mut summary = Summary::of(&context, &rows, &histograms);
    summary.by_agent = agents;
    summary.start_skew_us = start_skew(&summary.by_agent);
    let mut finished = FinishedAttempt { id, summary, rows, histograms, stands: true, faults, lost };
    judge(&mut finished, plan, &Fate::default());
    finished
}

/// Makes the verdict of an attempt, from all that is known of it.
pub fn judge(finished: &mut FinishedAttempt, plan: &Plan, fate: &Fate) {
    let FinishedAttempt { summary, rows, faults, lost, .. } = finished;
    let verdict = verdict::judge(&Evidence { plan, summary, rows, faults, lost, fate });
    summary.verdict = verdict;
}

/// `None` unless the achieved start of every agent that had sessions is known.
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

    use super::*;
    use crate::plan::check::plan_of;
    use crate::results::verdict::Validity;

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

    fn finished(parts: Vec<Part>) -> FinishedAttempt {
        let batch = Batch { index: 0, mode: Mode::Ws, batch_size: SIZE, wait_us: 1_000_000, repetition: 1 };
        finish(&plan(), batch, id(), "http://h", Timestamp::UNIX_EPOCH, parts)
    }

    /// Two agents with ten sessions each.
    fn parts() -> Vec<Part> {
        (0..2)
            .map(|n| {
                let records: Vec<_> = (n * 10..n * 10 + 10).map(record).collect();
                let mut part = Part::new(&format!("a{n}"), n * 10, 10);
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
        parts[1] = Part::new("a1", 10, 10);
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
        let mut part = Part::new("a0", 0, 10);
        let records: Vec<_> = (0..8).map(record).collect();
        for sequence in 0..1_000 {
            part.take_chunk(chunk(sequence, &records));
        }
        assert!(part.is_lost() && part.chunks.is_empty());
        let mut empty = Part::new("a0", 0, 10);
        empty.take_chunk(chunk(0, &[]));
        assert!(empty.is_lost());
        let mut beyond = Part::new("a0", 0, 10);
        beyond.take_report(report(&records, 1));
        beyond.take_chunk(chunk(1, &records));
        assert!(beyond.is_lost() && !beyond.complete());
    }

    type Spoil = fn(&mut Vec<Part>);

    #[test]
    fn whatever_does_not_add_up_is_never_valid() {
        let spoils: [(&str, Spoil); 4] = [
            ("a session twice", |parts| {
                let doubled: Vec<_> = [0, 1, 2, 3, 4, 5, 6, 7, 8, 8].map(record).to_vec();
                let mut part = Part::new("a0", 0, 10);
                part.take_report(report(&doubled, 1));
                part.take_chunk(chunk(0, &doubled));
                parts[0] = part;
            }),
            ("histograms of other records", |parts| {
                let records: Vec<_> = (0..10).map(record).collect();
                let mut other = records.clone();
                other[3].total_us = Some(9_000_000);
                let mut part = Part::new("a0", 0, 10);
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
        /// Doubled and reordered uploads give the same result; nothing is complete before everything is there.
        #[test]
        fn uploads_may_come_in_any_order_and_more_than_once(order in proptest::collection::vec(0_usize..6, 0..30)) {
            let records: Vec<_> = (0..10).map(record).collect();
            let mut part = Part::new("a0", 0, 10);
            let mut seen = [false; 6];
            for step in order.iter().copied().chain(0..6) {
                let all = seen.iter().all(|s| *s);
                prop_assert_eq!(part.complete(), all);
                seen[step] = true;
                if step == 5 {
                    part.take_report(report(&records, 5));
                } else {
                    part.take_chunk(chunk(step as u64, &records[step * 2..step * 2 + 2]));
                }
            }
            prop_assert!(part.complete());
            let second = parts().remove(1);
            prop_assert_eq!(finished(vec![part, second]).rows, finished(parts()).rows);
        }
    }
}
