//! The HTTP driver: reset and step by POST over one kept-alive connection. The server keeps no session between calls.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, HeaderName, LOCATION, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use proto::FailureKind;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Closed, Dialer, Driver, Fault, Refusal, Reply, reply};
use crate::stamps::Times;

/// What hyper may hold of a head and of a part of a body.
const HEAD_BYTES_MAX: usize = 1 << 20;
const HEADERS_MAX: usize = 512;
/// The least that hyper takes.
const MIN_BUFFER_BYTES: usize = 8 << 10;
/// How long a server may take to say what is wrong with a request that it has refused, and how much of it is read.
const REASON_TIMEOUT: Duration = Duration::from_millis(100);
const REASON_BYTES_MAX: usize = 4 << 10;

/// See [`Driver`]. Runs inside a `LocalSet`: each connection has a task of its own there.
#[derive(Debug)]
pub struct HttpDriver {
    dialer: Dialer,
}

/// A connection, and which session it is for.
#[derive(Debug)]
pub struct HttpSession {
    number: u64,
    connection: Connection,
    times: Option<Rc<Times>>,
    /// The server was asked to hang up after its answer.
    asked_to_close: bool,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    task: JoinHandle<()>,
}

impl HttpSession {
    fn request(&self) {
        if let Some(times) = &self.times {
            times.request();
        }
    }
}

impl Drop for Connection {
    /// The connection's task ends with its session, also when the session is cut by a time-out.
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HttpDriver {
    #[must_use]
    pub fn new(dialer: Dialer) -> Self {
        Self { dialer }
    }

    async fn open(&self, number: u64, times: Option<Rc<Times>>) -> Result<Connection, Fault> {
        let (_, transport) = self.dialer.dial(number, times).await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(self.dialer.message_bytes_max.clamp(MIN_BUFFER_BYTES, HEAD_BYTES_MAX))
            .max_headers(HEADERS_MAX)
            .handshake(TokioIo::new(transport))
            .await
            .map_err(|error| self.fault(&error))?;
        let task = tokio::task::spawn_local(async move {
            // Its errors reach the request that waits for the answer. After the last one hyper would hang up; instead
            // the server's end of stream is awaited.
            if let Ok(parts) = connection.without_shutdown().await {
                let mut transport = parts.io.into_inner();
                let mut rest = [0; 64];
                while matches!(transport.read(&mut rest).await, Ok(n) if n > 0) {}
            }
        });
        Ok(Connection { sender, task })
    }

    fn request(&self, number: u64, call: &str, body: String, last: bool) -> Result<Request<Full<Bytes>>, Fault> {
        let (endpoint, _) = self.dialer.endpoints.of_session(number);
        Request::post(endpoint.url.http_path(call))
            .header(HOST, endpoint.url.authority())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json")
            .header(CONNECTION, if last { "close" } else { "keep-alive" })
            .body(Full::from(body))
            .map_err(|error| Fault::new(FailureKind::Io, error.to_string()))
    }

    async fn post(&self, session: &mut HttpSession, call: &str, body: String, last: bool) -> Result<Reply, Fault> {
        // Servers drop idle connections after some seconds: a client opens a new one then, and so do we. That is part
        // of the call, and counts as such. A request that never left comes back from the connection, and goes again.
        let mut request = self.request(session.number, call, body, last)?;
        session.asked_to_close = last;
        if session.connection.sender.ready().await.is_err() {
            session.connection = self.open(session.number, session.times.clone()).await?;
        }
        session.request();
        let response = match session.connection.sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut refused) => match refused.take_message() {
                None => return Err(self.fault(&refused.into_error())),
                Some(unsent) => {
                    request = unsent;
                    session.connection = self.open(session.number, session.times.clone()).await?;
                    session.request();
                    let sent = session.connection.sender.send_request(request).await;
                    sent.map_err(|error| self.fault(&error))?
                }
            },
        };
        let status = response.status();
        if status != StatusCode::OK {
            return Err(refused(call, response).await);
        }
        reply::http_observation(&self.whole(response.into_body(), session.times.clone()).await?)
    }

    /// A body, copied into one piece: kept as they come, the pieces of a megabyte sent byte by byte would take forty.
    async fn whole(&self, mut body: Incoming, times: Option<Rc<Times>>) -> Result<Vec<u8>, Fault> {
        let (mut bytes, mut share) = (Vec::new(), self.dialer.intake.share(times));
        loop {
            poll_fn(|cx| share.poll_grow(cx, bytes.len())).await;
            let Some(frame) = body.frame().await else { return Ok(bytes) };
            let Ok(data) = frame.map_err(|error| self.fault(&error))?.into_data() else { continue };
            if bytes.len() + data.len() > self.dialer.message_bytes_max {
                return Err(Fault::too_large(self.dialer.message_bytes_max));
            }
            bytes.extend_from_slice(&data);
        }
    }

    fn fault(&self, error: &hyper::Error) -> Fault {
        if error.is_parse_too_large() {
            let bytes_max = self.dialer.message_bytes_max.clamp(MIN_BUFFER_BYTES, HEAD_BYTES_MAX);
            return Fault::new(
                FailureKind::ClientLimit,
                format!(
                    "a head of more than {bytes_max} bytes or {HEADERS_MAX} headers, the client's limits; \
                     session.message_bytes_max raises the first, up to {HEAD_BYTES_MAX}"
                ),
            );
        }
        fault(error)
    }
}

/// The status says what it is. Of what is wrong with a request (4xx) the server's own words are told, as far as they come
/// at once: a page may be endless, or never come.
async fn refused(call: &str, response: Response<Incoming>) -> Fault {
    let status = response.status();
    let field = |name: HeaderName| response.headers().get(name).and_then(|value| value.to_str().ok());
    let refusal = Refusal::of(field(RETRY_AFTER), field(LOCATION));
    let mut message = format!("POST /{call}: HTTP {status}");
    if status.is_client_error() {
        let mut said = Vec::new();
        let _ = timeout(REASON_TIMEOUT, reason(response.into_body(), &mut said)).await;
        let said = String::from_utf8_lossy(&said);
        if !said.trim().is_empty() {
            message.push_str(&format!(": {}", told(said.trim())));
        }
    }
    Fault { refusal, ..Fault::new(FailureKind::HttpStatus(status.as_u16()), message) }
}

async fn reason(mut body: Incoming, said: &mut Vec<u8>) {
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        said.extend(data.iter().take(REASON_BYTES_MAX - said.len()));
        if said.len() == REASON_BYTES_MAX {
            return;
        }
    }
}

/// `{"detail":[...]}` field by field, as FastAPI tells of a request that it can't read; anything else as it is.
fn told(said: &str) -> String {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        detail: &'a RawValue,
    }
    let body: Option<Body<'_>> = serde_json::from_str(said).ok();
    let issues = body.and_then(|body| {
        let text: Option<String> = serde_json::from_str(body.detail.get()).ok();
        text.or_else(|| reply::issues(body.detail.get()))
    });
    issues.unwrap_or_else(|| reply::excerpt(said))
}

fn fault(error: &hyper::Error) -> Fault {
    let mut source: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(cause) = source {
        if let Some(io) = cause.downcast_ref::<std::io::Error>() {
            return io.into();
        }
        source = cause.source();
    }
    let kind = if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        FailureKind::Closed(1006)
    } else if error.is_parse() {
        FailureKind::BadReply
    } else {
        FailureKind::Io
    };
    Fault::new(kind, error.to_string())
}

impl Driver for HttpDriver {
    type Session = HttpSession;
    type Rest = HttpSession;
    /// Its answers are all that a client waits for.
    const SETTLE_TIMEOUT: Duration = Duration::from_secs(1);

    async fn connect(&self, session: u64, times: Option<Rc<Times>>) -> Result<HttpSession, Fault> {
        let connection = self.open(session, times.clone()).await?;
        Ok(HttpSession { number: session, connection, times, asked_to_close: false })
    }

    async fn reset(&self, session: &mut HttpSession) -> Result<Reply, Fault> {
        self.post(session, "reset", "{}".to_owned(), false).await
    }

    async fn step(&self, session: &mut HttpSession, wait: Duration, last: bool) -> Result<Reply, Fault> {
        let body = format!(r#"{{"action":{{"wait_seconds":{:?}}}}}"#, wait.as_secs_f64());
        self.post(session, "step", body, last).await
    }

    /// The connection's own task reads it: an end is noticed, and found by the next request, which connects anew.
    async fn idle(&self, session: &mut HttpSession, until: Instant) -> Result<(), Fault> {
        if let Some(times) = &session.times {
            times.rest();
        }
        sleep_until(until).await;
        Ok(())
    }

    /// The last reply was the last answer.
    async fn close(&self, session: HttpSession) -> Closed<HttpSession> {
        Closed { rest: Some(session), untidy: None }
    }

    fn leave(&self, session: HttpSession) -> HttpSession {
        session
    }

    /// The last step has asked the server to hang up. It should do so first: the local port is then free at once, and
    /// does not wait a minute in TIME_WAIT on our side (RFC 9293 section 3.6.1).
    async fn settle(&self, mut rest: HttpSession) {
        // A session that was over before its last step has not asked for it: then it is for us to hang up.
        if rest.asked_to_close {
            // Whether it hung up or failed to: the session has had all of its answers.
            let _ = (&mut rest.connection.task).await;
        }
    }
}
