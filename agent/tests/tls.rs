//! TLS: whom a session trusts, and what is said when it does not.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use agent::driver::Driver as _;
use agent::driver::ws::WsDriver;
use proto::{FailureKind, Mode, Outcome, Phase, Script, SessionRecord};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

#[expect(dead_code, reason = "each test file needs a part of it")]
mod support;

use support::peer::{CAPACITY_REACHED, Peer, TEXT, close, frame, switching};
use support::{bounded, dialer, failed, live, raw, reference, script};

const BOTH: [(Mode, &str); 2] = [(Mode::Ws, "wss"), (Mode::Http, "https")];

/// A certification authority and what it signed.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("a certificate") }
    }

    fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A server with a certificate for `name`.
    fn acceptor(&self, name: &str) -> TlsAcceptor {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        let chain = vec![CertificateDer::from(leaf)];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .expect("a server configuration");
        TlsAcceptor::from(Arc::new(config))
    }
}

/// Speaks TLS; what `play` does then is its own affair. A failed handshake ends with its alert, as it should.
async fn tls<F: Future<Output = ()> + 'static>(
    acceptor: TlsAcceptor,
    play: impl Fn(TlsStream<TcpStream>) -> F + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            match acceptor.accept(stream).into_fallible().await {
                Ok(stream) => drop(tokio::task::spawn_local(play(stream))),
                Err((_, mut stream)) => drop(stream.shutdown().await),
            }
        }
    });
    address
}

/// The reference server behind TLS.
async fn secured(acceptor: TlsAcceptor, plain: &str) -> SocketAddr {
    let plain = plain.trim_start_matches("http://").to_owned();
    tls(acceptor, move |mut stream| {
        let plain = plain.clone();
        async move {
            let mut inner = TcpStream::connect(plain).await.expect("the reference server");
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut inner).await;
        }
    })
    .await
}

async fn run(mode: Mode, url: &str, ca_pem: &str) -> SessionRecord {
    let script = Script { steps: 2, ..script() };
    live(dialer(mode, url, ca_pem).await, 0, &script, &CancellationToken::new()).await
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
fn a_certificate_that_proves_nothing_ends_the_session_at_connect() {
    bounded(async {
        let (plain, _server) = reference(refserver::Options::default());
        let (authority, stranger) = (Authority::new("ours"), Authority::new("another"));
        let good = secured(authority.acceptor("127.0.0.1"), &plain).await;
        let misnamed = secured(authority.acceptor("elsewhere.example"), &plain).await;
        for (mode, scheme) in BOTH {
            for (address, ca_pem, said) in [
                (good, String::new(), "UnknownIssuer"),
                (good, stranger.pem(), "UnknownIssuer"),
                (misnamed, authority.pem(), "elsewhere.example"),
            ] {
                let record = run(mode, &format!("{scheme}://{address}"), &ca_pem).await;
                assert_eq!(record.outcome, failed(FailureKind::Tls, Phase::Connect), "{}", record.error_message);
                assert!(record.error_message.contains(said), "{}", record.error_message);
            }
        }
    });
}

#[test]
fn a_plain_server_where_tls_was_asked_for() {
    bounded(async {
        let (plain, _server) = reference(refserver::Options::default());
        let banner = raw(|mut peer| async move {
            peer.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
            peer.silent().await;
        })
        .await;
        // Hangs up in the middle of the handshake, having read what there was.
        let gone = raw(|peer| async move {
            let mut hello = [0; 4_096];
            peer.stream.readable().await.expect("a handshake");
            while matches!(peer.stream.try_read(&mut hello), Ok(1..)) {}
        })
        .await;
        for server in [plain, banner, gone] {
            for (mode, scheme) in BOTH {
                let record = run(mode, &server.replace("http://", &format!("{scheme}://")), "").await;
                assert_eq!(record.outcome, failed(FailureKind::Tls, Phase::Connect), "{}", record.error_message);
            }
        }
    });
}

#[test]
fn a_tls_server_where_none_was_asked_for() {
    bounded(async {
        let (plain, _server) = reference(refserver::Options::default());
        let address = secured(Authority::new("ours").acceptor("127.0.0.1"), &plain).await;
        for (mode, phase) in [(Mode::Ws, Phase::Connect), (Mode::Http, Phase::Reset)] {
            let record = run(mode, &format!("http://{address}"), "").await;
            // A TLS alert is no HTTP.
            assert_eq!(record.outcome, failed(FailureKind::BadReply, phase), "{}", record.error_message);
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
        let dialer = dialer(Mode::Ws, &format!("wss://{address}"), &authority.pem()).await;
        let driver = WsDriver::new(dialer, Duration::ZERO);
        let mut session = driver.connect(0, None).await.expect("connected");
        connected.send(()).expect("the server waits");
        has_said.await.expect("the server speaks");
        let fault = driver.reset(&mut session).await.expect_err("a fault");
        assert_eq!(fault.kind(), Some(&FailureKind::CapacityReached), "{}", fault.message);
    });
}
