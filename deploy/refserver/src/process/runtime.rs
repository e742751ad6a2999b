//! What a worker and the supervisor have in common: a runtime, the line that says they serve, and reasons to stop.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A runtime for one thread.
pub(super) fn runtime() -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

/// Prints the line for which the process that starts the server waits.
#[expect(clippy::print_stdout, reason = "see above")]
pub(super) fn announce(address: SocketAddr) -> io::Result<()> {
    println!("listening on {address}");
    io::stdout().flush()
}

/// Cancels `stop` on SIGTERM or SIGINT. Both are caught from the return of this function on.
pub(super) fn stop_with_signals(stop: CancellationToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}

/// Cancels `stop` at the end of standard input. Its thread is not joined, because a blocking read can't be interrupted.
pub(super) fn stop_with_stdin(stop: CancellationToken) -> io::Result<()> {
    std::thread::Builder::new().name("stdin".into()).spawn(move || {
        let mut buffer = [0; 256];
        while let Ok(1..) = io::stdin().read(&mut buffer) {}
        stop.cancel();
    })?;
    Ok(())
}
