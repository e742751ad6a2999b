//! After a batch that missed the success criterion without one word of the server's, or whose sessions were cut together: is the
//! target still there, and is it the same? One that is gone refuses everything, as fast as one that is full, and one that was
//! restarted has cut what it held: neither is a measurement of it.
//!
//! As before the first batch, the target has its time to answer again. A batch after which it does not is left open: the run ends,
//! and `--resume` begins with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::limits::PROBE_SESSIONS_MAX;
use proto::message::{Probe, ProbeResult};
use proto::{AttemptId, FromCoordinator, Outcome};

use super::readiness::judge;
use super::{Machine, Now, PROBE_SLACK, Phase};
use crate::net::ConnectionId;
use crate::results::attempt::FinishedAttempt;
use crate::results::attempt::Row;
use crate::results::end::{End, Failure};
use crate::run::events::RunEvent;
use crate::run::outage::{self, After};
use crate::run::verdict::Fate;
use crate::text::count;

/// A batch that waits for what the agents find.
#[derive(Debug)]
pub(super) struct TargetCheck {
    finished: Box<FinishedAttempt>,
    asked: BTreeSet<ConnectionId>,
    results: BTreeMap<ConnectionId, Vec<ProbeResult>>,
    after: After,
    pub(super) deadline: Duration,
}

/// To each address: several meet several workers of one server, and many meet many.
const SESSIONS_MIN: usize = 8;
const SESSIONS_A_PROCESS: usize = 4;

impl Machine {
    /// Whether the batch may say more of whether the target was there than of what it holds. A mode that never worked is no sign,
    /// and a server that says no is there.
    pub(super) fn is_suspect(&self, finished: &FinishedAttempt) -> bool {
        let (batch, ledger) = (&finished.summary.batch, &finished.summary.ledger);
        let answered = |row: &Row| matches!(&row.record.outcome, Outcome::Failed(kind, _) if kind.is_answer());
        let silent = !self.setup.plan.enough_succeeded(ledger.succeeded, ledger.planned)
            && self.worked.contains(&batch.mode)
            && !finished.rows.iter().any(answered);
        batch.index != AttemptId::WARMUP && (silent || outage::is_suspect(&finished.rows, self.setup.urls.len()))
    }

    pub(super) fn recheck(&mut self, now: Now, finished: FinishedAttempt) {
        let asked: BTreeSet<ConnectionId> =
            self.agents.iter().filter(|(_, agent)| agent.ready && !agent.leaving).map(|(key, _)| *key).collect();
        if asked.is_empty() {
            return self.rejudged(finished, &After::default());
        }
        let wanted = (SESSIONS_A_PROCESS * outage::processes(&finished.rows)).max(SESSIONS_MIN).div_ceil(asked.len());
        let sessions = u32::try_from(wanted).unwrap_or(u32::MAX).clamp(2, PROBE_SESSIONS_MAX);
        let probe = Probe { modes: vec![finished.summary.batch.mode], sessions, ..self.readiness_check() };
        for key in &asked {
            self.send(*key, FromCoordinator::Probe(Box::new(probe.clone())));
        }
        let deadline = now.mono + probe.deadline + PROBE_SLACK;
        let finished = Box::new(finished);
        let after = After::default();
        self.phase = Phase::Rechecking(TargetCheck { finished, asked, results: BTreeMap::new(), after, deadline });
    }

    /// An answer to it; what is none is given back.
    pub(super) fn rechecked(&mut self, key: ConnectionId, found: Vec<ProbeResult>) -> Option<Vec<ProbeResult>> {
        let Phase::Rechecking(suspect) = &mut self.phase else { return Some(found) };
        if !suspect.asked.contains(&key) {
            return Some(found);
        }
        let waiting = found.iter().find(|result| !result.ready && !result.last_word);
        let name = self.agents.get(&key).map_or("", |agent| agent.name.as_str());
        let problem = waiting.map(|result| format!("{} from {name}: {}", result.url, result.problem));
        suspect.results.insert(key, found);
        match problem {
            Some(problem) => {
                if suspect.after.told.is_empty() {
                    suspect.after.told.push(problem.clone());
                    self.tell(RunEvent::Note(format!(
                        "sessions were cut, or failed without a word of the server, and the target does not answer: {problem}"
                    )));
                }
            }
            None => self.maybe_rechecked(),
        }
        None
    }

    /// An agent that can't answer any more is not waited for.
    pub(super) fn recheck_without(&mut self, key: ConnectionId) {
        if let Phase::Rechecking(suspect) = &mut self.phase {
            suspect.asked.remove(&key);
            suspect.results.remove(&key);
            self.maybe_rechecked();
        }
    }

    fn maybe_rechecked(&mut self) {
        let Phase::Rechecking(suspect) = &self.phase else { return };
        let known = |key: &ConnectionId| {
            suspect.results.get(key).is_some_and(|found| found.iter().all(|result| result.last_word))
        };
        if suspect.asked.iter().all(known) {
            self.recheck_judged();
        }
    }

    /// Everyone has had the last word, or the time is over.
    pub(super) fn recheck_judged(&mut self) {
        let Some(TargetCheck { finished, asked, results, mut after, .. }) = self.take_suspect() else { return };
        let mut faults = Vec::new();
        for key in &asked {
            after.add(&self.setup.urls, results.get(key).map_or(&[][..], Vec::as_slice));
            let name = self.agents.get(key).map_or("", |agent| agent.name.as_str());
            faults.extend(judge(&self.setup.urls, name, results.get(key).map_or(&[][..], Vec::as_slice)).0);
        }
        if faults.is_empty() {
            return self.rejudged(*finished, &after);
        }
        let text = format!(
            "the target is not there any more, after a batch of which {} of {} sessions succeeded; the batch is left open:\n  {}",
            count(finished.summary.ledger.succeeded),
            count(finished.summary.ledger.planned),
            faults.join("\n  ")
        );
        self.ending = Some(End::failed(Failure::TargetNotReady(text)));
        let why = format!("the target was not there any more after it: {}", faults.join("; "));
        self.give_up(*finished, &why);
    }

    /// The target is there.
    fn rejudged(&mut self, finished: FinishedAttempt, after: &After) {
        match outage::judge(&finished.rows, self.setup.urls.len(), after) {
            Some(outage) => self.keep_outage(finished, outage),
            None => self.keep(finished, None, &Fate { afterwards: after.told.clone(), ..Fate::default() }),
        }
    }

    fn give_up(&mut self, finished: FinishedAttempt, why: &str) {
        let fate = Fate { given_up: Some(why.to_owned()), ..Fate::default() };
        self.keep(finished, fate.given_up.clone(), &fate);
    }

    /// Nobody will know any more: the batch is left open.
    pub(super) fn recheck_interrupted(&mut self) {
        if let Some(suspect) = self.take_suspect() {
            self.give_up(*suspect.finished, "interrupted");
        }
    }

    fn take_suspect(&mut self) -> Option<TargetCheck> {
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Rechecking(suspect) => Some(suspect),
            other => {
                self.phase = other;
                None
            }
        }
    }

    /// What was waited for is on disk: the run may have to end.
    pub(super) fn ends_here(&mut self) -> bool {
        match self.ending.take() {
            Some(end) => {
                self.over(end);
                true
            }
            None => false,
        }
    }
}
