//! Is the target still there, and is it the same? Asked after a batch that missed the success criterion without one explicit
//! answer of the server, or whose sessions were cut together.
//!
//! A target that is gone refuses everything as fast as one that is full, and one that was restarted has cut what it held.
//! Neither is a measurement. As before the first batch, the target has its time to answer again. A batch after which it does
//! not answer is left open: the run ends, and `--resume` begins with that batch.

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

/// Sessions to each address: several meet several workers of one server, and many meet many.
const SESSIONS_MIN: usize = 8;
const SESSIONS_A_PROCESS: usize = 4;

impl Machine {
    /// Whether the batch may say more about whether the target was there than about what it holds. A mode that never worked is
    /// no sign, and a server that rejects sessions explicitly is there.
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

    /// The first agent that the target does not answer is told of.
    fn tell_target_silent(&mut self, problem: String) {
        let Phase::Rechecking(check) = &mut self.phase else { return };
        if check.after.told.is_empty() {
            check.after.told.push(problem.clone());
            self.tell(RunEvent::Note(format!(
                "sessions were cut, or failed without a word of the server, and the target does not answer: {problem}"
            )));
        }
    }

    /// Goes on if every agent has given its last answer.
    pub(super) fn judge_recheck(&mut self) {
        if let Phase::Rechecking(check) = &self.phase
            && check.round.is_complete(|found| has_spoken(found))
        {
            self.end_recheck();
        }
    }

    /// Every agent has given its last answer, or the time is over.
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

    /// The target is there, and this is what its sessions tell about an outage.
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

    /// Nobody will know any more: the batch is left open.
    pub(super) fn recheck_interrupted(&mut self) {
        if let Some(check) = self.phase.take_check() {
            self.give_up(check.collected, "interrupted");
        }
    }

    /// An answer to the check.
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
