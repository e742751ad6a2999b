//! A server with known delays: what Muster says a reply took on the wire is what the server says it took.

use std::path::Path;
use std::process::Command;

use crate::support::{Ended, Results, Server, coordinator, run, workspace};

/// Delays of every kind, each phase its own, the same in every run.
const DELAYS: [&str; 8] = [
    "--connect-delay",
    "uniform:1,10",
    "--reset-delay",
    "bimodal:5,60,0.1",
    "--step-delay",
    "pareto:20,1.5,800",
    "--seed",
    "3",
];

fn check_truth(results: &Path, truth: &Path) -> Ended {
    let mut command = Command::new("python3");
    command
        .arg(workspace().join("scripts/check_truth.py"))
        .arg(results)
        .arg("--truth")
        .arg(truth)
        .args(["--within", "1"]);
    run(command)
}

/// Constant, two-humped and heavy-tailed delays, paced below 500 sessions a second.
#[test]
fn wire_latencies_are_what_the_server_took() {
    let dir = tempfile::tempdir().expect("dir");
    let (out, truth) = (dir.path().join("out"), dir.path().join("truth.jsonl"));
    let flags = [&DELAYS[..], &["--max-concurrent-envs", "0", "--truth", truth.to_str().expect("path")]].concat();
    let server = Server::start(&flags);
    let mut command = coordinator();
    command
        .args([
            "run",
            "--target",
            &server.url,
            "--batch-sizes",
            "16384",
            "--wait",
            "0.1",
            "--reps",
            "1",
            "--local",
            "4",
        ])
        .args(["--set", "session.launch={kind=\"ramp\",over_seconds=33}", "--output"])
        .arg(&out);
    let ended = run(command);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    // Its log is complete when it has ended.
    drop(server.stop());
    let results = Results::of(&out);
    results.check_with_python();
    let row = &results.summary()[0];
    assert_eq!((row["successful"].as_str(), row["verdict"].as_str()), ("16384", "valid"), "{row:?}");
    let checked = check_truth(&out, &truth);
    assert!(checked.status.success(), "{}", checked.text);
}
