//! A TCP relay between a client and a server that behaves like a bad network: delay, jitter, stalls, half-open links
//! and cuts, seeded and without privileges. For tests: many kernels have no netem.
//!
//! ```text
//! main        the command line: commands on standard input   lib         the relay and its thread
//! connection  sockets and timers of one connection           link        the state of the link, without IO
//! delay_line  when a chunk may go on, without IO
//! ```
//!
//! Each connection is relayed by two connections of this process, so it delays and breaks *connections*, as programs
//! see them. Left out on purpose: lost, doubled or reordered segments (TCP hides them), limits of bandwidth, and delay
//! of the connection's setup. Timers have a resolution of one millisecond: a chunk is up to one late, never early.

mod connection;
mod delay_line;
mod link;

use std::io;
use std::net::SocketAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use crate::link::Command;
use crate::link::Link;

/// Pause after an accept failed, for lack of descriptors or memory if it lasts.
const ACCEPT_RETRY: Duration = Duration::from_millis(5);

/// Where a relay connects to, and what it does to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// The server. The relay connects to it once for each connection that it accepts.
    pub to: SocketAddr,
    /// How long every chunk is delayed, in each direction.
    pub delay: Duration,
    /// The largest additional delay, drawn uniformly from zero on.
    pub jitter: Duration,
    /// The same seed draws the same jitter for the same chunks of the same connections. Connections are numbered as
    /// they are accepted.
    pub seed: u64,
}

/// A running relay. Dropping it closes all its connections and its listener before the drop returns.
///
/// A command is in effect once its call has returned: after [`Relay::stall`] not one byte is forwarded. A connection
/// counts as new until it is accepted, some time after the client can write to it.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    link: watch::Sender<Link>,
    /// `None` only while it is dropped.
    stop: Option<DropGuard>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Relays what `listener` accepts, on a thread of its own.
    ///
    /// # Errors
    /// If the listener can't be used or no thread can be started.
    pub fn start(listener: std::net::TcpListener, options: Options) -> io::Result<Self> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _entered = runtime.enter();
            TcpListener::from_std(listener)?
        };
        let (link, watched) = watch::channel(Link::default());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name("relay".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = stopped.cancelled() => {}
                    () = accept_all(listener, options, watched) => {}
                }
            });
        })?;
        Ok(Self { address, link, stop: Some(stop.drop_guard()), thread: Some(thread) })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Forwards nothing in either direction, and loses nothing. New connections are accepted and wait.
    pub fn stall(&self) {
        self.send(Command::Stall);
    }

    /// Ends a stall. What has become due meanwhile is forwarded at once.
    pub fn resume(&self) {
        self.send(Command::Resume);
    }

    /// Drops whatever either side sends, FIN and RST too, also on new connections, which all stay open. Such a
    /// connection never works again, and ends when both its sides have ended it.
    pub fn half_open(&self) {
        self.send(Command::HalfOpen);
    }

    /// Ends a half-open link or a cut: new connections work.
    pub fn heal(&self) {
        self.send(Command::Heal);
    }

    /// Resets all connections, and every new one.
    pub fn cut(&self) {
        self.send(Command::Cut);
    }

    /// Sends any command.
    pub fn send(&self, command: Command) {
        self.link.send_modify(|link| link.apply(command));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic was printed where it happened, and tests notice it by their connections.
            let _ = thread.join();
        }
    }
}

/// Relays until it is dropped.
async fn accept_all(listener: TcpListener, options: Options, link: watch::Receiver<Link>) {
    let mut connections = JoinSet::new();
    let mut accepted: u64 = 0;
    loop {
        tokio::select! {
            client = listener.accept() => match client {
                Ok((client, _)) => {
                    connections.spawn(connection::serve(client, accepted, options, link.clone()));
                    accepted += 1;
                }
                Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
            },
            Some(_ended) = connections.join_next() => {}
        }
    }
}
