//! Connections that are cut, servers that fall silent, sessions that are told to stop: what the table of hostile servers
//! (`hostile`) has no column for.

use std::cell::{Cell, RefCell};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use proto::{FailureKind, Mode, Outcome, Phase, Script};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

#[expect(dead_code, reason = "each test file needs a part of it")]
mod support;

use support::peer::{HASH, Peer, http, observation};
use support::{bounded, dialer, failed, live, raw, run, script, url};

const LIMIT: Duration = Duration::from_millis(150);
const LIMIT_US: u64 = 150_000;

async fn play_until(peer: &mut Peer<TcpStream>, mode: Mode, phase: Phase) {
    match mode {
        Mode::Ws => peer.ws_until(phase).await,
        Mode::Http => peer.http_until(phase).await,
    }
}

/// Where a server can be reached by a request, in either mode.
fn requests() -> Vec<(Mode, Phase)> {
    let ws = Phase::ALL.map(|phase| (Mode::Ws, phase));
    [&ws[..], &[(Mode::Http, Phase::Reset), (Mode::Http, Phase::Step)]].concat()
}

#[test]
fn a_reply_that_breaks_off_is_1006() {
    bounded(async {
        for (mode, reply) in [
            (Mode::Ws, b"\x81\x7e\x01\x00{\"type\":\"obs".to_vec()),
            (Mode::Http, b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"obs".to_vec()),
            (Mode::Http, b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
        ] {
            let url = raw(move |mut peer| {
                let reply = reply.clone();
                async move {
                    play_until(&mut peer, mode, Phase::Step).await;
                    peer.send(reply).await;
                }
            })
            .await;
            let record = run(mode, &url, &script()).await;
            assert_eq!(record.outcome, failed(FailureKind::Closed(1006), Phase::Step), "{}", record.error_message);
        }
    });
}

#[test]
fn an_http_connection_dropped_while_idle_is_opened_again() {
    bounded(async {
        let connections = Rc::new(Cell::new(0));
        let count = connections.clone();
        // Each connection serves one call and is gone when its answer is read.
        let url = raw(move |mut peer| {
            count.set(count.get() + 1);
            async move {
                peer.request().await;
                peer.send(http(200, &observation(HASH))).await;
            }
        })
        .await;
        let record = run(Mode::Http, &url, &Script { steps: 3, ..script() }).await;
        assert_eq!(record.outcome, Outcome::Succeeded, "{}", record.error_message);
        assert_eq!((record.step_us.len(), connections.get()), (3, 4));
    });
}

#[test]
fn the_wait_that_was_asked_for_does_not_count_against_the_step() {
    bounded(async {
        let (url, _server) = support::reference(refserver::Options::default());
        let script = Script { wait: 2 * LIMIT, step_timeout: LIMIT * 50, ..script() };
        let record = run(Mode::Ws, &url, &script).await;
        assert_eq!(record.outcome, Outcome::Succeeded, "{}", record.error_message);
        assert_eq!(record.waited_us, Some(2 * LIMIT_US));
    });
}

/// A port whose accept queue is full: Linux drops the SYN, and a connection attempt hangs as it does towards an
/// overloaded host.
async fn overfull() -> (SocketAddr, tokio::net::TcpListener, Vec<TcpStream>) {
    let socket = TcpSocket::new_v4().expect("socket");
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("bind");
    let listener = socket.listen(0).expect("listen");
    let address = listener.local_addr().expect("address");
    let mut queued = Vec::new();
    // One that hangs for this long proves the queue full; the queue is one or two long.
    while let Ok(connected) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
        queued.push(connected.expect("connected"));
        assert!(queued.len() < 16, "the queue never fills");
    }
    (address, listener, queued)
}

#[test]
fn a_connection_attempt_that_hangs_is_cut_at_connect() {
    bounded(async {
        let (address, _listener, _queued) = overfull().await;
        for mode in [Mode::Ws, Mode::Http] {
            let record = run(mode, &url(address), &Script { connect_timeout: LIMIT, ..script() }).await;
            assert_eq!(record.outcome, Outcome::TimedOut(Phase::Connect), "{mode}: {}", record.error_message);
            assert!(record.total_us >= Some(LIMIT_US) && record.connect_us.is_none(), "{record:?}");
        }
    });
}

#[test]
fn the_limit_of_the_whole_session_holds_in_any_phase() {
    bounded(async {
        for (mode, phase) in requests() {
            let url = raw(move |mut peer| async move {
                play_until(&mut peer, mode, phase).await;
                peer.silent().await;
            })
            .await;
            let record = run(mode, &url, &Script { total_timeout: Some(LIMIT), ..script() }).await;
            assert_eq!(record.outcome, Outcome::TimedOut(phase), "{mode}: {}", record.error_message);
            assert!(record.total_us >= Some(LIMIT_US), "{record:?}");
        }
        let (url, _server) = support::reference(refserver::Options::default());
        let thinking = Script { think: support::DEADLINE, total_timeout: Some(LIMIT), ..script() };
        let record = run(Mode::Ws, &url, &thinking).await;
        assert_eq!(record.outcome, Outcome::TimedOut(Phase::Step), "thinking belongs to the step that follows");
        assert!(record.reset_us.is_some() && record.step_us.is_empty());
    });
}

#[test]
fn a_session_told_to_stop_ends_at_once_and_lets_go_of_its_connection() {
    bounded(async {
        for (mode, phase) in requests() {
            let (reached, has_reached) = oneshot::channel();
            let (gone, has_gone) = oneshot::channel();
            let told = RefCell::new(Some((reached, gone)));
            let url = raw(move |mut peer| {
                let (reached, gone) = told.borrow_mut().take().expect("one connection");
                async move {
                    play_until(&mut peer, mode, phase).await;
                    let _ = reached.send(());
                    peer.silent().await;
                    let _ = gone.send(());
                }
            })
            .await;
            let (cancel, script) = (CancellationToken::new(), script());
            let session = live(mode, dialer(&url, "").await, 0, &script, &cancel);
            let stop = async {
                has_reached.await.expect("the request comes");
                cancel.cancel();
            };
            let (record, ()) = tokio::join!(session, stop);
            assert_eq!(record.outcome, failed(FailureKind::Cancelled, phase), "{mode}");
            has_gone.await.expect("the server sees the connection end");
        }
    });
}

const CHILD: &str = "MUSTER_TEST_FEW_DESCRIPTORS";

/// Runs itself again in a process that may open few files: the limit is the whole process's, and other tests of this
/// file must not feel it.
#[test]
fn running_out_of_descriptors_is_told_from_what_the_server_does() {
    if std::env::var_os(CHILD).is_some() {
        return without_descriptors();
    }
    let child = std::process::Command::new("sh")
        .args(["-c", r#"ulimit -n 64 && exec "$0" --exact "$1" --nocapture"#])
        .arg(std::env::current_exe().expect("this program"))
        .arg("running_out_of_descriptors_is_told_from_what_the_server_does")
        .env(CHILD, "1")
        .output()
        .expect("sh");
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&child.stderr));
}

fn without_descriptors() {
    bounded(async {
        for mode in [Mode::Ws, Mode::Http] {
            let url = raw(|peer| peer.silent()).await;
            let dialer = dialer(&url, "").await;
            let mut held = Vec::new();
            while let Ok(file) = std::fs::File::open("/dev/null") {
                held.push(file);
            }
            let record = live(mode, dialer, 0, &script(), &CancellationToken::new()).await;
            drop(held);
            assert_eq!(record.outcome, failed(FailureKind::FdExhausted, Phase::Connect), "{}", record.error_message);
        }
    });
}
