//! After a batch that missed the success criterion without one word of the server's: is the target still there? One that is gone
//! refuses everything, as fast as one that is full, and what it refuses is no measurement of it.
//!
//! As before the first batch, the target has its time to answer again. A batch after which it does not is left open: the run ends,
//! and `--resume` begins with it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::message::{Probe, ProbeResult};
use proto::{AttemptId, FromCoordinator, Outcome};

use super::readiness::judge;
use super::{Key, Machine, Now, PROBE_SLACK, Phase};
use crate::exit::{End, Failure};
use crate::report::facts::Row;
use crate::report::format::count;
use crate::run::collect::Finished;
use crate::run::events::RunEvent;

/// A batch that waits for what the agents find.
#[derive(Debug)]
pub(super) struct Suspect {
    finished: Box<Finished>,
    asked: BTreeSet<Key>,
    results: BTreeMap<Key, Vec<ProbeResult>>,
    told: bool,
    pub(super) deadline: Duration,
}

impl Machine {
    /// Whether the batch may say more of whether the target was there than of what it holds. A mode that never worked is no sign,
    /// and a server that says no is there.
    pub(super) fn is_suspect(&self, finished: &Finished) -> bool {
        let (batch, ledger) = (&finished.summary.batch, &finished.summary.ledger);
        let answered = |row: &Row| matches!(&row.record.outcome, Outcome::Failed(kind, _) if kind.is_answer());
        batch.index != AttemptId::WARMUP
            && !self.setup.plan.enough_succeeded(ledger.succeeded, ledger.planned)
            && self.worked.contains(&batch.mode)
            && !finished.rows.iter().any(answered)
    }

    pub(super) fn recheck(&mut self, now: Now, finished: Finished) {
        let asked: BTreeSet<Key> =
            self.agents.iter().filter(|(_, agent)| agent.ready && !agent.leaving).map(|(key, _)| *key).collect();
        if asked.is_empty() {
            return self.keep(finished, None, false);
        }
        let probe = Probe { modes: vec![finished.summary.batch.mode], ..self.readiness_check() };
        for key in &asked {
            self.send(*key, FromCoordinator::Probe(probe.clone()));
        }
        let deadline = now.mono + probe.deadline + PROBE_SLACK;
        let finished = Box::new(finished);
        self.phase = Phase::Rechecking(Suspect { finished, asked, results: BTreeMap::new(), told: false, deadline });
    }

    /// An answer to it; what is none is given back.
    pub(super) fn rechecked(&mut self, key: Key, found: Vec<ProbeResult>) -> Option<Vec<ProbeResult>> {
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
                if !std::mem::replace(&mut suspect.told, true) {
                    let time = self.setup.plan.target.ready_timeout_us / 1_000_000;
                    self.tell(RunEvent::Note(format!(
                        "too little succeeded, and the target does not answer ({problem}); it has {time} s \
                         (target.ready_timeout_seconds) to show that it is still there"
                    )));
                }
            }
            None => self.maybe_rechecked(),
        }
        None
    }

    /// An agent that can't answer any more is not waited for.
    pub(super) fn recheck_without(&mut self, key: Key) {
        if let Phase::Rechecking(suspect) = &mut self.phase {
            suspect.asked.remove(&key);
            suspect.results.remove(&key);
            self.maybe_rechecked();
        }
    }

    fn maybe_rechecked(&mut self) {
        let Phase::Rechecking(suspect) = &self.phase else { return };
        let known =
            |key: &Key| suspect.results.get(key).is_some_and(|found| found.iter().all(|result| result.last_word));
        if suspect.asked.iter().all(known) {
            self.recheck_judged();
        }
    }

    /// Everyone has had the last word, or the time is over.
    pub(super) fn recheck_judged(&mut self) {
        let Some(Suspect { finished, asked, results, .. }) = self.take_suspect() else { return };
        let mut faults = Vec::new();
        for key in &asked {
            let name = self.agents.get(key).map_or("", |agent| agent.name.as_str());
            faults.extend(judge(&self.setup.urls, name, results.get(key).map_or(&[][..], Vec::as_slice)).0);
        }
        if faults.is_empty() {
            return self.keep(*finished, None, false);
        }
        let text = format!(
            "the target is not there any more, after a batch of which {} of {} sessions succeeded; the batch is left open:\n  {}",
            count(finished.summary.ledger.succeeded),
            count(finished.summary.ledger.planned),
            faults.join("\n  ")
        );
        self.ending = Some(End::failed(Failure::TargetNotReady(text)));
        self.keep(*finished, Some("the target was not there any more after it".to_owned()), false);
    }

    /// Nobody will know any more: the batch is left open.
    pub(super) fn recheck_interrupted(&mut self) {
        if let Some(suspect) = self.take_suspect() {
            self.keep(*suspect.finished, Some("interrupted".to_owned()), false);
        }
    }

    fn take_suspect(&mut self) -> Option<Suspect> {
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
