//! Prepares and starts an attempt, collects the uploads, and gives attempts up.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::message::Progress;
use proto::{Assignment, AttemptId, FromCoordinator, Launch};

use super::attempt::Attempt;
use super::phase::Phase;
use super::round::Round;
use super::{Effect, Machine, Now};
use crate::net::ConnectionId;
use crate::plan::expand::Batch;
use crate::run::clock::Offset;
use crate::run::events::{Counts, RunEvent};
use crate::run::placement::Allotment;
use crate::run::upload::{Share, ShareProgress};

/// Time from the order to the start: a fixed part plus a number of round trips, so that the order reaches every agent.
const START_AFTER: Duration = Duration::from_millis(100);
const START_AFTER_ROUND_TRIPS: u32 = 4;
/// Time limit for agents to resolve names and arm.
const ARM_TIMEOUT: Duration = Duration::from_secs(30);
/// Time limit for a server to close the connection of a finished session.
const CLOSE_WAIT_MAX: Duration = Duration::from_secs(10);
/// Time limit for agents to report an attempt that was given up.
const ABORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for the upload, added to the sum of all time limits of a batch: a fixed part and a part per session.
const UPLOAD_TIMEOUT: Duration = Duration::from_secs(60);
const UPLOAD_TIMEOUT_PER_SESSION: Duration = Duration::from_micros(200);

impl Machine {
    /// Orders the agents to prepare their shares.
    pub(super) fn prepare(&mut self, now: Now, batch: Batch, allotments: Vec<(ConnectionId, Allotment)>) {
        let id = AttemptId { run: self.setup.run, batch: batch.index, attempt: self.cursor.attempt };
        let used: Vec<(ConnectionId, Allotment)> =
            allotments.into_iter().filter(|(_, allotment)| allotment.sessions > 0).collect();
        let agent_count = u32::try_from(used.len()).unwrap_or(u32::MAX);
        let mut shares = Vec::new();
        let mut first = 0;
        for (agent_index, (key, allotment)) in (0..).zip(used) {
            let plan = &self.setup.plan;
            let assignment = Assignment {
                attempt: id,
                plan_hash: self.plan_hash,
                target: self.target(),
                mode: batch.mode,
                script: plan.script(batch.wait_us),
                // A burst keeps the warm-up short.
                launch: if Self::is_warmup(&batch) { Launch::Burst } else { plan.session.launch },
                first_session: first,
                sessions: allotment.sessions,
                batch_size: batch.batch_size,
                seed: plan.session.seed,
                agent_index,
                agent_count,
                bounds: plan.bounds(),
                kernel_timestamps: plan.measure.wire,
                clock_step_us_max: plan.measure.max_clock_error_us,
                in_flight_max: allotment.in_flight_max,
            };
            let mut share = Share::new(self.name_of(key), first, allotment.sessions);
            share.in_flight_max = allotment.in_flight_max;
            shares.push((key, share));
            first += allotment.sessions;
            self.send(key, FromCoordinator::Prepare(Box::new(assignment)));
        }
        let attempt = Attempt {
            batch,
            id,
            shares,
            started: now.wall,
            report_by: Duration::MAX,
            given_up: None,
            counts: BTreeMap::new(),
        };
        let round = Round::of(attempt.owners(), now.mono + ARM_TIMEOUT);
        self.enter(Phase::Arming(attempt, round));
    }

    pub(super) fn on_armed(&mut self, now: Now, key: ConnectionId, id: AttemptId) {
        if let Phase::Arming(attempt, round) = &mut self.phase
            && attempt.id == id
            && round.answer(key, ())
            && round.all_answered()
        {
            self.compare_clocks(now);
        }
    }

    pub(super) fn arming_timed_out(&mut self, now: Now, late: Vec<ConnectionId>) {
        for key in late {
            self.hang_up(now, key, &format!("was not ready within {} s", ARM_TIMEOUT.as_secs()));
        }
    }

    /// Sends every agent the time of the common start.
    pub(super) fn go(&mut self, now: Now) {
        let Some(mut attempt) = self.phase.take_attempt() else { return };
        let offsets: Vec<Option<Offset>> = attempt.shares.iter().map(|(key, _)| self.offset(*key)).collect();
        let round_trip_us = offsets.iter().flatten().map(|offset| offset.round_trip_us).max().unwrap_or(0);
        let start_after = START_AFTER + Duration::from_micros(round_trip_us) * START_AFTER_ROUND_TRIPS;
        attempt.started = now.wall.checked_add(start_after).unwrap_or(now.wall);
        let turns = attempt.shares.iter().map(|(_, share)| share.turns()).max().unwrap_or(1);
        attempt.report_by = now.mono + start_after + self.longest(&attempt.batch, turns);
        for ((key, share), offset) in attempt.shares.iter_mut().zip(offsets) {
            let Some(offset) = offset else { continue };
            share.clock = Some(offset.at(now.mono + start_after));
            let go = FromCoordinator::Go { attempt: attempt.id, start_at_us: offset.agent_us(now.mono + start_after) };
            self.effects.push(Effect::Send(*key, go));
        }
        let batch = attempt.batch;
        if !Self::is_warmup(&batch) {
            let place = self.place();
            let expected = Duration::from_micros(self.setup.plan.batch_floor_us(&batch));
            self.tell(RunEvent::BatchStarted { place, batch, attempt: self.cursor.attempt, expected });
        }
        self.enter(Phase::Running(attempt));
    }

    /// The longest duration of a batch: the launch, every time limit of a session, and the upload. `turns` is the
    /// largest number of sessions that may run one after another in the same slot.
    pub(super) fn longest(&self, batch: &Batch, turns: u64) -> Duration {
        let script = self.setup.plan.script(batch.wait_us);
        let step = script.think.saturating_add(script.wait).saturating_add(script.step_timeout);
        let session = script
            .connect_timeout
            .saturating_add(script.reset_timeout)
            .saturating_add(step.saturating_mul(script.steps))
            .saturating_add(script.close_timeout);
        let session = script.total_timeout.map_or(session, |total| total.min(session));
        // A slot becomes free when the server has closed the connection.
        let session = session.saturating_add(CLOSE_WAIT_MAX).saturating_mul(u32::try_from(turns).unwrap_or(u32::MAX));
        let launch = Duration::from_micros(self.setup.plan.session.launch.over_us());
        let upload = UPLOAD_TIMEOUT_PER_SESSION.saturating_mul(u32::try_from(batch.batch_size).unwrap_or(u32::MAX));
        [launch, session, UPLOAD_TIMEOUT, upload].into_iter().fold(Duration::ZERO, Duration::saturating_add)
    }

    pub(super) fn on_progress(&mut self, key: ConnectionId, progress: &Progress) {
        let Phase::Running(attempt) = &mut self.phase else { return };
        if attempt.id != progress.attempt || attempt.share_mut(key).is_none() {
            return;
        }
        let counts = Counts {
            planned: 0,
            launched: progress.launched,
            open: progress.open,
            succeeded: progress.succeeded,
            failed: progress.failed,
        };
        attempt.counts.insert(key, counts);
        let total = attempt.total();
        self.tell(RunEvent::Progress(total));
    }

    pub(super) fn on_upload(&mut self, now: Now, key: ConnectionId, id: AttemptId, take: impl FnOnce(&mut Share)) {
        let patience = self.lease();
        let Phase::Running(attempt) = &mut self.phase else { return };
        let Some(share) = Some(attempt).filter(|attempt| attempt.id == id).and_then(|attempt| attempt.share_mut(key))
        else {
            return;
        };
        take(share);
        share.heard(now.mono, patience);
        if let ShareProgress::Rejected(why) = &share.progress {
            let why = why.clone();
            return self.dismiss(now, key, &why);
        }
        if share.is_complete() && share.is_leaving() {
            // The agent can exit as soon as its results are acknowledged.
            self.send(key, FromCoordinator::Stored(id));
        } else if share.has_gap() {
            share.asked(now.mono);
            let missing = share.missing(id);
            self.send(key, FromCoordinator::Resend(missing));
        }
        self.complete_attempt(now);
    }

    /// Requests the missing parts of stalled uploads, and gives up uploads whose agents did not reconnect in time.
    pub(super) fn check_uploads(&mut self, now: Now) {
        let Phase::Running(attempt) = &mut self.phase else { return };
        let (mut asked, mut gone) = (Vec::new(), false);
        for (key, share) in &mut attempt.shares {
            if share.away_until().is_some_and(|until| now.mono >= until) {
                share.lose("lost its connection during its upload and did not come back");
                gone = true;
            } else if share.ask_at().is_some_and(|at| now.mono >= at) {
                share.asked(now.mono);
                asked.push((*key, share.missing(attempt.id)));
            }
        }
        for (key, missing) in asked {
            self.send(key, FromCoordinator::Resend(missing));
        }
        if gone {
            self.on_agent_lost(now);
        }
    }

    /// Gives the attempt up if reports are missing at the deadline. At a second deadline, missing shares are lost.
    pub(super) fn running_timed_out(&mut self, now: Now) {
        let Phase::Running(attempt) = &mut self.phase else { return };
        if attempt.given_up.is_none() {
            return self.abort_attempt(now, "it took longer than all of its time limits together");
        }
        for (_, share) in &mut attempt.shares {
            share.lose(&format!("did not report within {} s of being stopped", ABORT_TIMEOUT.as_secs()));
        }
        self.complete_attempt(now);
    }

    /// Gives the attempt up. Agents stop running sessions and report them, or discard a prepared share.
    pub(super) fn abort_attempt(&mut self, now: Now, why: &str) {
        let running = matches!(self.phase, Phase::Running(_));
        let Some(attempt) = self.phase.attempt_mut() else { return };
        if attempt.given_up.is_some() {
            return;
        }
        attempt.given_up = Some(why.to_owned());
        attempt.report_by = now.mono + ABORT_TIMEOUT;
        let abort = FromCoordinator::Abort { attempt: attempt.id, reason: why.to_owned() };
        for (key, share) in &mut attempt.shares {
            if share.is_settled() {
                continue;
            }
            self.effects.push(Effect::Send(*key, abort.clone()));
            if !running {
                share.never_start(why);
            }
        }
    }
}
