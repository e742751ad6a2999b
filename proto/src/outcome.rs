//! How a session ended, and the ledger that accounts for every planned one.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A part of a session's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Connect,
    Reset,
    Step,
    Close,
}

impl Phase {
    pub const ALL: [Self; 4] = [Self::Connect, Self::Reset, Self::Step, Self::Close];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Step => "step",
            Self::Close => "close",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a session failed. `Display` gives the `error_type` of raw.jsonl.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// ECONNREFUSED: nobody listens, or the backlog is full and the host says so.
    Refused,
    /// ECONNRESET, EPIPE: the connection was cut without a word.
    Reset,
    /// No route, network down.
    Unreachable,
    /// This machine has no free local port towards that destination.
    PortExhausted,
    /// This process has no free file descriptor.
    FdExhausted,
    Dns,
    Tls,
    /// The upgrade was answered with this HTTP status instead of 101.
    UpgradeRefused(u16),
    /// The server said CAPACITY_REACHED.
    CapacityReached,
    /// Any other error frame, by its code.
    ServerError(String),
    /// An HTTP call was answered with this status.
    HttpStatus(u16),
    /// The WebSocket was closed with this code before its time; 1006 is a close without a close frame (RFC 6455 §7.4.1).
    Closed(u16),
    /// A reply that is not what the protocol asks for.
    BadReply,
    /// A reply that is larger than this program was told to read: a limit of ours.
    ClientLimit,
    /// This agent was told to stop.
    Cancelled,
    /// Anything else that the operating system reported.
    Io,
}

impl FailureKind {
    /// Whether the server itself said no, and so was there. A proxy with nobody behind it answers 502, 503 or 504.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        match self {
            Self::UpgradeRefused(status) | Self::HttpStatus(status) => !(502..=504).contains(status),
            Self::CapacityReached | Self::ServerError(_) | Self::BadReply | Self::ClientLimit => true,
            _ => false,
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::Reset => f.write_str("reset"),
            Self::Unreachable => f.write_str("unreachable"),
            Self::PortExhausted => f.write_str("port_exhausted"),
            Self::FdExhausted => f.write_str("fd_exhausted"),
            Self::Dns => f.write_str("dns"),
            Self::Tls => f.write_str("tls"),
            Self::UpgradeRefused(status) => write!(f, "upgrade_refused({status})"),
            Self::CapacityReached => f.write_str("capacity_reached"),
            Self::ServerError(code) => write!(f, "server_error({code})"),
            Self::HttpStatus(status) => write!(f, "http_status({status})"),
            Self::Closed(code) => write!(f, "closed({code})"),
            Self::BadReply => f.write_str("bad_reply"),
            Self::ClientLimit => f.write_str("client_limit"),
            Self::Cancelled => f.write_str("cancelled"),
            Self::Io => f.write_str("io"),
        }
    }
}

impl std::str::FromStr for FailureKind {
    type Err = ();

    /// The inverse of `Display`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (name, argument) = match text.strip_suffix(')').and_then(|t| t.split_once('(')) {
            Some((name, argument)) => (name, Some(argument)),
            None => (text, None),
        };
        let number = || argument.and_then(|a| a.parse().ok()).ok_or(());
        Ok(match (name, argument) {
            ("refused", None) => Self::Refused,
            ("reset", None) => Self::Reset,
            ("unreachable", None) => Self::Unreachable,
            ("port_exhausted", None) => Self::PortExhausted,
            ("fd_exhausted", None) => Self::FdExhausted,
            ("dns", None) => Self::Dns,
            ("tls", None) => Self::Tls,
            ("upgrade_refused", _) => Self::UpgradeRefused(number()?),
            ("capacity_reached", None) => Self::CapacityReached,
            ("server_error", Some(code)) => Self::ServerError(code.to_owned()),
            ("http_status", _) => Self::HttpStatus(number()?),
            ("closed", _) => Self::Closed(number()?),
            ("bad_reply", None) => Self::BadReply,
            ("client_limit", None) => Self::ClientLimit,
            ("cancelled", None) => Self::Cancelled,
            ("io", None) => Self::Io,
            _ => return Err(()),
        })
    }
}

/// Exactly one per planned session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    Succeeded,
    Failed(FailureKind, Phase),
    TimedOut(Phase),
    /// Its agent was lost; nothing is known of it.
    Lost,
    NeverStarted,
}

impl Outcome {
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed(..) => "failed",
            Self::TimedOut(_) => "timed_out",
            Self::Lost => "lost",
            Self::NeverStarted => "never_started",
        }
    }

    #[must_use]
    pub fn phase(&self) -> Option<Phase> {
        match self {
            Self::Failed(_, phase) | Self::TimedOut(phase) => Some(*phase),
            Self::Succeeded | Self::Lost | Self::NeverStarted => None,
        }
    }

    /// The `error_type` of raw.jsonl; `None` for a success.
    #[must_use]
    pub fn error_type(&self) -> Option<String> {
        match self {
            Self::Succeeded => None,
            Self::Failed(kind, _) => Some(kind.to_string()),
            Self::TimedOut(_) => Some("timeout".to_owned()),
            Self::Lost => Some("lost".to_owned()),
            Self::NeverStarted => Some("never_started".to_owned()),
        }
    }
}

/// planned = the sum of the outcomes. Everything a batch is worth hangs on this.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    pub planned: u64,
    pub succeeded: u64,
    pub failed: u64,
    pub timed_out: u64,
    pub lost: u64,
    pub never_started: u64,
}

impl Ledger {
    /// An empty ledger for that many sessions.
    #[must_use]
    pub fn planned(planned: u64) -> Self {
        Self { planned, ..Self::default() }
    }

    pub fn count(&mut self, outcome: &Outcome) {
        *match outcome {
            Outcome::Succeeded => &mut self.succeeded,
            Outcome::Failed(..) => &mut self.failed,
            Outcome::TimedOut(_) => &mut self.timed_out,
            Outcome::Lost => &mut self.lost,
            Outcome::NeverStarted => &mut self.never_started,
        } += 1;
    }

    pub fn add(&mut self, other: &Self) {
        self.planned = self.planned.saturating_add(other.planned);
        self.succeeded = self.succeeded.saturating_add(other.succeeded);
        self.failed = self.failed.saturating_add(other.failed);
        self.timed_out = self.timed_out.saturating_add(other.timed_out);
        self.lost = self.lost.saturating_add(other.lost);
        self.never_started = self.never_started.saturating_add(other.never_started);
    }

    /// Sum of the outcomes; saturates, so that a peer's nonsense can't wrap around to a balance.
    #[must_use]
    pub fn accounted(&self) -> u64 {
        [self.succeeded, self.failed, self.timed_out, self.lost, self.never_started]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    #[must_use]
    pub fn balances(&self) -> bool {
        self.planned == self.accounted()
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "planned {} = succeeded {} + failed {} + timed out {} + lost {} + never started {}",
            self.planned, self.succeeded, self.failed, self.timed_out, self.lost, self.never_started
        )
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kinds() -> impl Strategy<Value = FailureKind> {
        prop_oneof![
            Just(FailureKind::Refused),
            Just(FailureKind::Reset),
            Just(FailureKind::Unreachable),
            Just(FailureKind::PortExhausted),
            Just(FailureKind::FdExhausted),
            Just(FailureKind::Dns),
            Just(FailureKind::Tls),
            any::<u16>().prop_map(FailureKind::UpgradeRefused),
            Just(FailureKind::CapacityReached),
            "[A-Z_()]{0,20}".prop_map(FailureKind::ServerError),
            any::<u16>().prop_map(FailureKind::HttpStatus),
            any::<u16>().prop_map(FailureKind::Closed),
            Just(FailureKind::BadReply),
            Just(FailureKind::ClientLimit),
            Just(FailureKind::Cancelled),
            Just(FailureKind::Io),
        ]
    }

    proptest! {
        #[test]
        fn error_type_reads_back(kind in kinds()) {
            prop_assert_eq!(kind.to_string().parse(), Ok(kind));
        }

        #[test]
        fn ledger_balances_only_when_every_session_is_counted(outcomes in proptest::collection::vec(0_u8..5, 0..200)) {
            let mut ledger = Ledger::planned(outcomes.len() as u64);
            for (seen, outcome) in outcomes.iter().enumerate() {
                prop_assert!(!ledger.balances(), "balanced after {} of {}", seen, outcomes.len());
                ledger.count(&match outcome {
                    0 => Outcome::Succeeded,
                    1 => Outcome::Failed(FailureKind::Refused, Phase::Connect),
                    2 => Outcome::TimedOut(Phase::Step),
                    3 => Outcome::Lost,
                    _ => Outcome::NeverStarted,
                });
            }
            prop_assert!(ledger.balances());
        }
    }

    #[test]
    fn a_wrapping_sum_is_no_balance() {
        let ledger = Ledger { planned: 1, succeeded: u64::MAX, failed: 2, ..Ledger::default() };
        assert!(!ledger.balances());
    }
}
