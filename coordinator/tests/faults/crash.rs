//! Kills the coordinator right after, and in the middle of, each of its writes. The resumed run must have the results
//! of an undisturbed one.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use crate::compare::assert_same;
use crate::support::{Ended, Process, Results, Server, agent, coordinator, run};

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
                // There are fewer writes.
                break;
            }
            assert_eq!(ended.status.signal(), Some(9), "{fault}: {}", ended.text);
            kills += 1;
            // The number of agents is no part of what is measured.
            let ended = go_on(&out, if write % 2 == 0 { &["--local", "2"] } else { &[] });
            if !out.join("run.json").exists() {
                assert_eq!(ended.code(), Some(2), "{fault}: {}", ended.text);
                assert!(ended.text.contains("before it began"), "{fault}: {}", ended.text);
                continue;
            }
            begun += 1;
            assert_eq!(ended.code(), Some(0), "{fault}: {}", ended.text);
            assert_same(&whole, &Results::of(&out), &fault);
            // For each batch, the records, the histograms, the row and the journal's line are appended in this order;
            // then run.json is replaced.
            let appended = (write + 1) % 5;
            let half = if how == "kill-within" { appended < 4 } else { appended < 3 };
            let expected = (4..14).contains(&write) && half;
            assert_eq!(ended.text.contains("is cut back from"), expected, "{fault}: {}", ended.text);
        }
    }
    eprintln!("{kills} kills, {begun} of them after the beginning, all taken up again with the same result");
    // Three writes at the start, five per batch, one at the end.
    assert!(kills >= 2 * 13 && begun >= 2 * 10, "{kills} kills, {begun} of them after the beginning");
}

/// Agents outlive their coordinator, and join again when it is resumed.
#[test]
fn agents_that_are_still_looking_take_part_again() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = held.local_addr().expect("address").to_string();
    drop(held);
    let grid = ["--batch-sizes", "4,6", "--wait", "0", "--reps", "1", "--agents", "1", "--listen", &address];
    let mut command = coordinator();
    command.args(["run", "--target", &server.url, "--fault", "kill-within=10"]).args(grid);
    command.args(["--set", "measure.max_clock_error_ms=500", "--output"]).arg(&out);
    let mut first = Process::start(command);
    first.line_with("start each with");
    let agent = agent(&address, &["--name", "n1"]);
    assert_eq!(first.end().status.signal(), Some(9));
    let ended = go_on(&out, &["--listen", &address]);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    assert_eq!(agent.end().code(), Some(0), "one agent for both lives");
    let results = Results::of(&out);
    assert!(results.summary().iter().all(|row| row["successful"] == row["num_requests"]), "{:?}", results.summary());
    results.check_with_python();
}

/// The records of a refused attempt are written too.
#[test]
fn killed_while_a_refused_attempt_is_written_the_run_can_be_taken_up_again() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    // Three writes at the start; then the attempt's records and its line in the journal.
    for (fault, said, attempt) in [
        ("kill-within=4", "is removed", "1"),
        ("kill-after=4", "is removed", "1"),
        ("kill-within=5", "journal.jsonl is cut back", "1"),
        ("kill-after=5", "0 of 1 batches are done", "2"),
    ] {
        let out = dir.path().join(fault);
        let mut command = coordinator();
        command
            .args(["run", "--target", &server.url, "--batch-sizes", "6", "--wait", "0.5", "--reps", "1", "-v"])
            .args(["--agents", "2", "--listen", "127.0.0.1:0", "--set", "grid.warmup=false", "--fault", fault])
            .args(["--set", "measure.max_clock_error_ms=500", "--output"])
            .arg(&out);
        let mut first = Process::start(command);
        let line = first.line_with("start each with: agent --coordinator ");
        let address = line.rsplit(' ').next().expect("address").to_owned();
        let agents = ["n1", "n2"].map(|name| agent(&address, &["--name", name]));
        first.line_with("batch under way");
        agents[1].signal(nix::sys::signal::Signal::SIGKILL);
        let ended = first.end();
        assert_eq!(ended.status.signal(), Some(9), "{fault}: {}", ended.text);
        let ended = go_on(&out, &["--agents", "1", "--listen", &address]);
        assert_eq!(ended.code(), Some(0), "{fault}: {}", ended.text);
        assert!(ended.text.contains(said), "{fault}: {said:?} in:\n{}", ended.text);
        let results = Results::of(&out);
        let row = &results.summary()[0];
        assert_eq!((row["successful"].as_str(), row["attempt"].as_str()), ("6", attempt), "{fault}");
        let refused = results.journal().iter().filter(|line| line["accepted"] == false).count();
        let kept = std::fs::read_dir(out.join("attempts")).expect("attempts").count();
        assert_eq!((refused, kept), if attempt == "2" { (1, 1) } else { (0, 0) }, "{fault}");
        results.check_with_python();
    }
}

/// A folder in a state that no crash can cause is not damaged further.
#[test]
fn what_was_lost_otherwise_is_not_cut_away() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    assert_eq!(begin(&server, &out, &[]).code(), Some(0));
    let read = |name: &str| std::fs::read(out.join(name)).unwrap_or_default();
    let refused = |part: &str| {
        let before = ["summary.csv", "histograms.hlog", "journal.jsonl"].map(read);
        let ended = go_on(&out, &[]);
        assert_eq!(ended.code(), Some(2), "{}", ended.text);
        assert!(ended.text.contains(part), "{part:?} in:\n{}", ended.text);
        assert!(
            ["summary.csv", "histograms.hlog", "journal.jsonl"].map(read) == before,
            "nothing is cut: {}",
            ended.text
        );
    };
    let (raw, journal) = (read("raw.jsonl"), read("journal.jsonl"));
    std::fs::rename(out.join("raw.jsonl"), out.join("elsewhere")).expect("moved");
    refused("raw.jsonl has 0 of ");
    std::fs::write(out.join("raw.jsonl"), &raw).expect("back");
    let mut damaged = journal.clone();
    damaged[5] = b'#';
    std::fs::write(out.join("journal.jsonl"), &damaged).expect("damaged");
    refused("line 1 can't be read");
    std::fs::write(out.join("journal.jsonl"), &journal).expect("back");
    let ended = go_on(&out, &[]);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    assert!(ended.text.contains("2 of 2 batches are done"), "{}", ended.text);
}

#[test]
fn a_run_that_goes_on_is_the_same_run() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    // The kill is in the middle of the second batch's records.
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
    // The same plan may be given again.
    let same: Vec<&str> = ["--target", &server.url].into_iter().chain(GRID).collect();
    let ended = go_on(&out, &same);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    assert!(ended.text.contains("raw.jsonl is cut back from"), "{}", ended.text);
    assert!(ended.text.contains("1 of 2 batches are done and stand"), "{}", ended.text);
    let after = Results::of(&out).run_json();
    assert_eq!((&before["run"], &before["started"]), (&after["run"], &after["started"]));
    assert_eq!((after["status"].as_str(), after["resumed"].as_array().map(Vec::len)), (Some("complete"), Some(1)));
    assert_eq!(after["batches"].as_array().map(Vec::len), Some(2));

    // Nothing is left to do: the run prints its results and starts no agent.
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
        (r#""format": 2"#, r#""format": 99"#, "format 99"),
        ("{", "[", "not the run.json of a run"),
    ] {
        std::fs::write(out.join("run.json"), text.replacen(from, to, 1)).expect("written");
        let ended = go_on(&out, &[]);
        assert_eq!(ended.code(), Some(2), "{}", ended.text);
        assert!(ended.text.contains(part) && !ended.text.contains("panicked"), "{part:?} in:\n{}", ended.text);
    }
}
