//! The HTTP driver: reset and step by POST over one kept-alive connection. The server keeps no session between calls.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use proto::FailureKind;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{Dialer, Driver, Fault, Reply, reply};
use crate::stamps::Times;

/// What a reply's body may at most have before the session fails as a bad reply.
const BODY_BYTES_MAX: usize = 1 << 20;

/// How long the server may take to hang up after the last answer.
const SERVER_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

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
        let (sender, connection) =
            http1::Builder::new().max_buf_size(16 << 10).handshake(TokioIo::new(transport)).await.map_err(fault)?;
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
        if session.connection.sender.ready().await.is_err() {
            session.connection = self.open(session.number, session.times.clone()).await?;
        }
        session.request();
        let response = match session.connection.sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut refused) => match refused.take_message() {
                None => return Err(fault(refused.into_error())),
                Some(unsent) => {
                    request = unsent;
                    session.connection = self.open(session.number, session.times.clone()).await?;
                    session.request();
                    session.connection.sender.send_request(request).await.map_err(fault)?
                }
            },
        };
        let status = response.status();
        if status != StatusCode::OK {
            // The status says it all. The page that belongs to it may be endless, or never come.
            return Err(Fault::new(FailureKind::HttpStatus(status.as_u16()), format!("POST /{call}: HTTP {status}")));
        }
        reply::http_observation(&whole(response.into_body(), call).await?)
    }
}

/// A body, copied into one piece: kept as they come, the pieces of a megabyte sent byte by byte would take forty.
async fn whole(mut body: Incoming, call: &str) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(fault)?.into_data() else { continue };
        if bytes.len() + data.len() > BODY_BYTES_MAX {
            let message = format!("{call}: an answer of more than {BODY_BYTES_MAX} bytes");
            return Err(Fault::new(FailureKind::BadReply, message));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

fn fault(error: hyper::Error) -> Fault {
    let mut source: Option<&dyn std::error::Error> = std::error::Error::source(&error);
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

    async fn connect(&self, session: u64, times: Option<Rc<Times>>) -> Result<HttpSession, Fault> {
        Ok(HttpSession { number: session, connection: self.open(session, times.clone()).await?, times })
    }

    async fn reset(&self, session: &mut HttpSession) -> Result<Reply, Fault> {
        self.post(session, "reset", "{}".to_owned(), false).await
    }

    async fn step(&self, session: &mut HttpSession, wait: Duration, last: bool) -> Result<Reply, Fault> {
        let body = format!(r#"{{"action":{{"wait_seconds":{:?}}}}}"#, wait.as_secs_f64());
        self.post(session, "step", body, last).await
    }

    /// The last step has asked the server to hang up. It should do so first: the local port is then free at once, and
    /// does not wait a minute in TIME_WAIT on our side (RFC 9293 section 3.6.1). One that takes its time is not waited
    /// for.
    async fn close(&self, mut session: HttpSession) -> Result<(), Fault> {
        // Whether it hung up, failed to, or took too long: the session has had all of its answers.
        let _ = timeout(SERVER_CLOSE_TIMEOUT, &mut session.connection.task).await;
        Ok(())
    }
}
