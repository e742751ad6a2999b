//! TLS: a server that is trusted, and what becomes of a session then. Those that are not are in the table of hostile
//! servers (`hostile`).

use std::cell::Cell;
use std::time::Duration;

use agent::drivers::Driver as _;
use agent::drivers::ws::WsDriver;
use proto::{FailureKind, Mode, Outcome, Phase, Script, SessionRecord};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

#[expect(dead_code, reason = "each test file needs a part of it")]
mod support;

use support::peer::{CAPACITY_REACHED, Peer, TEXT, close, frame, switching};
use support::tls::{Authority, secured, tls};
use support::{bounded, dialer, failed, live, reference, script};

const BOTH: [(Mode, &str); 2] = [(Mode::Ws, "wss"), (Mode::Http, "https")];

async fn run(mode: Mode, url: &str, ca_pem: &str) -> SessionRecord {
    let script = Script { steps: 2, ..script() };
    live(mode, dialer(url, ca_pem).await, 0, &script, &CancellationToken::new()).await
}

#[test]
fn a_trusted_server_is_served_over_tls() {
    bounded(async {
        let (plain, _server) = reference(refserver::Options::default());
        let authority = Authority::new("ours");
        for name in ["127.0.0.1", "localhost"] {
            let port = secured(authority.acceptor(name), &plain).await.port();
            for (mode, scheme) in BOTH {
                let record = run(mode, &format!("{scheme}://{name}:{port}"), &authority.pem()).await;
                assert_eq!(record.outcome, Outcome::Succeeded, "{scheme} {name}: {}", record.error_message);
                assert_eq!(record.step_us.len(), 2);
            }
        }
    });
}

#[test]
fn a_tls_connection_closed_without_a_word_is_1006() {
    bounded(async {
        let authority = Authority::new("ours");
        for (mode, scheme) in BOTH {
            let address = tls(authority.acceptor("127.0.0.1"), move |stream| async move {
                let mut peer = Peer::new(stream);
                match mode {
                    Mode::Ws => peer.ws_until(Phase::Step).await,
                    Mode::Http => peer.http_until(Phase::Step).await,
                }
            })
            .await;
            let record = run(mode, &format!("{scheme}://{address}"), &authority.pem()).await;
            assert_eq!(record.outcome, failed(FailureKind::Closed(1006), Phase::Step), "{}", record.error_message);
        }
    });
}

#[test]
fn broken_tls_in_the_middle_of_a_session_is_not_blamed_on_this_machine() {
    bounded(async {
        let authority = Authority::new("ours");
        for (mode, scheme) in BOTH {
            let address = tls(authority.acceptor("127.0.0.1"), move |stream| async move {
                let mut peer = Peer::new(stream);
                match mode {
                    Mode::Ws => peer.ws_until(Phase::Step).await,
                    Mode::Http => peer.http_until(Phase::Step).await,
                }
                let mut peer = Peer::new(peer.stream.into_inner().0);
                peer.send("HTTP/1.1 502 Bad Gateway\r\n\r\n").await;
                peer.silent().await;
            })
            .await;
            let record = run(mode, &format!("{scheme}://{address}"), &authority.pem()).await;
            assert_eq!(record.outcome, failed(FailureKind::Tls, Phase::Step), "{}", record.error_message);
        }
    });
}

/// The race of a full server, behind TLS: the refusal and the RST are there before the first request is sent.
#[test]
fn last_words_decide_over_tls_too() {
    bounded(async {
        let authority = Authority::new("ours");
        let (connected, is_connected) = oneshot::channel::<()>();
        let (said, has_said) = oneshot::channel();
        let channels = Cell::new(Some((is_connected, said)));
        let address = tls(authority.acceptor("127.0.0.1"), move |stream| {
            let (is_connected, said) = channels.take().expect("one connection");
            async move {
                let mut peer = Peer::new(stream);
                let head = peer.head().await;
                peer.send(switching(&head)).await;
                is_connected.await.expect("the client connects");
                peer.send([frame(TEXT, CAPACITY_REACHED), close(Some(1000))].concat()).await;
                peer.stream.flush().await.expect("flushed");
                let tcp = peer.stream.into_inner().0;
                socket2::SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
                drop(tcp);
                said.send(()).expect("the client waits");
            }
        })
        .await;
        let dialer = dialer(&format!("wss://{address}"), &authority.pem()).await;
        let driver = WsDriver::new(dialer, Duration::ZERO);
        let mut session = driver.connect(0, None).await.expect("connected");
        connected.send(()).expect("the server waits");
        has_said.await.expect("the server speaks");
        let fault = driver.reset(&mut session).await.expect_err("a fault");
        assert_eq!(fault.kind(), Some(&FailureKind::CapacityReached), "{}", fault.message);
    });
}
