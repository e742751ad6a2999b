//! What the tests share: a bounded run, one session through a driver, servers to run it against.

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use agent::drivers::{Dialer, Driver, Route};
use agent::drivers::{DriverTask, with_driver};
use agent::load::engine;
use agent::load::recorder::Counters;
use agent::load::session::{self, SessionContext};
use agent::net::resolver::TargetResolver;
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

pub(crate) async fn dialer(url: &str, ca_pem: &str) -> Dialer {
    dialer_of(&[url.to_owned()], ca_pem).await
}

pub(crate) async fn dialer_of(urls: &[String], ca_pem: &str) -> Dialer {
    Dialer::for_single_sessions(route_of(urls, ca_pem).await, script().message_bytes_max)
}

pub(crate) async fn route_of(urls: &[String], ca_pem: &str) -> Route {
    let target = Target { urls: urls.to_vec(), ca_pem: ca_pem.as_bytes().to_vec() };
    let endpoints = TargetResolver::default().endpoints(&target).await.expect("endpoints");
    Route { endpoints, source_ips: Vec::new() }
}

/// Session `number`, from start to end.
pub(crate) async fn live(
    mode: Mode,
    dialer: Dialer,
    number: u64,
    script: &Script,
    cancel: &CancellationToken,
) -> SessionRecord {
    live_with(mode, dialer, number, script, cancel, false).await
}

/// The same, with or without the kernel's receive timestamps.
pub(crate) async fn live_with(
    mode: Mode,
    dialer: Dialer,
    number: u64,
    script: &Script,
    cancel: &CancellationToken,
    kernel_timestamps: bool,
) -> SessionRecord {
    let counters = Counters::default();
    let context = SessionContext { script, origin: Instant::now(), cancel, counters: &counters, kernel_timestamps };
    with_driver(mode, dialer, script.wait, Whole { context, number }).await
}

/// A session and the end of its connection.
struct Whole<'a> {
    context: SessionContext<'a>,
    number: u64,
}

impl DriverTask for Whole<'_> {
    type Output = SessionRecord;

    async fn run<D: Driver>(self, driver: D) -> SessionRecord {
        let ended = session::run_session(&driver, &self.context, self.number, 0).await;
        match ended.connection {
            Some(connection) if ended.record.outcome == Outcome::Succeeded => {
                engine::close_within_limit(&driver, connection).await;
            }
            // It says goodbye; not every server here answers that.
            Some(connection) => drop(timeout(Duration::from_millis(50), driver.wait_closed(connection)).await),
            None => {}
        }
        ended.record
    }
}

/// One session against `url`.
pub(crate) async fn run(mode: Mode, url: &str, script: &Script) -> SessionRecord {
    let route = route_of(&[url.to_owned()], "").await;
    live(mode, Dialer::for_single_sessions(route, script.message_bytes_max), 0, script, &CancellationToken::new()).await
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
