//! A relay with a server behind it, and blocking sockets.

use std::io::{self, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use testnet::{Options, Relay};

/// Nothing here takes this long unless it is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// How long is listened for what must not come. Too short only makes a test miss a fault.
const SILENCE: Duration = Duration::from_millis(30);

pub(crate) struct Net {
    pub(crate) relay: Relay,
    /// Of the server behind the relay.
    pub(crate) listener: TcpListener,
}

impl Net {
    /// A link without faults.
    pub(crate) fn start() -> Self {
        Self::with(|options| options)
    }

    pub(crate) fn with(change: impl FnOnce(Options) -> Options) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
        let to = listener.local_addr().expect("it is bound");
        let options = change(Options { to, delay: Duration::ZERO, jitter: Duration::ZERO, seed: 0 });
        let front = TcpListener::bind("127.0.0.1:0").expect("loopback can be bound");
        Self { relay: Relay::start(front, options).expect("a relay"), listener }
    }

    pub(crate) fn client(&self) -> TcpStream {
        connect(self.relay.address())
    }

    /// The server's side of the next connection that comes through.
    pub(crate) fn accept(&self) -> TcpStream {
        prepared(self.listener.accept().expect("a connection comes through").0)
    }

    /// Both sides of a new connection.
    pub(crate) fn pair(&self) -> (TcpStream, TcpStream) {
        let client = self.client();
        (client, self.accept())
    }
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    prepared(TcpStream::connect(address).expect("the relay listens"))
}

fn prepared(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout can be set");
    stream.set_nodelay(true).expect("the option exists");
    stream
}

/// `count` bytes of which no two stretches are the same.
pub(crate) fn bytes(count: usize) -> Vec<u8> {
    (0_u32..).flat_map(u32::to_be_bytes).take(count).collect()
}

pub(crate) fn read(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes).expect("as many bytes come in time");
    bytes
}

/// The connection has ended with a FIN, and nothing comes before that.
pub(crate) fn expect_end(stream: &mut TcpStream) {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).expect("it ends in order");
    assert_eq!(rest, b"");
}

/// The connection has been reset, and nothing comes before that.
pub(crate) fn expect_reset(stream: &mut TcpStream) {
    let error = stream.read(&mut [0; 16]).expect_err("it is reset");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}");
}

/// A new connection is reset; that may come before the kernel has told this side that there is one.
pub(crate) fn expect_refused(address: SocketAddr) {
    match TcpStream::connect(address) {
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
        Ok(mut stream) => {
            stream.set_read_timeout(Some(DEADLINE)).expect("a timeout can be set");
            expect_reset(&mut stream);
        }
    }
}

/// Nothing comes, nor an end.
pub(crate) fn expect_silence(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(SILENCE)).expect("a timeout can be set");
    let silence = stream.read(&mut [0; 16]).expect_err("nothing comes");
    assert_eq!(silence.kind(), io::ErrorKind::WouldBlock, "{silence}");
    stream.set_read_timeout(Some(DEADLINE)).expect("a timeout can be set");
}
