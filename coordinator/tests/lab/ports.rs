//! Compares what the program expects of a machine's ports with what the kernel allows.

use crate::network::Lab;
use crate::support::Results;

/// Connects until the kernel has no port left, and prints the number of connections.
const UNTIL_FAILURE: &str = r#"
import errno, socket
held = []
try:
    while True:
        held.append(socket.create_connection(("10.97.0.1", 8000)))
except OSError as error:
    assert error.errno == errno.EADDRNOTAVAIL, error
print(len(held))
"#;

/// Holds 100 connections, leaves 60 more in TIME_WAIT on this side, and listens on 7 ports of the range.
const IN_THE_WAY: &str = r#"
import socket, sys
to = ("10.97.0.1", 8000)
held = [socket.create_connection(to) for _ in range(160)]
for sock in held[100:]:
    sock.close()
listeners = []
for port in range(40500, 40507):
    sock = socket.socket()
    sock.bind(("127.0.0.1", port))
    sock.listen()
    listeners.append(sock)
print("in the way")
sys.stdin.read()
"#;

#[test]
fn what_is_said_to_fit_is_what_fits() {
    let lab = Lab::new();
    lab.inside("a", &["sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40999"]);
    let dir = tempfile::tempdir().expect("dir");
    let mut server = lab
        .muster("s", &["__refserver", "--exit-with-stdin", "--listen", "10.97.0.1:8000", "--max-concurrent-envs", "0"]);
    server.line_with("listening on ");
    let mut others = lab.python_beside("a", IN_THE_WAY);
    others.line_with("in the way");
    let mut coordinator = lab.muster(
        "s",
        &[
            "run",
            "--target",
            "http://10.97.0.1:8000",
            "--batch-sizes",
            "950",
            "--wait",
            "1",
            "--reps",
            "1",
            "--agents",
            "1",
            "--output",
            dir.path().join("out").to_str().expect("path"),
        ],
    );
    coordinator.line_with("start each with: agent --coordinator");
    let mut agent = lab.agent("a");
    // Even with the ports in TIME_WAIT there are 940 only: waiting would not help.
    let ended = coordinator.end();
    assert_eq!(ended.code(), Some(5), "{}", ended.text);
    agent.line_with("dismissed");
    for part in [
        "ephemeral ports to 10.97.0.1:8000 (1,000 less ",
        " in TIME_WAIT and 10",
        "add 1 agent on another host",
        "--source-ip",
    ] {
        assert!(ended.text.contains(part), "{part:?} in:\n{}", ended.text);
    }
    assert!(!ended.text.contains("or wait"), "60 more would not do:\n{}", ended.text);
    let said = ended.text.split("there is room for ").nth(1).and_then(|rest| rest.split(',').next());
    let said: f64 = said.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{}", ended.text));
    let real: f64 = lab.python("a", UNTIL_FAILURE).trim().parse().expect("a number");
    println!("said {said}, real {real}");
    assert!((said / real - 1.0).abs() <= 0.01, "said {said}, the kernel gave {real}");
}

/// On the loopback the kernel reuses ports in TIME_WAIT after a while: a batch that needs them waits for them.
#[test]
fn a_batch_waits_for_ports_in_time_wait() {
    let lab = Lab::new();
    lab.inside("a", &["sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40999", "net.ipv4.tcp_tw_reuse=2"]);
    lab.inside("a", &["sysctl", "-qw", "net.ipv4.tcp_tw_reuse_delay=8000"]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let mut server = lab
        .muster("a", &["__refserver", "--exit-with-stdin", "--listen", "127.0.0.1:8000", "--max-concurrent-envs", "0"]);
    server.line_with("listening on ");
    let leave =
        "import socket\nfor s in [socket.create_connection(('127.0.0.1', 8000)) for _ in range(600)]: s.close()";
    lab.python("a", leave);
    let coordinator = lab.muster(
        "a",
        &[
            "run",
            "--target",
            "http://127.0.0.1:8000",
            "--batch-sizes",
            "300,700",
            "--wait",
            "0.5",
            "--reps",
            "1",
            "--local",
            "1",
            "--output",
            out.to_str().expect("path"),
        ],
    );
    let ended = coordinator.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    assert!(ended.text.contains("s for ports before the batch of 700: agent local-1: "), "{}", ended.text);
    let rows = Results::of(&out).summary();
    assert!(rows.iter().all(|row| row["successful"] == row["num_requests"]), "{rows:?}");
}
