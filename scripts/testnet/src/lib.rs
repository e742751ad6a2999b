//! A TCP relay between a client and a server that behaves like a bad network: delay, jitter, stalls, half-open links
//! and cuts, seeded and without privileges. For tests: many kernels have no netem.
//!
//! ```text
//! main        the command line: words on standard input      lib         the relay as a value, its thread
//! connection  sockets and timers of one connection           link        what is wrong with the link, without IO
//! delay_line  when a chunk may go on, without IO
//! ```
//!
//! Each connection is relayed by two connections of this process, so what it shows is delay and loss of *connections*,
//! as programs see them. Deliberately absent: lost, doubled or reordered segments (TCP hides them), limits of
//! bandwidth, and delay of the connection's setup. Timers tick in whole milliseconds: a chunk goes on up to one late,
//! never early.

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

use crate::link::Link;
pub use crate::link::Word;

/// Pause after an accept failed, for want of descriptors or memory if it lasts.
const ACCEPT_RETRY: Duration = Duration::from_millis(5);

/// Where to and how badly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Connections are made to here, one for each that is accepted.
    pub to: SocketAddr,
    /// Every chunk is held back for this long, in each direction.
    pub delay: Duration,
    /// And for a uniform draw from zero to this.
    pub jitter: Duration,
    /// The same seed draws the same jitter for the same chunks of the same connections, in the order of their accepts.
    pub seed: u64,
}

/// A running relay. Dropped, it closes all its connections and its listener before the drop returns.
///
/// What is said to it holds once the call has returned: behind a [`Relay::stall`] not one byte more goes on.
/// Connections are new until they have been accepted, which is some time after they can be written to.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    link: watch::Sender<Link>,
    /// Taken only by the drop.
    stop: Option<DropGuard>,
    thread: Option<JoinHandle<()>>,
}

impl Relay {
    /// Relays what `listener` accepts, on a thread of its own.
    ///
    /// # Errors
    /// When the listener cannot be used or there can be no thread.
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

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Nothing goes on in either direction, and nothing is lost. New connections are accepted and wait.
    pub fn stall(&self) {
        self.tell(Word::Stall);
    }

    /// Ends a stall; what has become due in the meantime goes on at once.
    pub fn resume(&self) {
        self.tell(Word::Resume);
    }

    /// Whatever either side sends vanishes, its FIN and RST too, also on new connections; all of them stay open. A
    /// connection that this has hit never works again, and ends when both its sides have ended it.
    pub fn half_open(&self) {
        self.tell(Word::HalfOpen);
    }

    /// Ends a half-open link or a cut: new connections work.
    pub fn heal(&self) {
        self.tell(Word::Heal);
    }

    /// Resets all connections, and every new one.
    pub fn cut(&self) {
        self.tell(Word::Cut);
    }

    /// The same by its word.
    pub fn tell(&self, word: Word) {
        self.link.send_modify(|link| link.apply(word));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic has been printed where it happened; a test notices by its connections.
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
