//! A coordinator that says what a test tells it to.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use proto::message::{Refused, RefusedWhy, Welcome};
use proto::pb::control_server::{Control, ControlServer};
use proto::pb::{AgentMessage, CoordinatorMessage, Heartbeat, HeartbeatAck};
use proto::{FromAgent, FromCoordinator, PlanHash, RunId};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

/// Of the run that agents are welcomed to.
pub(crate) const PLAN: PlanHash = PlanHash([1; 32]);

/// Serves on a runtime of its own, so that it can vanish as a killed process would.
#[derive(Debug)]
pub(crate) struct Coordinator {
    pub(crate) address: SocketAddr,
    visits: mpsc::UnboundedReceiver<Visit>,
    /// Instances whose hearts beat.
    beats: mpsc::UnboundedReceiver<[u8; 16]>,
    muted: Arc<AtomicBool>,
    runtime: Option<Runtime>,
}

/// One stream of one agent. Dropping it ends the stream.
#[derive(Debug)]
pub(crate) struct Visit {
    heard: Streaming<AgentMessage>,
    tell: mpsc::Sender<Result<CoordinatorMessage, Status>>,
}

impl Coordinator {
    pub(crate) fn start() -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into())
    }

    pub(crate) fn start_at(address: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("runtime");
        let (visitors, visits) = mpsc::unbounded_channel();
        let (hearts, beats) = mpsc::unbounded_channel();
        let muted = Arc::<AtomicBool>::default();
        let mute = muted.clone();
        let (bound, listening) = channel();
        runtime.spawn(async move {
            let listener = TcpListener::bind(address).await.expect("bind");
            bound.send(listener.local_addr().expect("address")).expect("the test waits");
            let service = ControlServer::new(Desk { visitors, hearts, mute });
            let served = tonic::transport::Server::builder().add_service(service);
            served.serve_with_incoming(TcpListenerStream::new(listener)).await.expect("serve");
        });
        let address = listening.recv().expect("the coordinator listens");
        Self { address, visits, beats, muted, runtime: Some(runtime) }
    }

    /// The next agent that dials in.
    pub(crate) async fn visit(&mut self) -> Visit {
        self.visits.recv().await.expect("the coordinator is there")
    }

    /// The next sign of life.
    pub(crate) async fn beat(&mut self) -> [u8; 16] {
        self.beats.recv().await.expect("the coordinator is there")
    }

    /// One that came already.
    pub(crate) fn beat_so_far(&mut self) -> Option<[u8; 16]> {
        self.beats.try_recv().ok()
    }

    /// Heartbeats are heard from here on, and not answered.
    pub(crate) fn mute(&self) {
        self.muted.store(true, Ordering::Relaxed);
    }

    /// The next agent, greeted and welcomed; with the plan it says it was welcomed to before.
    pub(crate) async fn welcome(&mut self, run: RunId) -> (Visit, Option<PlanHash>) {
        let mut visit = self.visit().await;
        let FromAgent::Hello(hello) = visit.hear().await.expect("a greeting") else { panic!("no greeting") };
        let lease = Duration::from_secs(10);
        let welcome = Welcome { run, plan_hash: PLAN, name: hello.name, lease };
        visit.say(FromCoordinator::Welcome(welcome)).await;
        (visit, hello.plan_hash)
    }

    /// The next agent, turned away.
    pub(crate) async fn refuse(&mut self, why: RefusedWhy, message: &str) -> Visit {
        let mut visit = self.visit().await;
        assert!(matches!(visit.hear().await, Some(FromAgent::Hello(_))), "an agent greets first");
        visit.say(FromCoordinator::Refused(Refused { why, message: message.to_owned() })).await;
        visit
    }
}

impl Drop for Coordinator {
    /// Every socket closes at once, without a goodbye, and is closed when this returns.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A runtime's end is waited for, which the test's own runtime must not see.
            let _ = std::thread::spawn(move || drop(runtime)).join();
        }
    }
}

impl Visit {
    /// The next message, signs of life included; `None` when the agent has gone.
    pub(crate) async fn hear_all(&mut self) -> Option<FromAgent> {
        let message = self.heard.message().await.ok().flatten()?;
        Some(FromAgent::try_from(message).expect("an agent's messages are valid"))
    }

    /// The next message that is more than a sign of life.
    pub(crate) async fn hear(&mut self) -> Option<FromAgent> {
        loop {
            match self.hear_all().await {
                Some(FromAgent::Progress(_)) => {}
                other => return other,
            }
        }
    }

    pub(crate) async fn say(&self, order: FromCoordinator) {
        self.say_raw(order.into()).await;
    }

    /// Says what need not be valid.
    pub(crate) async fn say_raw(&self, message: CoordinatorMessage) {
        self.tell.send(Ok(message)).await.expect("the agent is there");
    }
}

struct Desk {
    visitors: mpsc::UnboundedSender<Visit>,
    hearts: mpsc::UnboundedSender<[u8; 16]>,
    mute: Arc<AtomicBool>,
}

#[tonic::async_trait]
impl Control for Desk {
    type AttendStream = ReceiverStream<Result<CoordinatorMessage, Status>>;

    async fn attend(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Self::AttendStream>, Status> {
        let (tell, told) = mpsc::channel(64);
        let visit = Visit { heard: request.into_inner(), tell };
        self.visitors.send(visit).map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(told)))
    }

    type HeartbeatsStream = Pin<Box<dyn Stream<Item = Result<HeartbeatAck, Status>> + Send>>;

    async fn heartbeats(
        &self,
        request: Request<Streaming<Heartbeat>>,
    ) -> Result<Response<Self::HeartbeatsStream>, Status> {
        let (hearts, mute) = (self.hearts.clone(), self.mute.clone());
        let answers = request.into_inner().filter_map(move |beat| {
            let beat = proto::message::Heartbeat::try_from(beat.ok()?).expect("an agent's beats are valid");
            // The test may have stopped listening.
            let _ = hearts.send(beat.instance);
            (!mute.load(Ordering::Relaxed)).then_some(Ok(HeartbeatAck { sequence: beat.sequence }))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}
