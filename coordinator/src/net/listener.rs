//! Accepts connections, authenticates them within a time limit, and counts them. Only then do they reach gRPC.
//!
//! No peer waits for another one. Unfinished handshakes are bounded in number and in time; beyond that number the
//! oldest is dropped, since an honest handshake takes milliseconds.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use proto::limits::AGENTS_MAX;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

/// Time limit of a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Most handshakes under way at once.
const HANDSHAKES_MAX: usize = 1_024;
/// Most connections at once: two per agent, and some that are closing.
const CONNECTIONS_MAX: usize = 2 * AGENTS_MAX + 256;
/// Most log lines about rejected peers within `CROWD_EVERY`.
const CROWD_WORDS: u32 = 16;
const CROWD_EVERY: Duration = Duration::from_secs(10);
/// The client preface of every HTTP/2 connection (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How peers authenticate.
#[derive(Debug, Clone)]
pub enum Security {
    /// Peers do not authenticate.
    Plaintext,
    /// Peers present a certificate of this coordinator's identity.
    Tls(Arc<rustls::ServerConfig>),
}

/// The connection of an accepted peer. It counts as one connection until it is dropped.
#[derive(Debug)]
pub struct AcceptedPeer<S> {
    stream: S,
    from: SocketAddr,
    _counted: Option<OwnedSemaphorePermit>,
}

impl<S> AcceptedPeer<S> {
    /// A connection that was not accepted by a listener, for simulations.
    pub fn uncounted(stream: S, from: SocketAddr) -> Self {
        Self { stream, from, _counted: None }
    }
}

/// Accepts connections until the returned stream is dropped.
pub fn open(
    listener: TcpListener,
    security: Security,
) -> ReceiverStream<io::Result<AcceptedPeer<Box<dyn agent::control::link::ByteStream>>>> {
    let (admit, admitted) = mpsc::channel(64);
    tokio::spawn(async move {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut waiting: VecDeque<AbortHandle> = VecDeque::new();
        let crowd = Crowd::default();
        loop {
            let (stream, from) = tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Descriptors have run out, or the peer has already gone; neither is a reason to stop.
                        crowd.tell(&format!("a connection could not be accepted: {error}"));
                        tokio::time::sleep(Duration::from_millis(50)).await;
                        continue;
                    }
                },
                () = admit.closed() => return,
            };
            waiting.retain(|task| !task.is_finished());
            if waiting.len() >= HANDSHAKES_MAX
                && let Some(oldest) = waiting.pop_front()
            {
                oldest.abort();
                crowd.tell(&format!(
                    "{HANDSHAKES_MAX} peers are connected that say nothing, the last one from {from}: the oldest are dropped"
                ));
            }
            let Ok(counted) = room.clone().try_acquire_owned() else {
                crowd.tell(&format!("{CONNECTIONS_MAX} peers are connected: {from} is not let in"));
                continue;
            };
            let (security, admit, crowd) = (security.clone(), admit.clone(), crowd.clone());
            let task = tokio::spawn(async move {
                match timeout(HANDSHAKE_TIMEOUT, prove(stream, &security)).await {
                    Ok(Ok(stream)) => {
                        // This fails once the server has ended; the connection is dropped then.
                        let _ = admit.send(Ok(AcceptedPeer { stream, from, _counted: Some(counted) })).await;
                    }
                    Ok(Err(problem)) => crowd.tell(&format!("a peer at {from} was refused: {problem}")),
                    Err(_) => tracing::debug!("a peer at {from} said nothing for {} s", HANDSHAKE_TIMEOUT.as_secs()),
                }
            });
            waiting.push_back(task.abort_handle());
        }
    });
    ReceiverStream::new(admitted)
}

/// Logs rejected peers, but no more than [`CROWD_WORDS`] lines in [`CROWD_EVERY`].
#[derive(Debug, Clone, Default)]
struct Crowd(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    since: Option<Instant>,
    words: u32,
}

impl Crowd {
    fn tell(&self, what: &str) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.since.is_none_or(|since| since.elapsed() >= CROWD_EVERY) {
            *told = Told { since: Some(Instant::now()), words: 0 };
        }
        told.words += 1;
        if told.words < CROWD_WORDS {
            tracing::warn!("{what}");
        } else if told.words == CROWD_WORDS {
            tracing::warn!("{what}; more like this are not reported for {} s", CROWD_EVERY.as_secs());
        }
    }
}

async fn prove(stream: TcpStream, security: &Security) -> Result<Box<dyn agent::control::link::ByteStream>, String> {
    // Small orders must not wait for acknowledgements (Nagle's algorithm).
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    match security {
        Security::Plaintext => {
            let mut begun = [0; PREFACE.len()];
            loop {
                let seen = stream.peek(&mut begun).await.map_err(|error| error.to_string())?;
                if seen == 0 {
                    return Err("it closed the connection before the HTTP/2 preface".to_owned());
                }
                if begun[..seen] != PREFACE[..seen] {
                    return Err(if begun[0] == 0x16 {
                        "it speaks TLS, this coordinator runs with --insecure-plaintext; start the agent with that, too"
                            .to_owned()
                    } else {
                        "it does not speak gRPC".to_owned()
                    });
                }
                if seen == PREFACE.len() {
                    return Ok(Box::new(stream));
                }
                // `peek` does not wait for more bytes once it has some.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
        Security::Tls(config) => match TlsAcceptor::from(config.clone()).accept(stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(why_no_tls(&error)),
        },
    }
}

fn why_no_tls(error: &io::Error) -> String {
    use rustls::{AlertDescription as Alert, CertificateError as Cert};
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(_)) => {
            "it does not speak TLS; an agent with --insecure-plaintext? start it without".to_owned()
        }
        Some(rustls::Error::NoCertificatesPresented) => "it shows no identity".to_owned(),
        Some(rustls::Error::InvalidCertificate(Cert::Expired | Cert::ExpiredContext { .. })) => {
            "its certificate has expired; issue it a new folder (coordinator identity issue-agent DIR); are the clocks right?"
                .to_owned()
        }
        Some(rustls::Error::InvalidCertificate(Cert::NotValidYet | Cert::NotValidYetContext { .. })) => {
            "its certificate is of the future: the clocks of the two machines are more than a day apart".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(why)) => format!("it has another identity ({why:?})"),
        Some(rustls::Error::AlertReceived(Alert::UnknownCA | Alert::BadCertificate | Alert::DecryptError)) => {
            "it expects a coordinator of another identity".to_owned()
        }
        _ => error.to_string(),
    }
}

impl<S> Connected for AcceptedPeer<S> {
    type ConnectInfo = Option<SocketAddr>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Some(self.from)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AcceptedPeer<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AcceptedPeer<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
