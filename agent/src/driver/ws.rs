//! The WebSocket driver: one connection is one session.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use proto::FailureKind;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::{Request, generate_key};
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Utf8Bytes};

use super::{Dialer, Driver, Fault, Reply, reply};
use crate::wire::Transport;

/// Replies are a few hundred bytes; the library's default of 128 KiB is allocated at once for every session.
const READ_BUFFER_BYTES: usize = 1_024;
/// What a reply may at most have before the session fails as a bad reply.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// See [`Driver`].
#[derive(Debug)]
pub struct WsDriver {
    dialer: Dialer,
    /// One a url, complete but for the key.
    requests: Vec<Request>,
    reset: Utf8Bytes,
    close: Utf8Bytes,
    step: (Duration, Utf8Bytes),
}

/// An upgraded connection.
#[derive(Debug)]
pub struct WsSession {
    stream: WebSocketStream<Transport>,
    /// From the reset; a later reply of another environment would be another session's.
    hash: Option<String>,
}

impl WsDriver {
    /// `wait` is what steps will mostly ask for.
    ///
    /// # Errors
    /// If a url makes no HTTP request.
    pub fn new(dialer: Dialer, wait: Duration) -> Result<Self, Fault> {
        let requests = dialer
            .endpoints
            .list
            .iter()
            .map(|endpoint| {
                Request::builder()
                    .uri(endpoint.url.ws())
                    .header("Host", endpoint.url.authority())
                    .header("Connection", "Upgrade")
                    .header("Upgrade", "websocket")
                    .header("Sec-WebSocket-Version", "13")
                    .body(())
                    .map_err(|error| Fault::new(FailureKind::Io, format!("{}: {error}", endpoint.url.text)))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            dialer,
            requests,
            reset: Utf8Bytes::from_static(r#"{"type":"reset","data":{}}"#),
            close: Utf8Bytes::from_static(r#"{"type":"close"}"#),
            step: (wait, step_text(wait)),
        })
    }

    async fn ask(&self, session: &mut WsSession, text: Utf8Bytes) -> Result<Reply, Fault> {
        if let Err(error) = session.stream.send(Message::Text(text)).await {
            return Err(last_words(session, fault(error)).await);
        }
        loop {
            match session.stream.next().await {
                Some(Ok(Message::Text(text))) => return reply::ws_observation(&text),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Binary(data))) => {
                    return Err(Fault::new(FailureKind::BadReply, format!("a binary frame of {} bytes", data.len())));
                }
                Some(Ok(Message::Close(frame))) => return Err(closed(frame.as_ref())),
                Some(Err(error)) => return Err(fault(error)),
                None => return Err(closed(None)),
            }
        }
    }
}

fn step_text(wait: Duration) -> Utf8Bytes {
    Utf8Bytes::from(format!(r#"{{"type":"step","data":{{"wait_seconds":{:?}}}}}"#, wait.as_secs_f64()))
}

/// The server may have said why it hangs up before our request failed to go out (it accepts first and checks its
/// capacity after): what was received decides, the failed send does not.
async fn last_words(session: &mut WsSession, failed_send: Fault) -> Fault {
    loop {
        match session.stream.next().await {
            Some(Ok(Message::Text(text))) => {
                if let Some(said) = reply::ws_error(&text) {
                    return said;
                }
            }
            Some(Ok(Message::Close(Some(frame)))) => return closed(Some(&frame)),
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return failed_send,
        }
    }
}

fn closed(frame: Option<&CloseFrame>) -> Fault {
    match frame {
        // 1005 is what a close frame without a code counts as, 1006 no close frame at all (RFC 6455 section 7.4.1).
        Some(frame) => {
            let code = if frame.code == CloseCode::Status { 1005 } else { frame.code.into() };
            Fault::new(FailureKind::Closed(code), format!("closed {code} {}", frame.reason.as_str()))
        }
        None => Fault::new(FailureKind::Closed(1006), "closed without a close frame"),
    }
}

fn fault(error: WsError) -> Fault {
    match error {
        WsError::Io(error) => error.into(),
        WsError::Http(response) => Fault::new(
            FailureKind::UpgradeRefused(response.status().as_u16()),
            format!("the upgrade to WebSocket was answered with HTTP {}", response.status()),
        ),
        WsError::ConnectionClosed | WsError::AlreadyClosed => closed(None),
        WsError::Protocol(
            tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake
            | tokio_tungstenite::tungstenite::error::ProtocolError::HandshakeIncomplete,
        ) => closed(None),
        WsError::Tls(error) => Fault::new(FailureKind::Tls, error.to_string()),
        other => Fault::new(FailureKind::BadReply, other.to_string()),
    }
}

impl Driver for WsDriver {
    type Session = WsSession;

    async fn connect(&self, session: u64) -> Result<WsSession, Fault> {
        let (_, transport) = self.dialer.dial(session).await?;
        let urls = self.requests.len() as u64;
        let mut request = self.requests[usize::try_from(session % urls).unwrap_or(0)].clone();
        let key = HeaderValue::from_str(&generate_key())
            .map_err(|error| Fault::new(FailureKind::Io, format!("handshake key: {error}")))?;
        request.headers_mut().insert("Sec-WebSocket-Key", key);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        // Boxed: the handshake lives for a moment, the session for seconds, and both would share one large future.
        let upgrade = Box::pin(tokio_tungstenite::client_async_with_config(request, transport, Some(config)));
        let (stream, _) = upgrade.await.map_err(fault)?;
        Ok(WsSession { stream, hash: None })
    }

    async fn reset(&self, session: &mut WsSession) -> Result<Reply, Fault> {
        let reply = self.ask(session, self.reset.clone()).await?;
        session.hash.clone_from(&reply.session_hash);
        Ok(reply)
    }

    async fn step(&self, session: &mut WsSession, wait: Duration) -> Result<Reply, Fault> {
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

    async fn close(&self, mut session: WsSession) -> Result<(), Fault> {
        if let Err(error) = session.stream.send(Message::Text(self.close.clone())).await {
            return Err(last_words(&mut session, fault(error)).await);
        }
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
                None => return Err(closed(None)),
            }
        }
    }
}
