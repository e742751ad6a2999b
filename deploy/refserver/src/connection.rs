//! One accepted connection: answers HTTP requests, until one of them makes it a WebSocket session.

mod websocket;

use std::io;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use self::websocket::drive;
use crate::environment::Environment;
use crate::faults::{AtStep, AtUpgrade};
use crate::http::{self, Head, Response, Route};
use crate::session::{Session, Upgrade};
use crate::socket::{self, Arrival, wall_clock};
use crate::truth::Log;
use crate::worker::{self, Slot, Worker};

/// How long a connection may be idle between two HTTP requests, as in uvicorn. The first request may come at any time.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Serves the connection until it is closed or the worker stops. An error of the connection ends only the connection.
/// `log` is `Some` if sessions are measured.
pub(crate) async fn serve(mut stream: TcpStream, log: Option<Box<Log>>, worker: Arc<Worker>, stop: CancellationToken) {
    let mut input = Vec::new();
    let upgrade = tokio::select! {
        biased;
        // Boxed, so that a session does not keep the memory that its handshake needed.
        served = Box::pin(serve_http(&mut stream, &mut input, &worker)) => served,
        () = stop.cancelled() => return,
    };
    if let Ok(Some(upgrade)) = upgrade {
        // `input` arrived together with the handshake.
        let arrival = upgrade.arrival;
        let mut session = Session::open(Arc::clone(&worker), upgrade, log, Instant::now());
        if let Some(after) = worker.faults.at_session() {
            worker::crash(after);
        }
        let stream = drive(stream, (input, arrival), &mut session, worker.truth.is_some(), &stop).await;
        // A step that the client started runs on without the client and keeps the session's place.
        let step = session.take_step();
        if let Some(time) = session.lingers() {
            // Boxed, because few sessions need this memory.
            Box::pin(async {
                tokio::join!(step_ends(step, &stop), async {
                    linger_until(stream, time, &stop).await;
                    put_log(&mut session, &worker);
                })
            })
            .await;
        } else {
            drop(stream);
            put_log(&mut session, &worker);
            step_ends(step, &stop).await;
        }
    }
}

/// Keeps a session's place until its step has ended.
async fn step_ends(step: Option<(Instant, Option<Slot>)>, stop: &CancellationToken) {
    if let Some((until, _slot)) = step {
        tokio::select! {
            () = sleep_until(until) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// Hands over what was measured of a session whose connection was just closed.
fn put_log(session: &mut Session, worker: &Worker) {
    if let Some(truth) = &worker.truth
        && let Some(log) = session.take_log(wall_clock())
    {
        truth.put(log);
    }
}

/// How long to wait for the next request.
#[derive(Clone, Copy)]
enum HeadTimeout {
    /// The whole head of the first request; without a limit, or until this instant, when 408 answers it.
    First(Option<Instant>),
    /// Each part of the head of a later request.
    Next(Duration),
}

/// Answers HTTP requests. Returns a WebSocket handshake, or `None` if the connection shall be closed. What followed the
/// last request stays in `input`.
async fn serve_http(stream: &mut TcpStream, input: &mut Vec<u8>, worker: &Arc<Worker>) -> io::Result<Option<Upgrade>> {
    let stamped = worker.truth.is_some();
    let mut arrival = Arrival { at: Instant::now(), stamp: None };
    let mut head_timeout = HeadTimeout::First(worker.faults.at_accept().map(|limit| arrival.at + limit));
    loop {
        let (head, head_bytes) = match next_head(stream, input, head_timeout, stamped, &mut arrival).await? {
            Ok(found) => found,
            Err(status) => {
                send(stream, &Response::status(status), false).await?;
                match worker.faults.after_last_word() {
                    Some(time) => linger(stream, time).await,
                    None => half_close(stream).await,
                }
                return Ok(None);
            }
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
            match answer(head.route, &body, worker).await {
                Reaction::Upgrade { response, delay } => return Ok(Some(Upgrade { response, arrival, delay })),
                Reaction::Answer(answer) => answer,
            }
        };
        let response = match answer {
            Answer::Response(response) => response,
            Answer::Reset => {
                socket::reset_on_close(stream);
                return Ok(None);
            }
            Answer::Never => return drain(stream).await.map(|()| None),
        };
        send(stream, &response, head.keep_alive).await?;
        if !head.keep_alive {
            if let Some(time) = worker.faults.after_last_word() {
                linger(stream, time).await;
            }
            return Ok(None);
        }
        head_timeout = HeadTimeout::Next(worker.faults.after_data().map_or(KEEP_ALIVE, |limit| limit.min(KEEP_ALIVE)));
    }
}

/// Reads until `input` begins with a whole head. The inner error is the status for a wrong or late head.
async fn next_head(
    stream: &mut TcpStream,
    input: &mut Vec<u8>,
    head_timeout: HeadTimeout,
    stamped: bool,
    arrival: &mut Arrival,
) -> io::Result<Result<(Head, usize), u16>> {
    loop {
        match http::parse_head(input) {
            Ok(Some(found)) => return Ok(Ok(found)),
            Ok(None) => {}
            Err(status) => return Ok(Err(status)),
        }
        let read = read_some(stream, input, stamped);
        *arrival = match head_timeout {
            HeadTimeout::First(None) => read.await?,
            HeadTimeout::First(Some(until)) => match timeout_at(until, read).await {
                Ok(read) => read?,
                Err(_elapsed) => return Ok(Err(408)),
            },
            HeadTimeout::Next(limit) => timeout(limit, read).await??,
        };
    }
}

/// How an HTTP request is answered.
enum Answer {
    Response(Response),
    /// The connection is reset instead.
    Reset,
    /// No answer: the client waits until it gives up.
    Never,
}

/// What a request leads to.
enum Reaction {
    /// The connection becomes a WebSocket.
    Upgrade {
        response: Vec<u8>,
        delay: Duration,
    },
    Answer(Answer),
}

/// Answers a request, with the faults that concern any answer.
async fn answer(route: Route, body: &[u8], worker: &Worker) -> Reaction {
    let more_headers = match &route {
        Route::WebSocket(_) | Route::Reset | Route::Step => worker.faults.at_answer_head(),
        _ => 0,
    };
    let mut answer = match route {
        Route::WebSocket(accept) => match worker.faults.at_upgrade(Instant::now()) {
            AtUpgrade::Accept(delay) => {
                if !delay.is_zero() {
                    sleep(delay).await;
                }
                return Reaction::Upgrade { response: http::upgrade_response(&accept, more_headers), delay };
            }
            AtUpgrade::Refuse(rejection) => Answer::Response(Response::rejection(rejection)),
        },
        route => respond(route, body, worker).await,
    };
    if let Answer::Response(response) = &mut answer {
        response.add_headers(more_headers);
    }
    Reaction::Answer(answer)
}

/// Answers a request that is no handshake.
async fn respond(route: Route, body: &[u8], worker: &Worker) -> Answer {
    if matches!(route, Route::Reset | Route::Step)
        && let Some(rejection) = worker.faults.at_http_call(Instant::now())
    {
        return Answer::Response(Response::rejection(rejection));
    }
    Answer::Response(match route {
        Route::Reset => match http::parse_reset(body) {
            Err(detail) => Response::unprocessable(&detail),
            Ok(()) if worker.faults.at_factory() => Response::status(500),
            Ok(()) => {
                sleep(worker.faults.at_reset()).await;
                observation(&Environment::new(), 0.0, worker)
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
                        observation(&environment, wait_seconds, worker)
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
            let mut out = Vec::new();
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

fn observation(environment: &Environment, waited_seconds: f64, worker: &Worker) -> Response {
    let look = worker.faults.at_observation(environment.step_count());
    let mut out = Vec::new();
    environment.write_observation(&worker.identity, waited_seconds, look, &mut out);
    Response::json(out)
}

async fn send(stream: &mut TcpStream, response: &Response, keep_alive: bool) -> io::Result<()> {
    let mut out = Vec::new();
    response.put(keep_alive, &mut out);
    stream.write_all(&out).await
}

/// Half-closes and discards what still arrives, so that a reset does not destroy the response before it.
async fn half_close(stream: &mut TcpStream) {
    let half_closed = async {
        stream.shutdown().await?;
        drain(stream).await
    };
    let _: Result<io::Result<()>, _> = timeout(KEEP_ALIVE, half_closed).await;
}

/// Leaves the close to the client for a time, and discards what still arrives.
async fn linger(stream: &mut TcpStream, time: Duration) {
    let _: Result<io::Result<()>, _> = timeout(time, drain(stream)).await;
}

/// Does the same until the server stops at the latest, and closes the connection.
async fn linger_until(mut stream: TcpStream, time: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = linger(&mut stream, time) => {}
        () = stop.cancelled() => {}
    }
}

/// Discards what arrives. Returns only with the error that ends the connection.
async fn drain(stream: &mut TcpStream) -> io::Result<()> {
    let mut sink = Vec::new();
    loop {
        sink.clear();
        read_some(stream, &mut sink, false).await?;
    }
}

/// Reads and appends at least one byte.
async fn read_some(stream: &mut TcpStream, input: &mut Vec<u8>, stamped: bool) -> io::Result<Arrival> {
    std::future::poll_fn(|cx| {
        socket::with_buffer(|buffer| {
            let (bytes, stamp) = ready!(buffer.poll_read(cx, stream, stamped))?;
            if bytes.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            input.extend_from_slice(bytes);
            Poll::Ready(Ok(Arrival { at: Instant::now(), stamp }))
        })
    })
    .await
}

#[cfg(test)]
mod tests;
