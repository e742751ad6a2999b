//! How a session ended, and the ledger that accounts for every planned one.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::named::named_enum;

named_enum! {
    /// A part of a session.
    #[derive(Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Phase {
        Connect = "connect",
        Reset = "reset",
        Step = "step",
        Close = "close",
    }
}

/// Defines [`FailureKind`], its text (`Display`) and the inverse (`FromStr`) from one list of kinds, some of which have
/// an argument: `kind(argument: type) = "text"`.
macro_rules! failure_kinds {
    ($($(#[$about:meta])* $kind:ident $(($argument:ident: $type:ty))? = $text:literal,)+) => {
        /// Why a session failed. `Display` gives the `error_type` of raw.jsonl.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        pub enum FailureKind { $($(#[$about])* $kind $(($type))?,)+ }

        #[cfg(test)]
        const TEXTS: &[&str] = &[$($text),+];

        impl fmt::Display for FailureKind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$kind $(($argument))? => {
                        f.write_str($text)?;
                        $(write!(f, "({})", $argument)?;)?
                    })+
                }
                Ok(())
            }
        }

        impl std::str::FromStr for FailureKind {
            type Err = ();

            /// The inverse of `Display`.
            fn from_str(text: &str) -> Result<Self, ()> {
                let (name, mut argument) = match text.strip_suffix(')').and_then(|text| text.split_once('(')) {
                    Some((name, argument)) => (name, Some(argument)),
                    None => (text, None),
                };
                let kind = match name {
                    $($text => Self::$kind $((argument.take().and_then(|text| text.parse::<$type>().ok()).ok_or(())?))?,)+
                    _ => return Err(()),
                };
                // An argument that nobody took is one too many.
                if argument.is_none() { Ok(kind) } else { Err(()) }
            }
        }
    };
}

failure_kinds! {
    /// ECONNREFUSED: nobody listens, or the backlog is full and the host says so.
    Refused = "refused",
    /// ECONNRESET, EPIPE: the connection was cut without a close.
    Reset = "reset",
    /// No route, network down.
    Unreachable = "unreachable",
    /// This machine has no free local port towards that destination.
    PortExhausted = "port_exhausted",
    /// This process has no free file descriptor.
    FdExhausted = "fd_exhausted",
    /// The name of the target was not found.
    Dns = "dns",
    /// TLS failed: handshake, certificate, or broken data.
    Tls = "tls",
    /// The upgrade was answered with this HTTP status instead of 101.
    UpgradeRefused(status: u16) = "upgrade_refused",
    /// The server said CAPACITY_REACHED.
    CapacityReached = "capacity_reached",
    /// Any other error frame, by its code.
    ServerError(code: String) = "server_error",
    /// An HTTP call was answered with this status.
    HttpStatus(status: u16) = "http_status",
    /// The WebSocket was closed early with this code; 1006 is a close without a close frame (RFC 6455 section 7.4.1).
    Closed(code: u16) = "closed",
    /// A reply that breaks the protocol.
    BadReply = "bad_reply",
    /// A reply that is larger than the plan's `session.message_bytes_max`.
    ClientLimit = "client_limit",
    /// The agent was told to stop.
    Cancelled = "cancelled",
    /// Anything else that the operating system reported.
    Io = "io",
}

impl FailureKind {
    /// Whether the server itself answered, and so was there. A proxy without a server answers 502 to 504.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        match self {
            Self::UpgradeRefused(status) | Self::HttpStatus(status) => !(502..=504).contains(status),
            Self::CapacityReached | Self::ServerError(_) | Self::BadReply | Self::ClientLimit => true,
            Self::Refused
            | Self::Reset
            | Self::Unreachable
            | Self::PortExhausted
            | Self::FdExhausted
            | Self::Dns
            | Self::Tls
            | Self::Closed(_)
            | Self::Cancelled
            | Self::Io => false,
        }
    }
}

/// How a session ended. Each planned session has exactly one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Outcome {
    Succeeded,
    Failed(FailureKind, Phase),
    TimedOut(Phase),
    /// Its agent was lost, so nothing is known of it.
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

    /// The phase in which it ended early.
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

/// How many sessions were planned and how they ended. It must balance: planned = the sum of the outcomes.
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

    /// Adds one session.
    pub fn count(&mut self, outcome: &Outcome) {
        *match outcome {
            Outcome::Succeeded => &mut self.succeeded,
            Outcome::Failed(..) => &mut self.failed,
            Outcome::TimedOut(_) => &mut self.timed_out,
            Outcome::Lost => &mut self.lost,
            Outcome::NeverStarted => &mut self.never_started,
        } += 1;
    }

    /// Adds another agent's ledger; saturates.
    pub fn add(&mut self, other: &Self) {
        self.planned = self.planned.saturating_add(other.planned);
        self.succeeded = self.succeeded.saturating_add(other.succeeded);
        self.failed = self.failed.saturating_add(other.failed);
        self.timed_out = self.timed_out.saturating_add(other.timed_out);
        self.lost = self.lost.saturating_add(other.lost);
        self.never_started = self.never_started.saturating_add(other.never_started);
    }

    /// The sum of the outcomes. It saturates, so that a peer's absurd values can't overflow into a balance.
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
        (proptest::sample::select(TEXTS), any::<u16>(), "[A-Z_()]{0,20}").prop_map(|(text, number, word)| {
            let forms = [text.to_owned(), format!("{text}({number})"), format!("{text}({word})")];
            forms.iter().find_map(|form| form.parse().ok()).expect("a kind without an argument, or with one")
        })
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
