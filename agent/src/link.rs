//! The gRPC side: connected or not, and when to try again. Decides nothing.

use std::error::Error;
use std::time::Duration;

use proto::limits::{MESSAGE_BYTES_MAX, QUEUE_MESSAGES};
use proto::message::Pong;
use proto::{FromAgent, FromCoordinator, wire};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Endpoint;

use crate::clock::Clock;

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

/// Counts the time without a coordinator.
#[derive(Debug)]
pub struct Link {
    address: String,
    reconnect_for: Duration,
    lost_since: Instant,
    backoff: Duration,
    clock: Clock,
}

impl Link {
    /// `address` is `HOST:PORT`; pings are answered with readings of `clock`.
    #[must_use]
    pub fn new(address: String, reconnect_for: Duration, clock: Clock) -> Self {
        Self { address, reconnect_for, lost_since: Instant::now(), backoff: BACKOFF_FIRST, clock }
    }

    /// The coordinator was there until just now: the next search starts from here.
    pub fn was_connected(&mut self) {
        self.lost_since = Instant::now();
        self.backoff = BACKOFF_FIRST;
    }

    /// Dials until it works.
    ///
    /// # Errors
    /// What was wrong last, when `reconnect_for` is over.
    pub async fn connect(&mut self) -> Result<Connected, String> {
        loop {
            match dial(&self.address, self.clock).await {
                Ok(connected) => return Ok(connected),
                Err(problem) => self.pause(&problem).await?,
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
                self.address,
                self.reconnect_for.as_secs_f64()
            ));
        }
        tracing::debug!("no coordinator at {} yet: {problem}", self.address);
        tokio::time::sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        Ok(())
    }
}

async fn dial(address: &str, clock: Clock) -> Result<Connected, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| format!("{address} is no HOST:PORT ({})", causes(&error)))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    let channel = endpoint.connect().await.map_err(|error| causes(&error))?;
    let mut client = wire::control_client::ControlClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let (to_coordinator, outgoing) = mpsc::channel::<FromAgent>(QUEUE_MESSAGES);
    let pongs = to_coordinator.downgrade();
    let outgoing = ReceiverStream::new(outgoing).map(wire::AgentMessage::from);
    let mut incoming = timeout(ANSWER_TIMEOUT, client.attend(outgoing))
        .await
        .map_err(|_| format!("no answer in {} s", ANSWER_TIMEOUT.as_secs()))?
        .map_err(|status| status_causes(&status))?
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
