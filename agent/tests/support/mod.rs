//! What the tests share: a bounded run, one session through a driver, servers to run it against.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use agent::driver::http::HttpDriver;
use agent::driver::ws::WsDriver;
use agent::driver::{Dialer, Driver, Way};
use agent::load::engine;
use agent::load::recorder::Counters;
use agent::load::session::{self, Course};
use agent::probe::Means;
use proto::{FailureKind, Mode, Outcome, Phase, Script, SessionRecord, Target};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::LocalSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) mod coordinator;
pub(crate) mod peer;
pub(crate) mod tls;

use peer::Peer;

/// No test may hang: far above what any of them takes, so that a busy machine fails none.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Runs a test on one thread, as the engine runs sessions; its tasks end with it.
pub(crate) fn bounded(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    LocalSet::new().block_on(&runtime, async { timeout(DEADLINE, test).await.expect("ends in time") });
}

/// One step without a wait, limits that are never reached.
pub(crate) fn script() -> Script {
    Script {
        steps: 1,
        wait: Duration::ZERO,
        think: Duration::ZERO,
        connect_timeout: DEADLINE,
        reset_timeout: DEADLINE,
        step_timeout: DEADLINE,
        close_timeout: DEADLINE,
        total_timeout: None,
        until_done: true,
        message_bytes_max: 1 << 20,
    }
}

pub(crate) fn failed(kind: FailureKind, phase: Phase) -> Outcome {
    Outcome::Failed(kind, phase)
}

/// The reference server with faults.
pub(crate) fn faulty(faults: refserver::Faults) -> refserver::Options {
    refserver::Options { faults, ..refserver::Options::default() }
}

/// The outcome and, for the person who reads the failure, the message.
pub(crate) fn outcome(record: &SessionRecord) -> &Outcome {
    if record.outcome != Outcome::Succeeded {
        eprintln!("session {}: {}", record.session, record.error_message);
    }
    &record.outcome
}

pub(crate) async fn dialer(mode: Mode, url: &str, ca_pem: &str) -> Dialer {
    dialer_of(mode, &[url.to_owned()], ca_pem).await
}

pub(crate) async fn dialer_of(mode: Mode, urls: &[String], ca_pem: &str) -> Dialer {
    Dialer::alone(way_of(mode, urls, ca_pem).await, script().message_bytes_max)
}

pub(crate) async fn way_of(mode: Mode, urls: &[String], ca_pem: &str) -> Way {
    let target = Target { urls: urls.to_vec(), ca_pem: ca_pem.as_bytes().to_vec() };
    let endpoints = Means::default().endpoints(&target, mode).await.expect("endpoints");
    Way { endpoints, source_ips: Vec::new() }
}

/// Session `number`, from start to end.
pub(crate) async fn live(dialer: Dialer, number: u64, script: &Script, cancel: &CancellationToken) -> SessionRecord {
    live_with(dialer, number, script, cancel, false).await
}

/// The same; `wire` asks the kernel when replies came.
pub(crate) async fn live_with(
    dialer: Dialer,
    number: u64,
    script: &Script,
    cancel: &CancellationToken,
    wire: bool,
) -> SessionRecord {
    let counters = Counters::default();
    let course = Course { script, origin: Instant::now(), cancel, counters: &counters, wire };
    match dialer.endpoints.mode {
        Mode::Ws => whole(&WsDriver::new(dialer, script.wait), &course, number).await,
        Mode::Http => whole(&HttpDriver::new(dialer), &course, number).await,
    }
}

/// A session and its end on the wire.
async fn whole<D: Driver>(driver: &D, course: &Course<'_>, number: u64) -> SessionRecord {
    let ended = session::live(driver, course, number, 0).await;
    match ended.rest {
        Some(rest) if ended.record.outcome == Outcome::Succeeded => {
            engine::settled(driver, rest).await;
        }
        // It says goodbye; not every server here answers that.
        Some(rest) => drop(timeout(Duration::from_millis(50), driver.settle(rest)).await),
        None => {}
    }
    ended.record
}

/// One session against `url`.
pub(crate) async fn run(mode: Mode, url: &str, script: &Script) -> SessionRecord {
    let way = way_of(mode, &[url.to_owned()], "").await;
    live(Dialer::alone(way, script.message_bytes_max), 0, script, &CancellationToken::new()).await
}

/// A server of which every connection does what `play` says; ends with the test.
pub(crate) async fn raw<F: Future<Output = ()> + 'static>(play: impl Fn(Peer<TcpStream>) -> F + 'static) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
    let url = url(listener.local_addr().expect("address"));
    let play = Rc::new(play);
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).expect("TCP_NODELAY");
            let play = play.clone();
            tokio::task::spawn_local(async move { play(Peer::new(stream)).await });
        }
    });
    url
}

/// The reference server, inside this process; it stops when the guard goes.
pub(crate) fn reference(options: refserver::Options) -> (String, DropGuard) {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let url = url(listener.local_addr().expect("address"));
    let stop = CancellationToken::new();
    tokio::spawn(refserver::run(listener, options, stop.clone().cancelled_owned()));
    (url, stop.drop_guard())
}

/// An address at which nobody listens, nor will for as long as the socket that holds it lives.
pub(crate) fn nobody() -> (SocketAddr, TcpSocket) {
    let socket = TcpSocket::new_v4().expect("socket");
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("bind");
    (socket.local_addr().expect("address"), socket)
}

pub(crate) fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}
