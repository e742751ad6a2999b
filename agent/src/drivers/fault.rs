//! Why a session ended early, described for its record.

use std::io;

use nix::errno::Errno;
use proto::FailureKind;
use proto::limits::ERROR_BYTES_MAX;

/// The longest `location` that is kept, in characters.
const LOCATION_CHARS_MAX: usize = 256;

/// How a session ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    Failed(FailureKind),
    /// A time limit was reached, or the operating system gave up waiting (ETIMEDOUT).
    TimedOut,
}

/// Why a session ended early.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub ending: Ending,
    /// One line for people, at most [`ERROR_BYTES_MAX`] bytes, without control characters.
    pub message: String,
    /// The operating system's error number, if it reported one.
    pub errno: Option<i32>,
    /// What a refusing HTTP response said besides its status.
    pub refusal: Option<Box<Refusal>>,
}

/// Header fields of an HTTP response that refused a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Refusal {
    /// When to come back, in seconds (RFC 9110 section 10.2.3).
    pub retry_after_seconds: Option<u64>,
    /// Where the resource is said to be instead (RFC 9110 section 10.2.2).
    pub location: Option<String>,
}

impl Refusal {
    /// From the header fields; `None` if they say nothing.
    #[must_use]
    pub fn of(retry_after: Option<&str>, location: Option<&str>) -> Option<Box<Self>> {
        let refusal = Self {
            retry_after_seconds: retry_after.and_then(|text| text.trim().parse().ok()),
            location: location.map(|text| without_controls(text.chars().take(LOCATION_CHARS_MAX).collect())),
        };
        (refusal != Self::default()).then(|| Box::new(refusal))
    }
}

impl Fault {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self::of(Ending::Failed(kind), without_controls(message.into()))
    }

    /// Something did not happen in time.
    pub(crate) fn timed_out(message: String) -> Self {
        Self::of(Ending::TimedOut, message)
    }

    fn of(ending: Ending, message: String) -> Self {
        Self { ending, message: clipped(message, ERROR_BYTES_MAX), errno: None, refusal: None }
    }

    /// A reply is larger than the plan's `session.message_bytes_max`.
    #[must_use]
    pub fn too_large(bytes_max: usize) -> Self {
        Self::new(
            FailureKind::ClientLimit,
            format!("a reply of more than {bytes_max} bytes, the client's limit; raise session.message_bytes_max"),
        )
    }

    /// Whether the server has spoken and the connection still works, so that a client would say goodbye.
    #[must_use]
    pub fn leaves_open(&self) -> bool {
        match self.kind() {
            Some(FailureKind::ServerError(_) | FailureKind::CapacityReached) => true,
            Some(FailureKind::Closed(code)) => *code != 1006,
            Some(
                FailureKind::Refused
                | FailureKind::Reset
                | FailureKind::Unreachable
                | FailureKind::PortExhausted
                | FailureKind::FdExhausted
                | FailureKind::Dns
                | FailureKind::Tls
                | FailureKind::UpgradeRefused(_)
                | FailureKind::HttpStatus(_)
                | FailureKind::BadReply
                | FailureKind::ClientLimit
                | FailureKind::Cancelled
                | FailureKind::Io,
            )
            | None => false,
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
    /// Classifies by error number, because each number has another remedy. An error without a number comes from a
    /// library and is about what the peer sent.
    fn from(error: &io::Error) -> Self {
        let errno = error.raw_os_error();
        let kind = match errno.map(Errno::from_raw) {
            Some(Errno::ETIMEDOUT) => return Self { errno, ..Self::timed_out(error.to_string()) },
            Some(Errno::ECONNREFUSED) => FailureKind::Refused,
            Some(Errno::ECONNRESET | Errno::EPIPE | Errno::ECONNABORTED) => FailureKind::Reset,
            Some(Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::ENETDOWN | Errno::EHOSTDOWN) => {
                FailureKind::Unreachable
            }
            // connect(2) reports EADDRNOTAVAIL, a bind before it EADDRINUSE.
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
        Self { errno, ..Self::new(kind, error.to_string()) }
    }
}

/// Replaces control characters: a server's text may be printed on a terminal.
pub(super) fn without_controls(text: String) -> String {
    if text.chars().any(char::is_control) { text.replace(char::is_control, " ") } else { text }
}

/// Cuts a text to at most `bytes_max` bytes, at a character boundary.
pub(crate) fn clipped(mut text: String, bytes_max: usize) -> String {
    if text.len() > bytes_max {
        let end = (0..=bytes_max - '…'.len_utf8()).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errnos_become_kinds() {
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
    fn long_messages_are_cut_at_a_character() {
        let fault = Fault::new(FailureKind::Io, "é".repeat(ERROR_BYTES_MAX));
        assert!(fault.message.len() <= ERROR_BYTES_MAX && fault.message.ends_with('…'));
        assert_eq!(Fault::new(FailureKind::Io, "a\x1b[2J\nb").message, "a [2J b");
    }
}
