//! The real executable.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{connect, expect_refused, expect_reset, expect_silence, read};

struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    address: SocketAddr,
}

impl Running {
    fn start(to: SocketAddr, args: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_testnet"))
            .args(["--to", &to.to_string()])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the executable starts");
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let line = next_line(&mut stdout);
        let address = line.strip_prefix("listening on ").expect(&line).parse().expect("an address");
        Self { child, stdin, stdout, address }
    }

    /// Says `line` and returns the answer.
    fn ask(&mut self, line: &str) -> String {
        writeln!(self.stdin.as_mut().expect("it is open"), "{line}").expect("it listens");
        next_line(&mut self.stdout)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn next_line(stdout: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    stdout.read_line(&mut line).expect("the pipe can be read");
    line.trim_end().to_owned()
}

#[test]
fn it_obeys_words_and_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = listener.local_addr().unwrap();
    let mut relay = Running::start(to, &["--delay-ms", "0.5", "--jitter-ms", "1.5", "--seed", "3"]);
    let mut client = connect(relay.address);
    let (mut server, _) = listener.accept().unwrap();
    assert_eq!(relay.ask("stall"), "ok stall");
    client.write_all(b"ping").unwrap();
    expect_silence(&mut server);
    assert_eq!(relay.ask("freeze"), "error: \"freeze\" is not known; say one of stall, resume, half-open, heal, cut");
    assert_eq!(relay.ask("resume"), "ok resume");
    assert_eq!(read(&mut server, 4), b"ping");
    for word in ["half-open", "heal", "cut"] {
        assert_eq!(relay.ask(word), format!("ok {word}"));
    }
    expect_reset(&mut client);
    expect_reset(&mut server);

    // The end of standard input means nothing by itself.
    drop(relay.stdin.take());
    expect_refused(relay.address);
    kill(Pid::from_raw(relay.child.id().cast_signed()), Signal::SIGTERM).unwrap();
    assert!(relay.child.wait().unwrap().success());
}

#[test]
fn it_ends_with_its_standard_input_when_told_to() {
    let mut relay = Running::start("127.0.0.1:1".parse().unwrap(), &["--exit-with-stdin"]);
    assert_eq!(relay.ask("stall"), "ok stall");
    drop(relay.stdin.take());
    assert!(relay.child.wait().unwrap().success());
}

#[test]
fn what_cannot_be_is_said() {
    let run = |args: &[&str]| {
        let output =
            Command::new(env!("CARGO_BIN_EXE_testnet")).args(args).stdin(Stdio::null()).output().expect("it starts");
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };
    let (code, error) = run(&["--to", "127.0.0.1:1", "--delay-ms=-1"]);
    assert!(code == Some(2) && error.contains("expected milliseconds, from 0"), "{error}");
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let (code, error) = run(&["--to", "127.0.0.1:1", "--listen", &taken.to_string()]);
    assert!(code == Some(1) && error.contains(&format!("cannot listen on {taken}")), "{error}");
}
