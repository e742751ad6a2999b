//! Agents on separate machines: network namespaces with few ephemeral ports.

use std::process::Stdio;

use crate::network::Lab;
use crate::support::{Process, Results};

#[test]
fn one_machine_with_too_few_ports_is_refused_beforehand_and_two_carry_it() {
    let lab = Lab::new();
    let dir = tempfile::tempdir().expect("dir");
    let mut server = lab
        .muster("s", &["__refserver", "--exit-with-stdin", "--listen", "10.97.0.1:8000", "--max-concurrent-envs", "0"]);
    server.line_with("listening on ");
    let start = |agents: &str, out: &str| {
        let out = dir.path().join(out);
        lab.muster(
            "s",
            &[
                "run",
                "--target",
                "http://10.97.0.1:8000",
                "--batch-sizes",
                "16384",
                "--wait",
                "5",
                "--reps",
                "1",
                "--agents",
                agents,
                "--output",
                out.to_str().expect("path"),
            ],
        )
    };

    let mut alone = start("1", "alone");
    alone.line_with("start each with: agent --coordinator");
    let agent = lab.agent("a");
    let ended = alone.end();
    assert_eq!(ended.code(), Some(5), "{}", ended.text);
    for part in [
        "a batch of 16,384 sessions can't be carried: there is room for 10,000, 6,384 short",
        "agent a: 10,000 sessions, limited by 10,000 ephemeral ports to 10.97.0.1:8000",
        "add 1 agent on another host",
        "--source-ip",
    ] {
        assert!(ended.text.contains(part), "{part:?} in:\n{}", ended.text);
    }
    assert_eq!(Results::of(&dir.path().join("alone")).summary().len(), 0, "refused before the first batch");
    assert_eq!(agent.end().code(), Some(0));

    let mut both = start("2", "both");
    both.line_with("start each with: agent --coordinator");
    let agents = [lab.agent("a"), lab.agent("b")];
    let ended = both.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    let results = Results::of(&dir.path().join("both"));
    let row = &results.summary()[0];
    assert_eq!((row["successful"].as_str(), row["agents"].as_str()), ("16384", "2"), "{row:?}");
    results.check_with_python();
    for agent in agents {
        assert_eq!(agent.end().code(), Some(0));
    }
}

/// A second source address has its own ports to the same destination.
#[test]
fn a_second_source_address_doubles_what_one_machine_carries() {
    let lab = Lab::new();
    lab.inside("a", &["sysctl", "-qw", "net.ipv4.ip_local_port_range=40000 40999"]);
    lab.inside("a", &["ip", "addr", "add", "10.97.3.3/32", "dev", "lo"]);
    lab.inside("s", &["ip", "route", "add", "10.97.3.3/32", "via", "10.97.1.2"]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let mut server = lab
        .muster("s", &["__refserver", "--exit-with-stdin", "--listen", "10.97.0.1:8000", "--max-concurrent-envs", "0"]);
    server.line_with("listening on ");
    let mut coordinator = lab.muster(
        "s",
        &[
            "run",
            "--target",
            "http://10.97.0.1:8000",
            "--batch-sizes",
            "1990",
            "--wait",
            "3",
            "--reps",
            "1",
            "--agents",
            "1",
            "--insecure-plaintext",
            "--output",
            out.to_str().expect("path"),
        ],
    );
    coordinator.line_with("start each with: agent --coordinator");
    let mut command = lab.command("a", env!("CARGO_BIN_EXE_coordinator"));
    command
        .args(["__agent", "--exit-with-stdin", "--coordinator", "10.97.0.1:50051", "--insecure-plaintext"])
        .args(["--allow-target", "10.97.0.1:8000", "--source-ip", "10.97.1.2", "--source-ip", "10.97.3.3"])
        .stdin(Stdio::piped());
    let _agent = Process::start(command);
    let ended = coordinator.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    let row = &Results::of(&out).summary()[0];
    assert_eq!((row["successful"].as_str(), row["open_max"].as_str()), ("1990", "1990"), "{row:?}");
}
