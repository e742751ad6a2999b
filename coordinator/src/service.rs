//! The gRPC side: a message becomes an event, an order becomes a message. Decides nothing.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use proto::limits::{AGENTS_MAX, MESSAGE_BYTES_MAX, QUEUE_MESSAGES};
use proto::message::{Hello, Refused, RefusedWhy};
use proto::wire::control_server::{Control, ControlServer};
use proto::{FromAgent, FromCoordinator, wire};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::run::machine::Key;

/// How long a peer may take to greet.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// Peers that may be connected at once, greeted or not.
const CONNECTIONS_MAX: usize = AGENTS_MAX + 256;

/// What the event loop hears.
#[derive(Debug)]
pub enum Heard {
    /// With the way back to it.
    Joined(Key, Box<Hello>, mpsc::Sender<FromCoordinator>),
    Message(Key, Box<FromAgent>),
    Left(Key, String),
}

/// Serves agents on `listener` until the returned task is dropped or aborted. Events queue up to a bound; beyond it
/// the agents wait.
pub fn serve(
    listener: TcpListener,
    heard: mpsc::Sender<Heard>,
) -> tokio::task::JoinHandle<Result<(), tonic::transport::Error>> {
    let service = Service { heard, next_key: Arc::default(), connected: Arc::default() };
    let control = ControlServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .add_service(control);
    // Small orders must not wait for their acknowledgements.
    let incoming = TcpListenerStream::new(listener).map(|stream| {
        if let Ok(stream) = &stream {
            stream.set_nodelay(true)?;
        }
        stream
    });
    tokio::spawn(server.serve_with_incoming(incoming))
}

struct Service {
    heard: mpsc::Sender<Heard>,
    next_key: Arc<AtomicU64>,
    connected: Arc<AtomicUsize>,
}

/// Counts a connection for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[tonic::async_trait]
impl Control for Service {
    type AttendStream = Pin<Box<dyn Stream<Item = Result<wire::CoordinatorMessage, Status>> + Send>>;

    async fn attend(
        &self,
        request: Request<Streaming<wire::AgentMessage>>,
    ) -> Result<Response<Self::AttendStream>, Status> {
        let counted = Counted(self.connected.clone());
        if self.connected.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            return Err(Status::resource_exhausted(format!("{CONNECTIONS_MAX} agents are connected already")));
        }
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        let from = request.remote_addr();
        let (orders, outgoing) = mpsc::channel(QUEUE_MESSAGES);
        tokio::spawn(attend(key, from, request.into_inner(), orders, self.heard.clone(), counted));
        let outgoing = ReceiverStream::new(outgoing).map(|order: FromCoordinator| Ok(order.into()));
        Ok(Response::new(Box::pin(outgoing)))
    }
}

async fn attend(
    key: Key,
    from: Option<SocketAddr>,
    mut incoming: Streaming<wire::AgentMessage>,
    orders: mpsc::Sender<FromCoordinator>,
    heard: mpsc::Sender<Heard>,
    _counted: Counted,
) {
    let from = from.map_or_else(|| "an unknown address".to_owned(), |address| address.to_string());
    match timeout(GREETING_TIMEOUT, next(&mut incoming)).await {
        Ok(Ok(FromAgent::Hello(hello))) => {
            // The only lasting sender belongs to the event loop: when it lets go of it, the stream ends.
            if heard.send(Heard::Joined(key, Box::new(hello), orders)).await.is_err() {
                return;
            }
        }
        Ok(Ok(_)) => return refuse(&orders, &from, "the first message is not a greeting").await,
        Ok(Err(problem)) => return refuse(&orders, &from, &problem).await,
        Err(_) => return refuse(&orders, &from, "no greeting in time").await,
    }
    loop {
        match next(&mut incoming).await {
            Ok(message) => {
                if heard.send(Heard::Message(key, Box::new(message))).await.is_err() {
                    return;
                }
            }
            Err(problem) => {
                // The loop may be gone already: then nobody needs to know.
                let _ = heard.send(Heard::Left(key, problem)).await;
                return;
            }
        }
    }
}

async fn next(incoming: &mut Streaming<wire::AgentMessage>) -> Result<FromAgent, String> {
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
    // It may have hung up already.
    let _ = orders.send(FromCoordinator::Refused(refused)).await;
}
