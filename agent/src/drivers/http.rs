//! The HTTP driver: sends resets and steps as POST requests over one kept-alive connection. The server keeps no session
//! between two requests.

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

use super::dialer::Dialer;
use super::driver::{Closed, Driver};
use super::fault::{Fault, Refusal};
use super::reply::{self, Reply};
use crate::net::timestamps::Timestamps;

/// The largest buffer that hyper may use, for a response head or a part of a body.
const HEAD_BYTES_MAX: usize = 1 << 20;
const HEADERS_MAX: usize = 512;
/// The smallest buffer size that hyper accepts.
const MIN_BUFFER_BYTES: usize = 8 << 10;
/// How long the body of a refusal is read for, and how many bytes of it.
const REASON_TIMEOUT: Duration = Duration::from_millis(100);
const REASON_BYTES_MAX: usize = 4 << 10;

/// See [`Driver`]. It must run inside a `LocalSet`, because each connection has a task of its own.
#[derive(Debug)]
pub struct HttpDriver {
    dialer: Dialer,
}

/// An open session.
#[derive(Debug)]
pub struct HttpSession {
    /// Global number of the session.
    number: u64,
    connection: Connection,
    times: Option<Rc<Timestamps>>,
    /// The last request asked the server to close the connection after its response.
    close_requested: bool,
}

#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    task: JoinHandle<()>,
}

impl HttpSession {
    fn note_request(&self) {
        if let Some(times) = &self.times {
            times.request();
        }
    }
}

impl Drop for Connection {
    /// Ends the connection's task with its session, also when a time-out cuts the session.
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl HttpDriver {
    #[must_use]
    pub fn new(dialer: Dialer) -> Self {
        Self { dialer }
    }

    async fn open(&self, number: u64, times: Option<Rc<Timestamps>>) -> Result<Connection, Fault> {
        let (_, transport) = self.dialer.dial(number, times).await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(self.dialer.message_bytes_max.clamp(MIN_BUFFER_BYTES, HEAD_BYTES_MAX))
            .max_headers(HEADERS_MAX)
            .handshake(TokioIo::new(transport))
            .await
            .map_err(|error| self.fault(&error))?;
        let task = tokio::task::spawn_local(async move {
            // An error is reported to the request that waits for its response. After the last response hyper would
            // close the connection; the server shall do so first.
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
        // Servers drop idle connections after some seconds. A client opens a new one then, and so do we; the time
        // counts as part of the call. hyper hands a request back that it has not sent, and it is sent again.
        let mut request = self.request(session.number, call, body, last)?;
        session.close_requested = last;
        if session.connection.sender.ready().await.is_err() {
            session.connection = self.open(session.number, session.times.clone()).await?;
        }
        session.note_request();
        let response = match session.connection.sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => match error.take_message() {
                None => return Err(self.fault(&error.into_error())),
                Some(unsent) => {
                    request = unsent;
                    session.connection = self.open(session.number, session.times.clone()).await?;
                    session.note_request();
                    let sent = session.connection.sender.send_request(request).await;
                    sent.map_err(|error| self.fault(&error))?
                }
            },
        };
        let status = response.status();
        if status != StatusCode::OK {
            return Err(status_fault(call, response).await);
        }
        reply::http_observation(&self.read_body(response.into_body(), session.times.clone()).await?)
    }

    /// Reads a whole body, copied into one buffer. Kept as hyper gives them, the chunks of one megabyte that was sent
    /// byte by byte would take forty.
    async fn read_body(&self, mut body: Incoming, times: Option<Rc<Timestamps>>) -> Result<Vec<u8>, Fault> {
        let (mut bytes, mut share) = (Vec::new(), self.dialer.read_budget.share(times));
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
        connection_fault(error)
    }
}

/// Describes a response other than 200. For a faulty request (4xx) the server's own explanation is added, as far as it
/// arrives at once: a body may be endless, or never arrive.
async fn status_fault(call: &str, response: Response<Incoming>) -> Fault {
    let status = response.status();
    let field = |name: HeaderName| response.headers().get(name).and_then(|value| value.to_str().ok());
    let refusal = Refusal::of(field(RETRY_AFTER), field(LOCATION));
    let mut message = format!("POST /{call}: HTTP {status}");
    if status.is_client_error() {
        let mut reason = Vec::new();
        let _ = timeout(REASON_TIMEOUT, read_reason(response.into_body(), &mut reason)).await;
        let reason = String::from_utf8_lossy(&reason);
        if !reason.trim().is_empty() {
            message.push_str(&format!(": {}", explanation(reason.trim())));
        }
    }
    Fault { refusal, ..Fault::new(FailureKind::HttpStatus(status.as_u16()), message) }
}

/// Appends the first [`REASON_BYTES_MAX`] bytes of a body to `reason`.
async fn read_reason(mut body: Incoming, reason: &mut Vec<u8>) {
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        reason.extend(data.iter().take(REASON_BYTES_MAX - reason.len()));
        if reason.len() == REASON_BYTES_MAX {
            return;
        }
    }
}

/// Formats a body. `{"detail":[...]}`, FastAPI's account of a request it can't read, becomes a list of fields; any
/// other body is quoted.
fn explanation(body_text: &str) -> String {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        detail: &'a RawValue,
    }
    let body: Option<Body<'_>> = serde_json::from_str(body_text).ok();
    let issues = body.and_then(|body| {
        let text: Option<String> = serde_json::from_str(body.detail.get()).ok();
        text.or_else(|| reply::issues(body.detail.get()))
    });
    issues.unwrap_or_else(|| reply::excerpt(body_text))
}

/// Describes an error of the connection: the operating system's error inside it, or else hyper's own.
fn connection_fault(error: &hyper::Error) -> Fault {
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
    type Closing = HttpSession;
    /// A client waits for its responses only, so this is short.
    const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

    async fn connect(&self, session: u64, times: Option<Rc<Timestamps>>) -> Result<HttpSession, Fault> {
        let connection = self.open(session, times.clone()).await?;
        Ok(HttpSession { number: session, connection, times, close_requested: false })
    }

    async fn reset(&self, session: &mut HttpSession) -> Result<Reply, Fault> {
        self.post(session, "reset", "{}".to_owned(), false).await
    }

    async fn step(&self, session: &mut HttpSession, wait: Duration, last: bool) -> Result<Reply, Fault> {
        let body = format!(r#"{{"action":{{"wait_seconds":{:?}}}}}"#, wait.as_secs_f64());
        self.post(session, "step", body, last).await
    }

    /// The connection's own task notices when it ends. The next request finds out and connects again.
    async fn idle(&self, session: &mut HttpSession, until: Instant) -> Result<(), Fault> {
        if let Some(times) = &session.times {
            times.idle();
        }
        sleep_until(until).await;
        Ok(())
    }

    /// HTTP has no closing exchange: the last reply was the end.
    async fn close(&self, session: HttpSession) -> Closed<HttpSession> {
        Closed { connection: Some(session), untidy: None }
    }

    fn close_after_failure(&self, session: HttpSession) -> HttpSession {
        session
    }

    /// The last step has asked the server to close the connection. The side that closes first waits a minute in
    /// TIME_WAIT (RFC 9293 section 3.6.1); if that is the server, our local port is free at once.
    async fn wait_closed(&self, mut connection: HttpSession) {
        // A session that ended before its last step has not asked for it. Then we close the connection.
        if connection.close_requested {
            // The task's result does not matter: the session has had all of its replies.
            let _ = (&mut connection.connection.task).await;
        }
    }
}
