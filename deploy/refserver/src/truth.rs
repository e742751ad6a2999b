//! The server's own record of each session, against which a load tester's figures can be checked. It writes one line of
//! JSON for each WebSocket session that has ended:
//!
//! ```text
//! {"session_hash":"002031b96bd3","pid":7,
//!  "accepted_us":1764000000000000,   CLOCK_REALTIME right after accept returned
//!  "upgraded_us":1764000000000900,   CLOCK_REALTIME just before the 101 was written; null if it never was
//!  "closed_us":1764000003000000,     CLOCK_REALTIME right after the connection was closed
//!  "replies":[{"phase":"connect",    the 101; then "reset" and "step" in the order of the replies
//!    "intended_us":500,              the delay to be kept: what was drawn, and a step's own wait_seconds
//!    "achieved_us":872,              from the read of the request to just before the write of its reply, monotonic
//!    "held_us":901}]}                from the kernel's receive timestamp to just before that write; null without one
//! ```
//!
//! Durations are truncated to whole microseconds. Only replies that were written are listed: no step that was dropped
//! or stalled, and no reply that its client did not wait for. A step that failed in the environment is listed. A
//! request that is refused at once is neither reset nor step. Requests that a client pipelines share one read, and so
//! one timestamp; a request that waits behind another one counts that wait too. What arrives behind a handshake counts
//! as read when the handshake is answered.
//!
//! A session keeps a [`Log`], which is pure; a thread turns finished logs into lines ([`Sink`]).

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::time::Instant;

use crate::socket::{Arrival, WallClock};

/// The most replies that are listed for one session. Later ones are counted in `replies_omitted`.
const REPLIES_MAX: usize = 65_536;

/// The most finished logs that wait to be written. Beyond it the serving threads wait, so that no line is lost.
const WAITING_MAX: usize = 65_536;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Phase {
    Connect,
    Reset,
    Step,
}

/// A request that is being answered.
#[derive(Debug, Clone, Copy)]
struct Request {
    phase: Phase,
    intended: Duration,
    arrival: Arrival,
}

/// A reply that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Reply {
    phase: Phase,
    #[serde(rename = "intended_us", serialize_with = "microseconds")]
    intended: Duration,
    #[serde(rename = "achieved_us", serialize_with = "microseconds")]
    achieved: Duration,
    #[serde(rename = "held_us", serialize_with = "microseconds_or_null")]
    held: Option<Duration>,
}

/// What is known of one session so far.
#[derive(Debug, Serialize)]
pub(crate) struct Log {
    session_hash: String,
    pid: u32,
    #[serde(rename = "accepted_us", serialize_with = "microseconds")]
    accepted: WallClock,
    #[serde(rename = "upgraded_us", serialize_with = "microseconds_or_null")]
    upgraded: Option<WallClock>,
    #[serde(rename = "closed_us", serialize_with = "microseconds")]
    closed: WallClock,
    replies: Vec<Reply>,
    #[serde(skip_serializing_if = "is_zero")]
    replies_omitted: u64,
    /// The request that is being answered.
    #[serde(skip)]
    running: Option<Request>,
    /// Requests whose replies wait to be written.
    #[serde(skip)]
    unwritten: Vec<Request>,
}

impl Log {
    pub(crate) fn new(accepted: WallClock) -> Self {
        Self {
            session_hash: String::new(),
            pid: std::process::id(),
            accepted,
            upgraded: None,
            closed: WallClock::ZERO,
            replies: Vec::new(),
            replies_omitted: 0,
            running: None,
            unwritten: Vec::new(),
        }
    }

    /// A request that came at `arrival` will be answered after `intended`. There is one at a time.
    pub(crate) fn begin(&mut self, phase: Phase, intended: Duration, arrival: Arrival) {
        self.running = Some(Request { phase, intended, arrival });
    }

    /// The reply to the last request is among the bytes of the next write.
    pub(crate) fn answer(&mut self) {
        self.unwritten.extend(self.running.take());
    }

    /// Whether [`Log::write`] must be called before the next write.
    pub(crate) fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// All waiting bytes are about to be written. The socket may not take all of them: time lost to the peer's full
    /// buffers is not the server's delay.
    pub(crate) fn write(&mut self, now: Instant, wall_clock: WallClock) {
        for Request { phase, intended, arrival } in std::mem::take(&mut self.unwritten) {
            if phase == Phase::Connect {
                self.upgraded = Some(wall_clock);
            }
            if self.replies.len() == REPLIES_MAX {
                self.replies_omitted += 1;
                continue;
            }
            self.replies.push(Reply {
                phase,
                intended,
                achieved: now.saturating_duration_since(arrival.at),
                // Also `None` if the clock was set back in between.
                held: arrival.stamp.and_then(|stamp| wall_clock.checked_sub(stamp)),
            });
        }
    }

    /// The session has ended.
    pub(crate) fn close(&mut self, session_hash: &str, closed: WallClock) {
        session_hash.clone_into(&mut self.session_hash);
        self.closed = closed;
    }

    /// The session's line, with its line feed.
    pub(crate) fn line(&self) -> serde_json::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

fn microseconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    // 2^64 microseconds are half a million years.
    serializer.serialize_u64(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

fn microseconds_or_null<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => microseconds(duration, serializer),
        None => serializer.serialize_none(),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Opens the file for [`Sink::new`].
///
/// # Errors
/// If it can't be opened; the message has the path.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot append to --truth {}: {error}", path.display())))
}

/// A thread that writes finished logs. Dropping it waits until all are written.
#[derive(Debug)]
pub(crate) struct Sink {
    /// `None` only while it is dropped.
    logs: Option<SyncSender<Box<Log>>>,
    writer: Option<JoinHandle<()>>,
}

impl Sink {
    /// # Errors
    /// If the thread can't be started.
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let (logs, finished) = sync_channel(WAITING_MAX);
        let writer = std::thread::Builder::new().name("truth".into()).spawn(move || write_all(file, &finished))?;
        Ok(Self { logs: Some(logs), writer: Some(writer) })
    }

    pub(crate) fn put(&self, log: Box<Log>) {
        if let Some(logs) = &self.logs {
            // This fails only if the writer has panicked, which was reported.
            let _ = logs.send(log);
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        drop(self.logs.take());
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

fn write_all(mut file: File, finished: &Receiver<Box<Log>>) {
    let mut warned = false;
    for log in finished {
        // One call a line, because a file opened to append takes whole writes of several processes. A line that was cut
        // short is not continued, because another process may have written behind it.
        let written = log.line().map_err(io::Error::from).and_then(|line| match file.write(&line)? {
            length if length == line.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        });
        if let Err(error) = written
            && !warned
        {
            tracing::warn!(%error, "cannot write to the truth file; it lacks sessions");
            warned = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn parsed(log: &Log) -> Value {
        let line = log.line().unwrap();
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        serde_json::from_slice(&line).unwrap()
    }

    #[test]
    fn a_reply_counts_from_its_request_to_its_write() {
        let now = Instant::now();
        let arrival = |ms: u32, stamp| Arrival { at: now + ms * MS, stamp };
        let mut log = Log::new(1000 * MS);
        log.begin(Phase::Connect, MS / 2, arrival(1, None));
        log.answer();
        log.write(now + 2 * MS, 1002 * MS);
        // Both are written at once, the second has waited for the first.
        log.begin(Phase::Reset, 3 * MS, arrival(5, Some(1004 * MS)));
        log.answer();
        log.begin(Phase::Step, MS, arrival(5, Some(1004 * MS)));
        log.answer();
        assert!(log.has_unwritten());
        log.write(now + 10 * MS, 1010 * MS);
        assert!(!log.has_unwritten());
        // The clock was set back; and then the client does not wait for its reply.
        log.begin(Phase::Step, MS, arrival(11, Some(1012 * MS)));
        log.answer();
        log.write(now + 12 * MS, 900 * MS);
        log.begin(Phase::Step, MS, arrival(13, None));
        log.close("002031b96bd3", 1020 * MS);
        let reply = |phase, intended_us, achieved_us, held_us: Value| {
            json!({
                "phase": phase, "intended_us": intended_us, "achieved_us": achieved_us, "held_us": held_us
            })
        };
        let expected = json!({
            "session_hash": "002031b96bd3",
            "pid": std::process::id(),
            "accepted_us": 1_000_000,
            "upgraded_us": 1_002_000,
            "closed_us": 1_020_000,
            "replies": [
                reply("connect", 500, 1000, Value::Null),
                reply("reset", 3000, 5000, 6000.into()),
                reply("step", 1000, 5000, 6000.into()),
                reply("step", 1000, 1000, Value::Null),
            ]
        });
        assert_eq!(parsed(&log), expected);
    }

    #[test]
    fn a_session_of_too_many_replies_says_so() {
        let arrival = Arrival { at: Instant::now(), stamp: None };
        let mut log = Log::new(MS);
        for _ in 0..REPLIES_MAX + 3 {
            log.begin(Phase::Step, MS, arrival);
            log.answer();
            log.write(arrival.at, MS);
        }
        let line = parsed(&log);
        assert_eq!((line["replies"].as_array().unwrap().len(), &line["replies_omitted"]), (REPLIES_MAX, &json!(3)));
        assert_eq!(line["upgraded_us"], Value::Null);
    }
}
