//! The gRPC service: translates messages into events and orders into messages. It decides nothing about the run.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proto::limits::{AGENTS_MAX, MESSAGE_BYTES_MAX, QUEUE_MESSAGES};
use proto::message::{Heartbeat, Hello, Refused, RefusedWhy};
use proto::pb::control_server::{Control, ControlServer};
use proto::{FromAgent, FromCoordinator, pb};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status, Streaming};

use crate::net::ConnectionId;

/// How long a peer may take to send its `Hello`.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a peer may take to hang up after the coordinator has.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Most streams of orders at once, before or after their `Hello`.
const STREAMS_MAX: usize = AGENTS_MAX + 256;
/// Streams per connection: one for orders, one for heartbeats, one spare.
const STREAMS_A_CONNECTION: u32 = 3;

/// An event from an agent's stream, for the event loop.
#[derive(Debug)]
pub enum Incoming {
    /// An agent has sent its `Hello`; the sender takes orders for it.
    Joined(ConnectionId, Box<Hello>, OrderSender),
    Message(ConnectionId, Box<FromAgent>),
    Left(ConnectionId, String),
}

/// Sends orders to an agent. Dropping it hangs up: orders already sent still go out, further messages are ignored.
#[derive(Debug)]
pub struct OrderSender {
    orders: mpsc::Sender<FromCoordinator>,
    /// The address that the agent connected from.
    pub from: Option<IpAddr>,
    _open: DropGuard,
}

impl OrderSender {
    /// Returns `false` if the queue is full, because the agent does not take its orders.
    #[must_use]
    pub fn send(&self, order: FromCoordinator) -> bool {
        self.orders.try_send(order).is_ok()
    }
}

/// When each agent was last heard. The times are noted where messages are received, so that neither a queue of records
/// nor a busy event loop makes a living agent look dead.
#[derive(Debug, Clone, Default)]
pub struct LastHeard(Arc<Mutex<HashMap<[u8; 16], Seen>>>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    /// The last stream on which the agent sent its `Hello`.
    key: ConnectionId,
    at: Instant,
}

impl LastHeard {
    /// When each agent with a stream of orders was last heard.
    #[must_use]
    pub fn seen(&self) -> Vec<([u8; 16], Instant)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(instance, seen)| (*instance, seen.at)).collect()
    }

    fn greeted(&self, instance: [u8; 16], key: ConnectionId) {
        let seen = Seen { key, at: Instant::now() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(instance, seen);
    }

    /// Returns `false` for an agent without a `Hello`. It gets no entry, so that invented agents fill no memory.
    fn beat(&self, instance: [u8; 16]) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get_mut(&instance).map(|seen| seen.at = Instant::now()).is_some()
    }

    fn gone(&self, instance: [u8; 16], key: ConnectionId) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The agent may have sent a `Hello` on another stream meanwhile.
        if known.get(&instance).is_some_and(|seen| seen.key == key) {
            known.remove(&instance);
        }
    }
}

/// Serves incoming connections until the returned task is dropped or aborted. Events queue up to the bound of `heard`;
/// beyond it the agents wait.
pub fn serve<S, I>(
    incoming: S,
    heard: mpsc::Sender<Incoming>,
    alive: LastHeard,
) -> tokio::task::JoinHandle<Result<(), tonic::transport::Error>>
where
    S: Stream<Item = io::Result<I>> + Send + 'static,
    I: AsyncRead + AsyncWrite + Connected<ConnectInfo = Option<SocketAddr>> + Unpin + Send + 'static,
{
    let service = Service { heard, alive, next_key: Arc::default(), connected: Arc::default() };
    let control = ControlServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let server = Server::builder()
        .max_concurrent_streams(STREAMS_A_CONNECTION)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(control);
    tokio::spawn(server.serve_with_incoming(incoming))
}

struct Service {
    heard: mpsc::Sender<Incoming>,
    alive: LastHeard,
    next_key: Arc<AtomicU64>,
    connected: Arc<AtomicUsize>,
}

/// Counts a stream until it is dropped.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Control for Service {
    type AttendStream = Answers<pb::CoordinatorMessage>;
    type HeartbeatsStream = Answers<pb::HeartbeatAck>;

    async fn attend(
        &self,
        request: Request<Streaming<pb::AgentMessage>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        let counted = Counted(self.connected.clone());
        if self.connected.fetch_add(1, Ordering::Relaxed) >= STREAMS_MAX {
            return Err(Status::resource_exhausted(format!("{STREAMS_MAX} agents are connected already")));
        }
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        let from = request.extensions().get::<Option<SocketAddr>>().copied().flatten();
        let (orders, outgoing) = mpsc::channel(QUEUE_MESSAGES);
        tokio::spawn(attend(key, from, request.into_inner(), orders, self.heard.clone(), self.alive.clone(), counted));
        let outgoing = ReceiverStream::new(outgoing).map(|order: FromCoordinator| Ok(order.into()));
        Ok(Response::new(Box::pin(outgoing)))
    }

    async fn heartbeats(
        &self,
        request: Request<Streaming<pb::Heartbeat>>,
    ) -> Result<Response<Self::HeartbeatsStream>, Status> {
        let alive = self.alive.clone();
        let answers = request.into_inner().map(move |beat| {
            let beat = Heartbeat::try_from(beat?).map_err(|invalid| Status::invalid_argument(invalid.to_string()))?;
            if alive.beat(beat.instance) {
                Ok(pb::HeartbeatAck { sequence: beat.sequence })
            } else {
                Err(Status::not_found("heartbeats of an agent that is not connected"))
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

async fn attend(
    key: ConnectionId,
    address: Option<SocketAddr>,
    mut incoming: Streaming<pb::AgentMessage>,
    orders: mpsc::Sender<FromCoordinator>,
    heard: mpsc::Sender<Incoming>,
    alive: LastHeard,
    _counted: Counted,
) {
    let from = address.map_or_else(|| "an unknown address".to_owned(), |address| address.to_string());
    let open = CancellationToken::new();
    let instance = match timeout(GREETING_TIMEOUT, next(&mut incoming)).await {
        Ok(Ok(FromAgent::Hello(hello))) => {
            let instance = hello.instance;
            alive.greeted(instance, key);
            // The event loop gets the only lasting sender: when it drops the sender, the stream ends.
            let way =
                OrderSender { orders, from: address.map(|address| address.ip()), _open: open.clone().drop_guard() };
            if heard.send(Incoming::Joined(key, Box::new(hello), way)).await.is_err() {
                return;
            }
            instance
        }
        Ok(Ok(_)) => return refuse(&orders, &from, "the first message is not a greeting").await,
        Ok(Err(problem)) => return refuse(&orders, &from, &problem).await,
        Err(_) => return refuse(&orders, &from, "no greeting in time").await,
    };
    loop {
        let message = tokio::select! {
            biased;
            () = open.cancelled() => {
                alive.gone(instance, key);
                // The last orders are still on their way; what the agent sends meanwhile is ignored.
                let silence = async { while next(&mut incoming).await.is_ok() {} };
                let _ = timeout(LAST_WORDS, silence).await;
                return;
            }
            message = next(&mut incoming) => message,
        };
        match message {
            Ok(message) => {
                if heard.send(Incoming::Message(key, Box::new(message))).await.is_err() {
                    return;
                }
            }
            Err(problem) => {
                alive.gone(instance, key);
                // The event loop may have ended.
                let _ = heard.send(Incoming::Left(key, problem)).await;
                return;
            }
        }
    }
}

async fn next(incoming: &mut Streaming<pb::AgentMessage>) -> Result<FromAgent, String> {
    match incoming.message().await {
        Ok(Some(message)) => {
            FromAgent::try_from(message).map_err(|invalid| format!("sent a message that is not valid ({invalid})"))
        }
        Ok(None) => Err("closed its connection".to_owned()),
        Err(status) => Err(format!("lost its connection ({})", status.message())),
    }
}

async fn refuse(orders: &mpsc::Sender<FromCoordinator>, from: &str, problem: &str) {
    tracing::warn!("a peer at {from} was refused: {problem}");
    let refused = Refused { why: RefusedWhy::Malformed, message: problem.to_owned() };
    // The peer may have hung up already.
    let _ = orders.send(FromCoordinator::Refused(refused)).await;
}
