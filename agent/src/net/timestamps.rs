//! The kernel's timestamps of one session: when replies arrived, and how long the TCP handshake took.
//!
//! Receive timestamps are the software timestamps of `SO_TIMESTAMPING` (Linux
//! `Documentation/networking/timestamping.rst`). The kernel takes them as a segment enters the machine, in
//! `CLOCK_REALTIME`. The time from there until the program has read the reply is the generator's own delay; the time
//! before belongs to the network and the server.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, TimestampingFlag, getsockopt, recvmsg, setsockopt, sockopt::Timestamping,
};
use nix::{getsockopt_impl, libc, sockopt_impl};
use proto::units::micros;
use proto::{Silence, Split, WireRecord};

use super::late_pings;

sockopt_impl!(
    /// `TCP_INFO` (tcp(7)).
    TcpInfo,
    GetOnly,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    libc::tcp_info
);

/// The timestamps of a session's last request and reply, and the delay that this process has added so far. Instants are
/// nanoseconds of `CLOCK_REALTIME`; 0 stands for none.
#[derive(Debug, Default)]
pub struct Timestamps {
    /// When the next request was decided on; 0 once its first byte is written.
    requested_ns: Cell<u64>,
    /// When the first byte of the last request was written.
    sent_ns: Cell<u64>,
    /// The receive timestamp of the last segment that was read.
    stamp_ns: Cell<u64>,
    /// When the program last read bytes.
    read_ns: Cell<u64>,
    /// All delay that this process has added, in nanoseconds.
    own_ns: Cell<u64>,
    /// Bytes came without a timestamp.
    unstamped: Cell<bool>,
    rtt_us: Cell<Option<u64>>,
    syn_retransmits: Cell<Option<u32>>,
    /// No request is under way, so that nobody waits for what arrives.
    idle: Cell<bool>,
    /// The read before the last one, and the last one.
    heard: Cell<[Heard; 2]>,
    pings: Cell<u32>,
    ping_late_ns: Cell<u64>,
    /// The last read contained a ping.
    ping_in_last_read: Cell<bool>,
    /// When the connection was cut, by its end or by a reset.
    cut_ns: Cell<u64>,
}

/// One time that something was received from the server.
#[derive(Debug, Clone, Copy, Default)]
struct Heard {
    /// When the kernel received it; 0 for never.
    at_ns: u64,
    /// The delay that this process has added since then.
    own_ns: u64,
}

impl Timestamps {
    /// Announces that the next write is a request.
    pub fn request(&self) {
        self.idle.set(false);
        self.requested_ns.set(realtime_ns());
        self.sent_ns.set(0);
        self.stamp_ns.set(0);
    }

    /// Announces that no request is made until the next call of [`Timestamps::request`].
    pub fn idle(&self) {
        self.idle.set(true);
    }

    /// Called just before a write.
    pub fn writing(&self) {
        let requested_ns = self.requested_ns.replace(0);
        if requested_ns > 0 {
            let now_ns = realtime_ns();
            self.add_own_ns(now_ns.saturating_sub(requested_ns));
            self.sent_ns.set(now_ns);
        }
    }

    /// Called when bytes were read; `stamp_ns` is when the kernel received the last of them.
    pub fn received(&self, stamp_ns: Option<u64>) {
        self.received_at(stamp_ns, realtime_ns());
    }

    fn received_at(&self, stamp_ns: Option<u64>, now_ns: u64) {
        match stamp_ns {
            Some(stamp_ns) => {
                let [_, last] = self.heard.get();
                self.heard.set([last, Heard { at_ns: stamp_ns, own_ns: 0 }]);
                // Lateness delays the session only while it waits for a reply, not during a pause of its own. The time
                // that two reads waited together counts once.
                let since = stamp_ns.max(self.read_ns.get()).max(self.sent_ns.get());
                if self.idle.get() {
                    self.add_late_ns(now_ns.saturating_sub(stamp_ns));
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
        self.ping_in_last_read.set(false);
        // A cut that was recorded before belongs to an earlier connection of the session.
        self.cut_ns.set(0);
        self.read_ns.set(now_ns);
    }

    /// Called when a ping in the last read is answered.
    pub fn pinged(&self) {
        self.pinged_at(realtime_ns());
    }

    fn pinged_at(&self, now_ns: u64) {
        self.pings.set(self.pings.get().saturating_add(1));
        self.ping_in_last_read.set(true);
        let stamp_ns = self.stamp_ns.get();
        if stamp_ns > 0 {
            let late_ns = now_ns.saturating_sub(stamp_ns);
            self.ping_late_ns.set(self.ping_late_ns.get().max(late_ns));
            late_pings::note_ping(Duration::from_nanos(late_ns));
        }
    }

    /// Called when the connection was reset.
    pub fn reset(&self) {
        self.cut_ns.set(realtime_ns());
    }

    /// The silence before the server cut the session, be it by the last message or by the end of the connection; `None`
    /// without timestamps.
    #[must_use]
    pub fn silence(&self) -> Option<Silence> {
        let [before, last] = self.heard.get();
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
        // A ping that was read together with the cut waited in the kernel for an unknown time: all of it is own.
        let unread = self.cut_ns.get() == 0 && self.ping_in_last_read.get();
        Some(Silence { us, own_us: if unread { us } else { rounded_us(sign.own_ns).min(us) } })
    }

    /// Called when the peer's end of stream was read, which has no timestamp. The kernel knows when the last segment
    /// came, with the resolution of its clock tick.
    pub fn ended(&self, socket: &impl AsFd) {
        let Ok(info) = getsockopt(socket, TcpInfo) else { return };
        self.ended_at(u64::from(info.tcpi_last_ack_recv).saturating_mul(1_000_000), realtime_ns());
    }

    fn ended_at(&self, since_last_segment_ns: u64, now_ns: u64) {
        self.cut_ns.set(now_ns.saturating_sub(since_last_segment_ns));
        let read_ns = self.read_ns.get().max(self.sent_ns.get());
        if read_ns > 0 && !self.idle.get() {
            // Added to the total only: what was received before needs no reading any more.
            self.own_ns
                .set(self.own_ns.get().saturating_add(now_ns.saturating_sub(read_ns).min(since_last_segment_ns)));
            self.read_ns.set(now_ns);
        }
    }

    /// Called when the reply to the last request has been parsed; returns its latency in two parts. `None` without a
    /// timestamp, or if the reply had arrived before the request was sent.
    #[must_use]
    pub fn replied(&self) -> Option<Split> {
        self.replied_at(realtime_ns())
    }

    fn replied_at(&self, now_ns: u64) -> Option<Split> {
        let (sent, stamp) = (self.sent_ns.get(), self.stamp_ns.get());
        if stamp > 0 {
            self.add_own_ns(now_ns.saturating_sub(self.read_ns.get().max(sent)));
            self.read_ns.set(now_ns);
        }
        (sent > 0 && stamp >= sent && now_ns >= stamp)
            .then(|| Split { wire_us: rounded_us(stamp - sent), lag_us: rounded_us(now_ns - stamp) })
    }

    /// Called when the TCP handshake has ended, or was given up, after `took`.
    pub fn handshake(&self, socket: &impl AsFd, took: Duration, connected: bool) {
        let Ok(info) = getsockopt(socket, TcpInfo) else { return };
        self.syn_retransmits.set(Some(info.tcpi_total_retrans));
        // The round trip of a SYN that was sent twice is not known (Karn's algorithm, RFC 6298 section 3).
        if connected && info.tcpi_total_retrans == 0 {
            let rtt_us = u64::from(info.tcpi_rtt);
            self.rtt_us.set(Some(rtt_us));
            let late = took.saturating_sub(Duration::from_micros(rtt_us));
            let late_ns = nanos(late);
            self.cut_ns.set(0);
            self.heard.set([Heard::default(), Heard { at_ns: realtime_ns().saturating_sub(late_ns), own_ns: 0 }]);
            self.add_own(late);
        }
    }

    /// Called when reading waited this long for memory (see `drivers::read_budget`).
    pub fn waited_for_memory(&self, time: Duration) {
        self.add_own(time);
        self.read_ns.set(realtime_ns());
    }

    /// Adds to the delay of this process.
    pub fn add_own(&self, delay: Duration) {
        self.add_own_ns(nanos(delay));
    }

    fn add_own_ns(&self, delay_ns: u64) {
        self.own_ns.set(self.own_ns.get().saturating_add(delay_ns));
        self.add_late_ns(delay_ns);
    }

    /// Adds to the lateness since something was last received.
    fn add_late_ns(&self, delay_ns: u64) {
        let [before, last] = self.heard.get();
        self.heard.set([before, Heard { own_ns: last.own_ns.saturating_add(delay_ns), ..last }]);
    }

    /// All delay that this process has added; `None` if a read had no timestamp.
    #[must_use]
    pub fn own_delay_us(&self) -> Option<u64> {
        (!self.unstamped.get()).then(|| rounded_us(self.own_ns.get()))
    }

    /// Adds what is known at the end of the session to its record. `cut` says that the server may have cut it.
    pub fn record(&self, wire: &mut WireRecord, cut: bool) {
        wire.own_delay_us = self.own_delay_us();
        wire.handshake_rtt_us = self.rtt_us.get();
        wire.syn_retransmits = self.syn_retransmits.get();
        wire.pings = self.pings.get();
        wire.ping_late_us = (wire.pings > 0 && !self.unstamped.get()).then(|| rounded_us(self.ping_late_ns.get()));
        wire.silence = if cut { self.silence() } else { None };
    }
}

fn rounded_us(ns: u64) -> u64 {
    (ns + 500) / 1_000
}

fn realtime_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    nanos(since)
}

/// Nanoseconds of a duration; saturates (584 years).
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// How far CLOCK_REALTIME is ahead of CLOCK_MONOTONIC (counted from `base`), in microseconds. The difference moves only
/// when the time of day is set, because clock discipline slews both.
#[must_use]
pub fn realtime_ahead_us(base: std::time::Instant) -> i64 {
    let read = || {
        let before = base.elapsed();
        let real_us = i64::try_from(realtime_ns() / 1_000).unwrap_or(i64::MAX);
        let after = base.elapsed();
        (after - before, real_us - i64::try_from(micros((before + after) / 2)).unwrap_or(i64::MAX))
    };
    // The reading that took the shortest time was disturbed least.
    (0..8).map(|_| read()).min_by_key(|(took, _)| *took).map_or(0, |(_, ahead)| ahead)
}

/// Asks the kernel for timestamps of what `socket` receives.
///
/// # Errors
/// The operating system's error where it has none.
pub fn enable(socket: &impl AsFd) -> io::Result<()> {
    let flags = TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE | TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE;
    setsockopt(socket, Timestamping, &flags).map_err(io::Error::from)
}

/// Keeps the kernel's timestamping switched on. The kernel switches it on a little after the first socket has asked for
/// it, so one of these must exist before the first session.
#[derive(Debug)]
pub struct TimestampingGuard {
    _socket: std::net::UdpSocket,
}

/// How often, and with what pause, [`TimestampingGuard::enable`] tests whether timestamps arrive.
const TRIES_MAX: u32 = 500;
const TRY_PAUSE: Duration = Duration::from_millis(1);

impl TimestampingGuard {
    /// Asks for timestamps and waits until a packet that this socket sends to itself arrives with one.
    ///
    /// # Errors
    /// The operating system's error, or that packets arrive without timestamps.
    pub async fn enable() -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
        enable(&socket)?;
        socket.set_nonblocking(true)?;
        let own = socket.local_addr()?;
        for _ in 0..TRIES_MAX {
            // Without a loopback interface this can't be tested. The records will show whether there are timestamps.
            if socket.send_to(&[0], own).is_err() {
                return Ok(Self { _socket: socket });
            }
            if matches!(receive(&socket, &mut [0; 8]), Ok((_, Some(_)))) {
                return Ok(Self { _socket: socket });
            }
            tokio::time::sleep(TRY_PAUSE).await;
        }
        Err(io::Error::other("packets arrive without receive timestamps"))
    }
}

thread_local! {
    /// Room for one control message with timestamps; nobody holds it across an await.
    static CONTROL: RefCell<Vec<u8>> = RefCell::new(nix::cmsg_space!(nix::sys::socket::Timestamps));
}

/// Reads what has arrived. Returns the number of bytes and the timestamp of the last segment, in nanoseconds.
///
/// # Errors
/// The operating system's error; `WouldBlock` if nothing has arrived.
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

    fn sent(at_ns: u64) -> Timestamps {
        let times = Timestamps::default();
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
        times.idle();
        times.received_at(Some(300 * MS), 380 * MS);
        times.pinged_at(380 * MS);
        let mut wire = WireRecord::default();
        times.record(&mut wire, false);
        assert_eq!((wire.own_delay_us, wire.pings, wire.ping_late_us), (Some(0), 1, Some(80_000)));
    }

    #[test]
    fn whose_silence_it_was_before_a_cut() {
        // Answered at once, closed 20 s later all the same.
        let times = sent(100 * MS);
        times.received_at(Some(110 * MS), 110 * MS);
        times.idle();
        times.received_at(Some(20_000 * MS), 20_001 * MS);
        times.pinged_at(20_001 * MS);
        times.received_at(Some(40_000 * MS), 40_000 * MS);
        assert_eq!(times.silence(), Some(Silence { us: 20_000_000, own_us: 1_000 }));
        // Read 19 s late.
        let times = sent(100 * MS);
        times.idle();
        times.received_at(Some(20_000 * MS), 39_000 * MS);
        times.pinged_at(39_000 * MS);
        times.received_at(Some(40_000 * MS), 40_000 * MS);
        assert_eq!(times.silence(), Some(Silence { us: 20_000_000, own_us: 19_000_000 }));
        // Ping and close lay there together.
        let times = sent(100 * MS);
        times.received_at(Some(110 * MS), 110 * MS);
        times.idle();
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
