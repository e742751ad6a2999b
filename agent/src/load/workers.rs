//! The load threads of one attempt: started and armed before the start instant, joined after the last session.
//!
//! Each thread has its own single-threaded runtime. Sessions never move between threads, and nothing on the measuring
//! path takes a lock.

use std::collections::BTreeMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hdrhistogram::serialization::{Serializer as _, V2Serializer};
use proto::{Assignment, Bounds, HistogramSet, Ledger, Outcome, SessionRecord, Vitals, WireState};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::armed::{ArmedLoad, LoadFactory, LoadFuture, Measured};
use super::engine::{self, ThreadShare};
use super::overshoot;
use super::pace::Pace;
use super::recorder::{Counters, Recorder};
use crate::drivers::read_budget::ReadBudget;
use crate::drivers::{Dialer, Driver, Route};
use crate::drivers::{DriverTask, with_driver};
use crate::host::capacity::memory_available_bytes;
use crate::host::vitals::{CloseDelays, Sampler, ThreadCpu};
use crate::net::resolver::TargetResolver;
use crate::net::target::{Endpoints, TargetError, is_own_address};
use crate::net::timestamps::TimestampingGuard;

/// How long a name may fail to resolve, and the pause between two tries.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
const LOOKUP_RETRY: Duration = Duration::from_millis(250);
/// Replies that are being read may take this part of the free memory: one in four.
const READ_BUDGET_PART: u64 = 4;
/// They may take at least this much, also where the kernel does not say how much is free.
const READ_BUDGET_BYTES_MIN: u64 = 64 << 20;

/// Threads that wait for the start instant.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<JoinHandle<io::Result<Recorder>>>,
    /// One a thread; sending the start instant starts it.
    starts: Vec<oneshot::Sender<Instant>>,
    /// Closed when every thread has ended.
    ended: mpsc::Receiver<()>,
    cancel: CancellationToken,
    counters: Arc<Counters>,
    assignment: Arc<Assignment>,
    /// `Err` if no receive timestamps are read, and why.
    timestamping: Result<TimestampingGuard, WireState>,
    beside_target: bool,
}

impl Workers {
    /// Starts up to `threads` threads and returns when each of them is ready.
    ///
    /// # Errors
    /// If a thread can't be started.
    pub async fn arm(assignment: Assignment, route: Route, threads: u32) -> Result<Self, String> {
        // No thread without a session, and none without room for one.
        let threads = u64::from(threads).min(assignment.sessions).min(assignment.in_flight_max).max(1);
        let timestamping = if assignment.kernel_timestamps {
            TimestampingGuard::enable().await.map_err(|error| {
                tracing::warn!("no kernel receive timestamps here ({error}): wire latencies are not measured");
                WireState::Unavailable
            })
        } else {
            Err(WireState::Off)
        };
        let (ready_tx, mut ready) = mpsc::channel(64);
        let (ended_tx, ended) = mpsc::channel(64);
        let mut workers = Self {
            threads: Vec::new(),
            starts: Vec::new(),
            ended,
            cancel: CancellationToken::new(),
            counters: Arc::default(),
            assignment: Arc::new(assignment),
            timestamping,
            beside_target: route.endpoints.list.iter().flat_map(|e| &e.addresses).any(|a| is_own_address(*a)),
        };
        let budget_bytes = (memory_available_bytes() / READ_BUDGET_PART).max(READ_BUDGET_BYTES_MIN) / threads;
        for thread in 0..threads {
            workers.spawn(thread, threads, route.clone(), budget_bytes, ready_tx.clone(), ended_tx.clone())?;
        }
        drop((ready_tx, ended_tx));
        let mut armed = 0;
        while ready.recv().await.is_some() {
            armed += 1;
            if armed == threads {
                return Ok(workers);
            }
        }
        Err("a load thread ended before it was ready".to_owned())
    }

    fn spawn(
        &mut self,
        thread: u64,
        threads: u64,
        route: Route,
        budget_bytes: u64,
        ready: mpsc::Sender<()>,
        ended: mpsc::Sender<()>,
    ) -> Result<(), String> {
        let assignment = self.assignment.clone();
        let share = ThreadShare {
            thread,
            threads,
            first_session: assignment.first_session,
            sessions: assignment.sessions,
            schedule: Pace::of(&assignment).schedule(thread, threads),
            script: assignment.script.clone(),
            bounds: assignment.bounds,
            kernel_timestamps: self.timestamping.is_ok(),
            in_flight_max: in_flight_max(assignment.in_flight_max, thread, threads),
        };
        let (start_tx, start) = oneshot::channel();
        // A child token has a lock of its own, which only this thread takes.
        let (cancel, counters) = (self.cancel.child_token(), self.counters.clone());
        let spawned = std::thread::Builder::new().name(format!("load-{thread}")).spawn(move || {
            // Dropped last, also after a panic, so that the waiting side always learns that this thread has ended.
            let _ended = ended;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let dialer = Dialer::new(route, share.script.message_bytes_max, ReadBudget::new(budget_bytes));
            let wait = share.script.wait;
            let run = RunShare { share, ready, start, cancel, counters };
            Ok(LocalSet::new().block_on(&runtime, with_driver(assignment.mode, dialer, wait, run)))
        });
        self.threads.push(spawned.map_err(|error| format!("load thread {thread}: {error}"))?);
        self.starts.push(start_tx);
        Ok(())
    }

    /// Starts the threads at `start` and waits until every session has ended.
    ///
    /// # Errors
    /// If a thread died.
    async fn run(mut self, start: Instant) -> Result<Measured, String> {
        let sampler = Sampler::start();
        for thread in self.starts.drain(..) {
            // A thread that is gone is noticed when it is joined.
            let _ = thread.send(start);
        }
        while self.ended.recv().await.is_some() {}
        let Measured { ledger, mut histograms, mut records, mut vitals, .. } = self.merge()?;
        records.sort_unstable_by_key(|record| record.session);
        let step_us = sampler.realtime_step_us();
        vitals.wire = match &self.timestamping {
            Err(why) => *why,
            Ok(_) if step_us.unsigned_abs() > self.assignment.clock_step_us_max => {
                histograms = discard_timestamps(&mut records, self.assignment.bounds);
                WireState::Void
            }
            Ok(_) if without_timestamps(&records) => WireState::Unavailable,
            Ok(_) => WireState::Measured,
        };
        vitals.beside_target = self.beside_target;
        // The batch ends with its last session. Connections that are closed after it are no part of it.
        let wall = records.iter().filter_map(SessionRecord::ended_us).max().unwrap_or(0);
        let vitals = sampler.finish(Duration::from_micros(wall), vitals, step_us);
        // From the first session's intended start, because in a ramp agents start one after the other on purpose.
        let first = records.iter().filter(|record| record.started_us.is_some()).min_by_key(|record| record.started_us);
        let start_offset_us = first.and_then(SessionRecord::launch_lag_us).unwrap_or(0);
        Ok(Measured { ledger, histograms, records, start_offset_us, vitals })
    }

    /// Joins the threads and adds up what they measured; the figures of the machine are missing.
    fn merge(&mut self) -> Result<Measured, String> {
        let mut merged = Measured {
            ledger: Ledger::default(),
            histograms: HistogramSet::new(self.assignment.bounds),
            records: Vec::with_capacity(usize::try_from(self.assignment.sessions).unwrap_or(0)),
            start_offset_us: 0,
            vitals: Vitals { run_queue_us: Some(0), ..Vitals::default() },
        };
        let vitals = &mut merged.vitals;
        let mut overshoot = overshoot::empty();
        let mut close_delays = CloseDelays::default();
        let mut errnos = BTreeMap::<i32, u64>::new();
        for thread in self.threads.drain(..) {
            let recorder = thread.join().map_err(|_| "a load thread panicked".to_owned())?;
            let recorder = recorder.map_err(|error| format!("a load thread can't start: {error}"))?;
            merged.ledger.add(&recorder.ledger);
            merged.histograms.merge(&recorder.histograms).map_err(|error| error.to_string())?;
            merged.records.extend(recorder.records);
            vitals.threads += 1;
            vitals.load_cpu_us += recorder.cpu.cpu_us;
            vitals.run_queue_us = vitals.run_queue_us.zip(recorder.cpu.run_queue_us).map(|(sum, own)| sum + own);
            // An upper bound: the threads need not have had their maximum at the same instant.
            vitals.in_flight_max += recorder.in_flight_max;
            close_delays.add(recorder.close_delays);
            overshoot.add(&recorder.overshoot).map_err(|error| error.to_string())?;
            for (errno, count) in recorder.errnos {
                *errnos.entry(errno).or_default() += count;
            }
        }
        V2Serializer::new().serialize(&overshoot, &mut vitals.overshoot).map_err(|error| error.to_string())?;
        vitals.errnos = errnos.into_iter().collect();
        (vitals.let_go_us_max, vitals.left_open) = (close_delays.us_max, close_delays.left_open);
        Ok(merged)
    }
}

impl ArmedLoad for Workers {
    fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    fn canceller(&self) -> CancellationToken {
        self.cancel.clone()
    }

    fn finish(self: Box<Self>, start: Instant) -> LoadFuture<Measured> {
        Box::pin(self.run(start))
    }
}

impl Drop for Workers {
    /// Threads that nobody waits for any more must not go on loading the target.
    fn drop(&mut self) {
        self.cancel.cancel();
        self.starts.clear();
    }
}

impl Default for LoadFactory {
    fn default() -> Self {
        Self::new(|share, resolver, threads| {
            Box::pin(async move {
                let endpoints = lookup(&resolver, &share).await.map_err(|error| error.to_string())?;
                let route = Route { endpoints, source_ips: resolver.source_ips.clone() };
                Ok(Box::new(Workers::arm(share, route, threads).await?) as Box<dyn ArmedLoad>)
            })
        })
    }
}

/// Looks the target up. A resolver that fails once is tried again: it is no reason to lose an agent.
async fn lookup(resolver: &TargetResolver, share: &Assignment) -> Result<Endpoints, TargetError> {
    let deadline = Instant::now() + LOOKUP_TIMEOUT;
    loop {
        match resolver.endpoints(&share.target).await {
            Err(TargetError::Resolve { .. }) if Instant::now() < deadline => tokio::time::sleep(LOOKUP_RETRY).await,
            result => return result,
        }
    }
}

/// One thread's part of what the agent may have open at once; at least one.
fn in_flight_max(all: u64, thread: u64, threads: u64) -> u64 {
    (all / threads + u64::from(thread < all % threads)).max(1)
}

/// Whether replies came and not one had a timestamp.
fn without_timestamps(records: &[SessionRecord]) -> bool {
    let replied = |record: &SessionRecord| record.outcome == Outcome::Succeeded;
    records.iter().any(replied) && records.iter().all(|record| record.wire.reset.is_none())
}

/// Removes everything that depends on CLOCK_REALTIME, and makes new histograms of what is left.
fn discard_timestamps(records: &mut [SessionRecord], bounds: Bounds) -> HistogramSet {
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

/// What a load thread does with its driver: reports that it is ready, waits for the start, and runs its share.
struct RunShare {
    share: ThreadShare,
    ready: mpsc::Sender<()>,
    start: oneshot::Receiver<Instant>,
    cancel: CancellationToken,
    counters: Arc<Counters>,
}

impl DriverTask for RunShare {
    type Output = Recorder;

    async fn run<D: Driver>(self, driver: D) -> Recorder {
        // The receiver lives until all threads are ready; afterwards nobody needs this message.
        let _ = self.ready.send(()).await;
        drop(self.ready);
        let Ok(origin) = self.start.await else {
            return Recorder::new(self.share.bounds, 0);
        };
        let before = ThreadCpu::of_this_thread();
        let mut recorder = engine::run(Rc::new(driver), &self.share, origin, &self.cancel, &self.counters).await;
        recorder.cpu = ThreadCpu::of_this_thread().since(before);
        recorder
    }
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
        let histograms = discard_timestamps(&mut records, Bounds::STANDARD);
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
