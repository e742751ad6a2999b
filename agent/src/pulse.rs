//! Signs of life, on a thread and a connection of their own: an agent whose load takes every core it can get is late, not
//! dead, and must not be taken for dead. They go both ways: a coordinator that answers none is gone, whatever the stream
//! of orders still looks like.

use std::time::Duration;

use proto::message::Beat;
use proto::wire;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::link::Connector;

/// At least so often within a lease: some may be lost on the way.
const BEATS_A_LEASE: u32 = 5;
const BEAT_EVERY_MAX: Duration = Duration::from_secs(1);
/// Between two tries to reach the coordinator.
const RETRY: Duration = Duration::from_millis(200);

/// A heart that beats for as long as this lives.
#[derive(Debug)]
pub struct Pulse {
    _stop: DropGuard,
    lost: CancellationToken,
}

/// Where it beats.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Home {
    /// The operating system gives it its turn, whatever this process does.
    #[default]
    Thread,
    /// In simulations, where all time is the simulation's.
    Task,
}

impl Pulse {
    /// Beats for the stream that greeted as `instance`.
    ///
    /// # Errors
    /// If no thread can be started.
    pub fn start(connector: Connector, instance: [u8; 16], lease: Duration, home: Home) -> Result<Self, String> {
        let (stop, lost) = (CancellationToken::new(), CancellationToken::new());
        let beating = beat_until(connector, instance, lease, stop.clone(), lost.clone());
        match home {
            Home::Task => {
                tokio::spawn(beating);
            }
            Home::Thread => {
                let cant = |error: std::io::Error| format!("no heartbeats: {error}");
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cant)?;
                std::thread::Builder::new()
                    .name("pulse".to_owned())
                    .spawn(move || {
                        runtime.block_on(beating);
                        // A name that is being looked up is not waited for.
                        runtime.shutdown_background();
                    })
                    .map_err(cant)?;
            }
        }
        Ok(Self { _stop: stop.drop_guard(), lost })
    }

    /// Returns when the coordinator has answered nothing for the lease.
    pub async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

async fn beat_until(
    connector: Connector,
    instance: [u8; 16],
    lease: Duration,
    stop: CancellationToken,
    lost: CancellationToken,
) {
    // A heart that stops for whatever reason is one that no longer beats.
    let _lost = lost.clone().drop_guard();
    // What was said on the stream of orders a moment ago counts as the first answer.
    let mut answered = Instant::now();
    let beating = async {
        loop {
            let problem = connect_and_beat(&connector, instance, lease, &mut answered).await;
            if answered.elapsed() >= lease {
                tracing::warn!("no heartbeat was answered for {} s: {problem}", lease.as_secs_f64());
                return lost.cancel();
            }
            tracing::debug!("heartbeats: {problem}");
            sleep(RETRY.min(lease / BEATS_A_LEASE)).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = beating => {}
    }
}

/// Until something is wrong, or the lease is over without an answer.
async fn connect_and_beat(
    connector: &Connector,
    instance: [u8; 16],
    lease: Duration,
    answered: &mut Instant,
) -> String {
    let talk = async {
        let opened = timeout_at(*answered + lease, connector.channel());
        let (mut client, _) =
            opened.await.map_err(|_| "no answer".to_owned())?.map_err(|error| format!("{error:?}"))?;
        let (beats, outgoing) = mpsc::channel(1);
        let outgoing = ReceiverStream::new(outgoing).map(wire::Beat::from);
        let mut every = interval((lease / BEATS_A_LEASE).min(BEAT_EVERY_MAX));
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first one is sent along: the coordinator answers the call when it has read it.
        let _ = beats.try_send(Beat { instance, sequence: 0 });
        let opened = client.pulse(outgoing);
        let mut seen = timeout_at(*answered + lease, opened)
            .await
            .map_err(|_| "no answer".to_owned())?
            .map_err(|s| s.to_string())?
            .into_inner();
        let mut sequence = 0;
        loop {
            let limit = *answered + lease;
            tokio::select! {
                answer = timeout_at(limit, seen.message()) => match answer {
                    Err(_) => return Err("no answer".to_owned()),
                    Ok(Ok(Some(_))) => *answered = Instant::now(),
                    Ok(Ok(None)) => return Err("the coordinator hung up".to_owned()),
                    Ok(Err(status)) => return Err(status.to_string()),
                },
                _ = every.tick() => {
                    sequence += 1;
                    // One that finds no room would say nothing new.
                    let _ = beats.try_send(Beat { instance, sequence });
                }
            }
        }
    };
    let ended: Result<(), String> = talk.await;
    ended.err().unwrap_or_default()
}
