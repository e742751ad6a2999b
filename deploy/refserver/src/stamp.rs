//! Reading with the kernel's own receive timestamps (SO_TIMESTAMPING, software, taken when a segment enters the stack):
//! they do not depend on when this process gets to run.
//!
//! The kernel begins to stamp a little after the first socket on the machine asks for it, and stops after the last one
//! has gone. So it is asked on the listener, before anything is accepted: accepted sockets inherit the option, and the
//! listener stays open.

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

/// A time since 1970 on CLOCK_REALTIME, the clock of the kernel's stamps.
pub(crate) type WallClock = Duration;

pub(crate) fn wall_clock() -> WallClock {
    // A clock set before 1970 is a broken machine; everything then reads 0.
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// When a request arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// When it had been read.
    pub(crate) at: Instant,
    /// When the kernel received the last segment of what was read with it, where it said so.
    pub(crate) stamp: Option<WallClock>,
}

/// Has the kernel stamp what `listener`'s connections receive. Where it cannot, there are no stamps.
pub(crate) fn enable(listener: &impl AsFd) {
    let flags = TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE | TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE;
    if let Err(error) = setsockopt(listener, Timestamping, &flags) {
        tracing::warn!(%error, "no receive timestamps: held_us will be null");
    }
}

/// Room to read into.
#[derive(Debug)]
pub(crate) struct Scratch {
    bytes: Box<[u8]>,
    /// Aligned by the allocator, which an array on the stack is not.
    control: Vec<u8>,
}

impl Scratch {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { bytes: vec![0; bytes].into_boxed_slice(), control: nix::cmsg_space!(Timestamps) }
    }

    /// Reads once; the bytes, none of them at the end of the stream, and their stamp if `stamped`.
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
                // That has taken the readiness back; the next poll of it waits.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return Poll::Ready(received),
            }
        }
    }

    fn receive(&mut self, stream: &TcpStream) -> io::Result<(usize, Option<WallClock>)> {
        let mut parts = [IoSliceMut::new(&mut self.bytes)];
        let message = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut self.control), MsgFlags::empty())?;
        let mut stamp = None;
        // Control messages that were cut off are as good as none.
        for control in message.cmsgs().into_iter().flatten() {
            if let ControlMessageOwned::ScmTimestampsns(stamps) = control {
                stamp = Some(Duration::from(stamps.system)).filter(|stamp| !stamp.is_zero());
            }
        }
        Ok((message.bytes, stamp))
    }
}
