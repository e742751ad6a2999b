//! Muster's reference server: the OpenEnv benchmark environment without Python, for testing the tester.
//!
//! It shares no code with the load tester. It frames WebSocket messages itself (RFC 6455), so that tens of thousands of
//! sessions need little memory and wrong answers can be given on purpose.
//!
//! ```text
//! process     the program, its workers, signals            accept      accepts a worker's connections
//! worker      the state that a worker's connections share  socket      reads with the kernel's timestamps
//! connection  HTTP, and sockets and timers of a WebSocket  session     one WebSocket session, without IO
//! frame       RFC 6455 framing, without IO                 http        requests and responses, without IO
//! protocol    OpenEnv messages, without IO                 environment the benchmark environment, and foreign ones
//! faults      what to do wrong, asked at named points      delay       distributions of delays, without IO
//! truth       the server's own record of each session      health      whether a server of this machine answers
//! ```
//!
//! Imports point one way: `process -> accept -> connection -> session -> worker`.
//!
//! There are four sorts of faults: delays and failures by chance; other replies (episodes that end, large texts,
//! foreign observations, odd errors, more headers, not ready yet); other ends (idle connections cut, close messages
//! answered otherwise, a close that is left to the client, slow heads refused, pongs ignored); and a worker that dies.
//! Without a fault everything follows the protocol page (docs).
//!
//! Left out on purpose: TLS, permessage-deflate (never accepted), HTTP/2, request bodies in chunks, a `Date` header,
//! and the limit of 32 threads that HTTP steps share in a real worker.

mod accept;
mod connection;
mod delay;
mod environment;
mod faults;
mod frame;
mod health;
mod http;
mod options;
mod process;
mod protocol;
mod session;
mod socket;
mod truth;
mod worker;

use std::io;

use tokio_util::sync::CancellationToken;

pub use crate::delay::Delay;
pub use crate::faults::{CloseAnswer, Faults, ObservationKind, Unready};
pub use crate::options::Options;
pub use crate::process::{command, main_from};

/// Serves on `listener` as one worker, on the caller's runtime, until `shutdown` completes. Sessions that are open then
/// are closed with code 1012, and at most two seconds later this returns.
///
/// # Errors
/// If the listener or the file of [`Options::truth`] can't be used.
pub async fn run(
    listener: std::net::TcpListener,
    options: Options,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let port = listener.local_addr()?.port();
    let worker = worker::Worker::new(options, port)?;
    let listener = accept::into_tokio(listener, &worker)?;
    let stop = CancellationToken::new();
    let serving = accept::serve(listener, worker, stop.clone());
    tokio::pin!(serving, shutdown);
    tokio::select! {
        ended = &mut serving => ended,
        () = &mut shutdown => {
            stop.cancel();
            serving.await
        }
    }
}
