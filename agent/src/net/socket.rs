//! A TCP socket that reads the kernel's timestamps along with the data.
//!
//! Every session's bytes go through [`Socket`], which records what the kernel knows of them (receive timestamps,
//! `TCP_INFO`). Small writes go out at once (`TCP_NODELAY`): Nagle's algorithm and delayed acknowledgements would delay
//! some by 40 ms (RFC 896, RFC 1122 section 4.2.3.2).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, Socket as RawSocket, Type};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop;
use tokio_rustls::client::TlsStream;

use super::timestamps::{self, Timestamps};

/// This many bytes read cost one unit of a task's budget (tokio gives 128 units a poll): a poll ends after 16 KiB.
const BYTES_A_BUDGET_UNIT: usize = 128;

/// A socket that can be connected to `address`, bound to `source` if given.
pub(crate) fn new_socket(address: SocketAddr, source: Option<IpAddr>) -> io::Result<RawSocket> {
    let socket = RawSocket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if let Some(source) = source {
        // Without this option a bind with port 0 takes the port for all destinations, not for this one only.
        #[cfg(target_os = "linux")]
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket)
}

/// Checks that this machine has a route to `address` and a local address for it. TCP ports play no part, and nothing is
/// sent.
///
/// # Errors
/// The error of connect(2) on a datagram socket: it looks up route and local address as for TCP, but takes a UDP port.
pub(crate) fn route_to(address: SocketAddr) -> io::Result<()> {
    RawSocket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?.connect(&address.into())
}

/// A connected TCP stream.
///
/// A server may send the reason and cut the connection before our next bytes go out (OpenEnv accepts first and checks
/// its capacity after). What was received must decide then, not the failed write. So a write into a cut connection
/// succeeds and its bytes are dropped; reads return what had arrived, and then the error.
#[derive(Debug)]
pub struct Socket {
    stream: TcpStream,
    /// The error of a write into a cut connection, kept for the read that reaches the end.
    write_error: Option<io::Error>,
    times: Option<Rc<Timestamps>>,
}

/// Records the kernel's figures of the TCP handshake when it is dropped: after the handshake, or when a time-out cuts
/// it.
struct Handshake<'a> {
    socket: &'a Socket,
    begun: Instant,
    connected: bool,
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        if let Some(times) = &self.socket.times {
            times.handshake(&self.socket.stream, self.begun.elapsed(), self.connected);
        }
    }
}

impl Socket {
    /// Connects, from `source` if given. With `times`, the kernel's timestamps are recorded there.
    ///
    /// # Errors
    /// The operating system's error.
    pub async fn connect(
        address: SocketAddr,
        source: Option<IpAddr>,
        times: Option<Rc<Timestamps>>,
    ) -> io::Result<Self> {
        let socket = new_socket(address, source)?;
        socket.set_tcp_nodelay(true)?;
        if times.is_some() {
            timestamps::enable(&socket)?;
        }
        let begun = Instant::now();
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let this = Self { stream: TcpStream::from_std(socket.into())?, write_error: None, times };
        let mut handshake = Handshake { socket: &this, begun, connected: false };
        this.stream.writable().await?;
        if let Some(error) = this.stream.take_error()? {
            return Err(error);
        }
        handshake.connected = true;
        drop(handshake);
        Ok(this)
    }

    fn writing(&self) {
        if let Some(times) = &self.times {
            times.writing();
        }
    }

    /// Turns the error of a write into a cut connection into a success, see [`Socket`].
    fn hide_cut(&mut self, result: Poll<io::Result<usize>>, bytes: usize) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Err(error))
                if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) =>
            {
                self.write_error.get_or_insert(error);
                Poll::Ready(Ok(bytes))
            }
            other => other,
        }
    }
}

/// Charges a read to the task's budget by its bytes. tokio charges one unit a read, however much it brings: with a
/// server that floods its client, the other sessions of the thread would wait while megabytes are parsed.
fn charge_budget(cx: &mut Context<'_>, bytes: usize) {
    for _ in 0..bytes / BYTES_A_BUDGET_UNIT {
        if !coop::has_budget_remaining() {
            return;
        }
        if let Poll::Ready(unit) = coop::poll_proceed(cx) {
            unit.made_progress();
        }
    }
}

/// Reads data together with the kernel's receive timestamp.
fn poll_read_with_timestamp(
    stream: &TcpStream,
    times: &Timestamps,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    loop {
        ready!(stream.poll_read_ready(cx))?;
        let room = buf.initialize_unfilled();
        let mut got = None;
        let tried = stream.try_io(Interest::READABLE, || {
            let (bytes, stamp_ns) = timestamps::receive(stream, room)?;
            got = Some((bytes, stamp_ns));
            // A read that did not fill its buffer has emptied the socket. `WouldBlock` tells tokio so.
            if 0 < bytes && bytes < room.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
        });
        match (got, tried) {
            (Some((bytes, stamp_ns)), _) => {
                if bytes > 0 {
                    times.received(stamp_ns);
                } else {
                    times.ended(stream);
                }
                buf.advance(bytes);
                return Poll::Ready(Ok(()));
            }
            (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            (None, Err(error)) => {
                times.reset();
                return Poll::Ready(Err(error));
            }
            (None, Ok(())) => {}
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match &self.times {
            None => ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?,
            Some(times) => ready!(poll_read_with_timestamp(&self.stream, times, cx, buf))?,
        }
        charge_budget(cx, buf.filled().len() - before);
        // The failed write has taken the error off the socket, whose end now looks orderly.
        match self.write_error.take_if(|_| buf.filled().len() == before && buf.remaining() > 0) {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.writing();
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.hide_cut(result, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writing();
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.hide_cut(result, bufs.iter().map(|buf| buf.len()).sum())
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A connection with or without TLS.
#[derive(Debug)]
pub enum Transport {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Transport {
    /// Makes a TLS connection out of a connected socket.
    ///
    /// # Errors
    /// A failed handshake, or a certificate that does not fit `host`.
    pub async fn tls(socket: Socket, host: &str, config: Arc<rustls::ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        // Boxed, because the handshake's state is large and plain sessions should not have room for it.
        let stream = Box::pin(tokio_rustls::TlsConnector::from(config).connect(name, socket)).await?;
        Ok(Self::Tls(Box::new(stream)))
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
