//! What the kernel knows of one session's bytes: when replies arrived, and what the handshake took.
//!
//! Receive stamps are `SO_TIMESTAMPING`'s software ones (Linux `Documentation/networking/timestamping.rst`), taken as a
//! segment enters the machine, in `CLOCK_REALTIME`. From there until the program has read the reply is the generator's
//! own delay; what lies before it belongs to the network and the server.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, TimestampingFlag, getsockopt, recvmsg, setsockopt, sockopt::Timestamping,
};
use nix::{getsockopt_impl, libc, sockopt_impl};
use proto::convert::micros;
use proto::{Silence, Split};

sockopt_impl!(
    /// `TCP_INFO` (tcp(7)).
    TcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    libc::tcp_info
);

/// The last request and its reply, and what this side has added to the session so far. Instants are nanoseconds of
/// `CLOCK_REALTIME`; 0 is none.
#[derive(Debug, Default)]
pub struct Times {
    /// The next write is the first of a request, which was decided on then.
    asked_ns: Cell<u64>,
    sent_ns: Cell<u64>,
    /// Of the last segment read.
    stamp_ns: Cell<u64>,
    /// When the program last had bytes in hand.
    had_ns: Cell<u64>,
    own_ns: Cell<u64>,
    /// Bytes came without a stamp.
    unstamped: Cell<bool>,
    rtt_us: Cell<Option<u64>>,
    syn_retransmits: Cell<Option<u32>>,
    /// Nothing is asked just now: what comes is not waited for.
    resting: Cell<bool>,
    /// Of the read before the last one, and of the last one.
    signs: Cell<[Sign; 2]>,
    pings: Cell<u32>,
    ping_late_ns: Cell<u64>,
    /// A ping was in the last read.
    pinged_last: Cell<bool>,
    /// The connection was cut, by its end or by a reset, then.
    cut_ns: Cell<u64>,
}

/// The server was heard of.
#[derive(Debug, Clone, Copy, Default)]
struct Sign {
    /// When the kernel had it; 0 is never.
    at_ns: u64,
    /// What this side has been late by since.
    own_ns: u64,
}

impl Times {
    /// What is written next is a request.
    pub fn request(&self) {
        self.resting.set(false);
        self.asked_ns.set(realtime_ns());
        self.sent_ns.set(0);
        self.stamp_ns.set(0);
    }

    /// Nothing is asked from here until the next request.
    pub fn rest(&self) {
        self.resting.set(true);
    }

    /// Just before a write.
    pub fn writing(&self) {
        let asked_ns = self.asked_ns.replace(0);
        if asked_ns > 0 {
            let now_ns = realtime_ns();
            self.add_own_ns(now_ns.saturating_sub(asked_ns));
            self.sent_ns.set(now_ns);
        }
    }

    /// Bytes were read; `stamp_ns` is when the kernel had the last of them.
    pub fn received(&self, stamp_ns: Option<u64>) {
        self.received_at(stamp_ns, realtime_ns());
    }

    fn received_at(&self, stamp_ns: Option<u64>, now_ns: u64) {
        match stamp_ns {
            Some(stamp_ns) => {
                let [_, last] = self.signs.get();
                self.signs.set([last, Sign { at_ns: stamp_ns, own_ns: 0 }]);
                // Only while it was waited for: what comes during a pause of our own makes nothing longer. And what two
                // reads waited for together counts once.
                let since = stamp_ns.max(self.had_ns.get()).max(self.sent_ns.get());
                if self.resting.get() {
                    self.late_ns(now_ns.saturating_sub(stamp_ns));
                } else {
                    self.add_own_ns(now_ns.saturating_sub(since));
                }
                self.stamp_ns.set(stamp_ns);
            }
            None => {
                self.unstamped.set(true);
                self.stamp_ns.set(0);
            }
        }
        self.pinged_last.set(false);
        // Of an earlier connection of the session.
        self.cut_ns.set(0);
        self.had_ns.set(now_ns);
    }

    /// What was read last has a ping in it, which is answered now.
    pub fn pinged(&self) {
        self.pinged_at(realtime_ns());
    }

    fn pinged_at(&self, now_ns: u64) {
        self.pings.set(self.pings.get().saturating_add(1));
        self.pinged_last.set(true);
        let stamp_ns = self.stamp_ns.get();
        if stamp_ns > 0 {
            let late_ns = now_ns.saturating_sub(stamp_ns);
            self.ping_late_ns.set(self.ping_late_ns.get().max(late_ns));
            crate::attention::ping_was_late(Duration::from_nanos(late_ns));
        }
    }

    #[must_use]
    pub fn pings(&self) -> u32 {
        self.pings.get()
    }

    /// The longest that a ping lay in the kernel; `None` if none came, or without a stamp.
    #[must_use]
    pub fn ping_late_us(&self) -> Option<u64> {
        (self.pings.get() > 0 && !self.unstamped.get()).then(|| rounded_us(self.ping_late_ns.get()))
    }

    /// The connection was reset.
    pub fn reset(&self) {
        self.cut_ns.set(realtime_ns());
    }

    /// What went before a cut of the session by the other side: by what was read last, or by the end of the connection.
    /// `None` if the kernel did not stamp it.
    #[must_use]
    pub fn silence(&self) -> Option<Silence> {
        let [before, last] = self.signs.get();
        if self.unstamped.get() {
            return None;
        }
        let (sign, cut_ns) = match self.cut_ns.get() {
            0 => (before, last.at_ns),
            cut_ns => (last, cut_ns),
        };
        if sign.at_ns == 0 || cut_ns == 0 {
            return None;
        }
        let us = rounded_us(cut_ns.saturating_sub(sign.at_ns));
        // Of a ping that was read together with the cut it is known that it lay there, and not for how long.
        let unread = self.cut_ns.get() == 0 && self.pinged_last.get();
        Some(Silence { us, own_us: if unread { us } else { rounded_us(sign.own_ns).min(us) } })
    }

    /// The peer's end of stream was read. It has no stamp; the kernel knows, to the tick of its clock, when the last
    /// segment came.
    pub fn ended(&self, socket: &impl AsFd) {
        let Ok(info) = getsockopt(socket, TcpInfo) else { return };
        self.ended_at(u64::from(info.tcpi_last_ack_recv).saturating_mul(1_000_000), realtime_ns());
    }

    fn ended_at(&self, since_last_segment_ns: u64, now_ns: u64) {
        self.cut_ns.set(now_ns.saturating_sub(since_last_segment_ns));
        let had_ns = self.had_ns.get().max(self.sent_ns.get());
        if had_ns > 0 && !self.resting.get() {
            // Not late for what went before: that is over.
            self.own_ns.set(self.own_ns.get().saturating_add(now_ns.saturating_sub(had_ns).min(since_last_segment_ns)));
            self.had_ns.set(now_ns);
        }
    }

    /// The reply to the last request has been read and understood. `None` if the kernel did not stamp it, or it was
    /// there before the request.
    #[must_use]
    pub fn replied(&self) -> Option<Split> {
        self.replied_at(realtime_ns())
    }

    fn replied_at(&self, now_ns: u64) -> Option<Split> {
        let (sent, stamp) = (self.sent_ns.get(), self.stamp_ns.get());
        if stamp > 0 {
            self.add_own_ns(now_ns.saturating_sub(self.had_ns.get().max(sent)));
            self.had_ns.set(now_ns);
        }
        (sent > 0 && stamp >= sent && now_ns >= stamp)
            .then(|| Split { wire_us: rounded_us(stamp - sent), lag_us: rounded_us(now_ns - stamp) })
    }

    /// The handshake has ended, or been given up, after `took`.
    pub fn handshake(&self, socket: &impl AsFd, took: Duration, connected: bool) {
        let Ok(info) = getsockopt(socket, TcpInfo) else { return };
        self.syn_retransmits.set(Some(info.tcpi_total_retrans));
        // The round trip of a SYN that was sent twice is not known (Karn's algorithm, RFC 6298 section 3).
        if connected && info.tcpi_total_retrans == 0 {
            let rtt_us = u64::from(info.tcpi_rtt);
            self.rtt_us.set(Some(rtt_us));
            let late = took.saturating_sub(Duration::from_micros(rtt_us));
            let late_ns = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
            self.cut_ns.set(0);
            self.signs.set([Sign::default(), Sign { at_ns: realtime_ns().saturating_sub(late_ns), own_ns: 0 }]);
            self.add_own(late);
        }
    }

    /// Reading was held back for so long, for want of room.
    pub fn held_back(&self, time: Duration) {
        self.add_own(time);
        self.had_ns.set(realtime_ns());
    }

    /// This side was late by this much.
    pub fn add_own(&self, delay: Duration) {
        self.add_own_ns(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX));
    }

    fn add_own_ns(&self, delay_ns: u64) {
        self.own_ns.set(self.own_ns.get().saturating_add(delay_ns));
        self.late_ns(delay_ns);
    }

    /// Late by so much since the server was last heard of.
    fn late_ns(&self, delay_ns: u64) {
        let [before, last] = self.signs.get();
        self.signs.set([before, Sign { own_ns: last.own_ns.saturating_add(delay_ns), ..last }]);
    }

    /// All that this side has added; `None` if something came without a stamp.
    #[must_use]
    pub fn own_delay_us(&self) -> Option<u64> {
        (!self.unstamped.get()).then(|| rounded_us(self.own_ns.get()))
    }

    #[must_use]
    pub fn handshake_rtt_us(&self) -> Option<u64> {
        self.rtt_us.get()
    }

    #[must_use]
    pub fn syn_retransmits(&self) -> Option<u32> {
        self.syn_retransmits.get()
    }
}

fn rounded_us(ns: u64) -> u64 {
    (ns + 500) / 1_000
}

fn realtime_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// How far CLOCK_REALTIME is ahead of CLOCK_MONOTONIC (as of `base`), in microseconds. Their difference moves only when
/// the time of day is set: clock discipline slews both.
#[must_use]
pub fn realtime_ahead_us(base: std::time::Instant) -> i64 {
    let read = || {
        let before = base.elapsed();
        let real_us = i64::try_from(realtime_ns() / 1_000).unwrap_or(i64::MAX);
        let after = base.elapsed();
        (after - before, real_us - i64::try_from(micros((before + after) / 2)).unwrap_or(i64::MAX))
    };
    // The reading that was disturbed least.
    (0..8).map(|_| read()).min_by_key(|(took, _)| *took).map_or(0, |(_, ahead)| ahead)
}

/// Asks the kernel to stamp what `socket` receives.
///
/// # Errors
/// Where it can't.
pub fn request(socket: &impl AsFd) -> io::Result<()> {
    let flags = TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE | TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE;
    setsockopt(socket, Timestamping, &flags).map_err(io::Error::from)
}

/// While one of these is open, the kernel stamps every segment. It switches stamping on a little after the first socket
/// has asked for it, so that one must be there before the first session.
#[derive(Debug)]
pub struct Switch {
    _socket: std::net::UdpSocket,
}

/// How often, and with what pause, it is looked whether stamping is on.
const LOOKS_MAX: u32 = 500;
const LOOK_PAUSE: Duration = Duration::from_millis(1);

impl Switch {
    /// Asks, and waits until what this socket sends itself comes with a stamp.
    ///
    /// # Errors
    /// Where the kernel has no receive stamps, or gives none.
    pub async fn on() -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
        request(&socket)?;
        socket.set_nonblocking(true)?;
        let own = socket.local_addr()?;
        for _ in 0..LOOKS_MAX {
            // Without a loopback it can't be tried; the records will show what there is.
            if socket.send_to(&[0], own).is_err() {
                return Ok(Self { _socket: socket });
            }
            if matches!(receive(&socket, &mut [0; 8]), Ok((_, Some(_)))) {
                return Ok(Self { _socket: socket });
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
        Err(io::Error::other("packets arrive without receive timestamps"))
    }
}

thread_local! {
    /// Room for one control message with stamps; nobody holds it across an await.
    static CONTROL: RefCell<Vec<u8>> = RefCell::new(nix::cmsg_space!(nix::sys::socket::Timestamps));
}

/// Reads what is there, with the stamp of its last segment in nanoseconds.
///
/// # Errors
/// What the operating system says; `WouldBlock` when there is nothing.
pub fn receive(socket: &impl AsFd, into: &mut [u8]) -> io::Result<(usize, Option<u64>)> {
    CONTROL.with_borrow_mut(|control| {
        let mut slices = [IoSliceMut::new(into)];
        let fd = socket.as_fd().as_raw_fd();
        let message = recvmsg::<()>(fd, &mut slices, Some(control), MsgFlags::empty())?;
        let stamp_ns = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::ScmTimestampsns(stamps) => {
                let (seconds, ns) = (stamps.system.tv_sec(), stamps.system.tv_nsec());
                let ns = i128::from(seconds) * 1_000_000_000 + i128::from(ns);
                u64::try_from(ns).ok().filter(|ns| *ns > 0)
            }
            _ => None,
        });
        Ok((message.bytes, stamp_ns))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn sent(at_ns: u64) -> Times {
        let times = Times::default();
        times.sent_ns.set(at_ns);
        times
    }

    #[test]
    fn a_reply_splits_where_the_kernel_had_it() {
        let times = sent(100 * MS);
        times.received_at(Some(130 * MS), 150 * MS);
        assert_eq!(times.replied_at(151 * MS), Some(Split { wire_us: 30_000, lag_us: 21_000 }));
        assert_eq!(times.own_delay_us(), Some(21_000));
    }

    #[test]
    fn a_reply_in_two_pieces_ends_with_the_second_and_waits_once() {
        let times = sent(100 * MS);
        times.received_at(Some(110 * MS), 120 * MS);
        times.received_at(Some(115 * MS), 121 * MS);
        assert_eq!(times.replied_at(121 * MS), Some(Split { wire_us: 15_000, lag_us: 6_000 }));
        assert_eq!(times.own_delay_us(), Some(11_000), "from 110 to 121, not 10 and 6");
    }

    #[test]
    fn what_came_during_a_pause_of_ours_was_not_read_late() {
        let times = sent(100 * MS);
        // A ping of the server, long before the request that it is read with.
        times.received_at(Some(20 * MS), 101 * MS);
        times.received_at(Some(140 * MS), 141 * MS);
        assert_eq!(times.replied_at(141 * MS), Some(Split { wire_us: 40_000, lag_us: 1_000 }));
        assert_eq!(times.own_delay_us(), Some(2_000));
    }

    #[test]
    fn an_end_that_was_noticed_late_is_on_the_account_too() {
        let times = sent(100 * MS);
        times.received_at(Some(110 * MS), 120 * MS);
        // It came 30 ms ago and we had our bytes 50 ms ago; then one that came before those.
        times.ended_at(30 * MS, 170 * MS);
        assert_eq!(times.own_delay_us(), Some(40_000));
        times.ended_at(900 * MS, 171 * MS);
        assert_eq!(times.own_delay_us(), Some(41_000), "no longer than it was waited for");
    }

    #[test]
    fn what_is_read_late_in_a_pause_costs_the_session_nothing() {
        let times = sent(100 * MS);
        times.received_at(Some(110 * MS), 110 * MS);
        times.rest();
        times.received_at(Some(300 * MS), 380 * MS);
        times.pinged_at(380 * MS);
        assert_eq!((times.own_delay_us(), times.pings(), times.ping_late_us()), (Some(0), 1, Some(80_000)));
    }

    #[test]
    fn whose_silence_it_was_before_a_cut() {
        // Answered at once, closed 20 s later all the same.
        let times = sent(100 * MS);
        times.received_at(Some(110 * MS), 110 * MS);
        times.rest();
        times.received_at(Some(20_000 * MS), 20_001 * MS);
        times.pinged_at(20_001 * MS);
        times.received_at(Some(40_000 * MS), 40_000 * MS);
        assert_eq!(times.silence(), Some(Silence { us: 20_000_000, own_us: 1_000 }));
        // Read 19 s late.
        let times = sent(100 * MS);
        times.rest();
        times.received_at(Some(20_000 * MS), 39_000 * MS);
        times.pinged_at(39_000 * MS);
        times.received_at(Some(40_000 * MS), 40_000 * MS);
        assert_eq!(times.silence(), Some(Silence { us: 20_000_000, own_us: 19_000_000 }));
        // Ping and close lay there together.
        let times = sent(100 * MS);
        times.received_at(Some(110 * MS), 110 * MS);
        times.rest();
        times.received_at(Some(40_000 * MS), 47_000 * MS);
        times.pinged_at(47_000 * MS);
        assert_eq!(times.silence(), Some(Silence { us: 39_890_000, own_us: 39_890_000 }));
        // Cut without a word, 2 s after an answer that was read at once.
        let times = sent(100 * MS);
        times.received_at(Some(110 * MS), 110 * MS);
        times.ended_at(50 * MS, 2_160 * MS);
        assert_eq!(times.silence(), Some(Silence { us: 2_000_000, own_us: 0 }));
        assert_eq!(sent(100 * MS).silence(), None, "nothing is known");
    }

    #[test]
    fn without_a_stamp_there_is_no_split_and_no_own_delay() {
        let times = sent(100 * MS);
        times.received_at(None, 150 * MS);
        assert_eq!((times.replied_at(150 * MS), times.own_delay_us()), (None, None));
        let early = sent(100 * MS);
        early.received_at(Some(99 * MS), 101 * MS);
        assert_eq!(early.replied_at(101 * MS), None, "an answer to nothing");
    }

    #[test]
    fn the_difference_of_two_clocks_stands_still() {
        let base = std::time::Instant::now();
        let first = realtime_ahead_us(base);
        // Nobody sets the clock in between; a busy machine costs less than this.
        assert!((realtime_ahead_us(base) - first).abs() < 50_000);
    }
}
