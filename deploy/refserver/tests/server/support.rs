//! A server to test, and a client made of a blocking socket.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use refserver::Options;
use serde_json::Value;
use tokio::sync::oneshot;

/// Nothing here takes this long unless it is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Spins until `condition` gives a value.
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
    }
}

/// A server in this process, stopped when dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Server {
    pub(crate) fn start(options: Options) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(refserver::run(listener, options, async {
                let _ = stopped.await;
            }))
        });
        Self { address, stop: Some(stop), thread: Some(thread) }
    }

    /// Tells the server to stop, without waiting for it.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
    }

    /// Waits for the end of a server that was told to stop.
    pub(crate) fn join(&mut self) -> io::Result<()> {
        self.thread.take().map_or(Ok(()), |thread| thread.join().expect("the server does not panic"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        let _ = self.join();
    }
}

/// The server's faultless default with one option changed.
pub(crate) fn options(change: impl FnOnce(&mut Options)) -> Options {
    let mut options = Options { host_name: Some("vm".into()), ..Options::default() };
    change(&mut options);
    options
}

pub(crate) const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

pub(crate) const RESET: &str = r#"{"type":"reset","data":{}}"#;
pub(crate) const STATE: &str = r#"{"type":"state"}"#;
pub(crate) const CLOSE: &str = r#"{"type":"close"}"#;

pub(crate) fn step(wait_seconds: f64) -> String {
    format!(r#"{{"type":"step","data":{{"wait_seconds":{wait_seconds:?}}}}}"#)
}

/// A client's frame with `first` its first byte.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x1F, 0, 0xA5, 0x5A];
    let mut bytes = vec![first];
    if let Ok(length @ 0..=125) = u8::try_from(payload.len()) {
        bytes.push(0x80 | length);
    } else if let Ok(length) = u16::try_from(payload.len()) {
        bytes.push(0x80 | 126);
        bytes.extend(length.to_be_bytes());
    } else {
        bytes.push(0x80 | 127);
        bytes.extend((payload.len() as u64).to_be_bytes());
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// True for what a socket says of a connection that the other end has closed.
fn is_end(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

/// What the server sent last.
#[derive(Debug, PartialEq)]
pub(crate) enum Got {
    Json(Value),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// Code, 0 when absent, and reason.
    Close(u16, String),
}

/// A response to an HTTP request.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Status line and headers, in lower case.
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    unread: Vec<u8>,
}

impl Client {
    /// Connects without saying anything.
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the server accepts");
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout can be set");
        stream.set_nodelay(true).expect("the option exists");
        Self { stream, unread: Vec::new() }
    }

    /// Connects and shakes hands.
    pub(crate) fn open(address: SocketAddr) -> Self {
        let mut client = Self::connect(address);
        client.write(HANDSHAKE.as_bytes());
        let head = client.head();
        assert!(head.starts_with("http/1.1 101 "), "{head}");
        // The key of RFC 6455 section 1.3, in lower case as all of the head.
        assert!(head.contains("\r\nsec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "{head}");
        assert!(!head.contains("sec-websocket-extensions"), "{head}");
        client
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server reads");
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.write(&frame(0x81, text.as_bytes()));
    }

    /// Sends `text` and returns the reply's `data`, which must be of type `kind`.
    pub(crate) fn ask(&mut self, text: &str, kind: &str) -> Value {
        self.send(text);
        self.expect(kind)
    }

    /// The `data` of the next message, which must be of type `kind`.
    pub(crate) fn expect(&mut self, kind: &str) -> Value {
        match self.receive() {
            Got::Json(mut message) if message["type"] == kind => {
                assert_eq!(message.as_object().map(serde_json::Map::len), Some(2), "{message}");
                message["data"].take()
            }
            other => panic!("expected {kind}, got {other:?}"),
        }
    }

    /// The next close frame's code; nothing may come before it.
    pub(crate) fn expect_close(&mut self) -> u16 {
        match self.receive() {
            Got::Close(code, _) => code,
            other => panic!("expected a close, got {other:?}"),
        }
    }

    /// The server ends the connection with a FIN and nothing before it.
    pub(crate) fn expect_end(&mut self) {
        let mut rest = std::mem::take(&mut self.unread);
        self.stream.read_to_end(&mut rest).expect("the connection ends in order");
        assert_eq!(rest, b"", "nothing comes before the end");
    }

    /// The server ends the connection with a RST and nothing before it.
    pub(crate) fn expect_reset(&mut self) {
        assert_eq!(self.unread, b"");
        let error = self.stream.read(&mut [0; 16]).expect_err("the connection is reset");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    pub(crate) fn receive(&mut self) -> Got {
        let (opcode, payload) = self.receive_raw();
        match opcode {
            0x1 => Got::Json(serde_json::from_slice(&payload).expect("text is JSON")),
            0x8 => {
                let code = payload.first_chunk().map_or(0, |code| u16::from_be_bytes(*code));
                let reason = payload.get(2..).unwrap_or_default();
                Got::Close(code, String::from_utf8(reason.into()).expect("a reason is UTF-8"))
            }
            0x9 => Got::Ping(payload),
            0xA => Got::Pong(payload),
            other => panic!("opcode {other:x}"),
        }
    }

    /// The next frame's opcode and payload.
    pub(crate) fn receive_raw(&mut self) -> (u8, Vec<u8>) {
        let first = self.take(2);
        // RFC 6455 section 5.1: a server does not mask; this one does not fragment either.
        assert_eq!((first[0] & 0xF0, first[1] & 0x80), (0x80, 0), "final, no reserved bits, no mask");
        let length = match first[1] {
            126 => self.take(2).iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
            127 => self.take(8).iter().fold(0, |length, byte| length << 8 | usize::from(*byte)),
            short => usize::from(short),
        };
        (first[0] & 0x0F, self.take(length))
    }

    /// Answers pings, until the server ends the connection; nothing but pings may come before.
    ///
    /// A FIN and a RST are both right: a connection that is closed while a pong is unread ends with a RST.
    pub(crate) fn expect_pings_and_end(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            assert!(Instant::now() < deadline, "not in time: the end of the connection");
            if self.unread.is_empty() && self.has_ended() {
                return;
            }
            let Got::Ping(payload) = self.receive() else { panic!("only pings come") };
            match self.stream.write_all(&frame(0x8A, &payload)) {
                Err(error) if is_end(&error) => return,
                written => written.expect("a pong can be written"),
            }
        }
    }

    /// Waits for bytes or the end of the connection; true for the end.
    fn has_ended(&self) -> bool {
        match self.stream.peek(&mut [0]) {
            Ok(bytes) => bytes == 0,
            Err(error) => is_end(&error) || panic!("neither bytes nor an end: {error}"),
        }
    }

    /// True when nothing has come and the connection is open.
    pub(crate) fn is_silent(&mut self) -> bool {
        self.stream.set_nonblocking(true).expect("the mode can be set");
        let peeked = self.stream.peek(&mut [0]);
        self.stream.set_nonblocking(false).expect("the mode can be set");
        self.unread.is_empty() && peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sends an HTTP request and reads its response.
    pub(crate) fn request(&mut self, method: &str, path: &str, body: &str) -> Response {
        let length = body.len();
        self.write(format!("{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes());
        self.response()
    }

    pub(crate) fn response(&mut self) -> Response {
        let head = self.head();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
        let body = self.take(length.expect("a length").parse().expect("a number"));
        Response { status, head, body }
    }

    /// A response's head, in lower case.
    pub(crate) fn head(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(self.take(1));
        }
        String::from_utf8(head).expect("a head is ASCII").to_lowercase()
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        while self.unread.len() < count {
            let mut buffer = [0; 65_536];
            let read = self.stream.read(&mut buffer).expect("something comes in time");
            assert_ne!(read, 0, "the connection ended after {:?}", self.unread);
            self.unread.extend_from_slice(&buffer[..read]);
        }
        let rest = self.unread.split_off(count);
        std::mem::replace(&mut self.unread, rest)
    }
}
