//! A server with known delays: the wire latencies that Muster reports must be those that the server logs.

use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::support::{Ended, Process, Results, coordinator, run, workspace};

/// Delays of every kind, different for each phase and the same in every run.
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
    let mut server = {
        let mut command = coordinator();
        command.args(["__refserver", "--listen", "127.0.0.1:0", "--max-concurrent-envs", "0", "--truth"]).arg(&truth);
        command.args(DELAYS);
        Process::start(command)
    };
    let listening = server.line_with("listening on ");
    let url = format!("http://{}", listening.trim_start_matches("listening on "));
    let mut command = coordinator();
    command
        .args(["run", "--target", &url, "--batch-sizes", "16384", "--wait", "0.1", "--reps", "1", "--local", "4"])
        .args(["--set", "session.launch={kind=\"ramp\",over_seconds=33}", "--output"])
        .arg(&out);
    let ended = run(command);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    // The server's log is complete once the server has ended.
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().code(), Some(0));
    let results = Results::of(&out);
    results.check_with_python();
    let row = &results.summary()[0];
    assert_eq!((row["successful"].as_str(), row["verdict"].as_str()), ("16384", "valid"), "{row:?}");
    let checked = check_truth(&out, &truth);
    assert!(checked.status.success(), "{}", checked.text);
}
