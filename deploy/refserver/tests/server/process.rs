//! The real executable: its output, its workers, and that it leaves nothing behind.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::{Client, HANDSHAKE, RESET, eventually};

/// A running `refserver`, killed when dropped.
pub(crate) struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<std::process::ChildStdout>,
    pub(crate) address: SocketAddr,
}

impl Running {
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_as(Command::new(env!("CARGO_BIN_EXE_refserver")), args)
    }

    /// Starts with `command`, which ends in the executable.
    fn start_as(mut command: Command, args: &[&str]) -> Self {
        let mut child = command
            .args(["--listen", "127.0.0.1:0"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the executable starts");
        let stdin = child.stdin.take();
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("it says where it listens");
        let address = line.strip_prefix("listening on ").expect(&line).trim_end().parse().expect("an address");
        Self { child, stdin, stdout, address }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("pids are small"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("it runs");
    }

    /// The exit status, and that nothing but the one line was printed.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let status = eventually("the end of refserver", || self.child.try_wait().expect("it can be waited for"));
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the pipe can be read");
        assert_eq!(line, "", "one line and no more");
        status
    }

    /// A field of its /proc/PID/status, in bytes.
    pub(crate) fn memory(&self, field: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with(field)).expect(field);
        let kib = line.split_whitespace().nth(1).and_then(|value| value.parse::<usize>().ok());
        kib.expect("a number of KiB") * 1024
    }

    /// Pids of its workers.
    pub(crate) fn workers(&self) -> BTreeSet<u64> {
        let path = format!("/proc/{0}/task/{0}/children", self.child.id());
        let children = std::fs::read_to_string(path).expect("it runs");
        children.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until none of `pids` is a process any more. (One that has ended but that init has not reaped yet is gone.)
fn expect_gone(pids: &BTreeSet<u64>) {
    eventually("the end of the workers", || {
        let runs = |pid: &u64| {
            let stat = std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat"))).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        (!pids.iter().any(runs)).then_some(())
    });
}

fn pid_served_by(client: &mut Client) -> u64 {
    client.ask(RESET, "observation")["observation"]["pid"].as_u64().expect("a pid")
}

#[test]
fn one_worker_is_the_process_itself() {
    let server = Running::start(&["--threads", "2"]);
    let mut clients: Vec<Client> = (0..4).map(|_| Client::open(server.address)).collect();
    assert!(clients.iter_mut().all(|client| pid_served_by(client) == u64::from(server.child.id())));
    assert!(server.workers().is_empty());
}

#[test]
fn signals_close_every_session_with_1012_and_end_it_with_0() {
    for (signal, workers) in [(Signal::SIGTERM, "1"), (Signal::SIGINT, "1"), (Signal::SIGTERM, "2")] {
        let mut server = Running::start(&["--workers", workers]);
        let mut clients: Vec<Client> = (0..8).map(|_| Client::open(server.address)).collect();
        for client in &mut clients {
            pid_served_by(client);
        }
        let pids = server.workers();
        server.signal(signal);
        for client in &mut clients {
            assert_eq!(client.expect_close(), 1012);
        }
        assert!(server.ended().success());
        expect_gone(&pids);
    }
}

#[test]
fn workers_share_the_socket_and_have_their_own_pid_and_capacity() {
    let server = Running::start(&["--workers", "3", "--threads", "1", "--max-concurrent-envs", "5"]);
    let pids = server.workers();
    assert_eq!(pids.len(), 3);
    let mut served = std::collections::BTreeMap::<u64, usize>::new();
    let mut clients = Vec::new();
    // Accepts spread unevenly: some workers are full and refuse while others have room.
    eventually("every worker is full", || {
        let mut client = Client::open(server.address);
        client.send(RESET);
        if let crate::support::Got::Json(message) = client.receive()
            && let Some(pid) = message["data"]["observation"]["pid"].as_u64()
        {
            *served.entry(pid).or_default() += 1;
            clients.push(client);
        }
        (clients.len() == 15).then_some(())
    });
    assert_eq!(served.into_iter().collect::<Vec<_>>(), pids.iter().map(|pid| (*pid, 5)).collect::<Vec<_>>());
    assert_eq!(Client::open(server.address).expect("error")["max_sessions"], 5);
}

#[test]
fn a_dead_worker_is_replaced() {
    let server = Running::start(&["--workers", "2"]);
    let before = server.workers();
    let victim = *before.first().expect("there are two");
    kill(Pid::from_raw(i32::try_from(victim).expect("pids are small")), Signal::SIGKILL).expect("it runs");
    eventually("a new worker", || {
        let now = server.workers();
        (now.len() == 2 && !now.contains(&victim)).then_some(())
    });
}

#[test]
fn the_end_of_stdin_ends_it_and_its_workers() {
    for workers in ["1", "2"] {
        let mut server = Running::start(&["--workers", workers, "--exit-with-stdin"]);
        let pids = server.workers();
        drop(server.stdin.take());
        assert!(server.ended().success());
        expect_gone(&pids);
    }
}

#[test]
fn stdin_means_nothing_otherwise() {
    let mut server = Running::start(&[]);
    drop(server.stdin.take());
    pid_served_by(&mut Client::open(server.address));
    server.signal(Signal::SIGTERM);
    assert!(server.ended().success());
}

#[test]
fn workers_do_not_outlive_a_killed_supervisor() {
    let mut server = Running::start(&["--workers", "2"]);
    let pids = server.workers();
    assert_eq!(pids.len(), 2);
    server.signal(Signal::SIGKILL);
    assert!(!server.ended().success());
    expect_gone(&pids);
}

#[test]
fn the_limit_of_open_files_is_raised() {
    let server = Running::start(&[]);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.child.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let values: Vec<&str> = line.split_whitespace().filter(|word| word.parse::<u64>().is_ok()).collect();
    assert_eq!(values[0], values[1]);
}

#[test]
fn it_accepts_again_after_running_out_of_file_descriptors() {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 32 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_refserver")]);
    let server = Running::start_as(command, &["--threads", "1"]);
    let mut waiting: Vec<Client> = (0..64).map(|_| Client::connect(server.address)).collect();
    let mut last = waiting.pop().expect("there are 64");
    last.write(HANDSHAKE.as_bytes());
    // Those before it hold all descriptors until they go.
    drop(waiting);
    assert!(last.head().starts_with("http/1.1 101 "));
    pid_served_by(&mut last);
}

#[test]
fn what_cannot_be_is_said() {
    let run = |args: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_refserver")).args(args).stdin(Stdio::null()).output().expect("it starts")
    };
    let help = run(&["--help"]);
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("--drop-rate <P>") && !help.contains("worker-of"), "{help}");
    assert!(help.contains("--truth <FILE>") && help.contains("pareto:SCALE,SHAPE,MAX"), "{help}");
    assert_eq!(run(&["--drop-rate", "2"]).status.code(), Some(2));
    let misspelt = run(&["--step-delay", "unifrom:1,2"]);
    assert_eq!(misspelt.status.code(), Some(2));
    let misspelt = String::from_utf8(misspelt.stderr).unwrap();
    assert!(misspelt.contains("no distribution is called \"unifrom\"; expected MS"), "{misspelt}");

    for workers in ["1", "2"] {
        let refused = run(&["--listen", "127.0.0.1:0", "--truth", "/nowhere/truth.jsonl", "--workers", workers]);
        assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0));
        let message = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(message.matches("cannot append to --truth /nowhere/truth.jsonl").count(), 1, "{message}");
    }

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let refused = run(&["--listen", &address]);
    assert_eq!((refused.status.code(), refused.stdout.len()), (Some(1), 0));
    assert!(String::from_utf8(refused.stderr).unwrap().contains(&format!("cannot listen on {address}")));
}
