//! Checks whether the target still answers and whether it was restarted. The check follows a batch that missed the
//! success criterion without an explicit rejection by the server, and a batch whose sessions were cut together.
//!
//! A target that is gone refuses connections as fast as one that is full, and a restart cuts all open sessions. Neither
//! measures capacity. The target has as much time to answer as before the first batch. If it does not answer, the batch
//! stays open and the run ends; `--resume` begins with that batch.

use proto::FromCoordinator;
use proto::limits::PROBE_SESSIONS_MAX;
use proto::message::{Probe, ProbeResult};

use super::phase::{Phase, TargetCheck};
use super::preflight::{PROBE_SLACK, has_spoken, not_ready};
use super::round::Round;
use super::stop::StopReason;
use super::{Effect, Machine, Now};
use crate::net::ConnectionId;
use crate::results::verdict::Outage;
use crate::run::collect::Collected;
use crate::run::events::RunEvent;
use crate::run::job::Job;
use crate::run::outage::After;
use crate::run::verdict::Fate;
use crate::text::count;

/// Minimum number of check sessions per address. A server with more processes gets more, so that most are checked.
const SESSIONS_MIN: usize = 8;
const SESSIONS_A_PROCESS: usize = 4;

impl Machine {
    /// Whether an outage of the target may have caused the result. Failed sessions are no sign of an outage if the mode
    /// never worked or the server rejected sessions explicitly. Sessions that were cut together always are.
    pub(super) fn is_target_suspect(&self, collected: &Collected) -> bool {
        let (batch, ledger) = (&collected.attempt.summary.batch, &collected.attempt.summary.ledger);
        let silent = !self.setup.plan.enough_succeeded(ledger.succeeded, ledger.planned)
            && self.worked.contains(&batch.mode)
            && !collected.server_answered;
        silent || collected.cut_together
    }

    pub(super) fn recheck(&mut self, now: Now, collected: Box<Collected>) {
        let asked = self.ready_agents();
        if asked.is_empty() {
            return self.seek_outage(collected, After::default());
        }
        let wanted = (SESSIONS_A_PROCESS * collected.processes).max(SESSIONS_MIN).div_ceil(asked.len());
        let sessions = u32::try_from(wanted).unwrap_or(u32::MAX).clamp(2, PROBE_SESSIONS_MAX);
        let probe = Probe { modes: vec![collected.attempt.summary.batch.mode], sessions, ..self.readiness_check() };
        for key in &asked {
            self.send(*key, FromCoordinator::Probe(Box::new(probe.clone())));
        }
        let round = Round::of(asked, now.mono + probe.deadline + PROBE_SLACK);
        self.enter(Phase::Rechecking(TargetCheck { collected, round, after: After::default() }));
    }

    /// Reports the first agent that gets no answer from the target.
    fn tell_target_silent(&mut self, problem: String) {
        let Phase::Rechecking(check) = &mut self.phase else { return };
        if check.after.told.is_empty() {
            check.after.told.push(problem.clone());
            self.tell(RunEvent::Note(format!(
                "sessions were cut, or failed without an answer of the server, and the target does not answer: {problem}"
            )));
        }
    }

    pub(super) fn judge_recheck(&mut self) {
        if let Phase::Rechecking(check) = &self.phase
            && check.round.is_complete(|found| has_spoken(found))
        {
            self.end_recheck();
        }
    }

    /// Evaluates the check after the last answer or at the deadline.
    pub(super) fn end_recheck(&mut self) {
        let Some(TargetCheck { collected, round, mut after }) = self.phase.take_check() else { return };
        let mut faults = Vec::new();
        for key in round.asked() {
            let found = round.answer_of(key).map_or(&[][..], Vec::as_slice);
            after.add(&self.setup.urls, found);
            faults.extend(not_ready(&self.setup.urls, self.name_of(key), found).0);
        }
        if faults.is_empty() {
            return self.seek_outage(collected, after);
        }
        let ledger = &collected.attempt.summary.ledger;
        let text = format!(
            "the target is not there any more, after a batch of which {} of {} sessions succeeded; the batch is left open:\n  {}",
            count(ledger.succeeded),
            count(ledger.planned),
            faults.join("\n  ")
        );
        self.stop.escalate(StopReason::TargetGone(text));
        self.give_up(collected, &format!("the target was not there any more after it: {}", faults.join("; ")));
    }

    fn seek_outage(&mut self, collected: Box<Collected>, after: After) {
        self.enter(Phase::SeekingOutage);
        self.effects.push(Effect::Compute(Job::SeekOutage { collected, urls: self.setup.urls.len(), after }));
    }

    /// Continues with the verdict. `outage` is the outage that the session records show, if any.
    pub(super) fn on_outage_sought(&mut self, collected: Box<Collected>, outage: Option<Outage>, after: After) {
        if !matches!(self.phase, Phase::SeekingOutage) {
            return;
        }
        match outage {
            Some(outage) => self.judge_with_outage(collected, outage),
            None => self.judge(collected, None, Fate { afterwards: after.told, ..Fate::default() }),
        }
    }

    pub(super) fn give_up(&mut self, collected: Box<Collected>, why: &str) {
        let fate = Fate { given_up: Some(why.to_owned()), ..Fate::default() };
        self.judge(collected, Some(why.to_owned()), fate);
    }

    /// Leaves the batch open, because an interrupted check gives no answer.
    pub(super) fn recheck_interrupted(&mut self) {
        if let Some(check) = self.phase.take_check() {
            self.give_up(check.collected, "interrupted");
        }
    }

    pub(super) fn on_rechecked(&mut self, key: ConnectionId, found: Vec<ProbeResult>) {
        let problem = self.still_waiting(key, &found);
        if let Phase::Rechecking(check) = &mut self.phase
            && check.round.answer(key, found)
        {
            match problem {
                Some(problem) => self.tell_target_silent(problem),
                None => self.judge_recheck(),
            }
        }
    }
}
