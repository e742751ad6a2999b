//! What the server says of itself: every line of the truth, over real sockets and from several processes.

use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, TimestampingFlag, setsockopt, socket, sockopt};
use refserver::{Faults, Options};
use serde_json::Value;

use crate::process::Running;
use crate::support::{CLOSE, Client, HANDSHAKE, RESET, Server, eventually, frame, options, step};

/// A file of this test's own, removed when dropped.
struct TruthFile(PathBuf);

impl TruthFile {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("refserver-{}-{name}.jsonl", std::process::id()));
        let _ = std::fs::remove_file(&path);
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }

    /// Every line, of a server that has ended.
    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        assert!(text.is_empty() || text.ends_with('\n'), "a line is written whole: {text}");
        text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
    }

    /// The lines as soon as there are `count`. A reader may see a write that is under way.
    fn wait_for(&self, count: usize) -> Vec<Value> {
        eventually("the lines", || {
            let text = std::fs::read_to_string(&self.0).unwrap_or_default();
            (text.ends_with('\n') && text.lines().count() >= count).then_some(())
        });
        self.lines()
    }
}

impl Drop for TruthFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn measured(truth: &TruthFile, change: impl FnOnce(&mut Options)) -> Server {
    Server::start(options(|options| {
        options.truth = Some(truth.path().into());
        change(options);
    }))
}

/// Resets, steps once for each of `waits` and closes in order; the session's hash.
fn whole_session(client: &mut Client, waits: &[f64]) -> Value {
    let hash = client.ask(RESET, "observation")["observation"]["session_hash"].take();
    for wait in waits {
        client.ask(&step(*wait), "observation");
    }
    client.send(CLOSE);
    assert_eq!(client.expect_close(), 1000);
    client.write(&frame(0x88, &1000_u16.to_be_bytes()));
    client.expect_end();
    hash
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is a whole number"))
}

/// The phases of `line`, whose delays are checked: none may be cut short.
fn phases(line: &Value) -> Vec<&str> {
    let check = |reply: &Value| {
        let intended = number(&reply["intended_us"]);
        assert!(number(&reply["achieved_us"]) >= intended, "{line}");
        assert!(reply["held_us"].is_null() || number(&reply["held_us"]) >= intended, "{line}");
    };
    let replies = line["replies"].as_array().expect("a list");
    replies.iter().inspect(|reply| check(reply)).map(|reply| reply["phase"].as_str().expect("a phase")).collect()
}

#[test]
fn every_reply_is_told_with_the_delay_it_had() {
    let truth = TruthFile::new("replies");
    let server = measured(&truth, |options| {
        options.faults = Faults {
            connect_delay: "0.5".parse().unwrap(),
            reset_delay: "uniform:1,5".parse().unwrap(),
            step_delay: "pareto:1,1.5,10".parse().unwrap(),
            seed: 7,
            ..Faults::default()
        };
    });
    let hash = whole_session(&mut Client::open(server.address), &[0.0, 0.002]);
    let lines = truth.wait_for(1);
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert_eq!((&line["session_hash"], number(&line["pid"])), (&hash, u64::from(std::process::id())));
    assert_eq!(phases(line), ["connect", "reset", "step", "step"]);
    let intended: Vec<u64> = (0..4).map(|index| number(&line["replies"][index]["intended_us"])).collect();
    assert_eq!(intended[0], 500);
    assert!((1000..=5000).contains(&intended[1]) && (1000..=10_000).contains(&intended[2]), "{line}");
    assert!((3000..=12_000).contains(&intended[3]), "a step's own wait counts: {line}");
    let [accepted, upgraded, closed] = ["accepted_us", "upgraded_us", "closed_us"].map(|name| number(&line[name]));
    assert!(accepted + 500 <= upgraded && upgraded + intended[1..].iter().sum::<u64>() <= closed, "{line}");
}

#[test]
fn only_what_was_written_is_told() {
    let truth = TruthFile::new("written");
    let server = measured(&truth, |options| options.max_concurrent_envs = 1);
    let mut first = Client::open(server.address);
    first.ask(RESET, "observation");
    let mut refused = Client::open(server.address);
    refused.expect("error");
    assert_eq!(refused.expect_close(), 1000);
    drop(refused);
    assert_eq!(phases(&truth.wait_for(1)[0]), ["connect"]);
    // HTTP is not told, nor a connection without a session, nor the answer that nobody waits for.
    assert_eq!(Client::connect(server.address).request("POST", "/step", r#"{"action":{}}"#).status, 200);
    drop(Client::connect(server.address));
    first.send(&step(3600.0));
    first.stream.shutdown(std::net::Shutdown::Write).unwrap();
    first.expect_end();
    assert_eq!(phases(&truth.wait_for(2)[1]), ["connect", "reset"]);
}

#[test]
fn a_stopped_server_has_told_all_its_sessions() {
    let truth = TruthFile::new("stopped");
    let mut server = measured(&truth, |_| {});
    let mut clients: Vec<Client> = (0..5).map(|_| Client::open(server.address)).collect();
    for client in &mut clients {
        client.ask(RESET, "observation");
    }
    server.stop();
    server.join().unwrap();
    let lines = truth.lines();
    assert_eq!(lines.len(), 5);
    assert!(lines.iter().all(|line| phases(line) == ["connect", "reset"]));
}

#[test]
fn a_server_without_the_option_tells_nothing() {
    let truth = TruthFile::new("nothing");
    let mut server = Server::start(options(|_| {}));
    whole_session(&mut Client::open(server.address), &[0.0]);
    server.stop();
    server.join().unwrap();
    assert!(!truth.path().exists());
}

/// The kernel begins to stamp some time after the first socket has asked for it.
#[test]
fn the_kernel_says_when_it_received_a_request() {
    let probe = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None).unwrap();
    let flags = TimestampingFlag::SOF_TIMESTAMPING_RX_SOFTWARE | TimestampingFlag::SOF_TIMESTAMPING_SOFTWARE;
    if let Err(error) = setsockopt(&probe, sockopt::Timestamping, &flags) {
        eprintln!("this kernel does not stamp: {error}");
        return;
    }
    let truth = TruthFile::new("stamps");
    let server = measured(&truth, |options| options.faults.step_delay = "2".parse().unwrap());
    let mut count = 0;
    let stamped = eventually("a session whose every request is stamped", || {
        let mut client = Client::connect(server.address);
        // In two segments: the stamp is that of the second.
        let (start, end) = HANDSHAKE.split_at(20);
        client.write(start.as_bytes());
        client.write(end.as_bytes());
        assert!(client.head().starts_with("http/1.1 101 "));
        whole_session(&mut client, &[0.0, 0.0]);
        count += 1;
        let line = truth.wait_for(count).pop()?;
        let replies = line["replies"].as_array()?.clone();
        replies.iter().all(|reply| reply["held_us"].is_u64()).then_some(line)
    });
    assert_eq!(phases(&stamped), ["connect", "reset", "step", "step"]);
    assert!(number(&stamped["replies"][2]["held_us"]) >= 2000);
}

#[test]
fn workers_share_the_file() {
    const SESSIONS: usize = 60;
    let truth = TruthFile::new("workers");
    let mut server =
        Running::start(&["--workers", "3", "--truth", truth.path().to_str().unwrap(), "--reset-delay", "uniform:0,2"]);
    let workers = server.workers();
    let mut hashes: Vec<Value> = std::thread::scope(|scope| {
        let address = server.address;
        let session = move || whole_session(&mut Client::open(address), &[0.0; 20]);
        let threads: Vec<_> = (0..SESSIONS).map(|_| scope.spawn(session)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    server.signal(Signal::SIGTERM);
    assert!(server.ended().success());
    let lines = truth.lines();
    assert!(lines.iter().all(|line| phases(line).len() == 22 && workers.contains(&number(&line["pid"]))));
    let mut told: Vec<Value> = lines.iter().map(|line| line["session_hash"].clone()).collect();
    let key = |hash: &Value| hash.to_string();
    hashes.sort_by_key(key);
    told.sort_by_key(key);
    assert_eq!(told, hashes);
}
