//! WebSocket messages over a connection (RFC 6455): what is to be sent, what has come, and nothing kept in between.
//!
//! Headers are tungstenite's. What is around them is our own, because it is what a load generator lives on: a session that
//! waits holds no buffer, a large reply gives its memory back, a ping is answered where it is read and its time is known,
//! and reading goes on while a request is still being written.

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

use super::Fault;
use crate::intake::Share;
use crate::stamps::Times;
use crate::wire::Transport;

/// What one read takes at most. One buffer a thread: nobody holds it across an await.
const READ_BYTES: usize = 64 << 10;
/// Answers to pings that wait to be sent: of more, the last one alone is kept (RFC 6455 section 5.5.3). A server that pings
/// and never reads must not pile them up here.
const PONGS_BYTES_MAX: usize = 4 << 10;
/// What a server may still say after a session's last answer, before its connection is dropped.
const LAST_WORDS_BYTES_MAX: usize = 256 << 10;
/// Of a control frame's payload (RFC 6455 section 5.5).
const CONTROL_BYTES_MAX: u64 = 125;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BYTES]);
    /// Masks keep scripts in browsers from writing bytes of their choice on the wire (RFC 6455 section 10.3): here any will do.
    static MASKS: RefCell<Pcg64> = RefCell::new(Pcg64::seed_from_u64(RandomState::new().hash_one(0)));
}

/// Something that came.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    Text(String),
    /// With its length.
    Binary(usize),
    /// A close frame; one without a code counts as 1005 (RFC 6455 section 7.4.1).
    Close {
        code: u16,
        reason: String,
    },
    /// The end of the stream.
    End,
}

/// The part of a message that has come so far.
#[derive(Debug)]
struct Part {
    text: bool,
    payload: Vec<u8>,
}

/// Both directions of an upgraded connection.
#[derive(Debug)]
pub struct Frames {
    transport: Transport,
    times: Option<Rc<Times>>,
    /// Room for what is being read, shared with other sessions.
    share: Share,
    message_bytes_max: usize,
    /// Read, and not understood yet; empty and without room when idle.
    inbox: Vec<u8>,
    /// So many bytes of it have been understood by now.
    taken: usize,
    message: Option<Part>,
    /// To be written; the same.
    outbox: Vec<u8>,
    /// The answer to the last ping, when there was no room for it in `outbox`.
    pong: Option<Vec<u8>>,
    unflushed: bool,
    close_sent: bool,
    /// How much more is read, of a session that is over.
    left: Option<usize>,
}

impl Frames {
    /// `beyond` was read behind the upgrade.
    #[must_use]
    pub fn new(
        transport: Transport,
        times: Option<Rc<Times>>,
        beyond: Vec<u8>,
        message_bytes_max: usize,
        share: Share,
    ) -> Self {
        Self {
            transport,
            times,
            share,
            message_bytes_max,
            inbox: beyond,
            taken: 0,
            message: None,
            outbox: Vec::new(),
            pong: None,
            unflushed: false,
            close_sent: false,
            left: None,
        }
    }

    /// A text message; [`Frames::receive`] writes it.
    pub fn send(&mut self, text: &str) {
        put(&mut self.outbox, OpCode::Data(Data::Text), text.as_bytes());
    }

    /// The next message, close or end. Writes what is to be sent, and answers pings, meanwhile.
    ///
    /// # Errors
    /// What breaks the protocol, is larger than allowed, or the operating system says.
    pub async fn receive(&mut self) -> Result<Received, Fault> {
        std::future::poll_fn(|cx| self.poll_receive(cx)).await
    }

    /// Whether a close frame has been sent, or is about to be.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.close_sent
    }

    /// Writes what is to be sent and sees the other side end the connection; what it says before is of no interest, but that
    /// its close frame is answered.
    pub async fn drain(&mut self) {
        self.left = Some(LAST_WORDS_BYTES_MAX);
        while !matches!(self.receive().await, Ok(Received::End) | Err(_)) {}
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received, Fault>> {
        loop {
            // What is received decides, whatever becomes of what is sent: see `wire.rs`.
            if let Poll::Ready(Err(error)) = self.poll_write(cx) {
                return Poll::Ready(Err(error.into()));
            }
            match self.understand() {
                Ok(Some(received)) => {
                    self.let_go();
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
                    self.let_go();
                    return Poll::Ready(Err(fault));
                }
            }
            let held = self.inbox.len() + self.message.as_ref().map_or(0, |part| part.payload.len());
            ready!(self.share.poll_grow(cx, held));
            match ready!(self.poll_read(cx)) {
                Ok(0) => return Poll::Ready(Ok(Received::End)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    /// A message is whole: nothing is held for it any more.
    fn let_go(&mut self) {
        if self.message.is_none() {
            self.share.release();
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
                // TLS may hold the end of it back otherwise.
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
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut self.transport).poll_read(cx, &mut buffer))?;
            let read = buffer.filled();
            self.inbox.extend_from_slice(read);
            let bytes = read.len();
            // Whoever has that much more to say is not waited for.
            match self.left.map(|left| left.checked_sub(bytes)) {
                Some(None) => return Poll::Ready(Ok(0)),
                Some(left) => self.left = left,
                None => {}
            }
            Poll::Ready(Ok(bytes))
        })
    }

    /// Takes whole frames out of the inbox until one of them is something; `None` if more has to come first.
    fn understand(&mut self) -> Result<Option<Received>, Fault> {
        loop {
            let rest = &self.inbox[self.taken..];
            let mut cursor = Cursor::new(rest);
            let Some((header, length)) = FrameHeader::parse(&mut cursor).map_err(|error| bad(&error.to_string()))?
            else {
                self.compact();
                return Ok(None);
            };
            let head_bytes = usize::try_from(cursor.position()).unwrap_or(usize::MAX);
            self.allow(&header, length)?;
            let whole = head_bytes.saturating_add(usize::try_from(length).unwrap_or(usize::MAX));
            if rest.len() < whole {
                self.compact();
                // In steps: what is announced need not come.
                let room = whole.min(2 * self.inbox.len().max(READ_BYTES));
                self.inbox.reserve_exact(room.saturating_sub(self.inbox.len()));
                return Ok(None);
            }
            let payload = self.take(head_bytes, whole);
            let received = match header.opcode {
                OpCode::Control(control) => self.control(control, payload)?,
                OpCode::Data(data) => self.data(data, header.is_final, payload)?,
            };
            if received.is_some() {
                return Ok(received);
            }
        }
    }

    /// What may be read at all.
    fn allow(&self, header: &FrameHeader, length: u64) -> Result<(), Fault> {
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

    /// The payload of the frame at the beginning of the inbox.
    fn take(&mut self, head_bytes: usize, whole: usize) -> Vec<u8> {
        if self.taken == 0 && self.inbox.len() == whole {
            let mut payload = std::mem::take(&mut self.inbox);
            payload.drain(..head_bytes);
            return payload;
        }
        let payload = self.inbox[self.taken + head_bytes..self.taken + whole].to_vec();
        self.taken += whole;
        if self.taken == self.inbox.len() {
            self.compact();
        }
        payload
    }

    /// Lets go of the frames that were taken: once a read, however many small ones came with it. What is left of a whole
    /// read needs little room.
    fn compact(&mut self) {
        let taken = std::mem::take(&mut self.taken);
        if taken > 0 {
            self.inbox = self.inbox[taken..].to_vec();
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
                    // The code comes back (RFC 6455 section 5.5.1); nothing else is owed.
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
            (kind, _) => Part { text: kind == Data::Text, payload },
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
