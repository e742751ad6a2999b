//! One accepted connection: HTTP requests, until one of them turns it into a WebSocket session.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncWrite as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use crate::environment::Environment;
use crate::faults::{AtStep, AtUpgrade};
use crate::frame::Decoder;
use crate::http::{self, Response, Route};
use crate::session::{Phase, Session, Upgrade};
use crate::stamp::{Arrival, Scratch, wall_clock};
use crate::truth::Log;
use crate::worker::Worker;

/// How long a connection may idle between two HTTP requests, as in uvicorn. The first may come as late as it likes.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

const SCRATCH_BYTES: usize = 64 * 1024;

thread_local! {
    /// Where a thread reads into before anything is known about the bytes; nobody holds it across an await, so all
    /// of its connections share one.
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch::new(SCRATCH_BYTES));
}

/// Serves the connection until it is closed or the worker stops. Errors of the connection end it and nothing else.
/// `log` is there when sessions are to be measured.
pub(crate) async fn serve(mut stream: TcpStream, log: Option<Box<Log>>, worker: Arc<Worker>, stop: CancellationToken) {
    let mut input = Vec::new();
    let upgrade = tokio::select! {
        biased;
        served = serve_http(&mut stream, &mut input, &worker) => served,
        () = stop.cancelled() => return,
    };
    if let Ok(Some(upgrade)) = upgrade {
        // What came behind the handshake was read with it.
        let arrival = upgrade.arrival;
        let mut session = Session::open(Arc::clone(&worker), upgrade, log, Instant::now());
        drive(stream, (input, arrival), &mut session, worker.truth.is_some(), &stop).await;
        if let Some(truth) = &worker.truth
            && let Some(log) = session.take_log(wall_clock())
        {
            truth.put(log);
        }
        // The connection is gone, but a step it started runs on and keeps the session's place.
        if let Some(until) = session.running_until()
            && session.phase() != Phase::Aborted
        {
            tokio::select! {
                () = sleep_until(until) => {}
                () = stop.cancelled() => {}
            }
        }
    }
}

/// Answers HTTP requests; returns a WebSocket handshake, or `None` when the connection is to be closed. `input` is left
/// with what followed the request.
async fn serve_http(stream: &mut TcpStream, input: &mut Vec<u8>, worker: &Arc<Worker>) -> io::Result<Option<Upgrade>> {
    let stamped = worker.truth.is_some();
    let mut patience = Duration::MAX;
    let mut arrival = Arrival { at: Instant::now(), stamp: None };
    loop {
        let (head, head_bytes) = loop {
            match http::parse_head(input) {
                Ok(Some(found)) => break found,
                Ok(None) => {}
                Err(status) => {
                    send(stream, &Response::status(status), false).await?;
                    linger(stream).await;
                    return Ok(None);
                }
            }
            arrival = if patience == Duration::MAX {
                read_some(stream, input, stamped).await?
            } else {
                timeout(patience, read_some(stream, input, stamped)).await??
            };
        };
        input.drain(..head_bytes);
        while input.len() < head.body_bytes {
            arrival = read_some(stream, input, stamped).await?;
        }
        let rest = input.split_off(head.body_bytes);
        let body = std::mem::replace(input, rest);
        let answer = if worker.faults.at_request() {
            Answer::Response(Response::html())
        } else {
            match head.route {
                Route::WebSocket(accept) => match worker.faults.at_upgrade() {
                    AtUpgrade::Accept(delay) => {
                        if !delay.is_zero() {
                            sleep(delay).await;
                        }
                        return Ok(Some(Upgrade { response: http::upgrade_response(&accept), arrival, delay }));
                    }
                    AtUpgrade::Refuse(status) => Answer::Response(Response::status(status)),
                },
                route => respond(route, &body, worker).await,
            }
        };
        let response = match answer {
            Answer::Response(response) => response,
            Answer::Reset => {
                reset(stream);
                return Ok(None);
            }
            Answer::Never => return drain(stream).await.map(|()| None),
        };
        send(stream, &response, head.keep_alive).await?;
        if !head.keep_alive {
            return Ok(None);
        }
        patience = KEEP_ALIVE;
    }
}

/// How an HTTP request is met.
enum Answer {
    Response(Response),
    /// The connection is reset instead.
    Reset,
    /// The client waits until it has enough of it.
    Never,
}

async fn respond(route: Route, body: &[u8], worker: &Worker) -> Answer {
    let mut out = Vec::new();
    Answer::Response(match route {
        Route::Reset | Route::Step if worker.faults.at_http_call() => Response::status(404),
        Route::Reset => match http::parse_reset(body) {
            Err(detail) => Response::unprocessable(&detail),
            Ok(()) if worker.faults.at_factory() => Response::status(500),
            Ok(()) => {
                sleep(worker.faults.at_reset()).await;
                Environment::new().write_observation(&worker.identity, 0.0, &mut out);
                Response::json(out)
            }
        },
        Route::Step => match http::parse_step(body) {
            Err(detail) => Response::unprocessable(&detail),
            Ok(_) if worker.faults.at_factory() => Response::status(500),
            Ok(wait_seconds) => {
                let Some(wait) = crate::session::wait(wait_seconds) else {
                    return Answer::Response(Response::status(500));
                };
                let mut environment = Environment::new();
                environment.step();
                match worker.faults.at_step() {
                    AtStep::Answer(delay) => {
                        sleep(wait + delay).await;
                        environment.write_observation(&worker.identity, wait_seconds, &mut out);
                        Response::json(out)
                    }
                    AtStep::Fail(delay) => {
                        sleep(wait + delay).await;
                        Response::status(500)
                    }
                    AtStep::Drop => return Answer::Reset,
                    AtStep::Stall => return Answer::Never,
                }
            }
        },
        Route::State => {
            Environment::new().write_state(&mut out);
            Response::json(out)
        }
        Route::Health => Response::json(http::HEALTH.into()),
        Route::Metadata => Response::json(http::metadata().to_string().into_bytes()),
        Route::Schema => Response::json(http::schema().to_string().into_bytes()),
        Route::ForeignWebSocket => Response::status(403),
        Route::BadWebSocket(status) => Response::status(status),
        Route::WebSocket(_) | Route::NotFound => Response::status(404),
        Route::WrongMethod(allowed) => Response::wrong_method(allowed),
    })
}

async fn send(stream: &mut TcpStream, response: &Response, keep_alive: bool) -> io::Result<()> {
    let mut out = Vec::new();
    response.put(keep_alive, &mut out);
    stream.write_all(&out).await
}

/// Half-closes and discards what is still coming, so that the response before it is not lost to a reset.
async fn linger(stream: &mut TcpStream) {
    let half_closed = async {
        stream.shutdown().await?;
        drain(stream).await
    };
    let _: Result<io::Result<()>, _> = timeout(KEEP_ALIVE, half_closed).await;
}

/// Discards what comes until nothing comes any more; ends with an error only.
async fn drain(stream: &mut TcpStream) -> io::Result<()> {
    let mut sink = Vec::new();
    loop {
        sink.clear();
        read_some(stream, &mut sink, false).await?;
    }
}

/// Appends at least one byte.
async fn read_some(stream: &mut TcpStream, input: &mut Vec<u8>, stamped: bool) -> io::Result<Arrival> {
    std::future::poll_fn(|cx| {
        SCRATCH.with_borrow_mut(|scratch| {
            let (bytes, stamp) = ready!(scratch.poll_read(cx, stream, stamped))?;
            if bytes.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            input.extend_from_slice(bytes);
            Poll::Ready(Ok(Arrival { at: Instant::now(), stamp }))
        })
    })
    .await
}

/// Makes the close that follows send a RST.
fn reset(stream: &TcpStream) {
    // Failing, the peer sees an orderly close instead; there is nothing better to do.
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Moves bytes and time between a session and its connection until the session has finished with it, and closes it.
/// `input` is what the client sent behind its handshake.
async fn drive(
    stream: TcpStream,
    (mut input, arrival): (Vec<u8>, Arrival),
    session: &mut Session,
    stamped: bool,
    stop: &CancellationToken,
) {
    let mut decoder = Decoder::default();
    if !input.is_empty() {
        // The handshake may have been held back since then, and the session's time does not run backwards.
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
        reset(&driver.stream);
    }
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

struct Driver {
    stream: TcpStream,
    /// The kernel is asked when it received what is read.
    stamped: bool,
    decoder: Decoder,
    half_closed: bool,
    /// The session knows that the server stops.
    stopping: bool,
}

impl Driver {
    /// Ready when the connection is to be closed.
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
            if let Err(_lost) = self.flush(cx, session) {
                session.on_end_of_stream(now);
            }
            if session.phase() == Phase::Finished && (session.out.is_empty() || session.has_given_up(now)) {
                return Poll::Ready(());
            }
            let mut progress = false;
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

    /// Sends what can be sent now, and half-closes behind a violation's close frame.
    fn flush(&mut self, cx: &mut Context<'_>, session: &mut Session) -> io::Result<()> {
        while !session.out.is_empty() {
            if let Some(log) = session.unwritten() {
                log.write(Instant::now(), wall_clock());
            }
            let written = match session.phase() {
                Phase::Finished => self.poll_write_last(cx, &session.out),
                _ => Pin::new(&mut self.stream).poll_write(cx, &session.out),
            };
            match written {
                Poll::Ready(Ok(sent)) if sent == session.out.len() => session.out = Vec::new(),
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(sent)) => drop(session.out.drain(..sent)),
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

    /// Writes what the close of the connection follows at once: MSG_MORE lets its FIN travel in the same segment.
    fn poll_write_last(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let stream = &self.stream;
        let send =
            || socket2::SockRef::from(stream).send_with_flags(bytes, nix::libc::MSG_MORE | nix::libc::MSG_NOSIGNAL);
        match stream.try_io(tokio::io::Interest::WRITABLE, send) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Pin::new(&mut self.stream).poll_write(cx, bytes),
            sent => Poll::Ready(sent),
        }
    }

    /// Reads once; false when there is nothing to read now.
    fn read(&mut self, cx: &mut Context<'_>, session: &mut Session) -> bool {
        SCRATCH.with_borrow_mut(|scratch| {
            match scratch.poll_read(cx, &mut self.stream, self.stamped) {
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
