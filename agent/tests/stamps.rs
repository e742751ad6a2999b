//! What the kernel knows of a session, against what the program sees: the difference is the generator's own delay.

use std::net::{Ipv4Addr, TcpListener};
use std::rc::Rc;
use std::sync::mpsc;
use std::time::Duration;

use agent::drivers::http::HttpDriver;
use agent::drivers::ws::WsDriver;
use agent::load::engine::{self, ThreadShare};
use agent::load::pace::Pace;
use agent::load::recorder::Recorder;
use agent::net::timestamps::TimestampingGuard;
use proto::{
    Assignment, AttemptId, Bounds, FailureKind, Launch, Metric, Mode, Outcome, Phase, PlanHash, RunId, Script, Target,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

#[expect(dead_code, reason = "each test file needs a part of it")]
mod support;

use support::{DEADLINE, bounded, dialer, failed, live_with, reference, script, url};

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

/// A share of `sessions` at one instant, on the thread of the test.
async fn carry(mode: Mode, target: &str, sessions: u64, script: Script) -> Recorder {
    let assignment = Assignment {
        attempt: AttemptId { run: RunId::random(), batch: 0, attempt: 1 },
        plan_hash: PlanHash([0; 32]),
        target: Target { urls: vec![target.to_owned()], ca_pem: Vec::new() },
        mode,
        script: script.clone(),
        launch: Launch::Burst,
        first_session: 0,
        sessions,
        batch_size: sessions,
        seed: 1,
        agent_index: 0,
        agent_count: 1,
        bounds: Bounds::STANDARD,
        kernel_timestamps: true,
        clock_step_us_max: 50_000,
        in_flight_max: sessions,
    };
    let share = ThreadShare {
        thread: 0,
        threads: 1,
        first_session: 0,
        sessions,
        schedule: Pace::of(&assignment).schedule(0, 1),
        script,
        bounds: Bounds::STANDARD,
        kernel_timestamps: true,
        in_flight_max: sessions,
    };
    let (dialer, cancel, counters) = (dialer(target, "").await, CancellationToken::new(), Default::default());
    match mode {
        Mode::Ws => {
            let driver = Rc::new(WsDriver::new(dialer, share.script.wait));
            engine::run(driver, &share, Instant::now(), &cancel, &counters).await
        }
        Mode::Http => engine::run(Rc::new(HttpDriver::new(dialer)), &share, Instant::now(), &cancel, &counters).await,
    }
}

/// Holds the thread, from before replies are due to when they have long arrived.
fn starve_for(pause: Duration) {
    let (_keep, never) = mpsc::channel::<()>();
    assert!(never.recv_timeout(pause).is_err(), "nobody sends");
}

/// The server is in another process's stead on a thread of its own: it answers while the load thread is held.
fn elsewhere(options: refserver::Options) -> (String, tokio::sync::oneshot::Sender<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let url = url(listener.local_addr().expect("address"));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(refserver::run(listener, options, async {
            let _ = stopped.await;
        }))
    });
    (url, stop)
}

#[test]
fn a_starved_thread_moves_the_programs_latency_and_not_the_wires() {
    bounded(async {
        let _stamping = TimestampingGuard::enable().await.expect("receive stamps");
        for mode in [Mode::Ws, Mode::Http] {
            let (target, _server) = elsewhere(refserver::Options::default());
            let slow = Script { wait: ms(1_000), ..script() };
            let starve = async {
                // All have sent their steps and wait; the replies come in the middle of this.
                tokio::task::yield_now().await;
                let begun = Instant::now();
                while begun.elapsed() < ms(700) {
                    tokio::task::yield_now().await;
                }
                starve_for(ms(600));
            };
            let (recorder, ()) = tokio::join!(carry(mode, &target, 20, slow), starve);
            assert_eq!(recorder.ledger.succeeded, 20, "{mode}: {}", recorder.ledger);
            let p50_us = |metric| recorder.histograms.get(metric).value_at_quantile(0.5);
            let (step, wire) = (p50_us(Metric::Step), p50_us(Metric::Wire));
            assert!(step >= wire + 100_000, "{mode}: the program saw {step} us, the wire {wire}");
            // Truth is 1 s; what the held thread added, around 0.3 s, is not in it.
            assert!((1_000_000..1_100_000).contains(&wire), "{mode}: on the wire {wire} us");
            for record in &recorder.records {
                let split = record.wire.steps[0];
                let (sum, whole) = (split.wire_us + split.lag_us, record.step_us[0]);
                assert!(sum <= whole + 5 && whole - sum.min(whole) < 50_000, "{mode}: {split:?} of {whole}");
                assert!(split.lag_us > 50_000, "{mode}: {split:?}");
                let own = record.wire.own_delay_us.expect("known");
                assert!(own >= split.lag_us && own < record.total_us.expect("total"), "{mode}: {own} of {record:?}");
            }
        }
    });
}

#[test]
fn the_kernel_tells_of_the_handshake() {
    bounded(async {
        let _stamping = TimestampingGuard::enable().await.expect("receive stamps");
        for mode in [Mode::Ws, Mode::Http] {
            let (target, _server) = reference(refserver::Options::default());
            let record =
                live_with(mode, dialer(&target, "").await, 0, &script(), &CancellationToken::new(), true).await;
            assert_eq!(record.outcome, Outcome::Succeeded, "{record:?}");
            assert_eq!(record.wire.syn_retransmits, Some(0));
            let rtt_us = record.wire.handshake_rtt_us.expect("round trip");
            assert!(rtt_us < record.connect_us.expect("connected") + 1_000, "{record:?}");
            assert!(record.wire.reset.is_some() && record.wire.steps.len() == 1, "{record:?}");
        }
    });
}

/// Whoever waits for an accept queue that is full can't tell it from a slow server; the kernel can.
#[test]
fn a_full_accept_queue_shows_as_syns_that_were_sent_again() {
    bounded(async {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("socket");
        socket.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).expect("bind");
        socket.listen(1).expect("listen");
        let address = socket.local_addr().expect("address").as_socket().expect("ip");
        // A queue of one takes two; nobody accepts.
        let full: Vec<_> = (0..2).map(|_| std::net::TcpStream::connect(address).expect("queued")).collect();
        let impatient = Script { connect_timeout: ms(1_500), ..script() };
        let (target, cancel) = (dialer(&url(address), "").await, CancellationToken::new());
        let record = live_with(Mode::Ws, target, 0, &impatient, &cancel, true).await;
        assert_eq!(record.outcome, Outcome::TimedOut(Phase::Connect), "{record:?}");
        assert!(record.wire.syn_retransmits >= Some(1), "{record:?} with {} before it", full.len());
        assert_eq!(record.wire.handshake_rtt_us, None);
    });
}

#[test]
fn a_session_that_fails_keeps_what_is_known_of_it() {
    bounded(async {
        let _stamping = TimestampingGuard::enable().await.expect("receive stamps");
        let options = refserver::Options { max_concurrent_envs: 1, ..refserver::Options::default() };
        let (target, _server) = reference(options);
        let holder = Script { wait: DEADLINE / 2, ..script() };
        let stop = CancellationToken::new();
        let first = live_with(Mode::Ws, dialer(&target, "").await, 0, &holder, &stop, true);
        let second = async {
            let begun = Instant::now();
            while begun.elapsed() < ms(100) {
                tokio::task::yield_now().await;
            }
            let dialer = dialer(&target, "").await;
            let record = live_with(Mode::Ws, dialer, 1, &script(), &CancellationToken::new(), true).await;
            stop.cancel();
            record
        };
        let (_, refused) = tokio::join!(first, second);
        assert_eq!(refused.outcome, failed(FailureKind::CapacityReached, Phase::Reset), "{refused:?}");
        assert!(refused.wire.handshake_rtt_us.is_some() && refused.wire.own_delay_us.is_some(), "{refused:?}");
        assert_eq!(refused.wire.steps, []);
    });
}
