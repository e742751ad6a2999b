//! The WebSocket driver: one connection is one session.

use std::rc::Rc;
use std::time::Duration;

use proto::FailureKind;
use tokio::time::{Instant, sleep_until};

use super::frames::{Frames, Received};
use super::upgrade::UpgradeRequest;
use super::{Closed, Dialer, Driver, Fault, Reply, reply};
use crate::stamps::Times;

const RESET: &str = r#"{"type":"reset","data":{}}"#;
const CLOSE: &str = r#"{"type":"close"}"#;

/// See [`Driver`].
#[derive(Debug)]
pub struct WsDriver {
    dialer: Dialer,
    /// One a url.
    requests: Vec<UpgradeRequest>,
    step: (Duration, String),
}

/// An upgraded connection.
#[derive(Debug)]
pub struct WsSession {
    frames: Frames,
    times: Option<Rc<Times>>,
    /// From the reset; a later reply of another environment would be another session's.
    hash: Option<String>,
}

impl WsSession {
    fn request(&mut self, text: &str) {
        if let Some(times) = &self.times {
            times.request();
        }
        self.frames.send(text);
    }

    async fn ask(&mut self, text: &str) -> Result<Reply, Fault> {
        self.request(text);
        match self.frames.receive().await? {
            Received::Text(text) => reply::ws_observation(&text),
            Received::Binary(bytes) => {
                Err(Fault::new(FailureKind::BadReply, format!("a binary frame of {bytes} bytes")))
            }
            Received::Close { code, reason } => Err(closed(code, &reason)),
            Received::End => Err(cut_off()),
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
            step: (wait, step_text(wait)),
        }
    }
}

fn step_text(wait: Duration) -> String {
    format!(r#"{{"type":"step","data":{{"wait_seconds":{:?}}}}}"#, wait.as_secs_f64())
}

fn closed(code: u16, reason: &str) -> Fault {
    Fault::new(FailureKind::Closed(code), format!("closed {code} {reason}").trim_end())
}

/// No close frame came, which counts as 1006 (RFC 6455 section 7.4.1).
fn cut_off() -> Fault {
    Fault::new(FailureKind::Closed(1006), "closed without a close frame")
}

impl Driver for WsDriver {
    // Boxed: the session's future would hold room for several copies of it.
    type Session = Box<WsSession>;
    type Rest = Box<WsSession>;
    /// As long as the official client waits (docs/truth.md).
    const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

    async fn connect(&self, session: u64, times: Option<Rc<Times>>) -> Result<Box<WsSession>, Fault> {
        let (_, mut transport) = self.dialer.dial(session, times.clone()).await?;
        if let Some(times) = &times {
            times.request();
        }
        let urls = self.requests.len() as u64;
        let request = &self.requests[usize::try_from(session % urls).unwrap_or(0)];
        let bytes_max = self.dialer.message_bytes_max;
        let beyond = request.send(&mut transport, bytes_max).await?;
        let frames = Frames::new(transport, times.clone(), beyond, bytes_max, self.dialer.intake.share(times.clone()));
        Ok(Box::new(WsSession { frames, times, hash: None }))
    }

    async fn reset(&self, session: &mut Box<WsSession>) -> Result<Reply, Fault> {
        let reply = session.ask(RESET).await?;
        session.hash.clone_from(&reply.session_hash);
        Ok(reply)
    }

    async fn step(&self, session: &mut Box<WsSession>, wait: Duration, _last: bool) -> Result<Reply, Fault> {
        let reply =
            if wait == self.step.0 { session.ask(&self.step.1).await? } else { session.ask(&step_text(wait)).await? };
        match (&reply.session_hash, &session.hash) {
            (Some(now), Some(then)) if now != then => Err(Fault::new(
                FailureKind::BadReply,
                format!("the step was answered by session {now:?}, the reset by {then:?}"),
            )),
            _ => Ok(reply),
        }
    }

    async fn idle(&self, session: &mut Box<WsSession>, until: Instant) -> Result<(), Fault> {
        if let Some(times) = &session.times {
            times.rest();
        }
        let received = tokio::select! {
            // What has come is known before the pause is over.
            biased;
            received = session.frames.receive() => received?,
            () = sleep_until(until) => return Ok(()),
        };
        Err(match received {
            Received::Text(text) => reply::ws_error(&text)
                .unwrap_or_else(|| Fault::new(FailureKind::BadReply, "a message that nobody had asked for")),
            Received::Binary(bytes) => Fault::new(FailureKind::BadReply, format!("a binary frame of {bytes} bytes")),
            Received::Close { code, reason } => closed(code, &reason),
            Received::End => cut_off(),
        })
    }

    /// The last answer that is due is the close frame. What is not in order about it makes no session fail.
    async fn close(&self, mut session: Box<WsSession>) -> Closed<Box<WsSession>> {
        session.request(CLOSE);
        let mut untidy = None;
        loop {
            match session.frames.receive().await {
                Ok(Received::Close { code: 1000 | 1005, .. }) => return Closed { rest: Some(session), untidy },
                Ok(Received::Close { code, reason }) => {
                    return Closed { rest: Some(session), untidy: untidy.or_else(|| Some(closed(code, &reason))) };
                }
                Ok(Received::Text(text)) => {
                    untidy.get_or_insert_with(|| {
                        reply::ws_error(&text)
                            .unwrap_or_else(|| Fault::new(FailureKind::BadReply, "a reply to close, which has none"))
                    });
                }
                Ok(Received::Binary(_)) => {
                    untidy.get_or_insert_with(|| Fault::new(FailureKind::BadReply, "a binary frame after close"));
                }
                Ok(Received::End) => return Closed { rest: None, untidy: untidy.or_else(|| Some(cut_off())) },
                Err(fault) => return Closed { rest: None, untidy: untidy.or(Some(fault)) },
            }
        }
    }

    fn leave(&self, mut session: Box<WsSession>) -> Box<WsSession> {
        if !session.frames.is_closing() {
            session.frames.send(CLOSE);
        }
        session
    }

    /// The server closes TCP first; we stay until it did, so that TIME_WAIT is on its side.
    async fn settle(&self, mut rest: Box<WsSession>) {
        rest.frames.drain().await;
    }
}
