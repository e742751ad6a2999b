//! Connections that end early, in every phase.

use proto::{FailureKind, Mode, Outcome, Phase};

use super::{Act, At, Row, row, send};
use crate::support::peer::{HASH, http, observation};

/// Wherever a server can be reached by a request.
const REQUESTS: [(Mode, Phase); 6] = [
    (Mode::Ws, Phase::Connect),
    (Mode::Ws, Phase::Reset),
    (Mode::Ws, Phase::Step),
    (Mode::Ws, Phase::Close),
    (Mode::Http, Phase::Reset),
    (Mode::Http, Phase::Step),
];

pub(super) fn rows() -> Vec<Row> {
    let last = || send(http(200, &observation(HASH)));
    let mut rows = vec![
        row(Mode::Ws, "RST when accepted", At::Accept, [Act::Cut], Outcome::Failed(FailureKind::Reset, Phase::Connect)),
        row(Mode::Ws, "FIN when accepted", At::Accept, [Act::HalfClose], cut_off(Phase::Connect)),
        row(Mode::Http, "FIN when accepted", At::Accept, [Act::HalfClose], cut_off(Phase::Reset)),
        row(Mode::Http, "RST after the last answer", At::Asked(Phase::Step), [last(), Act::Cut], Outcome::Succeeded),
        row(
            Mode::Http,
            "FIN after the last answer",
            At::Asked(Phase::Step),
            [last(), Act::HalfClose],
            Outcome::Succeeded,
        ),
    ];
    for (mode, phase) in REQUESTS {
        // What follows the last answer makes no session fail.
        let cut = |class: Outcome| if phase == Phase::Close { Outcome::Succeeded } else { class };
        rows.extend([
            row(mode, "RST", At::Asked(phase), [Act::Cut], cut(Outcome::Failed(FailureKind::Reset, phase))),
            row(mode, "FIN, still reading", At::Asked(phase), [Act::HalfClose], cut(cut_off(phase))),
            row(mode, "FIN, gone", At::Asked(phase), [Act::Close], cut(cut_off(phase))),
            row(mode, "silence", At::Asked(phase), [], Outcome::TimedOut(phase)),
        ]);
    }
    rows
}

fn cut_off(phase: Phase) -> Outcome {
    Outcome::Failed(FailureKind::Closed(1006), phase)
}
