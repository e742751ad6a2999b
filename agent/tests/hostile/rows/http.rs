//! Over HTTP: heads and bodies.

use proto::{FailureKind, Mode, Outcome, Phase};

use super::{Act, At, HEAD_KIB, MESSAGE_KIB, Row, bad, limit, send};
use crate::support::peer::{HASH, http, observation};

const RESET: At = At::Asked(Phase::Reset);
const STEP: At = At::Asked(Phase::Step);

pub(super) fn rows(elsewhere: &str) -> Vec<Row> {
    [answers(), statuses(elsewhere), floods(), drips()].into_iter().flatten().collect()
}

fn row(what: &'static str, at: At, acts: impl Into<Vec<Act>>, class: Outcome) -> Row {
    super::row(Mode::Http, what, at, acts, class)
}

fn status(code: u16, phase: Phase) -> Outcome {
    Outcome::Failed(FailureKind::HttpStatus(code), phase)
}

fn ok(headers: &str, body: &[u8]) -> Act {
    send([format!("HTTP/1.1 200 OK\r\n{headers}\r\n").as_bytes(), body].concat())
}

fn answers() -> Vec<Row> {
    let reset = || bad(Phase::Reset);
    let body = observation(HASH);
    let gzip = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03";
    vec![
        row("garbage: a banner", RESET, [send("SSH-2.0-OpenSSH_9.6\r\n")], reset()),
        row("garbage: noise", STEP, [send([0x16, 0x03, 0xff, 0x00, 0x80].repeat(20))], bad(Phase::Step)),
        row("bad UTF-8", RESET, [ok("Content-Length: 14\r\n", b"{\"observ\xc3\x28\":1}")], reset()),
        row("gzip unasked", RESET, [ok("Content-Encoding: gzip\r\nContent-Length: 10\r\n", gzip)], reset()),
        row(
            "a length and chunks",
            RESET,
            [ok("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n")],
            reset(),
        ),
        row(
            "a body shorter than its length",
            RESET,
            [ok("Content-Length: 100000\r\n", body.as_bytes())],
            Outcome::TimedOut(Phase::Reset),
        ),
        row("half a megabyte of brackets", RESET, [send(http(200, &"[".repeat(1 << 19)))], reset()),
        row(
            "legal: 100 Continue, then the answer",
            RESET,
            [send("HTTP/1.1 100 Continue\r\n\r\n".repeat(3)), send(http(200, &body)), Act::GoOn],
            Outcome::Succeeded,
        ),
    ]
}

fn statuses(elsewhere: &str) -> Vec<Row> {
    let moved = |status: u16| {
        send(format!("HTTP/1.1 {status} Moved\r\nLocation: {elsewhere}/reset\r\nContent-Length: 0\r\n\r\n"))
    };
    vec![
        row("301 to another server", RESET, [moved(301)], status(301, Phase::Reset)),
        row("303 to another server", RESET, [moved(303)], status(303, Phase::Reset)),
        row("307 to another server", RESET, [moved(307)], status(307, Phase::Reset)),
        row("308 to another server", STEP, [moved(308)], status(308, Phase::Step)),
        row("503", RESET, [send(http(503, "full"))], status(503, Phase::Reset)),
        row(
            "101 to a POST",
            RESET,
            [send("HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")],
            status(101, Phase::Reset),
        ),
        // The status says it all; what comes after it is not waited for.
        row(
            "503 with an endless page",
            RESET,
            [send("HTTP/1.1 503 Full\r\nContent-Length: 1000000000000\r\n\r\n"), Act::Flood(vec![b'x'; 4_096])],
            status(503, Phase::Reset),
        )
        .crowd(HEAD_KIB),
        row(
            "500 that breaks off",
            STEP,
            [send("HTTP/1.1 500 Oh\r\nContent-Length: 500\r\n\r\nTraceback"), Act::HalfClose],
            status(500, Phase::Step),
        ),
        row(
            "503 with a page that never comes",
            STEP,
            [send("HTTP/1.1 503 Full\r\nContent-Length: 500\r\n\r\n")],
            status(503, Phase::Step),
        ),
    ]
}

fn floods() -> Vec<Row> {
    let (reset, too_large) = (|| bad(Phase::Reset), || limit(Phase::Reset));
    let started = || send("HTTP/1.1 200 OK\r\n");
    let chunked = || ok("Transfer-Encoding: chunked\r\n", b"");
    let header = format!("X-Filler: {}\r\n", "x".repeat(1_000)).into_bytes();
    let chunk = [b"1000\r\n".to_vec(), vec![b'x'; 0x1000], b"\r\n".to_vec()].concat();
    let empty = || Act::Flood(vec![b'x'; 4_096]);
    vec![
        row("endless headers", RESET, [started(), Act::Flood(header)], too_large()).crowd(MESSAGE_KIB),
        row("endless small headers", RESET, [started(), Act::Flood(b"A: b\r\n".repeat(1_000))], too_large())
            .crowd(MESSAGE_KIB),
        row("an endless header", RESET, [started(), empty()], too_large()).crowd(MESSAGE_KIB),
        row("64 MiB, really sent", RESET, [ok("Content-Length: 67108864\r\n", b""), empty()], too_large())
            .crowd(MESSAGE_KIB),
        row("a terabyte", STEP, [ok("Content-Length: 1000000000000\r\n", b""), empty()], limit(Phase::Step)),
        row("a body until the end that never comes", RESET, [ok("", b""), empty()], too_large()),
        row("endless chunks", RESET, [chunked(), Act::Flood(chunk)], too_large()).crowd(MESSAGE_KIB),
        row("endless small chunks", RESET, [chunked(), Act::Flood(b"8\r\nxxxxxxxx\r\n".repeat(1_000))], too_large()),
        row("an endless chunk size", RESET, [chunked(), Act::Flood(vec![b'f'; 4_096])], reset()).crowd(HEAD_KIB),
        row("an endless chunk extension", RESET, [chunked(), send("1;"), empty()], reset()).crowd(HEAD_KIB),
        row("endless trailers", RESET, [chunked(), send("0\r\n"), Act::Flood(b"A: b\r\n".repeat(1_000))], reset())
            .crowd(HEAD_KIB),
        row(
            "endless 100 Continue",
            RESET,
            [Act::Flood(b"HTTP/1.1 100 Go on\r\n\r\n".repeat(100))],
            Outcome::TimedOut(Phase::Reset),
        )
        // What may be a long head is held.
        .crowd(MESSAGE_KIB),
        row(
            "noise without an end after the last answer",
            STEP,
            [send(http(200, &observation(HASH))), empty()],
            Outcome::Succeeded,
        )
        .crowd(HEAD_KIB),
    ]
}

fn drips() -> Vec<Row> {
    let timed_out = Outcome::TimedOut;
    vec![
        row(
            "a byte a second: headers",
            RESET,
            [send("HTTP/1.1 200 OK\r\n"), Act::Drip(b"A: b\r\n".to_vec())],
            timed_out(Phase::Reset),
        ),
        row(
            "a byte a second: the body",
            STEP,
            [ok("Content-Length: 1000\r\n", b""), Act::Drip(b"x".to_vec())],
            timed_out(Phase::Step),
        ),
        row(
            "a byte a second: chunks",
            STEP,
            [ok("Transfer-Encoding: chunked\r\n", b""), Act::Drip(b"1\r\nx\r\n".to_vec())],
            timed_out(Phase::Step),
        ),
        // The session has all of its answers; a server that stays is left after a second.
        row(
            "a byte a second after the last answer",
            STEP,
            [send(http(200, &observation(HASH))), Act::Drip(b"x".to_vec())],
            Outcome::Succeeded,
        ),
    ]
}
