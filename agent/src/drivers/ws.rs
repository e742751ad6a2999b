//! The WebSocket driver: one connection is one session.

use std::rc::Rc;
use std::time::Duration;

use proto::FailureKind;
use tokio::time::{Instant, sleep_until};

use super::dialer::Dialer;
use super::driver::{Closed, Driver};
use super::fault::Fault;
use super::frames::{Frames, Received};
use super::reply::{self, Reply};
use super::upgrade::UpgradeRequest;
use crate::net::timestamps::Timestamps;

const RESET: &str = r#"{"type":"reset","data":{}}"#;
const CLOSE: &str = r#"{"type":"close"}"#;

/// See [`Driver`].
#[derive(Debug)]
pub struct WsDriver {
    dialer: Dialer,
    /// One a url, in the order of the urls.
    requests: Vec<UpgradeRequest>,
    /// The wait that most steps ask for, and the message that asks for it.
    usual_step: (Duration, String),
}

/// An open session on its upgraded connection.
#[derive(Debug)]
pub struct WsSession {
    frames: Frames,
    times: Option<Rc<Timestamps>>,
    /// The session's hash in the reply to its reset. A step with another hash was answered by another session.
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
            other => Err(unexpected(&other, "")),
        }
    }
}

impl WsDriver {
    /// `wait` is what most steps will ask the server to wait.
    #[must_use]
    pub fn new(dialer: Dialer, wait: Duration) -> Self {
        Self {
            requests: dialer.endpoints.list.iter().map(UpgradeRequest::to).collect(),
            dialer,
            usual_step: (wait, step_text(wait)),
        }
    }
}

fn step_text(wait: Duration) -> String {
    format!(r#"{{"type":"step","data":{{"wait_seconds":{:?}}}}}"#, wait.as_secs_f64())
}

/// The fault that a message is where none was expected. `text_problem` describes a text that is no error frame.
fn unexpected(received: &Received, text_problem: &str) -> Fault {
    match received {
        Received::Text(text) => {
            reply::ws_error(text).unwrap_or_else(|| Fault::new(FailureKind::BadReply, text_problem))
        }
        Received::Binary(bytes) => Fault::new(FailureKind::BadReply, format!("a binary frame of {bytes} bytes")),
        Received::Close { code, reason } => {
            Fault::new(FailureKind::Closed(*code), format!("closed {code} {reason}").trim_end())
        }
        // The end without a close frame counts as code 1006 (RFC 6455 section 7.4.1).
        Received::End => Fault::new(FailureKind::Closed(1006), "closed without a close frame"),
    }
}

impl Driver for WsDriver {
    // Boxed, because the session's future would have room for several copies of it.
    type Session = Box<WsSession>;
    type Closing = Box<WsSession>;
    /// The official client waits as long (docs/truth.md).
    const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

    async fn connect(&self, session: u64, times: Option<Rc<Timestamps>>) -> Result<Box<WsSession>, Fault> {
        let (_, mut transport) = self.dialer.dial(session, times.clone()).await?;
        if let Some(times) = &times {
            times.request();
        }
        let urls = self.requests.len() as u64;
        let request = &self.requests[usize::try_from(session % urls).unwrap_or(0)];
        let bytes_max = self.dialer.message_bytes_max;
        let already_read = request.send(&mut transport, bytes_max).await?;
        let budget = self.dialer.read_budget.share(times.clone());
        let frames = Frames::new(transport, times.clone(), already_read, bytes_max, budget);
        Ok(Box::new(WsSession { frames, times, hash: None }))
    }

    async fn reset(&self, session: &mut Box<WsSession>) -> Result<Reply, Fault> {
        let reply = session.ask(RESET).await?;
        session.hash.clone_from(&reply.session_hash);
        Ok(reply)
    }

    async fn step(&self, session: &mut Box<WsSession>, wait: Duration, _last: bool) -> Result<Reply, Fault> {
        let reply = if wait == self.usual_step.0 {
            session.ask(&self.usual_step.1).await?
        } else {
            session.ask(&step_text(wait)).await?
        };
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
            times.idle();
        }
        let received = tokio::select! {
            // A message that has arrived is read before the end of the pause is noticed.
            biased;
            received = session.frames.receive() => received?,
            () = sleep_until(until) => return Ok(()),
        };
        Err(unexpected(&received, "an unrequested message"))
    }

    /// Waits for the server's close frame, the last reply that is due. A wrong one is untidy, no failure.
    async fn close(&self, mut session: Box<WsSession>) -> Closed<Box<WsSession>> {
        session.request(CLOSE);
        let mut untidy = None;
        loop {
            let received = match session.frames.receive().await {
                Ok(Received::Close { code: 1000 | 1005, .. }) => return Closed { connection: Some(session), untidy },
                Ok(received) => received,
                Err(fault) => return Closed { connection: None, untidy: untidy.or(Some(fault)) },
            };
            untidy.get_or_insert_with(|| unexpected(&received, "a reply to close, which has none"));
            match received {
                Received::Close { .. } => return Closed { connection: Some(session), untidy },
                Received::End => return Closed { connection: None, untidy },
                Received::Text(_) | Received::Binary(_) => {}
            }
        }
    }

    fn close_after_failure(&self, mut session: Box<WsSession>) -> Box<WsSession> {
        if !session.frames.is_closing() {
            session.frames.send(CLOSE);
        }
        session
    }

    /// Waits for the server to close TCP first, so that TIME_WAIT is on its side.
    async fn wait_closed(&self, mut connection: Box<WsSession>) {
        connection.frames.drain().await;
    }
}
