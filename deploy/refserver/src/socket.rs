//! Reads from connections, with the kernel's receive timestamps (SO_TIMESTAMPING, software, taken when a segment enters
//! the network stack). They do not depend on when this process is scheduled.
//!
//! The kernel switches timestamps on a little after the first socket of the machine asks for them, and off after the
//! last one is closed. So the listener asks, before anything is accepted: accepted sockets inherit the option, and the
//! listener stays open.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, TimestampingFlag, Timestamps, recvmsg, setsockopt, sockopt::Timestamping,
};
use tokio::io::{AsyncRead as _, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// The time since 1970 on CLOCK_REALTIME, the clock of the kernel's timestamps.
pub(crate) type WallClock = Duration;

/// The current time.
pub(crate) fn wall_clock() -> WallClock {
    // A clock that is set before 1970 reads 0.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// When a request arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// When it had been read.
    pub(crate) at: Instant,
    /// When the kernel received the last segment of that read; `None` if it did not say.
    pub(crate) stamp: Option<WallClock>,
}

/// Asks the kernel for timestamps of what `listener`'s connections receive. Without support there are none.
pub(crate) fn enable_timestamps(listener: &impl AsFd) {
    let flags = TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE | TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE;
    if let Err(error) = setsockopt(listener, Timestamping, &flags) {
        tracing::warn!(%error, "no receive timestamps: held_us will be null");
    }
}

thread_local! {
    /// The buffer that all connections of a thread read into; nobody holds it across an await.
    static BUFFER: RefCell<ReadBuffer> = RefCell::new(ReadBuffer::new());
}

/// Calls `read` with this thread's buffer.
pub(crate) fn with_buffer<T>(read: impl FnOnce(&mut ReadBuffer) -> T) -> T {
    BUFFER.with_borrow_mut(read)
}

/// Makes the close that follows reset the connection (RST).
pub(crate) fn reset_on_close(stream: &TcpStream) {
    // If this fails the peer sees an orderly close, and nothing can be done about it.
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// A buffer for one read.
#[derive(Debug)]
pub(crate) struct ReadBuffer {
    bytes: Box<[u8]>,
    /// On the heap, because control messages must be aligned.
    control: Vec<u8>,
}

impl ReadBuffer {
    fn new() -> Self {
        Self { bytes: vec![0; 64 * 1024].into_boxed_slice(), control: nix::cmsg_space!(Timestamps) }
    }

    /// Reads once. Returns the bytes (none at the end of the stream) and, if `stamped`, their timestamp.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut TcpStream,
        stamped: bool,
    ) -> Poll<io::Result<(&mut [u8], Option<WallClock>)>> {
        if stamped {
            let (length, stamp) = ready!(self.poll_receive(cx, stream))?;
            return Poll::Ready(Ok((&mut self.bytes[..length], stamp)));
        }
        let mut buffer = ReadBuf::new(&mut self.bytes);
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        let length = buffer.filled().len();
        Poll::Ready(Ok((&mut self.bytes[..length], None)))
    }

    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        stream: &TcpStream,
    ) -> Poll<io::Result<(usize, Option<WallClock>)>> {
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_io(Interest::READABLE, || self.receive(stream)) {
                // `try_io` has cleared the readiness, so the next poll waits.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return Poll::Ready(received),
            }
        }
    }

    fn receive(&mut self, stream: &TcpStream) -> io::Result<(usize, Option<WallClock>)> {
        let mut parts = [IoSliceMut::new(&mut self.bytes)];
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut self.control), MsgFlags::empty())?;
        let mut stamp = None;
        // Truncated control messages are ignored.
        for control in message.cmsgs().into_iter().flatten() {
            if let ControlMessageOwned::ScmTimestampsns(stamps) = control {
                stamp = Some(Duration::from(stamps.system)).filter(|stamp| !stamp.is_zero());
            }
        }
        Ok((message.bytes, stamp))
    }
}
