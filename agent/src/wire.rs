//! The socket: what the network did, apart from what we did.
//!
//! Every session's bytes go through [`Wire`], so that what the kernel knows of them (receive timestamps, `TCP_INFO`)
//! can be read where they pass. Small writes go out at once (`TCP_NODELAY`): Nagle's algorithm and delayed
//! acknowledgement would add a 40 ms mode of their own (RFC 896, RFC 1122 section 4.2.3.2).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop;
use tokio_rustls::client::TlsStream;

use crate::stamps::{self, Times};

/// So many bytes read are a unit of work: a turn ends after 16 KiB.
const UNIT_BYTES: usize = 128;

/// A socket that can be connected to `address`, bound to `source` if given.
pub(crate) fn socket(address: SocketAddr, source: Option<IpAddr>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if let Some(source) = source {
        // Without this a bind with port 0 takes the port from every destination at once, not only from this one.
        #[cfg(target_os = "linux")]
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket)
}

/// Whether there is a way to `address` and an address of this machine to take it from, ports apart. Nothing is sent.
///
/// # Errors
/// What connect(2) says of a datagram socket. It looks for the way and for its own address as a TCP socket does, and
/// the ports of UDP are others.
pub(crate) fn way_to(address: SocketAddr) -> io::Result<()> {
    Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?.connect(&address.into())
}

/// A connected TCP stream.
///
/// A server may say why it hangs up and cut the connection before our next bytes go out (OpenEnv accepts first and
/// checks its capacity after). What was received decides, whatever became of what was sent: after a cut, writes vanish
/// as they would have on the way, and reads give everything that came before they tell of the cut.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    cut: Option<io::Error>,
    times: Option<Rc<Times>>,
}

/// Asks the kernel about a handshake when it is over, also when nobody waits for it any more.
struct Handshake<'a> {
    wire: &'a Wire,
    begun: Instant,
    connected: bool,
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        if let Some(times) = &self.wire.times {
            times.handshake(&self.wire.stream, self.begun.elapsed(), self.connected);
        }
    }
}

impl Wire {
    /// Connects, from `source` if given. With `times`, the kernel is asked what it knows.
    ///
    /// # Errors
    /// What the operating system says.
    pub async fn connect(address: SocketAddr, source: Option<IpAddr>, times: Option<Rc<Times>>) -> io::Result<Self> {
        let socket = socket(address, source)?;
        socket.set_tcp_nodelay(true)?;
        if times.is_some() {
            stamps::request(&socket)?;
        }
        let begun = Instant::now();
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(nix::libc::EINPROGRESS) => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let wire = Self { stream: TcpStream::from_std(socket.into())?, cut: None, times };
        let mut handshake = Handshake { wire: &wire, begun, connected: false };
        wire.stream.writable().await?;
        if let Some(error) = wire.stream.take_error()? {
            return Err(error);
        }
        handshake.connected = true;
        drop(handshake);
        Ok(wire)
    }

    fn writing(&self) {
        if let Some(times) = &self.times {
            times.writing();
        }
    }

    /// What the rest of the program hears of a write of `bytes` bytes.
    fn written(&mut self, result: Poll<io::Result<usize>>, bytes: usize) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(Err(error))
                if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) =>
            {
                self.cut.get_or_insert(error);
                Poll::Ready(Ok(bytes))
            }
            other => other,
        }
    }
}

/// A turn of a task ends after 128 units of work, and a read is one of them, however much it brings: with a server that
/// floods its client the other sessions of the thread would wait for megabytes to be understood. So bytes are work too.
fn spend(cx: &mut Context<'_>, bytes: usize) {
    for _ in 0..bytes / UNIT_BYTES {
        if !coop::has_budget_remaining() {
            return;
        }
        if let Poll::Ready(unit) = coop::poll_proceed(cx) {
            unit.made_progress();
        }
    }
}

/// A read that brings the kernel's stamp along.
fn poll_stamped(
    stream: &TcpStream,
    times: &Times,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    loop {
        ready!(stream.poll_read_ready(cx))?;
        let room = buf.initialize_unfilled();
        let mut got = None;
        let tried = stream.try_io(Interest::READABLE, || {
            let (bytes, stamp_ns) = stamps::receive(stream, room)?;
            got = Some((bytes, stamp_ns));
            // A read that did not fill its buffer has emptied the socket: saying so spares the next one a vain attempt.
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

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match &self.times {
            None => ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?,
            Some(times) => ready!(poll_stamped(&self.stream, times, cx, buf))?,
        }
        spend(cx, buf.filled().len() - before);
        // The failed write has taken the error from the socket, which now reads like one that was closed in peace.
        match self.cut.take_if(|_| buf.filled().len() == before && buf.remaining() > 0) {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.writing();
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(result, buf.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writing();
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(result, bufs.iter().map(|buf| buf.len()).sum())
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

/// With or without TLS on top.
#[derive(Debug)]
pub enum Transport {
    Plain(Wire),
    Tls(Box<TlsStream<Wire>>),
}

impl Transport {
    /// Puts TLS on a connected wire.
    ///
    /// # Errors
    /// A failed handshake, a certificate that does not fit `host`.
    pub async fn tls(wire: Wire, host: &str, config: Arc<rustls::ClientConfig>) -> io::Result<Self> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        // Boxed: the handshake's state is large, and plain sessions should not carry room for it.
        let stream = Box::pin(tokio_rustls::TlsConnector::from(config).connect(name, wire)).await?;
        Ok(Self::Tls(Box::new(stream)))
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(wire) => Pin::new(wire).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(wire) => Pin::new(wire).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(wire) => Pin::new(wire).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(wire) => Pin::new(wire).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
