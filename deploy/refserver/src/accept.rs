//! The loop that accepts a worker's connections.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection;
use crate::socket::{self, wall_clock};
use crate::truth::Log;
use crate::worker::Worker;

/// How long open connections may take to end once the server stops.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Pause after an accept failed for lack of file descriptors or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(5);

/// Prepares a listening socket for [`serve`]. Must be called on the runtime that will use it.
pub(crate) fn into_tokio(listener: std::net::TcpListener, worker: &Worker) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    // Accepted connections inherit this option and the next one, which saves a system call for each.
    socket2::SockRef::from(&listener).set_tcp_nodelay(true)?;
    if worker.truth.is_some() {
        socket::enable_timestamps(&listener);
    }
    TcpListener::from_std(listener)
}

/// Accepts connections until `stop`, then gives the open ones a bounded time to end.
///
/// # Errors
/// If accepting fails in a way that will not pass.
pub(crate) async fn serve(listener: TcpListener, worker: Arc<Worker>, stop: CancellationToken) -> io::Result<()> {
    let connections = TaskTracker::new();
    let accepted = accept_all(&listener, &worker, &connections, &stop).await;
    drop(listener);
    stop.cancel();
    connections.close();
    // Sessions end earlier by themselves; this bounds the unforeseen.
    let _ = tokio::time::timeout(SHUTDOWN_GRACE, connections.wait()).await;
    accepted
}

async fn accept_all(
    listener: &TcpListener,
    worker: &Arc<Worker>,
    connections: &TaskTracker,
    stop: &CancellationToken,
) -> io::Result<()> {
    let mut warned = false;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let log = worker.truth.as_ref().map(|_| Box::new(Log::new(wall_clock())));
                connections.spawn(connection::serve(stream, log, Arc::clone(worker), stop.clone()));
            }
            Err(error) if is_about_one_connection(&error) => {}
            Err(error) if is_shortage(&error) => {
                if !warned {
                    tracing::warn!(%error, "cannot accept for now");
                    warned = true;
                }
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether an error belongs to the new connection: accept(2) reports those that are pending on it.
fn is_about_one_connection(error: &io::Error) -> bool {
    use nix::libc::{EHOSTDOWN, EHOSTUNREACH, ENETDOWN, ENETUNREACH, ENONET, ENOPROTOOPT, EOPNOTSUPP, EPERM, EPROTO};
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
        || matches!(
            error.raw_os_error(),
            Some(
                EHOSTDOWN | EHOSTUNREACH | ENETDOWN | ENETUNREACH | ENONET | ENOPROTOOPT | EOPNOTSUPP | EPERM | EPROTO
            )
        )
}

/// Whether an error says that descriptors or memory are short, which may pass.
fn is_shortage(error: &io::Error) -> bool {
    use nix::libc::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE | ENOBUFS | ENOMEM))
}
