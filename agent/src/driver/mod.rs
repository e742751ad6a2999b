//! One session's protocol, nothing else: no clock, no schedule, no counting.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use proto::FailureKind;
use proto::limits::ERROR_BYTES_MAX;
use tokio::time::Instant;

use crate::family;
use crate::intake::Intake;
use crate::stamps::Times;
use crate::target::{Endpoint, Endpoints};
use crate::wire::{self, Transport, Wire};

#[cfg(any(test, feature = "sim"))]
pub mod fake;
pub mod frames;
pub mod http;
pub mod reply;
pub mod upgrade;
pub mod ws;

pub use reply::Reply;

/// How one kind of session speaks. The engine calls each in turn and measures around the call.
///
/// What the protocol owes the other side is done at every instant of a session's life: while an answer is waited for, and in
/// [`Driver::idle`] while none is.
pub trait Driver: 'static {
    /// An open session.
    type Session;

    /// The connection of a session that is over.
    type Rest: 'static;

    /// How long the other side may take to let go of it.
    const SETTLE_TIMEOUT: Duration;

    /// Connects session number `session` until a request could be sent: TCP, TLS, upgrade. With `times`, what the kernel
    /// knows of this and every later phase goes there.
    fn connect(&self, session: u64, times: Option<Rc<Times>>) -> impl Future<Output = Result<Self::Session, Fault>>;

    /// Starts an episode.
    fn reset(&self, session: &mut Self::Session) -> impl Future<Output = Result<Reply, Fault>>;

    /// One step that asks the server to wait. `last`: no other follows.
    fn step(
        &self,
        session: &mut Self::Session,
        wait: Duration,
        last: bool,
    ) -> impl Future<Output = Result<Reply, Fault>>;

    /// Asks for nothing until `until`. Pings are answered meanwhile, and what comes unasked is noticed at once.
    fn idle(&self, session: &mut Self::Session, until: Instant) -> impl Future<Output = Result<(), Fault>>;

    /// Ends a session that has had all of its answers, up to the last one that is due. However the other side then ends it,
    /// the session has succeeded.
    fn close(&self, session: Self::Session) -> impl Future<Output = Closed<Self::Rest>>;

    /// Says goodbye to a session that has failed while its connection is still good, without waiting for an answer.
    fn leave(&self, session: Self::Session) -> Self::Rest;

    /// Waits until the other side has let go of the connection. Nothing of it is measured with the session.
    fn settle(&self, rest: Self::Rest) -> impl Future<Output = ()>;
}

/// A session that has ended after its last answer.
#[derive(Debug)]
pub struct Closed<R> {
    /// `None`: the connection is gone.
    pub rest: Option<R>,
    /// What the other side did instead of what it should have.
    pub untidy: Option<Fault>,
}

/// How a session ended before its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    Failed(FailureKind),
    /// The operating system gave up waiting (ETIMEDOUT).
    TimedOut,
}

/// Why, for the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub ending: Ending,
    pub message: String,
    /// What the operating system said, if it was that.
    pub errno: Option<i32>,
    /// What else a server's refusal tells.
    pub refusal: Option<Box<Refusal>>,
}

/// What an HTTP answer other than the one that was due says besides its status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// When to come back, in seconds (RFC 9110 section 10.2.3).
    pub retry_after_seconds: Option<u64>,
    /// Where it is said to be instead.
    pub location: Option<String>,
}

/// Of a location, in bytes.
const LOCATION_BYTES_MAX: usize = 256;

impl Refusal {
    /// Of the header fields; `None` if they say nothing.
    #[must_use]
    pub fn of(retry_after: Option<&str>, location: Option<&str>) -> Option<Box<Self>> {
        let refusal = Self {
            retry_after_seconds: retry_after.and_then(|text| text.trim().parse().ok()),
            location: location.map(|text| plain(text.chars().take(LOCATION_BYTES_MAX).collect())),
        };
        (refusal != Self::default()).then(|| Box::new(refusal))
    }
}

impl Fault {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self {
            ending: Ending::Failed(kind),
            message: clipped(plain(message.into()), ERROR_BYTES_MAX),
            errno: None,
            refusal: None,
        }
    }

    /// What was not there in time.
    pub(crate) fn timed_out(message: String) -> Self {
        Self { ending: Ending::TimedOut, message: clipped(message, ERROR_BYTES_MAX), errno: None, refusal: None }
    }

    /// A reply beyond the user's own limit.
    #[must_use]
    pub fn too_large(bytes_max: usize) -> Self {
        Self::new(
            FailureKind::ClientLimit,
            format!("a reply of more than {bytes_max} bytes, the client's limit; raise session.message_bytes_max"),
        )
    }

    /// The server has spoken, and the connection is there still: a goodbye, or the answer to its close, is owed.
    #[must_use]
    pub fn leaves_open(&self) -> bool {
        match self.kind() {
            Some(FailureKind::ServerError(_) | FailureKind::CapacityReached) => true,
            Some(FailureKind::Closed(code)) => *code != 1006,
            _ => false,
        }
    }

    /// The kind of a failure; `None` for a time-out.
    #[must_use]
    pub fn kind(&self) -> Option<&FailureKind> {
        match &self.ending {
            Ending::Failed(kind) => Some(kind),
            Ending::TimedOut => None,
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&io::Error> for Fault {
    /// By errno: each of them has another cure. Without one it is a library that speaks, about what the peer sent.
    fn from(error: &io::Error) -> Self {
        use nix::errno::Errno;
        let kind = match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ETIMEDOUT) => {
                return Self { errno: error.raw_os_error(), ..Self::timed_out(error.to_string()) };
            }
            Some(Errno::ECONNREFUSED) => FailureKind::Refused,
            Some(Errno::ECONNRESET | Errno::EPIPE | Errno::ECONNABORTED) => FailureKind::Reset,
            Some(Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::ENETDOWN | Errno::EHOSTDOWN) => {
                FailureKind::Unreachable
            }
            // connect says EADDRNOTAVAIL, a bind before it EADDRINUSE.
            Some(Errno::EADDRNOTAVAIL | Errno::EADDRINUSE) => FailureKind::PortExhausted,
            Some(Errno::EMFILE | Errno::ENFILE) => FailureKind::FdExhausted,
            None if error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => FailureKind::Tls,
            None if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => {
                FailureKind::BadReply
            }
            _ => match error.kind() {
                io::ErrorKind::UnexpectedEof => FailureKind::Closed(1006),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => FailureKind::Reset,
                _ => FailureKind::Io,
            },
        };
        Self { errno: error.raw_os_error(), ..Self::new(kind, error.to_string()) }
    }
}

/// What a server says is printed on terminals: its control characters are not taken along.
fn plain(text: String) -> String {
    if text.chars().any(char::is_control) { text.replace(char::is_control, " ") } else { text }
}

/// Cuts at a character boundary to so many bytes.
pub(crate) fn clipped(mut message: String, bytes_max: usize) -> String {
    if message.len() > bytes_max {
        let end = (0..=bytes_max - '…'.len_utf8()).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

/// Where sessions go, and from where.
#[derive(Debug, Clone)]
pub struct Way {
    pub endpoints: Endpoints,
    /// Those of the destination's family are used in turn by session number; empty: the kernel chooses.
    pub source_ips: Vec<IpAddr>,
}

/// What every driver needs to dial.
#[derive(Debug)]
pub struct Dialer {
    pub endpoints: Endpoints,
    source_ips: Vec<IpAddr>,
    /// The largest reply that is read.
    pub message_bytes_max: usize,
    /// Room for replies that are being read, all sessions of this dialer together.
    pub intake: Rc<Intake>,
}

impl Dialer {
    #[must_use]
    pub fn new(way: Way, message_bytes_max: usize, intake: Rc<Intake>) -> Self {
        Self { endpoints: way.endpoints, source_ips: way.source_ips, message_bytes_max, intake }
    }

    /// Of single sessions.
    #[must_use]
    pub fn alone(way: Way, message_bytes_max: usize) -> Self {
        Self::new(way, message_bytes_max, Intake::unbounded())
    }

    /// TCP and, for https and wss, TLS.
    async fn dial(&self, session: u64, times: Option<Rc<Times>>) -> Result<(&Endpoint, Transport), Fault> {
        let (endpoint, address) = self.endpoints.of_session(session);
        // One source after the other for each destination in turn: every source meets every destination of its family.
        let destinations = (self.endpoints.list.len() * endpoint.addresses.len()) as u64;
        let source = source_of(&self.source_ips, address, session / destinations);
        let wire = Wire::connect(address, source, times)
            .await
            .map_err(|error| dial_fault(&error, address, || wire::way_to(address)))?;
        let transport = match (&self.endpoints.tls, endpoint.url.tls) {
            (Some(config), true) => {
                Transport::tls(wire, &endpoint.url.host, config.clone()).await.map_err(tls_fault)?
            }
            (None, true) => return Err(Fault::new(FailureKind::Tls, "no TLS configuration")),
            (_, false) => Transport::Plain(wire),
        };
        Ok((endpoint, transport))
    }
}

/// The source of a destination's session number `turn`. The destination was checked to have one, if there are any at all.
fn source_of(sources: &[IpAddr], address: SocketAddr, turn: u64) -> Option<IpAddr> {
    let fitting = || sources.iter().copied().filter(|source| family::fits(*source, address));
    let turn = turn.checked_rem(fitting().count() as u64)?;
    fitting().nth(usize::try_from(turn).ok()?)
}

/// Why no connection came about. Where no port is free connect(2) says EADDRNOTAVAIL, and where this machine has no address
/// of the family too; in the second case `way` says it as well, which needs no port of TCP.
fn dial_fault(error: &io::Error, address: SocketAddr, way: impl FnOnce() -> io::Result<()>) -> Fault {
    use nix::errno::Errno;
    let errno = |error: &io::Error| error.raw_os_error().map(Errno::from_raw);
    let without_family = match errno(error) {
        Some(Errno::EAFNOSUPPORT) => true,
        Some(Errno::EADDRNOTAVAIL) => way().is_err_and(|error| errno(&error) == Some(Errno::EADDRNOTAVAIL)),
        _ => false,
    };
    if !without_family {
        return error.into();
    }
    let (theirs, other) = if address.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
    let message = format!(
        "this machine has no {theirs} address from which to reach {address}; give it one, or a target with an {other} \
         address ({error})"
    );
    Fault { errno: error.raw_os_error(), ..Fault::new(FailureKind::Unreachable, message) }
}

fn tls_fault(error: io::Error) -> Fault {
    // A cut connection is a network matter; everything that TLS itself says is not.
    match Fault::from(error) {
        Fault { ending: Ending::Failed(FailureKind::Io | FailureKind::Closed(_)), message, .. } => {
            Fault::new(FailureKind::Tls, message)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errnos_become_kinds() {
        use nix::errno::Errno;
        for (errno, kind) in [
            (Errno::ECONNREFUSED, Some(FailureKind::Refused)),
            (Errno::EPIPE, Some(FailureKind::Reset)),
            (Errno::EHOSTUNREACH, Some(FailureKind::Unreachable)),
            (Errno::EADDRNOTAVAIL, Some(FailureKind::PortExhausted)),
            (Errno::EADDRINUSE, Some(FailureKind::PortExhausted)),
            (Errno::EMFILE, Some(FailureKind::FdExhausted)),
            (Errno::EIO, Some(FailureKind::Io)),
            (Errno::ETIMEDOUT, None),
        ] {
            let fault = Fault::from(io::Error::from_raw_os_error(errno as i32));
            assert_eq!(fault.kind(), kind.as_ref(), "{errno}");
        }
    }

    #[test]
    fn a_machine_without_the_family_is_told_from_one_without_a_port() {
        use nix::errno::Errno;
        let told = |errno: Errno, way: Result<(), Errno>| {
            let os = |errno: Errno| io::Error::from_raw_os_error(errno as i32);
            let address = "[2001:db8::1]:80".parse().expect("an address");
            let fault = dial_fault(&os(errno), address, || way.map_err(os));
            assert_eq!(fault.errno, Some(errno as i32));
            (fault.kind().cloned(), fault.message)
        };
        for (errno, way) in
            [(Errno::EADDRNOTAVAIL, Err(Errno::EADDRNOTAVAIL)), (Errno::EAFNOSUPPORT, Err(Errno::EAFNOSUPPORT))]
        {
            let (kind, message) = told(errno, way);
            assert_eq!(kind, Some(FailureKind::Unreachable), "{errno}");
            assert!(message.contains("no IPv6 address") && message.contains("[2001:db8::1]:80"), "{message}");
        }
        // UDP has no port left either, or no descriptor: nothing is known of the family.
        for way in [Ok(()), Err(Errno::EAGAIN), Err(Errno::EMFILE)] {
            assert_eq!(told(Errno::EADDRNOTAVAIL, way).0, Some(FailureKind::PortExhausted), "{way:?}");
        }
        assert_eq!(told(Errno::EADDRINUSE, Err(Errno::EADDRNOTAVAIL)).0, Some(FailureKind::PortExhausted));
        assert_eq!(told(Errno::ECONNREFUSED, Err(Errno::EADDRNOTAVAIL)).0, Some(FailureKind::Refused));
    }

    #[test]
    fn sources_of_the_destinations_family_take_turns() {
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("an ip")).collect::<Vec<IpAddr>>();
        let sources = ips(&["10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2", "10.0.0.3"]);
        let turns = |sources: &[IpAddr], address: &str| {
            let address = address.parse().expect("an address");
            (0..4).filter_map(|turn| source_of(sources, address, turn)).collect::<Vec<_>>()
        };
        assert_eq!(turns(&sources, "10.9.9.9:1"), ips(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.1"]));
        assert_eq!(turns(&sources, "[fd00::9]:1"), ips(&["fd00::1", "fd00::2", "fd00::1", "fd00::2"]));
        assert_eq!(turns(&[], "10.9.9.9:1"), ips(&[]));
    }

    #[test]
    fn long_messages_are_cut_at_a_character() {
        let fault = Fault::new(FailureKind::Io, "é".repeat(ERROR_BYTES_MAX));
        assert!(fault.message.len() <= ERROR_BYTES_MAX && fault.message.ends_with('…'));
        assert_eq!(Fault::new(FailureKind::Io, "a\x1b[2J\nb").message, "a [2J b");
    }
}
