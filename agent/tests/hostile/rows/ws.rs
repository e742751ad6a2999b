//! Over WebSocket: upgrades and frames.

use proto::{FailureKind, Mode, Outcome, Phase};

use super::{Act, At, HEAD_KIB, MESSAGE_KIB, Row, bad, limit, send};
use crate::support::peer::{HASH, PING, PONG, TEXT, close, frame, frame_header, switching, ws_observation};

const CONTINUATION: u8 = 0;
const ASKED: At = At::Asked(Phase::Connect);
const RESET: At = At::Asked(Phase::Reset);
const STEP: At = At::Asked(Phase::Step);
const CLOSE: At = At::Asked(Phase::Close);

pub(super) fn rows(elsewhere: &str) -> Vec<Row> {
    [upgrades(elsewhere), frames(), fragments(), control(), drips()].into_iter().flatten().collect()
}

fn row(what: &'static str, at: At, acts: impl Into<Vec<Act>>, class: Outcome) -> Row {
    super::row(Mode::Ws, what, at, acts, class)
}

fn refused(status: u16) -> Outcome {
    Outcome::Failed(FailureKind::UpgradeRefused(status), Phase::Connect)
}

/// The right answer with one more header.
fn with_header(head: &str, header: &str) -> Vec<u8> {
    format!("{}{header}\r\n\r\n", switching(head).trim_end_matches("\r\n").to_owned() + "\r\n").into_bytes()
}

/// One that is not the last of its message.
fn unfinished(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = frame(opcode, payload);
    frame[0] &= 0x7f;
    frame
}

fn upgrades(elsewhere: &str) -> Vec<Row> {
    let connect = || bad(Phase::Connect);
    let moved =
        |status: u16| send(format!("HTTP/1.1 {status} Moved\r\nLocation: {elsewhere}/ws\r\nContent-Length: 0\r\n\r\n"));
    let started = || send("HTTP/1.1 101 Switching Protocols\r\n");
    let header = format!("X-Filler: {}\r\n", "x".repeat(1_000)).into_bytes();
    vec![
        row("garbage: a banner", ASKED, [send("SSH-2.0-OpenSSH_9.6\r\n")], connect()),
        row("garbage: noise", ASKED, [send([0x16, 0x03, 0xff, 0x00, 0x80].repeat(20))], connect()),
        row("garbage before the request", At::Accept, [send("\0\0\0\0")], connect()),
        row(
            "a wrong Sec-WebSocket-Accept",
            ASKED,
            [Act::Answer(|_| switching("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n").into_bytes())],
            connect(),
        )
        .says("Sec-WebSocket-Accept"),
        row(
            "no Sec-WebSocket-Accept",
            ASKED,
            [send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")],
            connect(),
        ),
        row(
            "another protocol",
            ASKED,
            [Act::Answer(|head| switching(head).replace("Upgrade: websocket", "Upgrade: h2c").into_bytes())],
            connect(),
        ),
        row(
            "a subprotocol unasked",
            ASKED,
            [Act::Answer(|head| with_header(head, "Sec-WebSocket-Protocol: chat"))],
            connect(),
        ),
        row(
            "permessage-deflate unasked",
            ASKED,
            [Act::Answer(|head| with_header(head, "Sec-WebSocket-Extensions: permessage-deflate"))],
            connect(),
        ),
        row(
            "legal: headers that say nothing",
            ASKED,
            [
                Act::Answer(|head| with_header(head, "X-\u{e9}: \u{e9}").into_iter().filter(u8::is_ascii).collect()),
                Act::GoOn,
            ],
            Outcome::Succeeded,
        ),
        row(
            "legal: Connection in two lines",
            ASKED,
            [
                Act::Answer(|head| {
                    switching(head).replace("Connection: ", "Connection: keep-alive\r\nConnection: ").into()
                }),
                Act::GoOn,
            ],
            Outcome::Succeeded,
        ),
        row("503", ASKED, [send("HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\r\n")], refused(503)),
        row("503 with noise as its reason", ASKED, [send(b"HTTP/1.1 503 \xff\xfe\r\n\r\n".as_slice())], refused(503)),
        row("301 to another server", ASKED, [moved(301)], refused(301)),
        row("308 to another server", ASKED, [moved(308)], refused(308)),
        row("endless headers", ASKED, [started(), Act::Flood(header)], limit(Phase::Connect)).crowd(MESSAGE_KIB),
        row("endless small headers", ASKED, [started(), Act::Flood(b"A: b\r\n".repeat(1_000))], limit(Phase::Connect))
            .crowd(MESSAGE_KIB),
        row("an endless header", ASKED, [started(), Act::Flood(vec![b'x'; 4_096])], limit(Phase::Connect))
            .crowd(MESSAGE_KIB),
        row("endless empty lines", ASKED, [Act::Flood(b"\r\n".repeat(2_000))], limit(Phase::Connect))
            .crowd(MESSAGE_KIB),
    ]
}

fn frames() -> Vec<Row> {
    let reset = || bad(Phase::Reset);
    let claim = |bytes: u64| send(frame_header(TEXT, bytes));
    let mut compressed = frame(TEXT, [0xaa, 0x56, 0x2a, 0xa9, 0x2c, 0x48, 0x55, 0xb2, 0x52, 0x4a, 0xca, 0x4f]);
    compressed[0] |= 0x40;
    let shouting = r#"{"type":"error","data":{"message":"a\u001b[2Jb\nc","code":"X\u001b[31m\n"}}"#;
    vec![
        row("garbage for frames", At::Upgraded, [send([0xff; 64])], reset()),
        row("64 MiB, really sent", RESET, [claim(64 << 20), Act::Flood(vec![b'x'; 4_096])], limit(Phase::Reset))
            .crowd(HEAD_KIB),
        row("64 MiB claimed, none sent", RESET, [claim(64 << 20)], limit(Phase::Reset)).crowd(HEAD_KIB),
        row("64 MiB at close", CLOSE, [claim(64 << 20), Act::Flood(vec![b'x'; 4_096])], Outcome::Succeeded),
        row("exabytes claimed", RESET, [claim(1 << 62)], limit(Phase::Reset)),
        row("a compressed frame unasked", RESET, [send(compressed)], reset()),
        row("bad UTF-8", RESET, [send(frame(TEXT, b"{\"type\":\"\xc3\x28\"}"))], reset()),
        row("a surrogate half", STEP, [send(frame(TEXT, b"\"\xed\xa0\x80\""))], bad(Phase::Step)),
        row("bad UTF-8 in a close", RESET, [send(frame(8, b"\x03\xe8\xff"))], reset()),
        row("a close of one byte", RESET, [send(frame(8, b"\x03"))], reset()),
        row("half a megabyte of brackets", RESET, [send(frame(TEXT, vec![b'['; 1 << 19]))], reset()),
        row(
            "an error frame with control characters",
            RESET,
            [send(frame(TEXT, shouting))],
            Outcome::Failed(FailureKind::ServerError("X [31m ".to_owned()), Phase::Reset),
        ),
        row(
            "frames without an end after close",
            CLOSE,
            [send(close(Some(1000))), Act::Flood(frame(TEXT, "x"))],
            Outcome::Succeeded,
        )
        .crowd(HEAD_KIB),
        row("no hanging up after close", CLOSE, [send(close(Some(1000)))], Outcome::Succeeded),
    ]
}

fn fragments() -> Vec<Row> {
    let reset = || bad(Phase::Reset);
    let text = ws_observation(HASH);
    let (one, two) = text.as_bytes().split_at(20);
    let whole = [unfinished(TEXT, one), frame(CONTINUATION, two)];
    let with_ping = [unfinished(TEXT, one), frame(PING, "p"), unfinished(CONTINUATION, b""), frame(CONTINUATION, two)];
    let single = text.bytes().map(|byte| unfinished(CONTINUATION, &[byte]));
    let single: Vec<u8> =
        unfinished(TEXT, b"").into_iter().chain(single.flatten()).chain(frame(CONTINUATION, b"")).collect();
    let begun = || send(unfinished(TEXT, b"{"));
    vec![
        row("legal: two fragments", RESET, [send(whole.concat()), Act::GoOn], Outcome::Succeeded),
        row("legal: a ping between fragments", STEP, [send(with_ping.concat()), Act::GoOn], Outcome::Succeeded),
        row("legal: a fragment a byte", STEP, [send(single), Act::GoOn], Outcome::Succeeded),
        row(
            "endless fragments",
            RESET,
            [begun(), Act::Flood(unfinished(CONTINUATION, &[b'x'; 1_000]))],
            limit(Phase::Reset),
        )
        .crowd(MESSAGE_KIB),
        row(
            "endless empty fragments",
            RESET,
            [begun(), Act::Flood(unfinished(CONTINUATION, b"").repeat(1_000))],
            Outcome::TimedOut(Phase::Reset),
        )
        .crowd(HEAD_KIB),
        row("bad UTF-8 in the second fragment", RESET, [begun(), send(frame(CONTINUATION, b"\xff\"}"))], reset()),
        row("a continuation of nothing", RESET, [send(frame(CONTINUATION, "x"))], reset()),
        row("a message inside another", RESET, [begun(), send(frame(TEXT, &text))], reset()),
        row("a ping in fragments", RESET, [send(unfinished(PING, b"p"))], reset()),
        row("a ping of 126 bytes", RESET, [send(frame(PING, [b'p'; 126]))], reset()),
    ]
}

fn control() -> Vec<Row> {
    let timed_out = || Outcome::TimedOut(Phase::Reset);
    let pings = frame(PING, [b'p'; 125]).repeat(100);
    let answer = send(frame(TEXT, ws_observation(HASH)));
    vec![
        row("a flood of pings, no answer read", RESET, [Act::Flood(pings.clone())], timed_out()).crowd(HEAD_KIB),
        row("a flood of pings, answers read", RESET, [Act::Chatter(pings.clone())], timed_out()).crowd(HEAD_KIB),
        row("a flood of pongs", RESET, [Act::Flood(frame(PONG, [b'p'; 125]).repeat(100))], timed_out()).crowd(HEAD_KIB),
        row("a flood of pings before the request", At::Upgraded, [Act::Chatter(pings.clone())], timed_out()),
        row("a flood of pings at close", CLOSE, [Act::Chatter(pings)], Outcome::TimedOut(Phase::Close)),
        row(
            "legal: pings before the answer",
            RESET,
            [send(frame(PING, "p").repeat(20)), answer, Act::GoOn],
            Outcome::Succeeded,
        ),
    ]
}

fn drips() -> Vec<Row> {
    let ping = frame(PING, "p");
    vec![
        row(
            "a byte a second: no head",
            ASKED,
            [Act::Drip(b"HTTP/1.1 101 S".to_vec())],
            Outcome::TimedOut(Phase::Connect),
        ),
        row(
            "a byte a second: headers",
            ASKED,
            [send("HTTP/1.1 101 Switching Protocols\r\n"), Act::Drip(b"A: b\r\n".to_vec())],
            Outcome::TimedOut(Phase::Connect),
        ),
        row(
            "a byte a second: in a frame",
            RESET,
            [send(frame_header(TEXT, 1_000)), Act::Drip(b"x".to_vec())],
            Outcome::TimedOut(Phase::Reset),
        ),
        row("a byte a second: pings", STEP, [Act::Drip(ping.clone())], Outcome::TimedOut(Phase::Step)),
        row("a byte a second: pings at close", CLOSE, [Act::Drip(ping)], Outcome::TimedOut(Phase::Close)),
    ]
}
