//! One batch after the other: prepare, go, collect, store.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::{Assignment, AttemptId, FromCoordinator, Launch};

use super::{
    ARM_TIMEOUT, CUT_TIMEOUT, Current, Effect, Key, LET_GO_MAX, Machine, Now, Phase, START_AFTER,
    START_AFTER_ROUND_TRIPS, UPLOAD_TIMEOUT, UPLOAD_TIMEOUT_PER_SESSION,
};
use crate::exit::{End, Failure};
use crate::plan::expand::Batch;
use crate::plan::{OnLoss, OnRestart};
use crate::report::cells::{Done, failing_sizes};
use crate::report::facts::Outage;
use crate::run::clock::Offset;
use crate::run::collect::{Finished, Part, finish};
use crate::run::events::{Place, RunEvent};
use crate::run::share::Share;
use crate::run::verdict::{Fate, Treated};

impl Machine {
    pub(super) fn next_batch(&mut self, now: Now) {
        if self.interrupted || self.aborted {
            self.conclude();
            return;
        }
        if !self.warmed_up && !self.nothing_left() {
            let mode = self.setup.plan.target.mode.list()[0];
            let batch = self.setup.plan.warmup_batch(mode);
            self.tell(RunEvent::WarmupStarted);
            return self.survey(now, batch, Duration::ZERO);
        }
        while let Some(batch) = self.batches.get(self.next).copied() {
            if self.setup.history.decided.contains_key(&batch.index) {
                self.begin_next();
                continue;
            }
            let after = self.setup.plan.grid.stop_after_failing;
            if after > 0 && failing_sizes(&self.setup.plan, &self.results, &batch) >= after {
                let why = format!("{after} smaller batch sizes failed (grid.stop_after_failing = {after})");
                self.skip(batch, why);
                continue;
            }
            return self.survey(now, batch, Duration::ZERO);
        }
        self.conclude();
    }

    pub(super) fn place(&self) -> Place {
        let left = self.setup.plan.expected_us(self.batches.get(self.next..).unwrap_or_default());
        Place { number: self.next + 1, of: self.batches.len(), left: Duration::from_micros(left) }
    }

    pub(super) fn prepare(&mut self, now: Now, batch: Batch) {
        let shares = match self.shares(&batch) {
            Ok(shares) => shares,
            Err(short) => return self.over(End::failed(Failure::TooFewAgents(short))),
        };
        let id = AttemptId { run: self.setup.run, batch: batch.index, attempt: self.attempt };
        let with_share: Vec<(Key, Share)> = shares.into_iter().filter(|(_, share)| share.sessions > 0).collect();
        let agent_count = u32::try_from(with_share.len()).unwrap_or(u32::MAX);
        let mut parts = Vec::new();
        let mut first = 0;
        for (agent_index, (key, share)) in (0..).zip(with_share) {
            let sessions = share.sessions;
            let plan = &self.setup.plan;
            let assignment = Assignment {
                attempt: id,
                plan_hash: self.plan_hash,
                target: self.target(),
                mode: batch.mode,
                script: plan.script(batch.wait_us),
                // Whether the target is warm does not take a minute of arrivals.
                launch: if Self::is_warmup(&batch) { Launch::Burst } else { plan.session.launch },
                first_session: first,
                sessions,
                batch_size: batch.batch_size,
                seed: plan.session.seed,
                agent_index,
                agent_count,
                bounds: plan.bounds(),
                kernel_timestamps: plan.measure.wire,
                clock_step_us_max: plan.measure.max_clock_error_us,
                in_flight_max: share.at_once,
            };
            let name = self.agents.get(&key).map_or("", |agent| agent.name.as_str());
            parts.push((key, Part::new(name, first, sessions).at_once(share.at_once)));
            first += sessions;
            self.send(key, FromCoordinator::Prepare(Box::new(assignment)));
        }
        self.phase = Phase::Preparing(Current {
            batch,
            id,
            parts,
            armed: Vec::new(),
            syncing: false,
            started: now.wall,
            deadline: Some(now.mono + ARM_TIMEOUT),
            cut: None,
            counts: BTreeMap::new(),
        });
    }

    pub(super) fn maybe_go(&mut self, now: Now) {
        let Phase::Preparing(current) = &self.phase else { return };
        if current.cut.is_some() || current.armed.len() < current.parts.len() {
            return;
        }
        if !current.syncing {
            self.compare_clocks(now);
        } else if current.parts.iter().all(|(key, _)| self.compared(*key)) {
            self.go(now);
        }
    }

    /// Everyone's clock is known, as well as it will be.
    pub(super) fn go(&mut self, now: Now) {
        let Phase::Preparing(mut current) = std::mem::replace(&mut self.phase, Phase::Over) else { return };
        let offsets: Vec<Option<Offset>> = current.parts.iter().map(|(key, _)| self.offset(*key)).collect();
        let round_trip_us = offsets.iter().flatten().map(|offset| offset.round_trip_us).max().unwrap_or(0);
        let start_after = START_AFTER + Duration::from_micros(round_trip_us) * START_AFTER_ROUND_TRIPS;
        current.started = now.wall.checked_add(start_after).unwrap_or(now.wall);
        let turns = current.parts.iter().map(|(_, part)| part.turns()).max().unwrap_or(1);
        current.deadline = Some(now.mono + start_after + self.longest(&current.batch, turns));
        for ((key, part), offset) in current.parts.iter_mut().zip(offsets) {
            let Some(offset) = offset else { continue };
            part.clock_is(offset.at(now.mono + start_after));
            let go = FromCoordinator::Go { attempt: current.id, start_at_us: offset.agent_us(now.mono + start_after) };
            self.effects.push(Effect::Send(*key, go));
        }
        let batch = current.batch;
        if batch.index != AttemptId::WARMUP {
            let place = self.place();
            let expected = Duration::from_micros(self.setup.plan.batch_floor_us(&batch));
            self.tell(RunEvent::BatchStarted { place, batch, attempt: self.attempt, expected });
        }
        self.phase = Phase::Running(current);
    }

    /// After this, whoever has not reported will not: launch, every time limit of a session, and the upload.
    /// `turns`: how many sessions may have to follow each other in one place.
    pub(super) fn longest(&self, batch: &Batch, turns: u64) -> Duration {
        let script = self.setup.plan.script(batch.wait_us);
        let step = script.think.saturating_add(script.wait).saturating_add(script.step_timeout);
        let session = script
            .connect_timeout
            .saturating_add(script.reset_timeout)
            .saturating_add(step.saturating_mul(script.steps))
            .saturating_add(script.close_timeout);
        let session = script.total_timeout.map_or(session, |total| total.min(session));
        // A place is free when the other side has let go of its connection.
        let session = session.saturating_add(LET_GO_MAX).saturating_mul(u32::try_from(turns).unwrap_or(u32::MAX));
        let launch = Duration::from_micros(self.setup.plan.session.launch.over_us());
        let upload = UPLOAD_TIMEOUT_PER_SESSION.saturating_mul(u32::try_from(batch.batch_size).unwrap_or(u32::MAX));
        [launch, session, UPLOAD_TIMEOUT, upload].into_iter().fold(Duration::ZERO, Duration::saturating_add)
    }

    /// Gives the attempt up: whoever has begun reports what there is, whoever has not is let go.
    pub(super) fn cut(&mut self, now: Now, why: &str) {
        let running = matches!(self.phase, Phase::Running(_));
        let (Phase::Preparing(current) | Phase::Running(current)) = &mut self.phase else { return };
        if current.cut.is_some() {
            return;
        }
        current.cut = Some(why.to_owned());
        current.deadline = Some(now.mono + CUT_TIMEOUT);
        let abort = FromCoordinator::Abort { attempt: current.id, reason: why.to_owned() };
        for (key, part) in &mut current.parts {
            if part.settled() {
                continue;
            }
            self.effects.push(Effect::Send(*key, abort.clone()));
            if !running {
                part.never_start(why);
            }
        }
    }

    pub(super) fn maybe_complete(&mut self, now: Now) {
        let (Phase::Preparing(current) | Phase::Running(current)) = &self.phase else { return };
        if !current.parts.iter().all(|(_, part)| part.settled()) {
            return;
        }
        let (Phase::Preparing(current) | Phase::Running(current)) = std::mem::replace(&mut self.phase, Phase::Over)
        else {
            return;
        };
        for (key, part) in &current.parts {
            if part.complete() {
                self.send(*key, FromCoordinator::Stored(current.id));
            }
        }
        let lost = current.parts.iter().any(|(_, part)| part.is_lost());
        if current.batch.index == AttemptId::WARMUP {
            if !lost && !self.interrupted {
                self.warmed_up = true;
            }
            self.attempt += u32::from(lost);
            if self.attempt > self.setup.plan.agents.max_attempts || self.warmed_up {
                self.warmed_up = true;
                self.attempt = self.first_attempt();
            }
            self.next_batch(now);
            return;
        }
        let repeat = lost && self.setup.plan.agents.on_loss != OnLoss::Keep;
        let parts = current.parts.into_iter().map(|(_, part)| part).collect();
        let url = self.setup.urls.join(" ");
        let finished = finish(&self.setup.plan, current.batch, current.id, &url, current.started, parts);
        let refused = current.cut.or_else(|| repeat.then(|| "an agent was lost".to_owned()));
        if refused.is_none() && self.is_suspect(&finished) {
            return self.recheck(now, finished);
        }
        let fate = Fate { given_up: refused.clone().filter(|_| !lost), ..Fate::default() };
        self.keep(finished, refused, &fate);
    }

    /// The server went away under the attempt.
    pub(super) fn keep_outage(&mut self, finished: Finished, outage: Outage) {
        self.outages += 1;
        let attempts = self.attempts_here();
        let why = outage.evidence.first().cloned().unwrap_or_default();
        let (treated, refused) = match self.setup.plan.target.on_restart {
            OnRestart::Keep => (Treated::Kept, None),
            // Others of them ended for other reasons: then nothing is known of what the batch does to the server.
            OnRestart::Repeat if attempts == self.setup.plan.agents.max_attempts && self.outages == attempts => {
                (Treated::EveryTime { attempts }, None)
            }
            OnRestart::Repeat => (Treated::Refused, Some(why)),
            OnRestart::Abort => {
                self.aborted = true;
                (Treated::Refused, Some(why))
            }
        };
        self.keep(finished, refused, &Fate { outage: Some((outage, treated)), ..Fate::default() });
    }

    /// Has an attempt written down; `refused` says why it does not count.
    pub(super) fn keep(&mut self, mut finished: Finished, refused: Option<String>, fate: &Fate) {
        let batch = finished.summary.batch;
        finished.judge(&self.setup.plan, fate);
        // Whether those who are left can carry it is found out then.
        let again = self.may_repeat() && self.ending.is_none();
        if let Some(why) = &refused {
            finished.summary.accepted = false;
            // Of a loss, or a restart, the verdict's first reason says more.
            let said = finished.summary.verdict.reasons.first().filter(|_| fate.given_up.is_none());
            let why = said.unwrap_or(why).clone();
            let attempt = finished.id.attempt;
            finished.summary.refused_before = self.refused.clone();
            self.refused.push(format!("attempt {attempt}: {why}"));
            self.tell(RunEvent::AttemptRefused { batch, attempt, why, again });
        } else {
            finished.summary.refused_before = std::mem::take(&mut self.refused);
        }
        // The last attempt stands in the tables with its verdict, when none was accepted. Of a run that ends before that the
        // batch stays open.
        let ends = self.interrupted || self.aborted || self.ending.is_some();
        finished.stands = refused.is_none() || (!again && !ends);
        if finished.stands {
            self.decide(Done::Ran(Box::new(finished.summary.clone())));
        }
        self.phase = Phase::Storing { refused: refused.is_some(), again };
        self.effects.push(Effect::Store(Box::new(finished)));
    }

    /// Attempts at this batch in this life of the run, the present one among them.
    fn attempts_here(&self) -> u32 {
        self.attempt + 1 - self.first_attempt()
    }

    pub(super) fn may_repeat(&self) -> bool {
        // Those of an earlier life of the run don't count: they were not all losses.
        !self.interrupted && !self.aborted && self.attempts_here() < self.setup.plan.agents.max_attempts
    }

    pub(super) fn stored(&mut self, now: Now, result: Result<(), String>) {
        let Phase::Storing { refused, again } = self.phase else { return };
        if let Err(problem) = result {
            self.over(End::failed(Failure::Store(problem)));
            return;
        }
        if self.ends_here() {
            return;
        }
        if refused && (self.interrupted || self.aborted) {
            self.conclude();
            return;
        }
        if refused && again && self.may_repeat() {
            self.attempt += 1;
        } else {
            let batch = self.batches.get(self.next).copied();
            let decided = self.results.iter().find(|done| batch.is_some_and(|batch| done.batch().index == batch.index));
            if let Some(Done::Ran(summary)) = decided {
                let event = RunEvent::BatchStored { place: self.place(), summary: summary.clone() };
                self.tell(event);
            }
            self.begin_next();
        }
        let last = self.next >= self.batches.len();
        let pause = if last || self.interrupted { 0 } else { self.setup.plan.grid.cooldown_us };
        self.phase = Phase::Cooling { until: now.mono + Duration::from_micros(pause) };
        // Not a whole tick: signs of life may be waiting to be read.
        self.due(now);
    }
}
