//! The gRPC side: connected or not, and when to try again. Decides nothing.

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
use proto::{FromAgent, FromCoordinator, wire};
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
use wire::control_client::ControlClient;

use crate::clock::Clock;
use crate::identity;
use crate::identity::certs::COORDINATOR_NAME;

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long whoever listens there may take to turn out to be a coordinator.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A live stream.
#[derive(Debug)]
pub struct Connected {
    pub to_coordinator: mpsc::Sender<FromAgent>,
    pub from_coordinator: mpsc::Receiver<Result<FromCoordinator, String>>,
}

/// How the two sides prove who they are.
#[derive(Debug, Clone)]
pub enum Security {
    Plaintext,
    /// Mutual TLS, see [`identity`].
    Tls(Arc<rustls::ClientConfig>),
}

/// Any byte stream: TCP, or what a test puts in its place.
pub trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

type Opening = Pin<Box<dyn Future<Output = io::Result<Box<dyn Socket>>> + Send>>;

/// How a coordinator's address is reached.
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
    /// Trying again is of no use.
    Identity(String),
    Network(String),
}

impl Connector {
    /// Over TCP. `address` is `HOST:PORT`.
    #[must_use]
    pub fn new(address: String, security: Security) -> Self {
        let tcp = |address: String| -> Opening {
            Box::pin(async move {
                let stream = TcpStream::connect(address).await?;
                // Small orders must not wait for their acknowledgements.
                stream.set_nodelay(true)?;
                Ok(Box::new(stream) as Box<dyn Socket>)
            })
        };
        Self::over(address, security, tcp)
    }

    /// Over streams that `open` opens.
    pub fn over(address: String, security: Security, open: impl Fn(String) -> Opening + Send + Sync + 'static) -> Self {
        Self { address, security, open: Arc::new(open) }
    }

    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// A connection that has a gRPC server at its other end, or seems to.
    ///
    /// # Errors
    /// What was in the way.
    pub async fn channel(&self) -> Result<(ControlClient<Channel>, Refusal), DialError> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address))
            .map_err(|error| DialError::Network(format!("{} is no HOST:PORT ({})", self.address, causes(&error))))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(10))
            .keep_alive_while_idle(true);
        let refusal = Refusal::default();
        let (this, heard) = (self.clone(), refusal.clone());
        let connector = tower::service_fn(move |_| {
            let (this, heard) = (this.clone(), heard.clone());
            async move { this.stream(heard).await.map(TokioIo::new) }
        });
        let channel = endpoint
            .connect_with_connector(connector)
            .await
            .map_err(|error| self.dial_error(&refusal, &causes(&error)))?;
        let client = ControlClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok((client, refusal))
    }

    fn dial_error(&self, refusal: &Refusal, problem: &str) -> DialError {
        match (refusal.heard.get(), &self.security) {
            (Some(why), _) => DialError::Identity(format!("{}: {why}", self.address)),
            (None, Security::Tls(_)) if refusal.garbled.get().is_some() => DialError::Network(format!(
                "{} does not speak TLS ({problem}); is it a coordinator with --insecure-plaintext?",
                self.address
            )),
            (None, _) => DialError::Network(problem.to_owned()),
        }
    }

    async fn stream(&self, refusal: Refusal) -> io::Result<Box<dyn Socket>> {
        let stream = (self.open)(self.address.clone()).await?;
        let Security::Tls(config) = &self.security else { return Ok(stream) };
        let name = ServerName::try_from(COORDINATOR_NAME).map_err(io::Error::other)?;
        let shaken = TlsConnector::from(config.clone()).connect(name, stream).await;
        let inner = shaken.map_err(|error| refusal.note(error))?;
        Ok(Box::new(Noting { inner, refusal }))
    }
}

/// What TLS said, kept where it can be found: with TLS 1.3 a client hears of its own certificate's refusal only when it
/// first reads, and the layers above turn that into words of their own.
#[derive(Debug, Clone, Default)]
pub struct Refusal {
    heard: Arc<OnceLock<String>>,
    /// What came was no TLS.
    garbled: Arc<OnceLock<()>>,
}

impl Refusal {
    fn note(&self, error: io::Error) -> io::Error {
        if let Some(why) = identity::refuses(&error) {
            let _ = self.heard.set(why);
        }
        let tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        if matches!(tls, Some(rustls::Error::InvalidMessage(_))) {
            let _ = self.garbled.set(());
        }
        error
    }
}

struct Noting<S> {
    inner: S,
    refusal: Refusal,
}

impl<S: AsyncRead + Unpin> AsyncRead for Noting<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.inner).poll_read(cx, buf) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.refusal.note(error))),
            other => other,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Noting<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        if matches!(written, Poll::Ready(Err(_))) {
            // Whoever refused us may have said why before it hung up.
            let mut rest = [0; 256];
            if let Poll::Ready(Err(why)) = Pin::new(&mut self.inner).poll_read(cx, &mut ReadBuf::new(&mut rest)) {
                self.refusal.note(why);
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

/// Counts the time without a coordinator.
#[derive(Debug)]
pub struct Link {
    connector: Connector,
    reconnect_for: Duration,
    lost_since: Instant,
    backoff: Duration,
    clock: Clock,
}

impl Link {
    /// Pings are answered with readings of `clock`.
    #[must_use]
    pub fn new(connector: Connector, reconnect_for: Duration, clock: Clock) -> Self {
        Self { connector, reconnect_for, lost_since: Instant::now(), backoff: BACKOFF_FIRST, clock }
    }

    #[must_use]
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// The coordinator was there until just now: the next search starts from here.
    pub fn was_connected(&mut self) {
        self.lost_since = Instant::now();
        self.backoff = BACKOFF_FIRST;
    }

    /// Dials until it works.
    ///
    /// # Errors
    /// What was wrong last, when `reconnect_for` is over; at once if the other side is not who it should be.
    pub async fn connect(&mut self) -> Result<Connected, DialError> {
        loop {
            match dial(&self.connector, self.clock).await {
                Ok(connected) => return Ok(connected),
                Err(DialError::Network(problem)) => self.pause(&problem).await.map_err(DialError::Network)?,
                Err(refused) => return Err(refused),
            }
        }
    }

    /// Waits a little longer each time: for a dial that failed, and for a connection that led to nothing.
    ///
    /// # Errors
    /// When `reconnect_for` is over.
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

async fn dial(connector: &Connector, clock: Clock) -> Result<Connected, DialError> {
    let (mut client, refusal) = connector.channel().await?;
    let (to_coordinator, outgoing) = mpsc::channel::<FromAgent>(QUEUE_MESSAGES);
    let pongs = to_coordinator.downgrade();
    let outgoing = ReceiverStream::new(outgoing).map(wire::AgentMessage::from);
    let mut incoming = timeout(ANSWER_TIMEOUT, client.attend(outgoing))
        .await
        .map_err(|_| DialError::Network(format!("no answer in {} s", ANSWER_TIMEOUT.as_secs())))?
        .map_err(|status| connector.dial_error(&refusal, &status_causes(&status)))?
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
                // One that finds no room would come too late to say anything.
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

/// An error with everything that caused it: "transport error" alone tells nobody anything.
fn causes(error: &dyn Error) -> String {
    chain(error.to_string(), error.source())
}

/// The same of a status, whose own text holds the causes as a programmer would print them.
fn status_causes(status: &Status) -> String {
    let text = if status.message().is_empty() { status.code().description() } else { status.message() };
    chain(text.to_owned(), status.source())
}

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
