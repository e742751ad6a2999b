//! The gRPC connection to the coordinator: how it is opened, and when opening it is tried again.

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use proto::limits::{MESSAGE_BYTES_MAX, QUEUE_MESSAGES};
use proto::message::Pong;
use proto::pb::control_client::ControlClient;
use proto::{FromAgent, FromCoordinator, pb};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use super::clock::Clock;
use crate::identity;
use crate::identity::certs::COORDINATOR_NAME;

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the server at the address may take to answer the call, as a coordinator does at once.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// An open stream of messages, both ways.
#[derive(Debug)]
pub struct Connected {
    pub to_coordinator: mpsc::Sender<FromAgent>,
    /// The first `Err` is the last item: it says why the stream ended.
    pub from_coordinator: mpsc::Receiver<Result<FromCoordinator, String>>,
}

/// How the two sides prove who they are.
#[derive(Debug, Clone)]
pub enum Security {
    Plaintext,
    /// Mutual TLS, see [`identity`].
    Tls(Arc<rustls::ClientConfig>),
}

/// Any byte stream: TCP, TLS, or a test's own.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

type Opening = Pin<Box<dyn Future<Output = io::Result<Box<dyn ByteStream>>> + Send>>;

/// Opens connections to one coordinator.
#[derive(Clone)]
pub struct Connector {
    address: String,
    security: Security,
    open: Arc<dyn Fn(String) -> Opening + Send + Sync>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DialError {
    /// The two sides do not trust each other; trying again is of no use.
    Identity(String),
    Network(String),
}

impl Connector {
    /// Connects over TCP. `address` is `HOST:PORT`.
    #[must_use]
    pub fn new(address: String, security: Security) -> Self {
        let tcp = |address: String| -> Opening {
            Box::pin(async move {
                let stream = TcpStream::connect(address).await?;
                // Without this option small orders would wait for acknowledgements of earlier ones.
                stream.set_nodelay(true)?;
                Ok(Box::new(stream) as Box<dyn ByteStream>)
            })
        };
        Self::over(address, security, tcp)
    }

    /// Connects over streams that `open` opens.
    pub fn over(address: String, security: Security, open: impl Fn(String) -> Opening + Send + Sync + 'static) -> Self {
        Self { address, security, open: Arc::new(open) }
    }

    /// Opens a connection and returns its client, and where TLS errors of the connection are noted. Whether a gRPC
    /// server is at the other end shows with the first call.
    ///
    /// # Errors
    /// Why it can't be opened.
    pub async fn channel(&self) -> Result<(ControlClient<Channel>, TlsFailure), DialError> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))
            .map_err(|error| DialError::Network(format!("{} is no HOST:PORT ({})", self.address, causes(&error))))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        let failure = TlsFailure::default();
        let (this, note) = (self.clone(), failure.clone());
        let connector = tower::service_fn(move |_| {
            let (this, note) = (this.clone(), note.clone());
            async move { this.stream(note).await.map(TokioIo::new) }
        });
        let channel = endpoint
            .connect_with_connector(connector)
            .await
            .map_err(|error| self.dial_error(&failure, &causes(&error)))?;
        let client = ControlClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok((client, failure))
    }

    /// Explains a failed dial by what TLS reported, if it did.
    fn dial_error(&self, failure: &TlsFailure, problem: &str) -> DialError {
        match (failure.identity.get(), &self.security) {
            (Some(why), _) => DialError::Identity(format!("{}: {why}", self.address)),
            (None, Security::Tls(_)) if failure.not_tls.get().is_some() => DialError::Network(format!(
                "{} does not speak TLS ({problem}); is it a coordinator with --insecure-plaintext?",
                self.address
            )),
            (None, _) => DialError::Network(problem.to_owned()),
        }
    }

    async fn stream(&self, failure: TlsFailure) -> io::Result<Box<dyn ByteStream>> {
        let stream = (self.open)(self.address.clone()).await?;
        let Security::Tls(config) = &self.security else { return Ok(stream) };
        let name = ServerName::try_from(COORDINATOR_NAME).map_err(io::Error::other)?;
        let secured = TlsConnector::from(config.clone()).connect(name, stream).await;
        let inner = secured.map_err(|error| failure.note(error))?;
        Ok(Box::new(TlsErrorRecorder { inner, failure }))
    }
}

/// TLS errors of one connection. With TLS 1.3 a client learns only at its first read that its certificate was refused,
/// and the layers above replace that error by their own.
#[derive(Debug, Clone, Default)]
pub struct TlsFailure {
    /// Why the two sides do not trust each other.
    identity: Arc<OnceLock<String>>,
    /// The bytes that were received are no TLS.
    not_tls: Arc<OnceLock<()>>,
}

impl TlsFailure {
    fn note(&self, error: io::Error) -> io::Error {
        if let Some(why) = identity::identity_problem(&error) {
            let _ = self.identity.set(why);
        }
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if matches!(tls, Some(rustls::Error::InvalidMessage(_))) {
            let _ = self.not_tls.set(());
        }
        error
    }
}

/// A stream whose TLS errors are noted.
struct TlsErrorRecorder<S> {
    inner: S,
    failure: TlsFailure,
}

impl<S: AsyncRead + Unpin> AsyncRead for TlsErrorRecorder<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.inner).poll_read(cx, buf) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.failure.note(error))),
            other => other,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsErrorRecorder<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        if matches!(written, Poll::Ready(Err(_))) {
            // The other side may have sent the reason before it closed the connection.
            let mut rest = [0; 256];
            if let Poll::Ready(Err(why)) = Pin::new(&mut self.inner).poll_read(cx, &mut ReadBuf::new(&mut rest)) {
                self.failure.note(why);
            }
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Looks for the coordinator, and gives up when there was none for too long.
#[derive(Debug)]
pub struct Link {
    connector: Connector,
    reconnect_for: Duration,
    lost_since: Instant,
    backoff: Duration,
    clock: Clock,
}

impl Link {
    /// Pings will be answered with readings of `clock`.
    #[must_use]
    pub fn new(connector: Connector, reconnect_for: Duration, clock: Clock) -> Self {
        Self { connector, reconnect_for, lost_since: Instant::now(), backoff: BACKOFF_FIRST, clock }
    }

    #[must_use]
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// The coordinator was connected until now: the time without one starts here.
    pub fn was_connected(&mut self) {
        self.lost_since = Instant::now();
        self.backoff = BACKOFF_FIRST;
    }

    /// Dials until a connection is open.
    ///
    /// # Errors
    /// The last problem, when `reconnect_for` is over; at once if the two sides do not trust each other.
    pub async fn connect(&mut self) -> Result<Connected, DialError> {
        loop {
            match dial(&self.connector, self.clock).await {
                Ok(connected) => return Ok(connected),
                Err(DialError::Network(problem)) => self.pause(&problem).await.map_err(DialError::Network)?,
                Err(refused) => return Err(refused),
            }
        }
    }

    /// Waits before the next dial, a little longer each time.
    ///
    /// # Errors
    /// When `reconnect_for` is over, with advice.
    pub async fn pause(&mut self, problem: &str) -> Result<(), String> {
        let over = self.lost_since + self.reconnect_for;
        if Instant::now() + self.backoff >= over {
            return Err(format!(
                "no coordinator at {} for {} s: {problem}; start the coordinator, correct --coordinator, or wait longer \
                 with --reconnect-for",
                self.connector.address,
                self.reconnect_for.as_secs_f64()
            ));
        }
        tracing::debug!("no coordinator at {} yet: {problem}", self.connector.address);
        tokio::time::sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        Ok(())
    }
}

/// Opens a connection and starts the stream. Pings are answered by the task that reads it, so that nothing else of this
/// process delays a pong.
async fn dial(connector: &Connector, clock: Clock) -> Result<Connected, DialError> {
    let (mut client, failure) = connector.channel().await?;
    let (to_coordinator, outgoing) = mpsc::channel::<FromAgent>(QUEUE_MESSAGES);
    let pongs = to_coordinator.downgrade();
    let outgoing = ReceiverStream::new(outgoing).map(pb::AgentMessage::from);
    let mut incoming = timeout(ANSWER_TIMEOUT, client.attend(outgoing))
        .await
        .map_err(|_| DialError::Network(format!("no answer in {} s", ANSWER_TIMEOUT.as_secs())))?
        .map_err(|status| connector.dial_error(&failure, &status_causes(&status)))?
        .into_inner();
    let (orders, from_coordinator) = mpsc::channel(QUEUE_MESSAGES);
    tokio::spawn(async move {
        loop {
            let order = match incoming.message().await {
                Ok(Some(message)) => FromCoordinator::try_from(message).map_err(|error| error.to_string()),
                Ok(None) => Err("the coordinator closed the connection".to_owned()),
                Err(status) => Err(status_causes(&status)),
            };
            if let Ok(FromCoordinator::Ping { sequence }) = order {
                let pong = Pong { sequence, agent_us: clock.now_us() };
                // A pong that finds no room is dropped: it would be too late to be of use.
                if let Some(out) = pongs.upgrade() {
                    let _ = out.try_send(FromAgent::Pong(pong));
                }
                continue;
            }
            let over = order.is_err();
            if orders.send(order).await.is_err() || over {
                return;
            }
        }
    });
    Ok(Connected { to_coordinator, from_coordinator })
}

/// An error with its causes: "transport error" alone explains nothing.
fn causes(error: &dyn Error) -> String {
    chain(error.to_string(), error.source())
}

/// The same for a status, whose own text prints its causes for programmers.
fn status_causes(status: &Status) -> String {
    let text = if status.message().is_empty() { status.code().description() } else { status.message() };
    chain(text.to_owned(), status.source())
}

/// Joins an error's text and its causes, without repetitions.
fn chain(text: String, mut source: Option<&(dyn Error + 'static)>) -> String {
    let mut parts = vec![text];
    while let Some(cause) = source {
        let text = cause.to_string();
        if parts.last().is_none_or(|last| !last.contains(&text)) {
            parts.push(text);
        }
        source = cause.source();
    }
    if parts.len() > 1 {
        parts.retain(|part| part != "transport error" && part != "tcp connect error");
    }
    parts.join(": ")
}
