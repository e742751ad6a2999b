//! Authentication of coordinator and agents, on real processes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Ended, Process, Server, agent, coordinator, run};

const GRID: [&str; 9] =
    ["--batch-sizes", "4", "--wait", "0", "--reps", "1", "--set", "measure.max_clock_error_ms=500", "--output"];

/// A coordinator with its own home folder.
fn at_home(home: &Path, words: &[&str]) -> Command {
    let mut command = coordinator();
    command.env("XDG_CONFIG_HOME", home).args(words);
    command
}

fn agent_at_home(home: &Path, address: &str, flags: &[&str]) -> Process {
    let mut command = at_home(home, &["__agent", "--exit-with-stdin", "--coordinator", address]);
    command.args(flags).stdin(Stdio::piped());
    Process::start(command)
}

/// A run that waits for one agent, and its address.
fn waiting(home: &Path, server: &Server, out: &Path, flags: &[&str]) -> (Process, String) {
    let mut command = at_home(home, &["run", "--target", &server.url, "--agents", "1", "--listen", "127.0.0.1:0"]);
    command.args(flags).args(GRID).arg(out);
    let mut run = Process::start(command);
    let line = run.line_with("start each with: agent --coordinator ");
    let address = line.split("--coordinator ").nth(1).and_then(|rest| rest.split(' ').next()).expect("address");
    (run, address.to_owned())
}

fn code(ended: &Ended) -> Option<i32> {
    ended.code()
}

#[test]
fn with_a_shared_home_no_flag_is_needed_whoever_is_first() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let home = dir.path().join("home");
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = held.local_addr().expect("address").to_string();
    // The agent starts before there is an identity.
    let mut early = agent_at_home(&home, &address, &["--name", "early"]);
    early.line_with("no identity in");
    drop(held);
    let mut command = at_home(&home, &["run", "--target", &server.url, "--agents", "1", "--listen", &address]);
    command.args(GRID).arg(dir.path().join("out"));
    let ended = run(command);
    assert_eq!(code(&ended), Some(0), "{}", ended.text);
    assert!(ended.text.contains("identity made in"), "{}", ended.text);
    assert_eq!(early.end().code(), Some(0));
    let mode = |name: &str| fs::metadata(home.join("muster").join(name)).expect(name).permissions().mode() & 0o777;
    assert_eq!((mode("identity"), mode("identity/ca.key")), (0o700, 0o600));
}

#[test]
fn without_the_right_identity_an_agent_ends_with_10_and_says_what_to_do() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let (home, other) = (dir.path().join("home"), dir.path().join("other"));
    let (waiting, address) = waiting(&home, &server, &dir.path().join("out"), &[]);

    let missing = agent_at_home(&other, &address, &["--reconnect-for", "1"]).end();
    assert_eq!(code(&missing), Some(10), "{}", missing.text);
    assert!(missing.text.contains("coordinator identity init"), "{}", missing.text);

    assert_eq!(code(&run(at_home(&other, &["identity", "init"]))), Some(0));
    let stranger = agent_at_home(&other, &address, &[]).end();
    assert_eq!(code(&stranger), Some(10), "{}", stranger.text);
    assert!(stranger.text.contains("another identity") && stranger.text.contains(&address), "{}", stranger.text);

    fs::set_permissions(home.join("muster/identity/ca.key"), fs::Permissions::from_mode(0o640)).expect("mode");
    let open = agent_at_home(&home, &address, &[]).end();
    assert_eq!(code(&open), Some(10), "{}", open.text);
    assert!(open.text.contains("chmod 600"), "{}", open.text);
    let out = dir.path().join("never");
    let mut command = at_home(&home, &["run", "--target", &server.url, "--local", "1"]);
    command.args(GRID).arg(&out);
    let ended = run(command);
    assert_eq!(code(&ended), Some(2), "{}", ended.text);
    assert!(ended.text.contains("chmod 600") && !out.exists(), "{}", ended.text);

    let plain = agent(&address, &["--insecure-plaintext", "--allow-target", "127.0.0.1", "--reconnect-for", "1"]).end();
    assert_eq!(code(&plain), Some(11), "{}", plain.text);
    drop(waiting);
}

#[test]
fn a_machine_without_the_authority_is_issued_a_folder_of_its_own() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let home = dir.path().join("home");
    let issued = dir.path().join("for-n1");
    let issued_text = issued.to_str().expect("path");
    let early = run(at_home(&home, &["identity", "issue-agent", issued_text]));
    assert_eq!(code(&early), Some(2), "{}", early.text);
    assert!(early.text.contains("coordinator identity init"), "{}", early.text);
    let (run_, address) = waiting(&home, &server, &dir.path().join("out"), &[]);
    let made = run(at_home(&home, &["identity", "issue-agent", issued_text, "--days", "7"]));
    assert_eq!(code(&made), Some(0), "{}", made.text);
    assert!(made.text.contains("good for 7 days") && !issued.join("ca.key").exists(), "{}", made.text);

    let nowhere = dir.path().join("nowhere");
    let n1 = agent_at_home(&nowhere, &address, &["--identity", issued_text]);
    let ended = run_.end();
    assert_eq!(code(&ended), Some(0), "{}", ended.text);
    assert_eq!(n1.end().code(), Some(0));
    // An agent's folder can't be used by a coordinator.
    let mut command = at_home(&nowhere, &["run", "--target", &server.url, "--local", "1", "--identity", issued_text]);
    command.args(GRID).arg(dir.path().join("out2"));
    let ended = run(command);
    assert_eq!(code(&ended), Some(2), "{}", ended.text);
    assert!(ended.text.contains("made for an agent"), "{}", ended.text);
}

#[test]
fn plaintext_is_said_aloud_on_both_sides_and_limited_to_named_targets() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let home = dir.path().join("home");
    // Local agents are told the allowed targets.
    let mut command = at_home(&home, &["run", "--target", &server.url, "--local", "1", "--insecure-plaintext"]);
    command.args(GRID).arg(dir.path().join("local"));
    let ended = run(command);
    assert_eq!(code(&ended), Some(0), "{}", ended.text);
    assert!(ended.text.contains("unencrypted and unauthenticated"), "{}", ended.text);
    assert!(!home.exists(), "no identity is made for it");

    // The target's address must be allowed, not its name. The refusal is reported to the coordinator.
    let flags = ["--insecure-plaintext", "--set", "target.ready_timeout_seconds=2"];
    let (run_, address) = waiting(&home, &server, &dir.path().join("out"), &flags);
    let mut picky = agent(&address, &["--insecure-plaintext", "--allow-target", "127.0.0.2", "--name", "picky"]);
    picky.line_with("whoever reaches it can give them");
    let ended = run_.end();
    assert_eq!(code(&ended), Some(4), "{}", ended.text);
    for part in ["from agent picky", "is outside of what this agent may load", "--allow-target"] {
        assert!(ended.text.contains(part), "{part:?} in:\n{}", ended.text);
    }
}

#[test]
fn a_run_of_this_machine_alone_needs_no_home() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    // Nothing can be created below a file.
    let file = dir.path().join("file");
    fs::write(&file, "").expect("written");
    let mut command = at_home(&file, &["run", "--target", &server.url, "--local", "2"]);
    command.args(GRID).arg(dir.path().join("out"));
    let ended = run(command);
    assert_eq!(code(&ended), Some(0), "{}", ended.text);
    // With agents from outside it needs one, and says so before a port is bound.
    let mut command = at_home(&file, &["run", "--target", &server.url, "--agents", "1"]);
    command.args(GRID).arg(dir.path().join("out2"));
    let ended = run(command);
    assert_eq!(code(&ended), Some(2), "{}", ended.text);
    assert!(ended.text.contains("--identity DIR") && !dir.path().join("out2").exists(), "{}", ended.text);
}
