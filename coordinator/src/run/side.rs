//! PURE: attributes each unsuccessful session to a side, by its ending and by what the generator did meanwhile.
//!
//! The table is in docs/truth.md. Most endings are unambiguous. Some can be provoked by a late client: a server hangs
//! up on a client that does not answer its pings, or whose next request takes too long. Such an ending is attributed by
//! the silence before the cut, from the server's last sign of life on: for how much of that time did work wait in the
//! generator?

use std::collections::BTreeMap;

use proto::{FailureKind, Outcome, SessionRecord};

use crate::results::agent::AgentResult;
use crate::results::row::Row;

/// The side that an ending is attributed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The server, or a proxy in front of it.
    Server,
    /// The environment that the server runs: it raised an exception.
    Environment,
    /// The server went away; how its sessions would have ended is unknown.
    Outage,
    Generator,
    Unknown,
}

impl Side {
    /// Whether a faster generator would have had the same ending.
    #[must_use]
    pub fn is_theirs(self) -> bool {
        matches!(self, Self::Server | Self::Environment | Self::Outage)
    }
}

/// From this percentage of the silence on, a cut is attributed to the agent's own delay. If that delay was most of the
/// silence, the server waited for the agent; at half, the sides can't be told apart.
const OWN_PART_PERCENT: u64 = 50;

/// Without kernel stamps, a cut is attributed to the generator if its timers fired later than this.
const TIMERS_LATE_US: u64 = 1_000_000;

/// What is known of an agent beyond the records of its sessions.
#[derive(Debug, Clone, Copy, Default)]
pub struct Doing {
    /// The largest delay of the agent's timers.
    pub timers_late_us: Option<u64>,
}

impl Doing {
    #[must_use]
    pub fn of(agent: &AgentResult) -> Self {
        Self { timers_late_us: agent.timer_overshoot.map(|late| late.max_us) }
    }
}

/// The side of each row, in the order of the rows; `None` for a session that succeeded.
#[must_use]
pub fn sides(rows: &[Row], agents: &[AgentResult]) -> Vec<Option<Side>> {
    let doing: BTreeMap<&str, Doing> = agents.iter().map(|agent| (agent.name.as_str(), Doing::of(agent))).collect();
    rows.iter().map(|row| side(&row.record, doing.get(&*row.agent).copied().unwrap_or_default())).collect()
}

/// The side of one session; `None` if it succeeded.
#[must_use]
pub fn side(record: &SessionRecord, doing: Doing) -> Option<Side> {
    Some(match &record.outcome {
        Outcome::Succeeded => return None,
        Outcome::Failed(kind, _) if is_provoked(kind) => provoked(record, doing),
        Outcome::Failed(kind, _) => of_itself(kind),
        // Either side may have been slow; the verdict looks at all timeouts together.
        Outcome::TimedOut(_) | Outcome::Lost | Outcome::NeverStarted => Side::Unknown,
    })
}

/// Whether a server may end a session in this way because it hears nothing from the client.
#[must_use]
pub fn is_provoked(kind: &FailureKind) -> bool {
    matches!(
        kind,
        FailureKind::Closed(1000 | 1001 | 1005 | 1006 | 1008 | 1011)
            | FailureKind::Reset
            // The server gave up a TLS handshake.
            | FailureKind::Tls
            | FailureKind::UpgradeRefused(408)
            | FailureKind::HttpStatus(408)
    )
}

/// How long the server had been silent when the session was cut.
#[must_use]
pub fn silence_us(record: &SessionRecord) -> u64 {
    let measured = record.wire.silence.map(|silence| silence.us);
    let since_open = || {
        let answered = record.open_latency_us()?.saturating_add(record.step_us.iter().sum());
        Some(record.total_us?.saturating_sub(answered))
    };
    measured.or_else(since_open).unwrap_or(0)
}

/// Whether all of these times agree within a tenth, or within a tenth of a second.
#[must_use]
pub fn same_age(ages_us: &[u64]) -> bool {
    let (Some(least), Some(most)) = (ages_us.iter().min(), ages_us.iter().max()) else { return false };
    most - least <= (most / SAME_AGE_PART).max(SAME_AGE_US)
}

const SAME_AGE_PART: u64 = 10;
const SAME_AGE_US: u64 = 100_000;

fn provoked(record: &SessionRecord, doing: Doing) -> Side {
    match (record.wire.silence, doing.timers_late_us) {
        (Some(silence), _) if silence.own_us.saturating_mul(100) >= silence.us.saturating_mul(OWN_PART_PERCENT) => {
            // A cut right after an answer did not wait for the client.
            if silence.own_us < BRIEF_US { Side::Server } else { Side::Generator }
        }
        (Some(_), _) => Side::Server,
        (None, Some(late_us)) if late_us >= TIMERS_LATE_US => Side::Generator,
        (None, _) => Side::Server,
    }
}

/// No server gives up a client that is silent for a shorter time.
const BRIEF_US: u64 = 100_000;

fn of_itself(kind: &FailureKind) -> Side {
    match kind {
        FailureKind::Closed(1012) => Side::Outage,
        FailureKind::ServerError(code) if code == "EXECUTION_ERROR" || code == "FACTORY_ERROR" => Side::Environment,
        FailureKind::PortExhausted | FailureKind::FdExhausted | FailureKind::ClientLimit => Side::Generator,
        FailureKind::Dns | FailureKind::Cancelled | FailureKind::Io => Side::Unknown,
        FailureKind::Refused
        | FailureKind::Reset
        | FailureKind::Unreachable
        | FailureKind::Tls
        | FailureKind::UpgradeRefused(_)
        | FailureKind::CapacityReached
        | FailureKind::ServerError(_)
        | FailureKind::HttpStatus(_)
        | FailureKind::Closed(_)
        | FailureKind::BadReply => Side::Server,
    }
}

#[cfg(test)]
mod tests {
    use proto::{Phase, Silence};

    use super::*;

    fn ended(kind: FailureKind, silence: Option<(u64, u64)>) -> SessionRecord {
        let mut record = SessionRecord::without_life(0, Outcome::Failed(kind, Phase::Step), String::new());
        record.wire.silence = silence.map(|(ms, own_ms)| Silence { us: ms * 1_000, own_us: own_ms * 1_000 });
        record
    }

    /// The table of docs/truth.md, row by row.
    #[test]
    fn every_ending_has_its_side() {
        use FailureKind::*;
        let prompt = Some((20_000, 5));
        let late = Some((20_000, 19_000));
        for (kind, when_prompt, when_late) in [
            (Closed(1011), Side::Server, Side::Generator),
            (Closed(1006), Side::Server, Side::Generator),
            (Closed(1000), Side::Server, Side::Generator),
            (Closed(1001), Side::Server, Side::Generator),
            (Closed(1008), Side::Server, Side::Generator),
            (Reset, Side::Server, Side::Generator),
            (UpgradeRefused(408), Side::Server, Side::Generator),
            (HttpStatus(408), Side::Server, Side::Generator),
            (Closed(1012), Side::Outage, Side::Outage),
            (Closed(1013), Side::Server, Side::Server),
            (CapacityReached, Side::Server, Side::Server),
            (UpgradeRefused(503), Side::Server, Side::Server),
            (HttpStatus(429), Side::Server, Side::Server),
            (Refused, Side::Server, Side::Server),
            (Unreachable, Side::Server, Side::Server),
            (Tls, Side::Server, Side::Generator),
            (BadReply, Side::Server, Side::Server),
            (ServerError("EXECUTION_ERROR".to_owned()), Side::Environment, Side::Environment),
            (ServerError("FACTORY_ERROR".to_owned()), Side::Environment, Side::Environment),
            (ServerError("VALIDATION_ERROR".to_owned()), Side::Server, Side::Server),
            (ClientLimit, Side::Generator, Side::Generator),
            (PortExhausted, Side::Generator, Side::Generator),
            (FdExhausted, Side::Generator, Side::Generator),
            (Dns, Side::Unknown, Side::Unknown),
            (Cancelled, Side::Unknown, Side::Unknown),
            (Io, Side::Unknown, Side::Unknown),
        ] {
            let of = |silence| side(&ended(kind.clone(), silence), Doing::default());
            assert_eq!((of(prompt), of(late)), (Some(when_prompt), Some(when_late)), "{kind}");
        }
        let succeeded = SessionRecord::without_life(0, Outcome::Succeeded, String::new());
        assert_eq!(side(&succeeded, Doing::default()), None);
    }

    #[test]
    fn where_it_cant_be_told_apart_it_is_ours() {
        let of = |silence, late_us| {
            side(&ended(FailureKind::Closed(1011), silence), Doing { timers_late_us: late_us }).expect("a side")
        };
        assert_eq!(of(Some((20_000, 10_000)), None), Side::Generator, "half of the silence");
        assert_eq!(of(Some((20_000, 9_000)), Some(9_000_000)), Side::Server, "what is measured counts");
        assert_eq!(of(Some((30, 30)), None), Side::Server, "a cut on the heels of an answer");
        assert_eq!(of(None, Some(5_000_000)), Side::Generator, "without stamps, and late");
        assert_eq!(of(None, Some(2_000)), Side::Server);
        assert_eq!(of(None, None), Side::Server);
    }
}
