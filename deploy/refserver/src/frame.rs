//! WebSocket framing (RFC 6455) for a server: decodes bytes to whole messages, and encodes messages.
//!
//! The decoder keeps bytes between calls only while a frame or a fragmented message is incomplete, so an idle
//! connection holds no buffer.

use std::ops::ControlFlow;

/// Longest message accepted, in bytes (uvicorn's default); a longer one is answered with close 1009.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// RFC 6455 section 5.5: a control frame carries at most 125 bytes.
const CONTROL_BYTES_MAX: usize = 125;

const FIN: u8 = 0x80;
const RSV: u8 = 0x70;
const MASKED: u8 = 0x80;

const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

/// Close codes of RFC 6455 section 7.4.1 and its registry that this server sends.
pub(crate) mod close_code {
    pub(crate) const NORMAL: u16 = 1000;
    pub(crate) const GOING_AWAY: u16 = 1001;
    pub(crate) const PROTOCOL_ERROR: u16 = 1002;
    pub(crate) const INVALID_DATA: u16 = 1007;
    pub(crate) const TOO_BIG: u16 = 1009;
    pub(crate) const INTERNAL_ERROR: u16 = 1011;
    pub(crate) const SERVICE_RESTART: u16 = 1012;
}

/// One whole message or control frame, unmasked and reassembled.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Incoming<'a> {
    Text(&'a str),
    Binary(&'a [u8]),
    Ping(&'a [u8]),
    Pong(&'a [u8]),
    /// The peer's close code, absent when its close frame had no payload.
    Close(Option<u16>),
}

/// A breach of the RFC by the peer, as the close frame that answers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) code: u16,
    pub(crate) reason: &'static str,
}

const fn protocol_error(reason: &'static str) -> Violation {
    Violation { code: close_code::PROTOCOL_ERROR, reason }
}

const INVALID_UTF8: Violation = Violation { code: close_code::INVALID_DATA, reason: "invalid UTF-8" };
const TOO_BIG: Violation = Violation { code: close_code::TOO_BIG, reason: "message too big" };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Binary,
}

/// Incremental decoder of a client's frames.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    /// Bytes of a frame that has not arrived whole.
    partial: Vec<u8>,
    /// Payload so far of a fragmented message (RFC 6455 section 5.4).
    message: Vec<u8>,
    /// Set between the first and the last fragment.
    fragmented: Option<Kind>,
}

/// Where one frame lies in a byte slice.
struct Header {
    first: u8,
    mask: [u8; 4],
    payload_start: usize,
    payload_len: usize,
}

impl Decoder {
    /// Decodes `input`, which is unmasked in place, and gives every complete message to `sink` until it breaks. What
    /// follows a break is dropped.
    ///
    /// # Errors
    /// The first violation. The decoder must not be fed again after one.
    pub(crate) fn feed(
        &mut self,
        input: &mut [u8],
        sink: &mut impl FnMut(Incoming<'_>) -> ControlFlow<()>,
    ) -> Result<(), Violation> {
        if self.partial.is_empty() {
            let used = self.frames(input, sink)?;
            self.partial.extend_from_slice(&input[used..]);
        } else {
            let mut bytes = std::mem::take(&mut self.partial);
            bytes.extend_from_slice(input);
            let used = self.frames(&mut bytes, sink)?;
            if used < bytes.len() {
                bytes.drain(..used);
                self.partial = bytes;
            }
        }
        Ok(())
    }

    /// Decodes whole frames from the front of `bytes`; returns how many bytes they took (all of them after a break).
    fn frames(
        &mut self,
        bytes: &mut [u8],
        sink: &mut impl FnMut(Incoming<'_>) -> ControlFlow<()>,
    ) -> Result<usize, Violation> {
        let mut used = 0;
        while let Some(header) = header(&bytes[used..], self.message.len())? {
            let start = used + header.payload_start;
            let end = start + header.payload_len;
            if bytes.len() < end {
                break;
            }
            let payload = &mut bytes[start..end];
            unmask(payload, header.mask);
            used = end;
            if self.frame(header.first, payload, sink)?.is_break() {
                return Ok(bytes.len());
            }
        }
        Ok(used)
    }

    fn frame(
        &mut self,
        first: u8,
        payload: &[u8],
        sink: &mut impl FnMut(Incoming<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Violation> {
        let fin = first & FIN != 0;
        let kind = match first & 0x0F {
            PING => return Ok(sink(Incoming::Ping(payload))),
            PONG => return Ok(sink(Incoming::Pong(payload))),
            CLOSE => return Ok(sink(Incoming::Close(close_payload(payload)?))),
            CONTINUATION => self.fragmented.ok_or(protocol_error("continuation without a start"))?,
            _ if self.fragmented.is_some() => return Err(protocol_error("message inside a fragmented message")),
            TEXT => Kind::Text,
            _ => Kind::Binary,
        };
        if !fin {
            self.fragmented = Some(kind);
            self.message.extend_from_slice(payload);
            return Ok(ControlFlow::Continue(()));
        }
        if self.fragmented.take().is_none() {
            return deliver(kind, payload, sink);
        }
        let mut message = std::mem::take(&mut self.message);
        message.extend_from_slice(payload);
        deliver(kind, &message, sink)
    }
}

fn deliver(
    kind: Kind,
    payload: &[u8],
    sink: &mut impl FnMut(Incoming<'_>) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Violation> {
    Ok(match kind {
        Kind::Text => sink(Incoming::Text(std::str::from_utf8(payload).map_err(|_| INVALID_UTF8)?)),
        Kind::Binary => sink(Incoming::Binary(payload)),
    })
}

/// Reads a frame header (RFC 6455 section 5.2); `None` if it is incomplete. Everything that needs no payload is checked
/// here, so that a frame that announces too much is refused before it is received.
fn header(bytes: &[u8], message_len: usize) -> Result<Option<Header>, Violation> {
    let [first, second, rest @ ..] = bytes else { return Ok(None) };
    let opcode = first & 0x0F;
    if first & RSV != 0 {
        return Err(protocol_error("reserved bits set"));
    }
    if !matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
        return Err(protocol_error("unknown opcode"));
    }
    // RFC 6455 section 5.1: a server must close on an unmasked frame.
    if second & MASKED == 0 {
        return Err(protocol_error("frame not masked"));
    }
    let (length, length_bytes) = match second & !MASKED {
        126 => match rest {
            [a, b, ..] => (u64::from(u16::from_be_bytes([*a, *b])), 2),
            _ => return Ok(None),
        },
        127 => match rest.first_chunk::<8>() {
            Some(bytes) => (u64::from_be_bytes(*bytes), 8),
            None => return Ok(None),
        },
        short => (u64::from(short), 0),
    };
    let shortest = match length_bytes {
        0 => 0,
        2 => 126,
        _ => 65_536,
    };
    if length < shortest {
        return Err(protocol_error("length not in its shortest form"));
    }
    if length >> 63 != 0 {
        return Err(protocol_error("length has its highest bit set"));
    }
    let Some(payload_len) = usize::try_from(length).ok().filter(|length| *length <= MESSAGE_BYTES_MAX) else {
        return Err(TOO_BIG);
    };
    if opcode >= CLOSE {
        if first & FIN == 0 {
            return Err(protocol_error("fragmented control frame"));
        }
        if payload_len > CONTROL_BYTES_MAX {
            return Err(protocol_error("control frame too long"));
        }
    } else if message_len + payload_len > MESSAGE_BYTES_MAX {
        return Err(TOO_BIG);
    }
    let Some(mask) = rest[length_bytes..].first_chunk::<4>() else { return Ok(None) };
    Ok(Some(Header { first: *first, mask: *mask, payload_start: 2 + length_bytes + 4, payload_len }))
}

/// Removes the mask (RFC 6455 section 5.3).
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let mut words = payload.chunks_exact_mut(4);
    for word in &mut words {
        for (byte, key) in word.iter_mut().zip(mask) {
            *byte ^= key;
        }
    }
    for (byte, key) in words.into_remainder().iter_mut().zip(mask) {
        *byte ^= key;
    }
}

/// Reads the payload of a close frame: empty, or a code and a UTF-8 reason (RFC 6455 section 5.5.1). Codes that must
/// not be sent are refused (section 7.4.2).
fn close_payload(payload: &[u8]) -> Result<Option<u16>, Violation> {
    match payload {
        [] => Ok(None),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(protocol_error("invalid close code"));
            }
            std::str::from_utf8(reason).map_err(|_| INVALID_UTF8)?;
            Ok(Some(code))
        }
        [_] => Err(protocol_error("close payload of one byte")),
    }
}

/// Appends a text frame; `write` appends its payload.
pub(crate) fn put_text(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    // Nearly every reply has 126 to 65535 bytes. Room is left for the header of that length, and corrected afterwards.
    const HEADER_BYTES: usize = 4;
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    write(out);
    let (header, header_len) = encode_header(TEXT, out.len() - start - HEADER_BYTES);
    out.splice(start..start + HEADER_BYTES, header[..header_len].iter().copied());
}

/// Appends a pong that answers a ping with `payload` (RFC 6455 section 5.5.3).
pub(crate) fn put_pong(out: &mut Vec<u8>, payload: &[u8]) {
    put(out, PONG, payload);
}

/// Appends a ping with `payload`, at most 125 bytes.
pub(crate) fn put_ping(out: &mut Vec<u8>, payload: &[u8]) {
    put(out, PING, payload);
}

/// Appends a close frame; without a code its payload is empty. `reason` is at most 123 bytes.
pub(crate) fn put_close(out: &mut Vec<u8>, code: Option<u16>, reason: &str) {
    debug_assert!(reason.len() + 2 <= CONTROL_BYTES_MAX, "a close reason is a short constant");
    let mut payload = Vec::new();
    if let Some(code) = code {
        payload.extend_from_slice(&code.to_be_bytes());
        payload.extend_from_slice(reason.as_bytes());
    }
    put(out, CLOSE, &payload);
}

fn put(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    let (header, header_len) = encode_header(opcode, payload.len());
    out.extend_from_slice(&header[..header_len]);
    out.extend_from_slice(payload);
}

/// The header of an unmasked final frame: ten bytes, and how many of them it has.
fn encode_header(opcode: u8, payload_len: usize) -> ([u8; 10], usize) {
    let mut header = [0; 10];
    header[0] = FIN | opcode;
    if let Ok(length) = u8::try_from(payload_len)
        && length < 126
    {
        header[1] = length;
        (header, 2)
    } else if let Ok(length) = u16::try_from(payload_len) {
        header[1] = 126;
        header[2..4].copy_from_slice(&length.to_be_bytes());
        (header, 4)
    } else {
        header[1] = 127;
        header[2..10].copy_from_slice(&(payload_len as u64).to_be_bytes());
        (header, 10)
    }
}

#[cfg(test)]
mod tests;
