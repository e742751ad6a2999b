//! Agents whose clocks disagree start together all the same, within the reported skew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::network::Lab;
use crate::support::{Process, Results};

/// The relay, which is built with the workspace.
fn testnet() -> PathBuf {
    let path = Path::new(env!("CARGO_BIN_EXE_coordinator")).with_file_name("testnet");
    assert!(path.exists(), "{} is not there: cargo build -p testnet", path.display());
    path
}

/// One start of two agents, as the target saw it.
#[derive(Debug)]
struct Start {
    /// Time between the accepted connections of both agents' first sessions.
    apart_us: u64,
    /// The skew that the run reports.
    skew_us: u64,
    /// The longest time between a session's start and its accepted connection.
    connect_us: u64,
    verdict: String,
    reasons: String,
}

/// Converts the written seconds to microseconds.
fn micros(seconds: f64) -> u64 {
    std::time::Duration::from_secs_f64(seconds).as_micros().try_into().expect("small")
}

/// `repetitions` starts of agents whose clocks are half a second ahead and behind, with jitter on their links.
fn starts(repetitions: &str, jitter_ms: Option<&str>) -> Vec<Start> {
    let lab = Lab::new();
    let dir = tempfile::tempdir().expect("dir");
    let (out, truth) = (dir.path().join("out"), dir.path().join("truth.jsonl"));
    let mut server = lab.muster(
        "s",
        &[
            "__refserver",
            "--exit-with-stdin",
            "--listen",
            "10.97.0.1:8000",
            "--max-concurrent-envs",
            "0",
            "--truth",
            truth.to_str().expect("path"),
        ],
    );
    server.line_with("listening on ");
    let mut dialled = "10.97.0.1:50051";
    let mut relay = None;
    if let Some(jitter_ms) = jitter_ms {
        let mut command = lab.command("s", testnet().to_str().expect("path"));
        command.args(["--listen", "10.97.0.1:50052", "--to", dialled, "--jitter-ms", jitter_ms, "--seed", "11"]);
        command.arg("--exit-with-stdin").stdin(Stdio::piped());
        let mut process = Process::start(command);
        process.line_with("listening on ");
        relay = Some(process);
        dialled = "10.97.0.1:50052";
    }
    let mut coordinator = lab.muster(
        "s",
        &[
            "run",
            "--target",
            "http://10.97.0.1:8000",
            "--batch-sizes",
            "8",
            "--wait",
            "0.05",
            "--reps",
            repetitions,
            "--agents",
            "2",
            "--set",
            "grid.cooldown_seconds=0",
            "--set",
            "measure.max_clock_error_ms=1",
            "--output",
            out.to_str().expect("path"),
        ],
    );
    coordinator.line_with("start each with: agent --coordinator");
    let agents: Vec<Process> = [("a", "500"), ("b", "-500")]
        .into_iter()
        .map(|(host, offset)| {
            let flags = ["--name", host, "--allow-target", "10.97.0.0/16", "--threads", "1"];
            let clock = ["--exit-with-stdin", "--coordinator", dialled, "--clock-offset-ms", offset];
            lab.muster(host, &[&["__agent"], &clock[..], &flags[..]].concat())
        })
        .collect();
    let ended = coordinator.end();
    // With jitter some starts are not known well enough, which has its own exit code.
    let codes: &[i32] = if jitter_ms.is_some() { &[0, 8] } else { &[0] };
    assert!(ended.code().is_some_and(|code| codes.contains(&code)), "{}", ended.text);
    server.signal(nix::sys::signal::Signal::SIGTERM);
    server.end();
    drop((agents, relay));
    joined(&Results::of(&out), &truth)
}

/// Joins the first sessions of each repetition and agent with the target's log.
fn joined(results: &Results, truth: &Path) -> Vec<Start> {
    let log = std::fs::read_to_string(truth).expect("truth");
    let accepted: BTreeMap<String, u64> = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("json"))
        .map(|line| {
            (line["session_hash"].as_str().expect("hash").to_owned(), line["accepted_us"].as_u64().expect("time"))
        })
        .collect();
    let mut first: BTreeMap<(u64, String), (u64, u64)> = BTreeMap::new();
    for row in results.raw() {
        let at_us = accepted[row["session_hash"].as_str().expect("hash")];
        let connect_us = micros(row["connect_latency"].as_f64().expect("connected"));
        let key = (row["repetition"].as_u64().expect("n"), row["agent"].as_str().expect("agent").to_owned());
        let entry = first.entry(key).or_insert((at_us, connect_us));
        if at_us < entry.0 {
            *entry = (at_us, connect_us);
        }
    }
    results
        .summary()
        .iter()
        .map(|row| {
            let repetition: u64 = row["repetition"].parse().expect("n");
            let of = |agent: &str| first[&(repetition, agent.to_owned())];
            let ((a_us, a_connect), (b_us, b_connect)) = (of("a"), of("b"));
            Start {
                apart_us: a_us.abs_diff(b_us),
                skew_us: micros(row["start_skew"].parse().expect("a skew")),
                connect_us: a_connect.max(b_connect),
                verdict: row["verdict"].clone(),
                reasons: row["verdict_reasons"].clone(),
            }
        })
        .collect()
}

fn within_what_is_said(starts: &[Start]) {
    for start in starts {
        assert!(start.apart_us <= start.skew_us + start.connect_us, "{start:?} of {starts:?}");
    }
}

#[test]
fn clocks_that_disagree_by_a_second_start_together() {
    let starts = starts("20", None);
    assert_eq!(starts.len(), 20);
    within_what_is_said(&starts);
    let mut apart: Vec<u64> = starts.iter().map(|start| start.apart_us).collect();
    apart.sort_unstable();
    assert!(apart[10] <= 5_000, "median {} us of {apart:?}", apart[10]);
    println!(
        "apart at the target: median {} us, most {} us; said to be at most: {:?}",
        apart[10],
        apart[19],
        starts.iter().map(|start| start.skew_us).collect::<Vec<_>>()
    );
}

#[test]
fn jitter_on_the_way_to_the_agents_widens_the_bound_and_is_named() {
    let starts = starts("5", Some("50"));
    assert_eq!(starts.len(), 5);
    within_what_is_said(&starts);
    println!("{starts:?}");
    // At 50 ms each way and 32 rounds, bounds below 1 ms for both agents would be luck.
    let loose: Vec<&Start> = starts.iter().filter(|start| start.verdict == "invalid").collect();
    assert!(!loose.is_empty(), "{starts:?}");
    assert!(
        loose.iter().all(|start| start.reasons.contains("more than measure.max_clock_error_ms allows")),
        "{loose:?}"
    );
}
