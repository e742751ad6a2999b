//! Behind TLS: who is not believed, and who speaks something else.

use proto::{FailureKind, Mode, Outcome, Phase};

use super::{Act, At, Dress, HEAD_KIB, Row, bad, row, send};

const TLS: Outcome = Outcome::Failed(FailureKind::Tls, Phase::Connect);
const NOBODY: [Act; 0] = [];

pub(super) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    // A handshake message of 16 MiB, of which one record after the other comes.
    let hello = [0x16, 0x03, 0x03, 0x40, 0x00, 0x02, 0xff, 0xff, 0xff];
    let more = [[0x16, 0x03, 0x03, 0x40, 0x00].as_slice(), &[0; 0x4000]].concat();
    for (mode, asked) in [(Mode::Ws, Phase::Connect), (Mode::Http, Phase::Reset)] {
        let wanted = |what, acts: Vec<Act>, class| row(mode, what, At::Accept, acts, class).dressed(Dress::TlsWanted);
        rows.extend([
            row(mode, "TLS: a wrong name", At::Accept, NOBODY, TLS).dressed(Dress::Misnamed).says("elsewhere.example"),
            row(mode, "TLS: an expired certificate", At::Accept, NOBODY, TLS).dressed(Dress::Expired).says("expired"),
            row(mode, "TLS: an unknown issuer", At::Accept, NOBODY, TLS)
                .dressed(Dress::UnknownIssuer)
                .says("UnknownIssuer"),
            row(mode, "TLS where none was asked for", At::Accept, NOBODY, bad(asked)).dressed(Dress::TlsUnasked),
            wanted("plain HTTP behind https", vec![send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")], TLS),
            wanted("TLS: garbage", vec![send([0xff; 64])], TLS),
            wanted("TLS: FIN in the handshake", vec![Act::HalfClose], TLS),
            wanted("TLS: silence", vec![], Outcome::TimedOut(Phase::Connect)),
            wanted("TLS: a byte a second", vec![Act::Drip(hello.to_vec())], Outcome::TimedOut(Phase::Connect)),
            wanted(
                "TLS: a handshake of 16 MiB",
                vec![send([&hello[..], &[0; 0x4000 - 4]].concat()), Act::Flood(more.clone())],
                TLS,
            )
            .crowd(HEAD_KIB),
        ]);
    }
    rows
}
