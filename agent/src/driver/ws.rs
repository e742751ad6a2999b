//! The WebSocket driver: one connection is one session.

use std::rc::Rc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use proto::FailureKind;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Utf8Bytes};

use super::upgrade::UpgradeRequest;
use super::{Dialer, Driver, Fault, Reply, reply};
use crate::stamps::Times;
use crate::wire::Transport;

/// Replies are a few hundred bytes; the library's default of 128 KiB is allocated at once for every session.
const READ_BUFFER_BYTES: usize = 512;
/// What a reply may at most have before the session fails as a bad reply.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
/// What may wait to be sent: a server that pings and never reads must not pile answers up here.
const WRITE_BUFFER_BYTES_MAX: usize = 4 << 10;

/// See [`Driver`].
#[derive(Debug)]
pub struct WsDriver {
    dialer: Dialer,
    /// One a url.
    requests: Vec<UpgradeRequest>,
    reset: Utf8Bytes,
    close: Utf8Bytes,
    step: (Duration, Utf8Bytes),
}

/// An upgraded connection.
#[derive(Debug)]
pub struct WsSession {
    stream: WebSocketStream<Transport>,
    times: Option<Rc<Times>>,
    /// From the reset; a later reply of another environment would be another session's.
    hash: Option<String>,
}

impl WsSession {
    fn request(&self) {
        if let Some(times) = &self.times {
            times.request();
        }
    }
}

impl WsDriver {
    /// `wait` is what steps will mostly ask for.
    #[must_use]
    pub fn new(dialer: Dialer, wait: Duration) -> Self {
        Self {
            requests: dialer.endpoints.list.iter().map(UpgradeRequest::to).collect(),
            dialer,
            reset: Utf8Bytes::from_static(r#"{"type":"reset","data":{}}"#),
            close: Utf8Bytes::from_static(r#"{"type":"close"}"#),
            step: (wait, step_text(wait)),
        }
    }

    async fn ask(&self, session: &mut WsSession, text: Utf8Bytes) -> Result<Reply, Fault> {
        session.request();
        session.stream.send(Message::Text(text)).await.map_err(fault)?;
        loop {
            match session.stream.next().await {
                Some(Ok(Message::Text(text))) => return reply::ws_observation(&text),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Binary(data))) => {
                    return Err(Fault::new(FailureKind::BadReply, format!("a binary frame of {} bytes", data.len())));
                }
                Some(Ok(Message::Close(frame))) => return Err(closed(frame.as_ref())),
                Some(Err(error)) => return Err(fault(error)),
                None => return Err(cut_off()),
            }
        }
    }
}

fn step_text(wait: Duration) -> Utf8Bytes {
    Utf8Bytes::from(format!(r#"{{"type":"step","data":{{"wait_seconds":{:?}}}}}"#, wait.as_secs_f64()))
}

/// A close frame came; one without a code counts as 1005 (RFC 6455 section 7.4.1).
fn closed(frame: Option<&CloseFrame>) -> Fault {
    let (code, reason) = frame.map_or((1005, ""), |frame| (frame.code.into(), frame.reason.as_str()));
    Fault::new(FailureKind::Closed(code), format!("closed {code} {reason}"))
}

/// No close frame came, which counts as 1006.
fn cut_off() -> Fault {
    Fault::new(FailureKind::Closed(1006), "closed without a close frame")
}

fn fault(error: WsError) -> Fault {
    match error {
        WsError::Io(error) => error.into(),
        WsError::ConnectionClosed | WsError::AlreadyClosed => cut_off(),
        WsError::Protocol(tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake) => {
            cut_off()
        }
        WsError::Tls(error) => Fault::new(FailureKind::Tls, error.to_string()),
        other => Fault::new(FailureKind::BadReply, other.to_string()),
    }
}

impl Driver for WsDriver {
    // Boxed: the session's future would hold room for several copies of it.
    type Session = Box<WsSession>;

    async fn connect(&self, session: u64, times: Option<Rc<Times>>) -> Result<Box<WsSession>, Fault> {
        let (_, mut transport) = self.dialer.dial(session, times.clone()).await?;
        if let Some(times) = &times {
            times.request();
        }
        let urls = self.requests.len() as u64;
        let request = &self.requests[usize::try_from(session % urls).unwrap_or(0)];
        let beyond = request.send(&mut transport).await?;
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let stream = WebSocketStream::from_partially_read(transport, beyond, Role::Client, Some(config)).await;
        Ok(Box::new(WsSession { stream, times, hash: None }))
    }

    async fn reset(&self, session: &mut Box<WsSession>) -> Result<Reply, Fault> {
        let reply = self.ask(session, self.reset.clone()).await?;
        session.hash.clone_from(&reply.session_hash);
        Ok(reply)
    }

    async fn step(&self, session: &mut Box<WsSession>, wait: Duration, _last: bool) -> Result<Reply, Fault> {
        let text = if wait == self.step.0 { self.step.1.clone() } else { step_text(wait) };
        let reply = self.ask(session, text).await?;
        if reply.session_hash != session.hash {
            return Err(Fault::new(
                FailureKind::BadReply,
                format!("the step was answered by session {:?}, the reset by {:?}", reply.session_hash, session.hash),
            ));
        }
        Ok(reply)
    }

    async fn close(&self, mut session: Box<WsSession>) -> Result<(), Fault> {
        session.request();
        session.stream.send(Message::Text(self.close.clone())).await.map_err(fault)?;
        let mut code = None;
        loop {
            match session.stream.next().await {
                Some(Ok(Message::Close(frame))) => {
                    if frame.as_ref().is_some_and(|f| f.code != CloseCode::Normal) {
                        return Err(closed(frame.as_ref()));
                    }
                    code = Some(());
                }
                Some(Ok(Message::Text(text))) => {
                    if let Some(said) = reply::ws_error(&text) {
                        return Err(said);
                    }
                    return Err(Fault::new(FailureKind::BadReply, "a reply to close, which has none"));
                }
                Some(Ok(_)) => {}
                // The server closes TCP first; we stay until it did, so that TIME_WAIT is on its side.
                None | Some(Err(WsError::ConnectionClosed)) if code.is_some() => return Ok(()),
                // After the close frames the session is over, however the server then drops the connection.
                Some(Err(_)) if code.is_some() => return Ok(()),
                Some(Err(error)) => return Err(fault(error)),
                None => return Err(cut_off()),
            }
        }
    }
}
