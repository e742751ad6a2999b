//! Muster's reference server: the OpenEnv benchmark environment without Python, for testing the tester.
//!
//! It shares no code with what it is tested against, and frames WebSocket messages itself (RFC 6455), so that tens of
//! thousands of sessions cost few bytes each and a wrong answer can be given on purpose.
//!
//! ```text
//! process     command line, worker processes, signals      worker      accepts; what a process's connections share
//! connection  HTTP of one connection, and its last word    driver      sockets and timers of one WebSocket session
//! session     one WebSocket session, without IO            frame       RFC 6455 framing, without IO
//! http        requests and responses, without IO           environment the benchmark environment, and foreign ones
//! protocol    OpenEnv messages, without IO                 delay       distributions of delays, without IO
//! faults      what to do wrong, asked at named points      values      of fault options, read and checked
//! health      is a server of this machine well
//! truth       what the server itself saw of each session   stamp       when the kernel received what is read
//! ```
//!
//! Faults are of four sorts: delays and failures by chance; other replies (episodes that end, large texts, foreign
//! observations, odd errors, more headers, not ready yet); other ends (idle connections cut, close messages answered
//! otherwise, a close that is left to the client, slow heads refused, pongs not heard); and a worker that dies. Only a
//! fault makes anything differ from the protocol page.
//!
//! Deliberately absent: TLS, permessage-deflate (never accepted), HTTP/2, request bodies in chunks, a `Date` header,
//! and the limit of 32 threads that HTTP steps share in a real worker.

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
mod stamp;
mod truth;
mod worker;

use std::io;

use tokio_util::sync::CancellationToken;

pub use crate::delay::Delay;
pub use crate::faults::{CloseAnswer, Faults, ObservationKind, Unready};
pub use crate::options::Options;
pub use crate::process::{command, main_from};

/// Serves on `listener` as one worker, on the caller's runtime, until `shutdown` completes. Sessions still open then
/// are closed with 1012, and at most two seconds later this returns.
///
/// # Errors
/// When the listener or the file of [`Options::truth`] cannot be used.
pub async fn run(
    listener: std::net::TcpListener,
    options: Options,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let port = listener.local_addr()?.port();
    let worker = worker::Worker::new(options, port)?;
    let listener = process::into_tokio(listener, &worker)?;
    let stop = CancellationToken::new();
    let serving = worker::serve(listener, worker, stop.clone());
    tokio::pin!(serving, shutdown);
    tokio::select! {
        ended = &mut serving => ended,
        () = &mut shutdown => {
            stop.cancel();
            serving.await
        }
    }
}
