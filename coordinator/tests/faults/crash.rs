//! The coordinator is killed right after, and in the middle of, every write that it makes. What is taken up again comes to
//! what an undisturbed run comes to.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use crate::compare::assert_same;
use crate::support::{Ended, Results, Server, coordinator, run};

const GRID: [&str; 12] = [
    "--batch-sizes",
    "4,6",
    "--wait",
    "0",
    "--reps",
    "1",
    "--local",
    "1",
    "--set",
    "grid.warmup=false",
    "--set",
    "measure.max_clock_error_ms=500",
];

fn begin(server: &Server, out: &Path, more: &[&str]) -> Ended {
    let mut command = coordinator();
    command.args(["run", "--target", &server.url]).args(GRID).args(more).arg("--output").arg(out);
    run(command)
}

fn go_on(dir: &Path, more: &[&str]) -> Ended {
    let mut command = coordinator();
    command.arg("run").arg("--resume").arg(dir).args(more);
    run(command)
}

#[test]
fn killed_at_any_write_the_run_can_be_taken_up_again() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let whole = dir.path().join("whole");
    assert_eq!(begin(&server, &whole, &[]).code(), Some(0));
    let whole = Results::of(&whole);
    let (mut kills, mut begun) = (0, 0);
    for how in ["kill-after", "kill-within"] {
        for write in 1.. {
            let fault = format!("{how}={write}");
            let out = dir.path().join(&fault);
            let ended = begin(&server, &out, &["--fault", &fault]);
            if ended.code() == Some(0) {
                // There are fewer writes than that.
                break;
            }
            assert_eq!(ended.status.signal(), Some(9), "{fault}: {}", ended.text);
            kills += 1;
            // How many agents carry it is no part of what is measured.
            let ended = go_on(&out, if write % 2 == 0 { &["--local", "2"] } else { &[] });
            if !out.join("run.json").exists() {
                assert_eq!(ended.code(), Some(2), "{fault}: {}", ended.text);
                assert!(ended.text.contains("before it began"), "{fault}: {}", ended.text);
                continue;
            }
            begun += 1;
            assert_eq!(ended.code(), Some(0), "{fault}: {}", ended.text);
            assert_same(&whole, &Results::of(&out), &fault);
            if how == "kill-within" && write > 3 {
                let loud = ended.text.contains("cut back") || ended.text.contains("2 of 2 batches are done");
                assert!(
                    loud || ended.text.contains("0 of 2") || ended.text.contains("1 of 2"),
                    "{fault}: {}",
                    ended.text
                );
            }
        }
    }
    // Three to begin with, five a batch, one at the end.
    assert!(kills >= 2 * 13 && begun >= 2 * 10, "{kills} kills, {begun} of them after the beginning");
}

#[test]
fn a_run_that_goes_on_is_the_same_run() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    // In the middle of the second batch's records.
    let ended = begin(&server, &out, &["--fault", "kill-within=9"]);
    assert_eq!(ended.status.signal(), Some(9), "{}", ended.text);
    let before = Results::of(&out).run_json();

    // Another plan is another experiment.
    let ended =
        go_on(&out, &["--target", &server.url, "--batch-sizes", "4,7", "--wait", "0.5", "--reps", "1", "--local", "1"]);
    assert_eq!(ended.code(), Some(3), "{}", ended.text);
    for line in ["grid.batch_sizes: [4,6] in the run, [4,7] now", "grid.wait_seconds: [0.0] in the run, [0.5] now"] {
        assert!(ended.text.contains(line), "{line:?} in:\n{}", ended.text);
    }
    // The same plan, given again, is not.
    let same: Vec<&str> = ["--target", &server.url].into_iter().chain(GRID).collect();
    let ended = go_on(&out, &same);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    assert!(ended.text.contains("raw.jsonl is cut back from"), "{}", ended.text);
    assert!(ended.text.contains("1 of 2 batches are done and stand"), "{}", ended.text);
    let after = Results::of(&out).run_json();
    assert_eq!((&before["run"], &before["started"]), (&after["run"], &after["started"]));
    assert_eq!((after["status"].as_str(), after["resumed"].as_array().map(Vec::len)), (Some("complete"), Some(1)));
    assert_eq!(after["batches"].as_array().map(Vec::len), Some(2));

    // Nothing is left: it says what it came to, and starts no agent.
    let ended = go_on(&out, &[]);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    assert!(ended.text.contains("2 of 2 batches are done") && ended.text.contains("argest"), "{}", ended.text);
    assert!(!ended.text.contains("agents  1"), "{}", ended.text);
}

#[test]
fn what_can_not_be_taken_up_says_why() {
    let dir = tempfile::tempdir().expect("dir");
    let ended = go_on(dir.path(), &[]);
    assert_eq!(ended.code(), Some(2));
    assert!(ended.text.contains("no results folder"), "{}", ended.text);

    let server = Server::start(&[]);
    let out = dir.path().join("out");
    assert_eq!(begin(&server, &out, &[]).code(), Some(0));
    let text = Results::of(&out).text("run.json");
    for (from, to, part) in [
        (r#""repetitions": 1"#, r#""repetitions": 2"#, "its hash is another one"),
        (r#""format": 1"#, r#""format": 99"#, "format 99"),
        ("{", "[", "not the run.json of a run"),
    ] {
        std::fs::write(out.join("run.json"), text.replacen(from, to, 1)).expect("written");
        let ended = go_on(&out, &[]);
        assert_eq!(ended.code(), Some(2), "{}", ended.text);
        assert!(ended.text.contains(part) && !ended.text.contains("panicked"), "{part:?} in:\n{}", ended.text);
    }
}
