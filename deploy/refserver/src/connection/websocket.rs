//! Moves bytes and time between a [`Session`] and its connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::AsyncWrite as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::frame::Decoder;
use crate::session::{Phase, Session};
use crate::socket::{self, Arrival, wall_clock};

/// Runs the session until it has finished with the connection, and returns the connection to be closed. `input` is what
/// the client sent right behind its handshake, and `arrival` when.
pub(super) async fn drive(
    stream: TcpStream,
    (mut input, arrival): (Vec<u8>, Arrival),
    session: &mut Session,
    stamped: bool,
    stop: &CancellationToken,
) -> TcpStream {
    let mut decoder = Decoder::default();
    if !input.is_empty() {
        // The handshake may have been delayed since then, and the session's time must not run backwards.
        let arrival = Arrival { at: Instant::now(), ..arrival };
        decode(&mut decoder, &mut input, session, arrival);
    }
    drop(input);
    let first_deadline = session.deadline().unwrap_or_else(far_future);
    let sleep = sleep_until(first_deadline);
    let stopped = stop.cancelled();
    tokio::pin!(sleep, stopped);
    let mut driver = Driver { stream, stamped, decoder, half_closed: false, stopping: false };
    std::future::poll_fn(|cx| driver.poll(cx, session, sleep.as_mut(), stopped.as_mut())).await;
    if session.phase() == Phase::Aborted {
        socket::reset_on_close(&driver.stream);
    }
    driver.stream
}

fn far_future() -> Instant {
    Instant::now() + Duration::from_secs(365 * 86_400)
}

fn decode(decoder: &mut Decoder, bytes: &mut [u8], session: &mut Session, arrival: Arrival) {
    let decoded = match session.phase() {
        Phase::Open | Phase::Closing => decoder.feed(bytes, &mut |frame| session.on_frame(frame, arrival)),
        Phase::Failing | Phase::Finished | Phase::Aborted => Ok(()),
    };
    if let Err(violation) = decoded {
        session.on_violation(violation, arrival.at);
    }
}

/// A connection with what is known of both directions.
struct Driver {
    stream: TcpStream,
    /// Read the kernel's receive timestamps.
    stamped: bool,
    decoder: Decoder,
    half_closed: bool,
    /// The session knows that the server stops.
    stopping: bool,
}

impl Driver {
    /// Ready when the connection shall be closed.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        session: &mut Session,
        mut sleep: Pin<&mut tokio::time::Sleep>,
        mut stopped: Pin<&mut WaitForCancellationFuture<'_>>,
    ) -> Poll<()> {
        loop {
            let now = Instant::now();
            session.advance(now);
            if session.phase() == Phase::Aborted {
                return Poll::Ready(());
            }
            if let Err(_lost) = self.flush(cx, session, now) {
                session.on_end_of_stream(now);
            }
            if session.phase() == Phase::Finished && (session.unsent().is_empty() || session.has_given_up(now)) {
                return Poll::Ready(());
            }
            // Sending may have made room to answer a message that waits.
            let mut progress = session.has_next();
            if session.wants_input() && session.phase() != Phase::Finished {
                progress |= self.read(cx, session);
            }
            // A completed future must not be polled again.
            if !self.stopping && stopped.as_mut().poll(cx).is_ready() {
                self.stopping = true;
                session.on_shutdown(now);
                progress = true;
            }
            if let Some(deadline) = session.deadline() {
                if sleep.deadline() != deadline {
                    sleep.as_mut().reset(deadline);
                }
                progress |= sleep.as_mut().poll(cx).is_ready();
            }
            if !progress {
                return Poll::Pending;
            }
        }
    }

    /// Sends what can be sent now, and half-closes after the close frame that answers a violation.
    fn flush(&mut self, cx: &mut Context<'_>, session: &mut Session, now: Instant) -> io::Result<()> {
        while !session.unsent().is_empty() {
            if let Some(log) = session.unwritten() {
                log.write(Instant::now(), wall_clock());
            }
            let written = match session.phase() {
                Phase::Finished if session.lingers().is_none() => self.poll_write_last(cx, session.unsent()),
                _ => Pin::new(&mut self.stream).poll_write(cx, session.unsent()),
            };
            match written {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(sent)) => session.on_sent(sent, now),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(()),
            }
        }
        if session.phase() == Phase::Failing && !self.half_closed {
            self.half_closed = true;
            if let Poll::Ready(result) = Pin::new(&mut self.stream).poll_shutdown(cx) {
                return result;
            }
        }
        Ok(())
    }

    /// Writes the last bytes before the close. With MSG_MORE the FIN travels in the same segment.
    fn poll_write_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let stream = &self.stream;
        let send =
            || socket2::SockRef::from(stream).send_with_flags(bytes, nix::libc::MSG_MORE | nix::libc::MSG_NOSIGNAL);
        match stream.try_io(tokio::io::Interest::WRITABLE, send) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Pin::new(&mut self.stream).poll_write(cx, bytes),
            sent => Poll::Ready(sent),
        }
    }

    /// Reads once; `false` if nothing has arrived.
    fn read(&mut self, cx: &mut Context<'_>, session: &mut Session) -> bool {
        socket::with_buffer(|buffer| {
            match buffer.poll_read(cx, &mut self.stream, self.stamped) {
                Poll::Pending => return false,
                Poll::Ready(Ok((bytes, stamp))) if !bytes.is_empty() => {
                    decode(&mut self.decoder, bytes, session, Arrival { at: Instant::now(), stamp });
                }
                Poll::Ready(_) => session.on_end_of_stream(Instant::now()),
            }
            true
        })
    }
}
