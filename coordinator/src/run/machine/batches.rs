//! Selects the next batch, decides whether an attempt counts, and has it stored.

use std::time::Duration;

use proto::FromCoordinator;

use super::cursor::Cursor;
use super::phase::Phase;
use super::stop::StopReason;
use super::{Effect, Machine, Now};
use crate::plan::expand::Batch;
use crate::plan::{OnLoss, OnRestart};
use crate::results::attempt::FinishedAttempt;
use crate::results::cells::{Done, failing_sizes};
use crate::results::end::{End, Failure};
use crate::results::verdict::Outage;
use crate::run::collect::{Collected, Uploads};
use crate::run::events::{Place, RunEvent};
use crate::run::job::Job;
use crate::run::verdict::{Fate, Treated};

impl Machine {
    pub(super) fn next_batch(&mut self, now: Now) {
        if !self.stop.goes_on() {
            self.conclude();
            return;
        }
        if !self.warmed_up && !self.nothing_left() {
            let mode = self.setup.plan.target.mode.list()[0];
            let batch = self.setup.plan.warmup_batch(mode);
            self.tell(RunEvent::WarmupStarted);
            return self.begin_survey(now, batch, Duration::ZERO);
        }
        while let Some(batch) = self.batches.get(self.cursor.next).copied() {
            if self.setup.history.decided.contains_key(&batch.index) {
                self.advance();
                continue;
            }
            let after = self.setup.plan.grid.stop_after_failing;
            if after > 0 && failing_sizes(&self.setup.plan, &self.results, &batch) >= after {
                let why = format!("{after} smaller batch sizes failed (grid.stop_after_failing = {after})");
                self.skip(batch, why);
                continue;
            }
            return self.begin_survey(now, batch, Duration::ZERO);
        }
        self.conclude();
    }

    pub(super) fn place(&self) -> Place {
        let left = self.setup.plan.expected_us(self.batches.get(self.cursor.next..).unwrap_or_default());
        Place { number: self.cursor.next + 1, of: self.batches.len(), left: Duration::from_micros(left) }
    }

    fn advance(&mut self) {
        self.cursor = Cursor::at(self.cursor.next + 1, &self.batches, &self.setup.history);
    }

    pub(super) fn skip(&mut self, batch: Batch, why: String) {
        self.tell(RunEvent::BatchSkipped { batch, why: why.clone() });
        self.decide(Done::Skipped { batch, why });
        self.advance();
    }

    /// Ends the attempt once every share is settled.
    pub(super) fn complete_attempt(&mut self, now: Now) {
        if !self.phase.attempt().is_some_and(|attempt| attempt.shares.iter().all(|(_, share)| share.is_settled())) {
            return;
        }
        let Some(attempt) = self.phase.take_attempt() else { return };
        for (key, share) in &attempt.shares {
            if share.is_complete() {
                self.send(*key, FromCoordinator::Stored(attempt.id));
            }
        }
        let agent_lost = attempt.has_lost_an_agent();
        if Self::is_warmup(&attempt.batch) {
            return self.warmup_done(now, agent_lost);
        }
        let repeat = agent_lost && self.setup.plan.agents.on_loss != OnLoss::Keep;
        let refused = attempt.given_up.or_else(|| repeat.then(|| "an agent was lost".to_owned()));
        let uploads = Uploads {
            plan: self.setup.plan.clone(),
            batch: attempt.batch,
            id: attempt.id,
            urls: self.setup.urls.clone(),
            started: attempt.started,
            shares: attempt.shares.into_iter().map(|(_, share)| share).collect(),
        };
        self.enter(Phase::Collecting { refused, agent_lost });
        self.effects.push(Effect::Compute(Job::Collect(Box::new(uploads))));
    }

    /// Discards the results of a warm-up. A warm-up that lost an agent is repeated, like a batch.
    fn warmup_done(&mut self, now: Now, agent_lost: bool) {
        self.cursor.attempt += u32::from(agent_lost);
        let given_up = self.cursor.attempt > self.setup.plan.agents.max_attempts;
        if given_up || (!agent_lost && self.stop.goes_on()) {
            self.warmed_up = true;
            self.cursor = Cursor::at(self.cursor.next, &self.batches, &self.setup.history);
        }
        self.next_batch(now);
    }

    pub(super) fn on_collected(&mut self, now: Now, collected: Box<Collected>) {
        let Phase::Collecting { refused, agent_lost } = &mut self.phase else { return };
        let (refused, agent_lost) = (refused.take(), *agent_lost);
        if refused.is_none() && self.is_target_suspect(&collected) {
            if self.stop.is_interrupted() {
                return self.give_up(collected, "interrupted");
            }
            return self.recheck(now, collected);
        }
        let fate = Fate { given_up: refused.clone().filter(|_| !agent_lost), ..Fate::default() };
        self.judge(collected, refused, fate);
    }

    /// Applies `target.on_restart` to an attempt during which the server went away.
    pub(super) fn judge_with_outage(&mut self, collected: Box<Collected>, outage: Outage) {
        self.cursor.outages += 1;
        let attempts = self.cursor.attempts();
        let why = outage.evidence.first().cloned().unwrap_or_default();
        let (treated, refused) = match self.setup.plan.target.on_restart {
            OnRestart::Keep => (Treated::Kept, None),
            // Attempts that ended for other reasons do not show that the batch makes the server go away.
            OnRestart::Repeat if attempts == self.setup.plan.agents.max_attempts && self.cursor.outages == attempts => {
                (Treated::EveryTime { attempts }, None)
            }
            OnRestart::Repeat => (Treated::Refused, Some(why)),
            OnRestart::Abort => {
                self.stop.escalate(StopReason::Aborted);
                (Treated::Refused, Some(why))
            }
        };
        self.judge(collected, refused, Fate { outage: Some((outage, treated)), ..Fate::default() });
    }

    /// Starts the job that makes the verdict. `refused` is the reason if the attempt does not count.
    pub(super) fn judge(&mut self, collected: Box<Collected>, refused: Option<String>, fate: Fate) {
        self.enter(Phase::Judging { refused, given_up: fate.given_up.is_some() });
        let plan = self.setup.plan.clone();
        self.effects.push(Effect::Compute(Job::Judge { collected, plan, fate }));
    }

    /// Records the decision about an attempt and has the attempt stored.
    pub(super) fn on_judged(&mut self, mut finished: Box<FinishedAttempt>) {
        let Phase::Judging { refused, given_up } = &mut self.phase else { return };
        let (refused, given_up) = (refused.take(), *given_up);
        let batch = finished.summary.batch;
        // The next survey finds out whether the remaining agents can carry the batch.
        let again = self.may_repeat();
        if let Some(why) = &refused {
            finished.summary.accepted = false;
            // After a loss or a restart, the verdict's first reason is more precise.
            let said = finished.summary.verdict.reasons.first().filter(|_| !given_up);
            let why = said.unwrap_or(why).clone();
            let attempt = finished.id.attempt;
            finished.summary.refused_before = self.cursor.refused.clone();
            self.cursor.refused.push(format!("attempt {attempt}: {why}"));
            self.tell(RunEvent::AttemptRefused { batch, attempt, why, again });
        } else {
            finished.summary.refused_before = std::mem::take(&mut self.cursor.refused);
        }
        // If no attempt was accepted, the tables show the last one. If the run ends before it, the batch stays open.
        finished.stands = refused.is_none() || (!again && self.stop.goes_on());
        if finished.stands {
            self.decide(Done::Ran(Box::new(finished.summary.clone())));
        }
        self.enter(Phase::Storing { refused: refused.is_some(), again });
        self.effects.push(Effect::Store(finished));
    }

    /// Whether another attempt is allowed. Attempts of earlier processes do not count.
    fn may_repeat(&self) -> bool {
        self.stop.goes_on() && self.cursor.attempts() < self.setup.plan.agents.max_attempts
    }

    pub(super) fn on_stored(&mut self, now: Now, result: Result<(), String>) {
        let Phase::Storing { refused, again } = self.phase else { return };
        if let Err(problem) = result {
            self.over(End::failed(Failure::Store(problem)));
            return;
        }
        if self.stop.failure().is_some() || (refused && !self.stop.goes_on()) {
            self.conclude();
            return;
        }
        if refused && again && self.may_repeat() {
            self.cursor.attempt += 1;
        } else {
            let batch = self.batches.get(self.cursor.next).copied();
            let decided = self.results.iter().find(|done| batch.is_some_and(|batch| done.batch().index == batch.index));
            if let Some(Done::Ran(summary)) = decided {
                let summary = summary.clone();
                self.tell(RunEvent::BatchStored { summary });
            }
            self.advance();
        }
        let last = self.cursor.next >= self.batches.len();
        let pause = if last || !self.stop.goes_on() { 0 } else { self.setup.plan.grid.cooldown_us };
        self.enter(Phase::Cooling { until: now.mono + Duration::from_micros(pause) });
        // A full tick would check leases, but unread heartbeats may be waiting.
        self.on_deadline(now);
    }

    /// Inserts a result in the order of the grid. Results of earlier processes may have gaps.
    fn decide(&mut self, done: Done) {
        let at = self.results.partition_point(|known| known.batch().index <= done.batch().index);
        self.results.insert(at, done);
    }

    /// Ends the run: all batches are decided, or the run stops early.
    pub(super) fn conclude(&mut self) {
        let end = self
            .stop
            .failure()
            .unwrap_or_else(|| End::of_run(&self.results, self.stop.is_interrupted(), self.stop.is_aborted()));
        self.over(end);
    }
}
