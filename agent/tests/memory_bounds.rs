//! A server may send what it likes for as long as it likes: the session ends with an outcome, the memory stays flat.
//!
//! One test alone, because what is looked at belongs to the whole process. The servers are threads that write the same
//! few bytes again and again.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use proto::{FailureKind, Mode, Outcome, Phase, Script};

#[expect(dead_code, reason = "each test file needs a part of it")]
mod support;

use support::peer::{PING, TEXT, frame, frame_header, switching};
use support::{bounded, failed, run, script, url};

const GROWTH_MAX_KIB: u64 = 20 << 10;
const FLOOD: Duration = Duration::from_secs(1);

/// The most memory that this process ever had resident, in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// A server that reads one request head, answers it with `opening` and then sends `flood` for as long as it is taken.
fn flooding(upgrade: bool, opening: Vec<u8>, flood: Vec<u8>) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let address = listener.local_addr().expect("address");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let head = head(&mut stream);
        if upgrade {
            stream.write_all(switching(&head).as_bytes()).expect("101");
        }
        stream.write_all(&opening).expect("the opening");
        while !flood.is_empty() && stream.write_all(&flood).is_ok() {}
        // What stays open and silent ends with the client.
        while matches!(stream.read(&mut [0; 1_024]), Ok(1..)) {}
    });
    url(address)
}

fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("a request");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("a head is text")
}

#[test]
fn no_server_can_make_a_session_eat_memory() {
    bounded(async {
        let (small, _server) = support::reference(refserver::Options::default());
        for mode in [Mode::Ws, Mode::Http] {
            assert_eq!(run(mode, &small, &script()).await.outcome, Outcome::Succeeded);
        }
        let before = peak_kib();
        let bad = |phase| failed(FailureKind::BadReply, phase);
        let ok = b"HTTP/1.1 200 OK\r\n".to_vec();
        let header = format!("X-Filler: {}\r\n", "x".repeat(1_000)).into_bytes();
        let many_headers = b"A: b\r\n".repeat(1_000);
        let pings = frame(PING, [b'p'; 125]).repeat(100);
        // A message in ever more pieces: first fragment, then continuations without an end.
        let (mut first, mut more) = (frame(TEXT, [b'x'; 1_000]), frame(0, [b'x'; 1_000]));
        first[0] &= 0x7f;
        more[0] &= 0x7f;
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        let chunk = [b"1000\r\n".to_vec(), vec![b'x'; 0x1000], b"\r\n".to_vec()].concat();
        let huge = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n".to_vec();
        let unended = Outcome::TimedOut(Phase::Reset);
        for (what, mode, upgrade, opening, flood, expected) in [
            ("endless headers", Mode::Ws, false, ok.clone(), header.clone(), bad(Phase::Connect)),
            ("endless small headers", Mode::Ws, false, ok.clone(), many_headers.clone(), bad(Phase::Connect)),
            ("an endless header", Mode::Ws, false, ok.clone(), vec![b'x'; 4_096], bad(Phase::Connect)),
            ("64 MiB claimed", Mode::Ws, true, frame_header(TEXT, 64 << 20), vec![b'x'; 4_096], bad(Phase::Reset)),
            ("64 MiB claimed, none sent", Mode::Ws, true, frame_header(TEXT, 64 << 20), Vec::new(), bad(Phase::Reset)),
            ("exabytes claimed", Mode::Ws, true, frame_header(TEXT, 1 << 62), Vec::new(), bad(Phase::Reset)),
            ("endless fragments", Mode::Ws, true, first, more, bad(Phase::Reset)),
            // Never reads, so that no answer to a ping ever gets out.
            ("pings", Mode::Ws, true, Vec::new(), pings, unended.clone()),
            ("endless headers", Mode::Http, false, ok.clone(), header, bad(Phase::Reset)),
            ("endless small headers", Mode::Http, false, ok.clone(), many_headers, bad(Phase::Reset)),
            ("an endless header", Mode::Http, false, ok, vec![b'x'; 4_096], bad(Phase::Reset)),
            ("endless chunks", Mode::Http, false, chunked.clone(), chunk, bad(Phase::Reset)),
            ("an endless chunk size", Mode::Http, false, chunked, vec![b'f'; 4_096], bad(Phase::Reset)),
            ("a terabyte", Mode::Http, false, huge, vec![b'x'; 4_096], bad(Phase::Reset)),
            ("endless 100 Continue", Mode::Http, false, Vec::new(), b"HTTP/1.1 100 Go on\r\n\r\n".repeat(100), unended),
        ] {
            let url = flooding(upgrade, opening, flood);
            let record = run(mode, &url, &Script { reset_timeout: FLOOD, ..script() }).await;
            assert_eq!(record.outcome, expected, "{mode} {what}: {}", record.error_message);
            let grown = peak_kib() - before;
            eprintln!("{mode} {what}: {grown} KiB above the start");
            assert!(grown < GROWTH_MAX_KIB, "{mode} {what}: {grown} KiB more");
        }
    });
}
