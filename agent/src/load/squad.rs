//! The load threads of one attempt: prepared and armed before the start, joined after the drain.
//!
//! Each thread has its own single-threaded runtime: sessions never move between cores, and nothing on the measuring
//! path takes a lock.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hdrhistogram::serialization::{Serializer as _, V2Serializer};
use proto::{Assignment, Bounds, HistogramSet, Ledger, Mode, Outcome, SessionRecord, Vitals, WireState};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::engine::{self, ThreadShare};
use super::overshoot;
use super::pace::Pace;
use super::recorder::{Counters, Recorder};
use super::{Carry, Later};
use crate::capacity::memory_available_bytes;
use crate::driver::http::HttpDriver;
use crate::driver::ws::WsDriver;
use crate::driver::{Dialer, Way};
use crate::intake::Intake;
use crate::stamps::Switch;
use crate::target::is_here;
use crate::vitals::{FromThreads, LetGo, Sampler, Scheduled};

/// Of the memory that is free: replies that are being read may have so much of it.
const INTAKE_PART: u64 = 4;
/// Also where the kernel does not tell how much that is.
const INTAKE_BYTES_MIN: u64 = 64 << 20;

/// An agent's whole measurement of one attempt.
#[derive(Debug)]
pub struct Measured {
    pub ledger: Ledger,
    pub histograms: HistogramSet,
    pub records: Vec<SessionRecord>,
    /// How much later than ordered the first session started.
    pub start_offset_us: u64,
    pub vitals: Vitals,
}

/// Threads that wait for the start.
#[derive(Debug)]
pub struct Squad {
    threads: Vec<JoinHandle<io::Result<Recorder>>>,
    go: Vec<oneshot::Sender<Instant>>,
    done: mpsc::Receiver<()>,
    cancel: CancellationToken,
    counters: Arc<Counters>,
    assignment: Arc<Assignment>,
    /// `None`: no receive stamps, and whether they were wanted.
    stamping: Result<Switch, WireState>,
    beside_target: bool,
}

impl Squad {
    /// Starts `threads` threads and returns when each of them is ready to go.
    ///
    /// # Errors
    /// If a thread can't be started or a driver can't be built.
    pub async fn arm(assignment: Assignment, way: Way, threads: u32) -> Result<Self, String> {
        // Each thread has a place at least.
        let threads = u64::from(threads).min(assignment.sessions).min(assignment.in_flight_max).max(1);
        let stamping = if assignment.wire {
            Switch::on().await.map_err(|error| {
                tracing::warn!("no kernel receive timestamps here ({error}): wire latencies are not measured");
                WireState::Unavailable
            })
        } else {
            Err(WireState::Off)
        };
        let assignment = Arc::new(assignment);
        let (ready_tx, mut ready) = mpsc::channel(64);
        let (done_tx, done) = mpsc::channel(64);
        let mut squad = Self {
            threads: Vec::new(),
            go: Vec::new(),
            done,
            cancel: CancellationToken::new(),
            counters: Arc::default(),
            assignment: assignment.clone(),
            stamping,
            beside_target: way.endpoints.list.iter().flat_map(|e| &e.addresses).any(|a| is_here(*a)),
        };
        let pace = Pace::of(&assignment);
        let intake_bytes = (memory_available_bytes() / INTAKE_PART).max(INTAKE_BYTES_MIN) / threads;
        for thread in 0..threads {
            let (go_tx, go) = oneshot::channel();
            let share = ThreadShare {
                thread,
                threads,
                first_session: assignment.first_session,
                sessions: assignment.sessions,
                schedule: pace.schedule(thread, threads),
                script: assignment.script.clone(),
                bounds: assignment.bounds,
                wire: squad.stamping.is_ok(),
                in_flight_max: in_flight_max(assignment.in_flight_max, thread, threads),
            };
            let (mode, way, bytes_max) = (assignment.mode, way.clone(), assignment.script.message_bytes_max);
            // A token of its own: its lock is then this thread's alone.
            let (cancel, counters) = (squad.cancel.child_token(), squad.counters.clone());
            let (ready, done) = (ready_tx.clone(), done_tx.clone());
            let spawned = std::thread::Builder::new().name(format!("load-{thread}")).spawn(move || {
                // Dropped last, also on a panic: the waiting side always hears of this thread's end.
                let _done = done;
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let dialer = Dialer::new(way, bytes_max, Intake::new(intake_bytes));
                Ok(LocalSet::new().block_on(&runtime, work(share, mode, dialer, ready, go, &cancel, &counters)))
            });
            squad.threads.push(spawned.map_err(|error| format!("load thread {thread}: {error}"))?);
            squad.go.push(go_tx);
        }
        drop((ready_tx, done_tx));
        let mut armed = 0;
        while ready.recv().await.is_some() {
            armed += 1;
            if armed == threads {
                return Ok(squad);
            }
        }
        Err("a load thread ended before it was ready".to_owned())
    }

    /// Lets the threads go at `start` and waits until every session has ended.
    ///
    /// # Errors
    /// If a thread died.
    async fn joined(mut self, start: Instant) -> Result<Measured, String> {
        let sampler = Sampler::start();
        for go in self.go.drain(..) {
            // A thread that is gone is found when it is joined.
            let _ = go.send(start);
        }
        while self.done.recv().await.is_some() {}
        let mut histograms = HistogramSet::new(self.assignment.bounds);
        let mut ledger = Ledger::default();
        let mut records = Vec::with_capacity(usize::try_from(self.assignment.sessions).unwrap_or(0));
        let mut told = FromThreads { run_queue_us: Some(0), ..FromThreads::default() };
        let mut late = overshoot::empty();
        let mut let_go = LetGo::default();
        for thread in self.threads.drain(..) {
            let recorder = thread.join().map_err(|_| "a load thread panicked".to_owned())?;
            let recorder = recorder.map_err(|error| format!("a load thread can't start: {error}"))?;
            ledger.add(&recorder.ledger);
            histograms.merge(&recorder.histograms).map_err(|error| error.to_string())?;
            records.extend(recorder.records);
            told.threads += 1;
            told.cpu_us += recorder.scheduled.cpu_us;
            told.run_queue_us = told.run_queue_us.zip(recorder.scheduled.run_queue_us).map(|(sum, own)| sum + own);
            // An upper bound: not every thread had its most at the same instant.
            told.in_flight_max += recorder.in_flight_max;
            let_go.add(recorder.let_go);
            late.add(&recorder.overshoot).map_err(|error| error.to_string())?;
            for (errno, count) in recorder.errnos {
                *told.errnos.entry(errno).or_default() += count;
            }
        }
        V2Serializer::new().serialize(&late, &mut told.overshoot).map_err(|error| error.to_string())?;
        records.sort_unstable_by_key(|record| record.session);
        let step_us = sampler.realtime_step_us();
        told.wire = match &self.stamping {
            Err(why) => *why,
            Ok(_) if step_us.unsigned_abs() > self.assignment.clock_step_us_max => {
                histograms = void(&mut records, self.assignment.bounds);
                WireState::Void
            }
            Ok(_) if unstamped(&records) => WireState::Unavailable,
            Ok(_) => WireState::Measured,
        };
        told.beside_target = self.beside_target;
        told.let_go = let_go;
        // Up to the last answer: connections that are let go of after it are no part of the batch.
        let wall = records.iter().filter_map(SessionRecord::ended_us).max().unwrap_or(0);
        let vitals = sampler.finish(Duration::from_micros(wall), told, step_us);
        // The first one's, from when it was meant to start: in a ramp agents begin one after the other on purpose.
        let first = records.iter().filter(|record| record.started_us.is_some()).min_by_key(|record| record.started_us);
        let start_offset_us = first.and_then(SessionRecord::launch_lag_us).unwrap_or(0);
        Ok(Measured { ledger, histograms, records, start_offset_us, vitals })
    }
}

impl Carry for Squad {
    fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    fn canceller(&self) -> CancellationToken {
        self.cancel.clone()
    }

    fn finish(self: Box<Self>, start: Instant) -> Later<Measured> {
        Box::pin(self.joined(start))
    }
}

impl Drop for Squad {
    /// A squad that is let go of unfinished must not go on loading the target.
    fn drop(&mut self) {
        self.cancel.cancel();
        self.go.clear();
    }
}

/// The thread's part of what the agent may have open at once; each has one at least.
fn in_flight_max(all: u64, thread: u64, threads: u64) -> u64 {
    (all / threads + u64::from(thread < all % threads)).max(1)
}

/// Stamps were asked for, replies came, and not one had any.
fn unstamped(records: &[SessionRecord]) -> bool {
    let replied = |record: &&SessionRecord| record.outcome == Outcome::Succeeded;
    records.iter().any(|record| replied(&record)) && records.iter().all(|record| record.wire.reset.is_none())
}

/// Takes everything out that rests on CLOCK_REALTIME, and counts again what is left.
fn void(records: &mut [SessionRecord], bounds: Bounds) -> HistogramSet {
    let mut histograms = HistogramSet::new(bounds);
    for record in records {
        record.wire.reset = None;
        record.wire.steps = Vec::new();
        record.wire.own_delay_us = None;
        record.wire.connect_own_us = None;
        record.wire.open_own_us = None;
        record.wire.ping_late_us = None;
        record.wire.silence = None;
        histograms.record(record);
    }
    histograms
}

async fn work(
    share: ThreadShare,
    mode: Mode,
    dialer: Dialer,
    ready: mpsc::Sender<()>,
    go: oneshot::Receiver<Instant>,
    cancel: &CancellationToken,
    counters: &Arc<Counters>,
) -> Recorder {
    enum Either {
        Ws(Rc<WsDriver>),
        Http(Rc<HttpDriver>),
    }
    let driver = match mode {
        Mode::Ws => Either::Ws(Rc::new(WsDriver::new(dialer, share.script.wait))),
        Mode::Http => Either::Http(Rc::new(HttpDriver::new(dialer))),
    };
    // The receiver is there until all are ready; afterwards nobody needs to know.
    let _ = ready.send(()).await;
    drop(ready);
    let Ok(origin) = go.await else {
        return Recorder::new(share.bounds, 0);
    };
    let before = Scheduled::of_this_thread();
    let mut recorder = match driver {
        Either::Ws(driver) => engine::run(driver, &share, origin, cancel, counters).await,
        Either::Http(driver) => engine::run(driver, &share, origin, cancel, counters).await,
    };
    recorder.scheduled = Scheduled::of_this_thread().since(before);
    recorder
}

#[cfg(test)]
mod tests {
    use proto::{Metric, Phase, Split, WireRecord};

    use super::*;

    #[test]
    fn a_voided_batch_keeps_everything_but_what_rests_on_the_time_of_day() {
        let split = Split { wire_us: 5, lag_us: 6 };
        let wire = WireRecord {
            reset: Some(split),
            steps: vec![split, split],
            own_delay_us: Some(9),
            connect_own_us: Some(3),
            open_own_us: Some(4),
            pings: 2,
            ping_late_us: Some(7),
            silence: None,
            handshake_rtt_us: Some(30),
            syn_retransmits: Some(1),
        };
        let record = |outcome| SessionRecord {
            started_us: Some(1),
            total_us: Some(100),
            step_us: vec![11, 11],
            wire: wire.clone(),
            ..SessionRecord::without_life(0, outcome, String::new())
        };
        let mut records = [record(Outcome::Succeeded), record(Outcome::TimedOut(Phase::Close))];
        let histograms = void(&mut records, Bounds::STANDARD);
        let count = |metric| histograms.get(metric).len();
        assert_eq!((count(Metric::Wire), count(Metric::ReceiveLag), count(Metric::Step)), (0, 0, 2));
        assert_eq!((count(Metric::Response), count(Metric::HandshakeRtt)), (2, 1));
        for record in &records {
            assert_eq!((record.wire.own_delay_us, record.wire.steps.len()), (None, 0));
            assert_eq!((record.wire.handshake_rtt_us, record.wire.syn_retransmits), (Some(30), Some(1)));
        }
    }

    #[test]
    fn places_are_split_exactly() {
        let all = |places: u64, threads: u64| -> Vec<u64> {
            (0..threads).map(|thread| in_flight_max(places, thread, threads)).collect()
        };
        assert_eq!(all(10, 4), [3, 3, 2, 2]);
        assert_eq!(all(8, 2), [4, 4]);
        assert_eq!(all(2, 2), [1, 1]);
    }
}
