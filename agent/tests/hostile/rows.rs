//! The table: what a server does, and what becomes of the session.

mod cuts;
mod http;
mod secured;
mod ws;

use proto::{FailureKind, Mode, Outcome, Phase};

/// One server, and the class that its sessions get.
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) mode: Mode,
    pub(crate) dress: Dress,
    pub(crate) at: At,
    pub(crate) acts: Vec<Act>,
    pub(crate) class: Outcome,
    /// Part of the record's error message.
    pub(crate) said: &'static str,
    /// The row is also run with [`crate::CROWD`] sessions at once, each of which may take so much.
    pub(crate) crowd_kib_max: Option<u64>,
}

/// Until when the server is a good one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum At {
    /// It does nothing good, not even read.
    Accept,
    /// The request of this phase has come, and is not answered. A WebSocket's connect is its upgrade.
    Asked(Phase),
    /// 101 is sent; no request was read.
    Upgraded,
}

/// What it does then, one after the other; at the end it reads, and says no more until the client goes.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Of an upgrade, by the request's head.
    Answer(fn(&str) -> Vec<u8>),
    Send(Vec<u8>),
    /// Again and again for as long as it is taken. Nothing is read meanwhile.
    Flood(Vec<u8>),
    /// The same, and all that the client says is read.
    Chatter(Vec<u8>),
    /// The same at one byte a second.
    Drip(Vec<u8>),
    /// A good server from here on.
    GoOn,
    /// FIN, and what comes is still read.
    HalfClose,
    /// FIN, and whatever still comes is answered by an RST.
    Close,
    /// RST.
    Cut,
}

/// What is around the connection.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Dress {
    Plain,
    /// The session wants TLS, the server knows nothing of it.
    TlsWanted,
    /// A TLS server, with this certificate; the session wants TLS unless it is the last.
    Misnamed,
    Expired,
    UnknownIssuer,
    TlsUnasked,
}

/// Every row. `elsewhere` is where redirections lead.
pub(crate) fn all(elsewhere: &str) -> Vec<Row> {
    [ws::rows(elsewhere), http::rows(elsewhere), cuts::rows(), secured::rows()].into_iter().flatten().collect()
}

fn row(mode: Mode, what: &'static str, at: At, acts: impl Into<Vec<Act>>, class: Outcome) -> Row {
    Row { what, mode, dress: Dress::Plain, at, acts: acts.into(), class, said: "", crowd_kib_max: None }
}

impl Row {
    /// Many at once; one of them may take so much.
    fn crowd(self, kib_max: u64) -> Self {
        Self { crowd_kib_max: Some(kib_max), ..self }
    }

    fn dressed(self, dress: Dress) -> Self {
        Self { dress, ..self }
    }

    fn says(self, said: &'static str) -> Self {
        Self { said, ..self }
    }

    pub(crate) fn drips(&self) -> bool {
        self.acts.iter().any(|act| matches!(act, Act::Drip(_)))
    }
}

fn bad(phase: Phase) -> Outcome {
    Outcome::Failed(FailureKind::BadReply, phase)
}

/// Beyond what the client was told to read.
fn limit(phase: Phase) -> Outcome {
    Outcome::Failed(FailureKind::ClientLimit, phase)
}

fn send(bytes: impl Into<Vec<u8>>) -> Act {
    Act::Send(bytes.into())
}

/// What a session may take that is cut at the head of an answer, or at a claim: its buffers and its record.
const HEAD_KIB: u64 = 96;
/// One that is cut at 1 MiB: the message and, while that grows, its copy.
const MESSAGE_KIB: u64 = 3 << 10;
