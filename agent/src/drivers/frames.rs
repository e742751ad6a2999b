//! Reads and writes WebSocket messages over a connection (RFC 6455).
//!
//! tungstenite parses and formats the frame headers. The rest is our own code, because a load generator depends on it:
//! a session that waits holds no buffer, the memory of a large reply is freed, a ping is answered where it is read and
//! its delay is known, and reading goes on while a request is still being written.

use std::cell::RefCell;
use std::hash::{BuildHasher as _, RandomState};
use std::io::Cursor;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use proto::FailureKind;
use rand_pcg::Pcg64;
use rand_pcg::rand_core::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::fault::Fault;
use super::read_budget::BudgetShare;
use crate::net::socket::Transport;
use crate::net::timestamps::Timestamps;

/// Size of the read buffer. There is one a thread, and nobody holds it across an await.
const READ_BYTES: usize = 64 << 10;
/// The most bytes of unsent pongs. Beyond it only the last pong is kept (RFC 6455 section 5.5.3), so that a server that
/// pings and never reads can't fill our memory.
const PONGS_BYTES_MAX: usize = 4 << 10;
/// The most bytes that are read after a session's last reply. A server that sends more is disconnected.
const DRAIN_BYTES_MAX: usize = 256 << 10;
/// The longest payload of a control frame (RFC 6455 section 5.5).
const CONTROL_BYTES_MAX: u64 = 125;

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
    /// Masks keep scripts in browsers from choosing the bytes that are sent (RFC 6455 section 10.3). Here any will do.
    static MASKS: RefCell<Pcg64> = RefCell::new(Pcg64::seed_from_u64(RandomState::new().hash_one(0)));
}

/// What was received.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    Text(String),
    /// The length in bytes.
    Binary(usize),
    /// A close frame; one without a code counts as 1005 (RFC 6455 section 7.4.1).
    Close {
        code: u16,
        reason: String,
    },
    /// The end of the stream.
    End,
}

/// The fragments of a message that have arrived so far, joined.
#[derive(Debug)]
struct PartialMessage {
    text: bool,
    payload: Vec<u8>,
}

/// Both directions of an upgraded connection.
#[derive(Debug)]
pub struct Frames {
    transport: Transport,
    times: Option<Rc<Timestamps>>,
    /// This session's share of the thread's memory for unfinished replies.
    budget: BudgetShare,
    message_bytes_max: usize,
    /// Bytes that were read and not parsed yet; without an allocation when idle.
    inbox: Vec<u8>,
    /// How many bytes at the front of `inbox` are parsed already.
    parsed: usize,
    message: Option<PartialMessage>,
    /// Bytes to be written; without an allocation when idle.
    outbox: Vec<u8>,
    /// The pong to the last ping, if `outbox` had no room for it.
    pong: Option<Vec<u8>>,
    unflushed: bool,
    close_sent: bool,
    /// How many more bytes are read; `Some` once the session is over.
    drain_bytes_left: Option<usize>,
}

impl Frames {
    /// `already_read` is what came together with the end of the upgrade.
    #[must_use]
    pub fn new(
        transport: Transport,
        times: Option<Rc<Timestamps>>,
        already_read: Vec<u8>,
        message_bytes_max: usize,
        budget: BudgetShare,
    ) -> Self {
        Self {
            transport,
            times,
            budget,
            message_bytes_max,
            inbox: already_read,
            parsed: 0,
            message: None,
            outbox: Vec::new(),
            pong: None,
            unflushed: false,
            close_sent: false,
            drain_bytes_left: None,
        }
    }

    /// Queues a text message. [`Frames::receive`] writes it.
    pub fn send(&mut self, text: &str) {
        put(&mut self.outbox, OpCode::Data(Data::Text), text.as_bytes());
    }

    /// Returns the next message, close frame or end of stream. Meanwhile it writes what is queued and answers pings.
    ///
    /// # Errors
    /// A fault for a breach of the protocol, a message above the limit, or an error of the operating system.
    pub async fn receive(&mut self) -> Result<Received, Fault> {
        std::future::poll_fn(|cx| self.poll_receive(cx)).await
    }

    /// Whether a close frame has been sent, or is about to be.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.close_sent
    }

    /// Writes what is queued, then reads until the server ends the connection. Messages are dropped; a close frame is
    /// answered.
    pub async fn drain(&mut self) {
        self.drain_bytes_left = Some(DRAIN_BYTES_MAX);
        while !matches!(self.receive().await, Ok(Received::End) | Err(_)) {}
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received, Fault>> {
        loop {
            // A write into a connection that was cut does not fail (see `net::socket`): what was received decides.
            if let Poll::Ready(Err(error)) = self.poll_write(cx) {
                return Poll::Ready(Err(error.into()));
            }
            match self.parse_frames() {
                Ok(Some(received)) => {
                    self.release_budget();
                    return Poll::Ready(Ok(received));
                }
                // A ping may have asked for an answer.
                Ok(None) if !self.outbox.is_empty() || self.pong.is_some() => {
                    if let Poll::Ready(Err(error)) = self.poll_write(cx) {
                        return Poll::Ready(Err(error.into()));
                    }
                }
                Ok(None) => {}
                Err(fault) => {
                    self.release_budget();
                    return Poll::Ready(Err(fault));
                }
            }
            let held_bytes = self.inbox.len() + self.message.as_ref().map_or(0, |part| part.payload.len());
            ready!(self.budget.poll_grow(cx, held_bytes));
            match ready!(self.poll_read(cx)) {
                Ok(0) => return Poll::Ready(Ok(Received::End)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// Gives this session's memory back, unless part of a message is still held.
    fn release_budget(&mut self) {
        if self.message.is_none() {
            self.budget.release();
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        loop {
            if self.outbox.is_empty()
                && let Some(pong) = self.pong.take()
            {
                self.outbox = pong;
            }
            if self.outbox.is_empty() {
                if !self.unflushed {
                    return Poll::Ready(Ok(()));
                }
                // Without a flush TLS may hold the last bytes back.
                ready!(Pin::new(&mut self.transport).poll_flush(cx))?;
                self.unflushed = false;
                return Poll::Ready(Ok(()));
            }
            let written = ready!(Pin::new(&mut self.transport).poll_write(cx, &self.outbox))?;
            if written == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            self.unflushed = true;
            if written == self.outbox.len() {
                self.outbox = Vec::new();
            } else {
                self.outbox.drain(..written);
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let mut buffer = ReadBuf::new(buffer);
            ready!(Pin::new(&mut self.transport).poll_read(cx, &mut buffer))?;
            let read = buffer.filled();
            self.inbox.extend_from_slice(read);
            let bytes = read.len();
            // Beyond the drain limit the stream counts as ended.
            match self.drain_bytes_left.map(|left| left.checked_sub(bytes)) {
                Some(None) => return Poll::Ready(Ok(0)),
                Some(left) => self.drain_bytes_left = left,
                None => {}
            }
            Poll::Ready(Ok(bytes))
        })
    }

    /// Parses whole frames until one of them completes a message; `None` if more bytes are needed first.
    fn parse_frames(&mut self) -> Result<Option<Received>, Fault> {
        loop {
            let rest = &self.inbox[self.parsed..];
            let mut cursor = Cursor::new(rest);
            let Some((header, length)) = FrameHeader::parse(&mut cursor).map_err(|error| bad(&error.to_string()))?
            else {
                self.compact();
                return Ok(None);
            };
            let head_bytes = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
            self.check_header(&header, length)?;
            let whole = head_bytes.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
            if rest.len() < whole {
                self.compact();
                // The room grows in steps: a server may announce a length and never send it.
                let room = whole.min(2 * self.inbox.len().max(READ_BYTES));
                self.inbox.reserve_exact(room.saturating_sub(self.inbox.len()));
                return Ok(None);
            }
            let payload = self.take_payload(head_bytes, whole);
            let received = match header.opcode {
                OpCode::Control(control) => self.control(control, payload)?,
                OpCode::Data(data) => self.data(data, header.is_final, payload)?,
            };
            if received.is_some() {
                return Ok(received);
            }
        }
    }

    /// Refuses frames that break the protocol or exceed the limit, before their payload is read.
    fn check_header(&self, header: &FrameHeader, length: u64) -> Result<(), Fault> {
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return Err(bad("a frame with reserved bits, which no extension was asked for"));
        }
        if header.mask.is_some() {
            return Err(bad("a masked frame of a server"));
        }
        match (header.opcode, &self.message) {
            (OpCode::Control(_), _) if !header.is_final => return Err(bad("a control frame in fragments")),
            (OpCode::Control(_), _) if length > CONTROL_BYTES_MAX => {
                return Err(bad(&format!("a control frame of {length} bytes")));
            }
            (OpCode::Data(Data::Continue), None) => return Err(bad("a continuation of nothing")),
            (OpCode::Data(Data::Text | Data::Binary), Some(_)) => {
                return Err(bad("a message inside another"));
            }
            _ => {}
        }
        let before = self.message.as_ref().map_or(0, |part| part.payload.len()) as u64;
        if before.saturating_add(length) > self.message_bytes_max as u64 {
            return Err(Fault::too_large(self.message_bytes_max));
        }
        Ok(())
    }

    /// Takes the payload of the first frame in the inbox.
    fn take_payload(&mut self, head_bytes: usize, whole: usize) -> Vec<u8> {
        if self.parsed == 0 && self.inbox.len() == whole {
            let mut payload = std::mem::take(&mut self.inbox);
            payload.drain(..head_bytes);
            return payload;
        }
        let payload = self.inbox[self.parsed + head_bytes..self.parsed + whole].to_vec();
        self.parsed += whole;
        if self.parsed == self.inbox.len() {
            self.compact();
        }
        payload
    }

    /// Removes parsed frames from the inbox. This happens once a read, however many small frames came with it; what is
    /// left is copied, because it needs far less room than a whole read.
    fn compact(&mut self) {
        let parsed = std::mem::take(&mut self.parsed);
        if parsed > 0 {
            self.inbox = self.inbox[parsed..].to_vec();
        }
    }

    fn control(&mut self, control: Control, payload: Vec<u8>) -> Result<Option<Received>, Fault> {
        match control {
            Control::Ping => {
                if let Some(times) = &self.times {
                    times.pinged();
                }
                if !self.close_sent {
                    self.answer_ping(&payload);
                }
                Ok(None)
            }
            Control::Pong => Ok(None),
            Control::Close => {
                let (code, reason) = match payload.as_slice() {
                    [] => (1005, String::new()),
                    [_] => return Err(bad("a close frame of one byte")),
                    [high, low, reason @ ..] => {
                        let reason = std::str::from_utf8(reason).map_err(|_| bad("a close frame that is no UTF-8"))?;
                        (u16::from_be_bytes([*high, *low]), reason.to_owned())
                    }
                };
                if !self.close_sent {
                    self.close_sent = true;
                    // The answer repeats the code (RFC 6455 section 5.5.1).
                    put(&mut self.outbox, OpCode::Control(Control::Close), payload.get(..2).unwrap_or_default());
                }
                Ok(Some(Received::Close { code, reason }))
            }
            Control::Reserved(code) => Err(bad(&format!("a frame of the reserved kind {code}"))),
        }
    }

    fn answer_ping(&mut self, payload: &[u8]) {
        if self.outbox.len() < PONGS_BYTES_MAX {
            put(&mut self.outbox, OpCode::Control(Control::Pong), payload);
        } else {
            let mut pong = Vec::new();
            put(&mut pong, OpCode::Control(Control::Pong), payload);
            self.pong = Some(pong);
        }
    }

    fn data(&mut self, data: Data, is_final: bool, payload: Vec<u8>) -> Result<Option<Received>, Fault> {
        let part = match (data, self.message.take()) {
            (Data::Continue, Some(mut part)) => {
                part.payload.extend_from_slice(&payload);
                part
            }
            (kind, _) => PartialMessage { text: kind == Data::Text, payload },
        };
        if !is_final {
            self.message = Some(part);
            return Ok(None);
        }
        if !part.text {
            return Ok(Some(Received::Binary(part.payload.len())));
        }
        match String::from_utf8(part.payload) {
            Ok(text) => Ok(Some(Received::Text(text))),
            Err(_) => Err(bad("a text message that is no UTF-8")),
        }
    }
}

fn bad(what: &str) -> Fault {
    Fault::new(FailureKind::BadReply, what)
}

/// Appends a whole frame, masked as a client's must be (RFC 6455 section 5.3).
fn put(out: &mut Vec<u8>, opcode: OpCode, payload: &[u8]) {
    let mask = MASKS.with_borrow_mut(|masks| masks.next_u32()).to_be_bytes();
    let header = FrameHeader { is_final: true, opcode, mask: Some(mask), ..FrameHeader::default() };
    let length = payload.len() as u64;
    out.reserve_exact(header.len(length) + payload.len());
    if let Err(error) = header.format(length, out) {
        unreachable!("writing to memory failed: {error}");
    }
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}
