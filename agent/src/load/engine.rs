//! The loop that launches sessions to a schedule and collects their records, on one thread.
//!
//! Every load model is this loop with another [`Schedule`]. It runs on a current-thread runtime inside a `LocalSet`,
//! owns its recorder, and shares only counters with other threads.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use proto::units::micros;
use proto::{Bounds, Outcome, Script, SessionRecord};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::overshoot::{Overshoot, TICK};
use super::pace::Schedule;
use super::recorder::{Counters, Recorder};
use super::session::{self, EndedSession, SessionContext};
use super::throttle::{LaunchThrottle, SchedulerPass};
use crate::drivers::Driver;
use crate::host::vitals::CloseDelays;
use crate::net::late_pings;

/// Sessions launched before other events are handled: enough to keep a burst tight, few enough that ready sockets are
/// served in between.
const LAUNCH_SLICE: u64 = 32;

/// One thread's part of an agent's share: every `threads`-th session, from `thread` on.
#[derive(Debug, Clone)]
pub struct ThreadShare {
    pub thread: u64,
    pub threads: u64,
    /// Global number of the agent's first session.
    pub first_session: u64,
    /// How many sessions the agent's share has.
    pub sessions: u64,
    pub schedule: Schedule,
    pub script: Script,
    pub bounds: Bounds,
    /// Read the kernel's receive timestamps.
    pub kernel_timestamps: bool,
    /// The most connections that this thread has at once. A session that is due beyond it waits.
    pub in_flight_max: u64,
}

impl ThreadShare {
    /// How many sessions this thread runs.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.sessions.saturating_sub(self.thread).div_ceil(self.threads)
    }
}

/// Runs until every session of the share has its record and every connection is closed. After `cancel` nothing more is
/// launched, sessions in flight end as cancelled at once, and connections that are closing are dropped. Intended starts
/// count from `origin`.
pub async fn run<D: Driver>(
    driver: Rc<D>,
    share: &ThreadShare,
    origin: Instant,
    cancel: &CancellationToken,
    counters: &Arc<Counters>,
) -> Recorder {
    let count = share.count();
    let launcher = Launcher { driver, share, script: Rc::new(share.script.clone()), origin, cancel, counters };
    let mut recorder = Recorder::new(share.bounds, count);
    let mut overshoot = Overshoot::default();
    let mut sessions: JoinSet<EndedSession<D::Closing>> = JoinSet::new();
    // Connections of sessions that are over. They still hold descriptors and ports, but are not measured.
    let mut closing: JoinSet<CloseDelays> = JoinSet::new();
    let (mut next, mut cancelled) = (0, false);
    let (mut pass, mut throttle) = (None, LaunchThrottle::default());
    let (timer, tick) = (sleep_until(origin), sleep_until(origin + TICK));
    tokio::pin!(timer, tick);

    while next < count || !sessions.is_empty() || !closing.is_empty() {
        let connections = (sessions.len() + closing.len()) as u64;
        tokio::select! {
            biased;
            () = cancel.cancelled(), if !cancelled => {
                cancelled = true;
                closing.abort_all();
                for nth in next..count {
                    recorder.record(never_started(share, nth));
                }
                next = count;
            }
            () = &mut tick => {
                let now = Instant::now();
                overshoot.fired(now - tick.deadline());
                tick.as_mut().reset(now + TICK);
            }
            took = SchedulerPass::took(&mut pass) => {
                pass = throttle.wait_again(took, late_pings::take()).then(SchedulerPass::begin);
            }
            () = &mut timer, if next < count && connections < share.in_flight_max && pass.is_none() => {
                let slice = LAUNCH_SLICE * throttle.factor();
                let slice_end = count.min(next + slice.min(share.in_flight_max - connections));
                let now = Instant::now();
                while next < slice_end && launcher.due(next) <= now {
                    launcher.launch(next, &mut sessions);
                    next += 1;
                }
                recorder.in_flight_max = recorder.in_flight_max.max((sessions.len() + closing.len()) as u64);
                if next < count {
                    timer.as_mut().reset(launcher.due(next));
                }
                pass = late_pings::take().then(SchedulerPass::begin);
                // Launched tasks and ready sockets run before the next slice.
                tokio::task::yield_now().await;
            }
            Some(ended) = sessions.join_next() => collect(&mut recorder, &mut closing, &launcher.driver, ended, cancelled),
            Some(closed) = closing.join_next() => recorder.close_delays.add(closed.unwrap_or_default()),
        }
        while let Some(ended) = sessions.try_join_next() {
            collect(&mut recorder, &mut closing, &launcher.driver, ended, cancelled);
        }
        while let Some(closed) = closing.try_join_next() {
            // A task that was aborted has no result.
            recorder.close_delays.add(closed.unwrap_or_default());
        }
    }
    recorder.overshoot = overshoot.into_histogram();
    // A session that panicked has no record. The ledger then does not balance, and the batch is not valid.
    recorder
}

/// What all sessions of the share have in common.
struct Launcher<'a, D> {
    driver: Rc<D>,
    share: &'a ThreadShare,
    script: Rc<Script>,
    origin: Instant,
    cancel: &'a CancellationToken,
    counters: &'a Arc<Counters>,
}

impl<D: Driver> Launcher<'_, D> {
    /// When the `nth` session of the schedule is to start.
    fn due(&self, nth: u64) -> Instant {
        self.origin + Duration::from_micros(self.share.schedule.get(nth).1)
    }

    fn launch(&self, nth: u64, sessions: &mut JoinSet<EndedSession<D::Closing>>) {
        let (local, intended_us) = self.share.schedule.get(nth);
        let (driver, script, origin) = (self.driver.clone(), self.script.clone(), self.origin);
        let (cancel, counters) = (self.cancel.clone(), self.counters.clone());
        let (number, kernel_timestamps) = (self.share.first_session + local, self.share.kernel_timestamps);
        sessions.spawn_local(async move {
            let context =
                SessionContext { script: &script, origin, cancel: &cancel, counters: &counters, kernel_timestamps };
            session::run_session(&*driver, &context, number, intended_us).await
        });
    }
}

/// The record of the `nth` session of a schedule that was cancelled before.
fn never_started(share: &ThreadShare, nth: u64) -> SessionRecord {
    let (local, intended_us) = share.schedule.get(nth);
    let why = "cancelled before its start".to_owned();
    let record = SessionRecord::without_life(share.first_session + local, Outcome::NeverStarted, why);
    SessionRecord { intended_us, ..record }
}

/// Records a session that has ended, and waits beside the loop for its connection to be closed.
fn collect<D: Driver>(
    recorder: &mut Recorder,
    closing: &mut JoinSet<CloseDelays>,
    driver: &Rc<D>,
    ended: Result<EndedSession<D::Closing>, tokio::task::JoinError>,
    cancelled: bool,
) {
    match ended {
        Ok(EndedSession { record, errno, connection, fault: _ }) => {
            recorder.record(record);
            if let Some(errno) = errno {
                *recorder.errnos.entry(errno).or_default() += 1;
            }
            if let Some(connection) = connection.filter(|_| !cancelled) {
                let driver = driver.clone();
                closing.spawn_local(async move { close_within_limit(&*driver, connection).await });
            }
        }
        Err(error) => tracing::error!("a session's task died: {error}"),
    }
}

/// Waits until the server has closed a connection, up to the driver's limit.
pub async fn close_within_limit<D: Driver>(driver: &D, connection: D::Closing) -> CloseDelays {
    let begun = Instant::now();
    let in_time = timeout(D::CLOSE_TIMEOUT, driver.wait_closed(connection)).await.is_ok();
    CloseDelays { us_max: micros(begun.elapsed()), left_open: u64::from(!in_time) }
}

#[cfg(test)]
mod tests {
    use proto::{Assignment, AttemptId, FailureKind, Launch, Metric, Phase, PlanHash, Process, RunId};
    use tokio::task::LocalSet;

    use super::*;
    use crate::drivers::fake::{Act, FakeDriver};
    use crate::load::pace::Pace;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    fn script() -> Script {
        Script {
            steps: 2,
            wait: ms(100),
            think: ms(10),
            connect_timeout: ms(1_000),
            reset_timeout: ms(1_000),
            step_timeout: ms(1_000),
            close_timeout: ms(1_000),
            total_timeout: None,
            until_done: true,
            message_bytes_max: 1 << 20,
        }
    }

    fn share(sessions: u64, launch: Launch, script: Script) -> ThreadShare {
        let attempt = AttemptId { run: RunId::random(), batch: 0, attempt: 1 };
        let assignment = Assignment { launch, sessions, ..crate::test_data::assignment(attempt, PlanHash([0; 32])) };
        ThreadShare {
            thread: 0,
            threads: 1,
            first_session: 100,
            sessions,
            schedule: Pace::of(&assignment).schedule(0, 1),
            script,
            bounds: Bounds::STANDARD,
            kernel_timestamps: false,
            in_flight_max: sessions.max(1),
        }
    }

    /// On paused time: what comes out is exact.
    fn carry(
        share: &ThreadShare,
        cancel_after: Option<Duration>,
        act: impl Fn(u64, Phase) -> Act + 'static,
    ) -> Recorder {
        carry_by(FakeDriver::new(act), share, cancel_after)
    }

    fn carry_by<F: Fn(u64, Phase) -> Act + 'static>(
        driver: FakeDriver<F>,
        share: &ThreadShare,
        cancel_after: Option<Duration>,
    ) -> Recorder {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().expect("rt");
        LocalSet::new().block_on(&runtime, async {
            let cancel = CancellationToken::new();
            if let Some(after) = cancel_after {
                let cancel = cancel.clone();
                tokio::task::spawn_local(async move {
                    tokio::time::sleep(after).await;
                    cancel.cancel();
                });
            }
            run(Rc::new(driver), share, Instant::now(), &cancel, &Arc::default()).await
        })
    }

    #[test]
    fn a_session_is_the_sum_of_its_phases() {
        let recorder = carry(&share(1, Launch::Burst, script()), None, |_, phase| {
            Act::Take(ms(match phase {
                Phase::Connect => 3,
                Phase::Reset => 5,
                Phase::Step => 7,
                Phase::Close => 11,
            }))
        });
        let record = &recorder.records[0];
        assert_eq!(record.outcome, Outcome::Succeeded);
        assert_eq!((record.connect_us, record.reset_us, record.close_us), (Some(3_000), Some(5_000), Some(11_000)));
        assert_eq!(record.step_us, [107_000, 107_000]);
        assert_eq!(record.waited_us, Some(200_000));
        assert_eq!(record.total_us, Some(3_000 + 5_000 + 2 * (10_000 + 107_000) + 11_000));
        assert_eq!(record.session, 100);
        assert_eq!(recorder.histograms.get(Metric::Step).len(), 2);
    }

    #[test]
    fn a_ramp_starts_sessions_when_they_are_due() {
        let recorder = carry(&share(100, Launch::Ramp { over_us: 1_000_000 }, script()), None, |_, _| Act::Take(ms(1)));
        let mut records = recorder.records;
        records.sort_by_key(|record| record.session);
        for (n, record) in records.iter().enumerate() {
            assert_eq!(record.intended_us, n as u64 * 10_000);
            // The timer of tokio has a resolution of one millisecond, and never fires early.
            assert!(record.launch_lag_us().is_some_and(|lag| lag <= 1_000), "{record:?}");
        }
        assert_eq!(records.len(), 100);
    }

    #[test]
    fn a_timeout_is_cut_and_stays_in_the_response_times() {
        let recorder = carry(&share(20, Launch::Burst, script()), None, |session, phase| match (session, phase) {
            (119, Phase::Step) => Act::Take(Duration::from_secs(3_000)),
            (118, Phase::Reset) => Act::Fail(ms(1), FailureKind::CapacityReached),
            _ => Act::Take(ms(1)),
        });
        assert!(recorder.ledger.balances());
        assert_eq!((recorder.ledger.succeeded, recorder.ledger.failed, recorder.ledger.timed_out), (18, 1, 1));
        let cut = recorder.records.iter().find(|r| r.session == 119).expect("record");
        assert_eq!(cut.outcome, Outcome::TimedOut(Phase::Step));
        assert_eq!(cut.step_us, [] as [u64; 0], "the step was not completed");
        let response = recorder.histograms.get(Metric::Response);
        assert_eq!(response.len(), 19, "18 exact and one censored");
        assert!(response.max() >= 1_100_000, "wait and time limit: {}", response.max());
        assert!(recorder.histograms.get(Metric::Total).max() < 300_000, "successes only");
        assert_eq!(recorder.histograms.get(Metric::Failed).len(), 1);
    }

    #[test]
    fn the_total_limit_cuts_a_session_in_whatever_phase_it_is() {
        let limited = Script { total_timeout: Some(ms(150)), ..script() };
        let recorder = carry(&share(1, Launch::Burst, limited), None, |_, _| Act::Take(ms(1)));
        let record = &recorder.records[0];
        assert_eq!(record.outcome, Outcome::TimedOut(Phase::Step));
        assert_eq!(record.total_us, Some(150_000));
        assert_eq!(record.step_us.len(), 1);
    }

    /// 100 a second for 10 s, each 60 ms long, at most 8 at once; the server stands still from 3 s to 8 s. Those that
    /// found a place are few, so that service times hardly show it; those that waited for one are what users would see.
    #[test]
    fn a_server_that_stands_still_shows_in_response_times_and_not_in_service_times() {
        let arrivals = Launch::Arrivals { over_us: 10_000_000, process: Process::Uniform };
        let short = Script { steps: 1, wait: ms(50), think: Duration::ZERO, ..script() };
        let patient =
            Script { step_timeout: Duration::from_secs(60), connect_timeout: Duration::from_secs(60), ..short };
        let share = ThreadShare { in_flight_max: 8, ..share(1_000, arrivals, patient) };
        let origin = std::rc::Rc::new(std::cell::OnceCell::new());
        let recorder = carry(&share, None, move |_, phase| {
            let since = origin.get_or_init(Instant::now).elapsed();
            match phase {
                Phase::Step if (ms(3_000)..ms(8_000)).contains(&since) => Act::Take(ms(8_000) - since),
                _ => Act::Take(ms(3)),
            }
        });
        assert!(recorder.ledger.balances() && recorder.ledger.succeeded == 1_000, "{}", recorder.ledger);
        assert_eq!(recorder.in_flight_max, 8);
        let p99 = |metric| recorder.histograms.get(metric).value_at_quantile(0.99);
        assert!(p99(Metric::Total) < 200_000, "service {}", p99(Metric::Total));
        assert!(p99(Metric::Response) > 4_000_000, "response {}", p99(Metric::Response));
        assert!(p99(Metric::LaunchLag) > 4_000_000, "launch lag {}", p99(Metric::LaunchLag));
    }

    /// Two places; the server takes a second to let go of each connection, and the sessions take 10 ms.
    #[test]
    fn a_connection_that_is_not_let_go_of_holds_its_place_and_no_session_up() {
        let short = Script { steps: 0, ..script() };
        let share = ThreadShare { in_flight_max: 2, ..share(4, Launch::Burst, short) };
        let recorder = carry_by(FakeDriver::new(|_, _| Act::Take(ms(4))).closing_after(ms(1_000)), &share, None);
        let mut records = recorder.records;
        records.sort_by_key(|record| record.started_us);
        let started: Vec<u64> = records.iter().filter_map(|record| record.started_us).collect();
        assert!(started[1] < 10_000 && started[2] >= 1_012_000, "{started:?}");
        assert!(records.iter().all(|record| record.total_us == Some(12_000)), "no session is longer for it");
        assert_eq!(
            (recorder.in_flight_max, recorder.close_delays.us_max, recorder.close_delays.left_open),
            (2, 1_000_000, 0)
        );
        // One that never lets go is not waited for without an end, and after a cancellation not at all.
        let never = || FakeDriver::new(|_, _| Act::Take(ms(4))).closing_after(Duration::from_secs(3_000));
        assert_eq!(carry_by(never(), &share, None).close_delays.left_open, 4);
        assert_eq!(carry_by(never(), &share, Some(ms(50))).ledger.never_started, 2);
    }

    #[test]
    fn cancelling_leaves_no_session_without_an_outcome() {
        let slow = share(50, Launch::Ramp { over_us: 1_000_000 }, script());
        let recorder = carry(&slow, Some(ms(505)), |_, _| Act::Take(ms(1)));
        assert!(recorder.ledger.balances(), "{}", recorder.ledger);
        assert_eq!(recorder.records.len(), 50);
        assert!(recorder.ledger.never_started > 20 && recorder.ledger.succeeded > 5, "{}", recorder.ledger);
        let cancelled = |r: &&SessionRecord| matches!(r.outcome, Outcome::Failed(FailureKind::Cancelled, _));
        assert_eq!(recorder.records.iter().filter(cancelled).count() as u64, recorder.ledger.failed);
        assert!(recorder.ledger.failed > 0);
    }

    #[test]
    fn threads_share_every_session_exactly_once() {
        for (sessions, threads) in [(0, 1), (1, 4), (7, 3), (16_384, 7)] {
            let Schedule::Regular { pace, .. } = share(sessions, Launch::Burst, script()).schedule else {
                panic!("regular")
            };
            let mut seen = vec![0; usize::try_from(sessions).expect("small")];
            for thread in 0..threads {
                let share = ThreadShare {
                    thread,
                    threads,
                    schedule: Schedule::Regular { pace, thread, threads },
                    ..share(sessions, Launch::Burst, script())
                };
                for nth in 0..share.count() {
                    seen[usize::try_from(share.schedule.get(nth).0).expect("small")] += 1;
                }
            }
            assert!(seen.iter().all(|n| *n == 1), "{sessions} over {threads}");
        }
    }
}
