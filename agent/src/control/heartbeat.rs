//! Heartbeats, on a thread and a connection of their own: an agent whose load takes every core is slow, not dead, and
//! must not be taken for dead. They are answered: a coordinator that answers none is gone, even if the stream of orders
//! still looks open.

use std::time::Duration;

use proto::{message, pb};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::link::Connector;

/// The number of heartbeats within a lease: some may be lost on the way.
const HEARTBEATS_A_LEASE: u32 = 5;
/// The longest time between two heartbeats.
const HEARTBEAT_EVERY_MAX: Duration = Duration::from_secs(1);
/// Pause between two tries to reach the coordinator.
const RETRY: Duration = Duration::from_millis(200);

/// Sends heartbeats until it is dropped.
#[derive(Debug)]
pub struct Heartbeat {
    _stop: DropGuard,
    lost: CancellationToken,
}

/// What runs the heartbeats.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Executor {
    /// A thread of its own, which the operating system schedules whatever the rest of the process does.
    #[default]
    Thread,
    /// A task of the current runtime: for simulations, which have their own time.
    Task,
}

impl Heartbeat {
    /// Starts heartbeats for the agent that greeted as `instance`.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(
        connector: Connector,
        instance: [u8; 16],
        lease: Duration,
        executor: Executor,
    ) -> Result<Self, String> {
        let (stop, lost) = (CancellationToken::new(), CancellationToken::new());
        let beating = run(connector, instance, lease, stop.clone(), lost.clone());
        match executor {
            Executor::Task => {
                tokio::spawn(beating);
            }
            Executor::Thread => {
                let failed = |error: std::io::Error| format!("no heartbeats: {error}");
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
                std::thread::Builder::new()
                    .name("heartbeat".to_owned())
                    .spawn(move || {
                        runtime.block_on(beating);
                        // Does not wait for a name lookup that is under way.
                        runtime.shutdown_background();
                    })
                    .map_err(failed)?;
            }
        }
        Ok(Self { _stop: stop.drop_guard(), lost })
    }

    /// Returns when the coordinator has answered nothing for the lease.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

/// Sends heartbeats until `stop` is cancelled. Cancels `lost` when none was answered for the lease.
async fn run(
    connector: Connector,
    instance: [u8; 16],
    lease: Duration,
    stop: CancellationToken,
    lost: CancellationToken,
) {
    // Also cancelled if this task ends for another reason, a panic say.
    let _lost = lost.clone().drop_guard();
    // The welcome, which has just arrived on the stream of orders, counts as the first answer.
    let mut answered = Instant::now();
    let beating = async {
        loop {
            let problem = connect_and_send(&connector, instance, lease, &mut answered).await;
            if answered.elapsed() >= lease {
                tracing::warn!("no heartbeat was answered for {} s: {problem}", lease.as_secs_f64());
                return lost.cancel();
            }
            tracing::debug!("heartbeats: {problem}");
            sleep(RETRY.min(lease / HEARTBEATS_A_LEASE)).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = beating => {}
    }
}

/// Opens a connection and sends heartbeats until something is wrong or the lease is over without an answer. Returns
/// what was wrong, and keeps the time of the last answer in `answered`.
async fn connect_and_send(
    connector: &Connector,
    instance: [u8; 16],
    lease: Duration,
    answered: &mut Instant,
) -> String {
    let conversation = async {
        let opened = timeout_at(*answered + lease, connector.channel());
        let (mut client, _) =
            opened.await.map_err(|_| "no answer".to_owned())?.map_err(|error| format!("{error:?}"))?;
        let (heartbeats, outgoing) = mpsc::channel(1);
        let outgoing = ReceiverStream::new(outgoing).map(pb::Heartbeat::from);
        let mut every = interval((lease / HEARTBEATS_A_LEASE).min(HEARTBEAT_EVERY_MAX));
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first heartbeat is sent with the call: the coordinator answers the call when it has read one.
        let _ = heartbeats.try_send(message::Heartbeat { instance, sequence: 0 });
        let opened = client.heartbeats(outgoing);
        let mut answers = timeout_at(*answered + lease, opened)
            .await
            .map_err(|_| "no answer".to_owned())?
            .map_err(|s| s.to_string())?
            .into_inner();
        let mut sequence = 0;
        loop {
            let limit = *answered + lease;
            tokio::select! {
                answer = timeout_at(limit, answers.message()) => match answer {
                    Err(_) => return Err("no answer".to_owned()),
                    Ok(Ok(Some(_))) => *answered = Instant::now(),
                    Ok(Ok(None)) => return Err("the coordinator closed the connection".to_owned()),
                    Ok(Err(status)) => return Err(status.to_string()),
                },
                _ = every.tick() => {
                    sequence += 1;
                    // A heartbeat that finds no room is dropped: the one before it says the same.
                    let _ = heartbeats.try_send(message::Heartbeat { instance, sequence });
                }
            }
        }
    };
    let ended: Result<(), String> = conversation.await;
    ended.err().unwrap_or_default()
}
