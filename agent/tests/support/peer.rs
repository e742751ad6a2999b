//! The server's end of one connection, byte by byte: what a good server would never send can be sent from here.

use std::time::Duration;

use proto::Phase;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;

/// What [`Peer`] tells in its observations.
pub(crate) const HASH: &str = "0123456789ab";

pub(crate) const CAPACITY_REACHED: &str =
    r#"{"type":"error","data":{"message":"full","code":"CAPACITY_REACHED","active_sessions":1,"max_sessions":1}}"#;

#[derive(Debug)]
pub(crate) struct Peer<S> {
    pub(crate) stream: S,
    unread: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, unread: Vec::new() }
    }

    async fn more(&mut self) {
        let read = self.stream.read_buf(&mut self.unread).await.expect("the client is there");
        assert!(read > 0, "the client went away, having sent {:?}", String::from_utf8_lossy(&self.unread));
    }

    /// A client that has gone takes nothing, and that is for its own record to tell.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Reads a request's head.
    pub(crate) async fn head(&mut self) -> String {
        loop {
            if let Some(at) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = self.unread.drain(..at + 4).collect();
                return String::from_utf8(head).expect("a head is text");
            }
            self.more().await;
        }
    }

    /// Reads a request with its body; gives its first line and the body.
    pub(crate) async fn request(&mut self) -> (String, String) {
        let head = self.head().await;
        let length = header(&head, "content-length").map_or(0, |value| value.parse().expect("a number"));
        while self.unread.len() < length {
            self.more().await;
        }
        let body = String::from_utf8(self.unread.drain(..length).collect()).expect("a body is text");
        (head.lines().next().unwrap_or_default().to_owned(), body)
    }

    /// Reads the next text message of a WebSocket client; answers to pings are passed over.
    pub(crate) async fn message(&mut self) -> String {
        loop {
            if let Some((opcode, payload)) = self.frame() {
                if opcode == PONG {
                    continue;
                }
                assert_eq!(opcode, TEXT, "sessions ask in text frames");
                return String::from_utf8(payload).expect("a text frame is text");
            }
            self.more().await;
        }
    }

    /// One whole masked frame of what was received, if there is one (RFC 6455 section 5.2).
    fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let (first, second) = (*self.unread.first()?, *self.unread.get(1)?);
        assert!(first & 0x80 != 0 && second & 0x80 != 0, "a client's small message is one masked frame");
        let length = usize::from(second & 0x7f);
        assert!(length < 126, "requests are short");
        let mask: [u8; 4] = self.unread.get(2..6)?.try_into().ok()?;
        let masked = self.unread.get(6..6 + length)?;
        let payload = masked.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        self.unread.drain(..6 + length);
        Some((first & 0x0f, payload))
    }

    /// Plays a good server until the request of `phase` has come, and leaves that one unanswered.
    pub(crate) async fn ws_until(&mut self, phase: Phase) {
        let head = self.head().await;
        if phase == Phase::Connect {
            return;
        }
        self.send(switching(&head)).await;
        self.ws_on(Phase::Connect, phase).await;
    }

    /// Plays on, with the request of `answered` answered, until that of `phase` has come.
    pub(crate) async fn ws_on(&mut self, answered: Phase, phase: Phase) {
        let all = [(Phase::Reset, "reset"), (Phase::Step, "step"), (Phase::Close, "close")];
        for (due, kind) in all.into_iter().filter(|(due, _)| *due > answered) {
            let text = self.message().await;
            assert!(text.starts_with(&format!(r#"{{"type":"{kind}""#)), "{kind} is due: {text}");
            if due == phase {
                return;
            }
            self.send(frame(TEXT, ws_observation(HASH))).await;
        }
    }

    /// The same over HTTP, where connect and close are no requests.
    pub(crate) async fn http_until(&mut self, phase: Phase) {
        self.http_on(Phase::Connect, phase).await;
    }

    /// See [`Peer::ws_on`].
    pub(crate) async fn http_on(&mut self, answered: Phase, phase: Phase) {
        let all = [(Phase::Reset, "POST /reset"), (Phase::Step, "POST /step")];
        for (due, call) in all.into_iter().filter(|(due, _)| *due > answered) {
            let (line, _) = self.request().await;
            assert!(line.starts_with(call), "{call} is due: {line}");
            if due == phase {
                return;
            }
            self.send(http(200, &observation(HASH))).await;
        }
    }

    /// Says nothing more until the client goes.
    pub(crate) async fn silent(mut self) {
        let mut buffer = [0; 1_024];
        while matches!(self.stream.read(&mut buffer).await, Ok(1..)) {}
    }
}

impl Peer<TcpStream> {
    /// Cuts the connection with an RST.
    pub(crate) fn cut(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(n, _)| n.eq_ignore_ascii_case(name))
        .map(|(_, v)| v.trim())
}

/// The 101 that answers this request.
pub(crate) fn switching(head: &str) -> String {
    let key = header(head, "sec-websocket-key").expect("a WebSocket handshake");
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key.as_bytes())
    )
}

/// A whole unmasked frame.
pub(crate) fn frame(opcode: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let mut frame = frame_header(opcode, payload.len() as u64);
    frame.extend_from_slice(payload);
    frame
}

/// The header of an unmasked frame that claims to have so many bytes.
pub(crate) fn frame_header(opcode: u8, length: u64) -> Vec<u8> {
    let mut header = vec![0x80 | opcode];
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ ..126), _) => header.push(short),
        (_, Ok(medium)) => {
            header.push(126);
            header.extend(medium.to_be_bytes());
        }
        _ => {
            header.push(127);
            header.extend(length.to_be_bytes());
        }
    }
    header
}

/// A close frame; without a code it is empty.
pub(crate) fn close(code: Option<u16>) -> Vec<u8> {
    frame(8, code.map(|code| code.to_be_bytes().to_vec()).unwrap_or_default())
}

/// A whole response.
pub(crate) fn http(status: u16, body: &str) -> String {
    format!(
        "HTTP/1.1 {status} Whatever\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// What the benchmark environment answers.
pub(crate) fn observation(hash: &str) -> String {
    format!(
        r#"{{"observation":{{"waited_seconds":0.0,"pid":7,"session_hash":"{hash}","host_url":"h:1","step_count":1}},"reward":null,"done":false}}"#
    )
}

/// The same as a WebSocket message.
pub(crate) fn ws_observation(hash: &str) -> String {
    format!(r#"{{"type":"observation","data":{}}}"#, observation(hash))
}
