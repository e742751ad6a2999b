//! Plans that run to their end.

use nix::sys::signal::Signal;

use crate::support::{Process, Results, Server, agent, coordinator, run, workspace};

#[test]
fn the_quick_start_runs_twice_in_a_row_and_never_mixes_results() {
    let dir = tempfile::tempdir().expect("dir");
    for folder in ["2026", "2026-2"] {
        let mut command = coordinator();
        command
            .args(["run", "experiments/plans/quickstart.toml", "--set", "grid.batch_sizes=[4,32]", "--wait", "0.2"])
            .arg("--output")
            .arg(dir.path().join("2026"))
            .current_dir(workspace());
        let ended = run(command);
        assert_eq!(ended.code(), Some(0), "{}", ended.text);
        let out = dir.path().join(folder);
        assert!(ended.text.trim_end().ends_with(&format!("results in {}", out.display())), "{}", ended.text);
        for part in
            ["Results Summary", "| ws   |    0.2 |", "| http |    0.2 |", "Max tested batch", "largest batch at 95 %"]
        {
            assert!(ended.text.contains(part), "{part} in:\n{}", ended.text);
        }
        let results = Results::of(&out);
        assert_eq!(results.summary().len(), 8);
        let run_json = results.run_json();
        assert_eq!((run_json["status"].as_str(), run_json["exit_code"].as_u64()), (Some("complete"), Some(0)));
        assert_eq!(run_json["agents"].as_object().map(serde_json::Map::len), Some(2));
        results.check_with_python();
    }
}

#[test]
fn a_run_without_a_plan_over_agents_that_dial_in() {
    let server = Server::start(&["--workers", "2", "--max-concurrent-envs", "0"]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let mut command = coordinator();
    command
        .args([
            "run",
            "--target",
            &server.url,
            "--batch-sizes",
            "1,40",
            "--wait",
            "0.1,0.3",
            "--reps",
            "2",
            "--agents",
            "3",
        ])
        .args(["--set", "session.steps=3", "--set", "session.think_seconds=0.05", "--listen", "127.0.0.1:0"])
        .args(["--set", "session.launch={kind='ramp',over_seconds=0.3}", "--output"])
        .arg(&out);
    let mut coordinator = Process::start(command);
    let line = coordinator.line_with("start each with: agent --coordinator ");
    let address = line.rsplit(' ').next().expect("address");
    let agents: Vec<Process> = (1..=3)
        .map(|n| agent(address, &["--name", &format!("n{n}"), "--threads", if n == 3 { "2" } else { "1" }]))
        .collect();
    let ended = coordinator.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    for agent in agents {
        let ended = agent.end();
        assert_eq!(ended.code(), Some(0), "dismissed: {}", ended.text);
    }
    let results = Results::of(&out);
    results.check_with_python();
    let summary = results.summary();
    assert_eq!(summary.len(), 8);
    assert!(summary.iter().all(|row| row["successful"] == row["num_requests"]), "{summary:?}");
    let forty = &results.run_json()["batches"][4]["summary"];
    assert_eq!(forty["batch"]["batch_size"], 40);
    let shares: Vec<(String, u64)> = results.journal()[4]["summary"]["by_agent"]
        .as_array()
        .expect("agents")
        .iter()
        .map(|agent| (agent["name"].as_str().expect("name").to_owned(), agent["sessions"].as_u64().expect("n")))
        .collect();
    let share_of = |name: &str| shares.iter().find(|(n, _)| n == name).map(|(_, sessions)| *sessions);
    assert_eq!((share_of("n1"), share_of("n2"), share_of("n3")), (Some(10), Some(10), Some(20)), "weighted by threads");
    let raw = results.raw();
    assert!(raw.iter().all(|row| row["step_latencies"].as_array().map(Vec::len) == Some(3)));
    let pids: std::collections::BTreeSet<u64> = raw.iter().filter_map(|row| row["pid"].as_u64()).collect();
    assert_eq!(pids.len(), 2, "both workers of the server");
}

#[test]
fn several_urls_get_sessions_in_turn_whoever_carries_them() {
    let servers = [Server::start(&[]), Server::start(&[])];
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let mut command = coordinator();
    command
        .args(["run", "--target", &servers[0].url, "--target", &servers[1].url, "--batch-sizes", "21", "--wait", "0"])
        .args(["--reps", "1", "--local", "3", "--output"])
        .arg(&out);
    let ended = run(command);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    let results = Results::of(&out);
    let agents: std::collections::BTreeSet<String> =
        results.raw().iter().filter_map(|row| row["agent"].as_str().map(str::to_owned)).collect();
    assert_eq!(agents.len(), 3);
    for row in results.raw() {
        let session = usize::try_from(row["request_id"].as_u64().expect("number")).expect("small");
        let port = servers[session % 2].address().rsplit(':').next().expect("port");
        assert!(row["host_url"].as_str().is_some_and(|host| host.ends_with(port)), "{row}");
    }
    results.check_with_python();
}

#[test]
fn one_session_and_compressed_or_no_records() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    for (raw, name) in [("jsonl", Some("raw.jsonl")), ("jsonl.zst", Some("raw.jsonl.zst")), ("none", None)] {
        let out = dir.path().join(raw);
        let mut command = coordinator();
        command
            .args(["run", "--target", &server.url, "--batch-sizes", "1", "--wait", "0", "--reps", "2", "--local", "1"])
            .args(["--set", &format!("output.raw=\"{raw}\""), "--output"])
            .arg(&out);
        let ended = run(command);
        assert_eq!(ended.code(), Some(0), "{}", ended.text);
        let results = Results::of(&out);
        assert_eq!(results.summary().len(), 2);
        let records: Vec<String> = std::fs::read_dir(&out)
            .expect("folder")
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|file| file.starts_with("raw"))
            .collect();
        assert_eq!(records, name.into_iter().collect::<Vec<_>>());
        match raw {
            "jsonl" => results.check_with_python(),
            "jsonl.zst" => {
                let packed = std::fs::read(out.join("raw.jsonl.zst")).expect("file");
                let text = String::from_utf8(zstd::decode_all(packed.as_slice()).expect("zstd")).expect("utf-8");
                assert_eq!(text.lines().count(), 2, "one frame a batch, read as one stream");
            }
            _ => {}
        }
    }
}

#[test]
fn a_server_that_fails_is_told_by_kind_and_scripts_can_still_read_the_files() {
    let server = Server::start(&["--max-concurrent-envs", "20", "--no-http"]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let mut command = coordinator();
    command
        .args(["run", "--target", &server.url, "--mode", "compare", "--batch-sizes", "8,128", "--wait", "1.0"])
        .args(["--reps", "1", "--local", "2", "--enforce", "--set", "target.ready_timeout_seconds=2", "--output"])
        .arg(&out);
    let ended = run(command);
    assert_eq!(ended.code(), Some(7), "success criteria not met:\n{}", ended.text);
    let results = Results::of(&out);
    results.check_with_python();
    let errors: Vec<String> =
        results.raw().iter().filter_map(|row| row["error_type"].as_str().map(str::to_owned)).collect();
    assert!(errors.iter().all(|kind| kind == "capacity_reached" || kind == "http_status(404)"), "{errors:?}");
    let summary = results.summary();
    assert_eq!((summary[0]["successful"].as_str(), summary[0]["limit"].as_str()), ("8", "none"));
    assert_eq!(summary[1]["limit"], "server");
    let ws = summary[1]["successful"].parse::<u64>().expect("number");
    assert!((20..=40).contains(&ws), "20 at once, a few more as places come free: {ws}");
    // Nothing succeeded over HTTP: every historical latency column is still a number.
    let http = &summary[2];
    assert_eq!(
        (http["successful"].as_str(), http["total_p99"].as_str(), http["total_min"].as_str()),
        ("0", "0.000000", "0.000000")
    );
}

/// The server hangs up first in both modes, so that the agents' ports are free at once.
#[test]
fn no_port_of_the_agents_is_left_in_time_wait() {
    let server = Server::start(&["--max-concurrent-envs", "0"]);
    let dir = tempfile::tempdir().expect("dir");
    let mut command = coordinator();
    command
        .args([
            "run",
            "--target",
            &server.url,
            "--mode",
            "compare",
            "--batch-sizes",
            "300",
            "--wait",
            "0",
            "--reps",
            "1",
        ])
        .args(["--local", "1", "--output"])
        .arg(dir.path().join("out"));
    let ended = run(command);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    let port: u16 = server.address().rsplit(':').next().and_then(|port| port.parse().ok()).expect("port");
    // Columns: slot, local address, remote address, state; 06 is TIME_WAIT.
    let table = std::fs::read_to_string("/proc/net/tcp").expect("table of sockets");
    let ours = |line: &&str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns.get(2).is_some_and(|remote| remote.ends_with(&format!(":{port:04X}"))) && columns.get(3) == Some(&"06")
    };
    assert_eq!(table.lines().filter(ours).count(), 0);
}

#[test]
fn timeouts_stay_in_the_response_times() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let mut command = coordinator();
    command
        .args(["run", "--target", &server.url, "--batch-sizes", "10", "--wait", "7", "--reps", "1", "--local", "2"])
        .args(["--set", "session.step_timeout_seconds=0.5", "--set", "grid.warmup=false", "--output"])
        .arg(&out);
    let mut run = Process::start(command);
    run.line_with("open 10 ");
    // The server hangs in the middle of the steps.
    server.signal(Signal::SIGSTOP);
    // The server was slow, but not gone: it must show that before the batch counts.
    run.line_with("and the target does not answer");
    server.signal(Signal::SIGCONT);
    let ended = run.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    assert!(ended.text.contains("10 timeout at step"), "{}", ended.text);
    let results = Results::of(&out);
    results.check_with_python();
    let row = &results.summary()[0];
    assert_eq!(
        (row["timed_out"].as_str(), row["failed"].as_str(), row["total_p99"].as_str()),
        ("10", "10", "0.000000")
    );
    assert!(row["response_p99"].parse::<f64>().is_ok_and(|p99| p99 >= 7.5), "censored at the cut: {row:?}");
}

#[test]
fn hosts_that_are_required_and_do_not_answer_have_their_own_exit_code() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    for (require, code) in [("false", 0), ("true", 6)] {
        let out = dir.path().join(require);
        let mut command = coordinator();
        command
            .args([
                "run",
                "--target",
                &server.url,
                "--batch-sizes",
                "4",
                "--wait",
                "0.5",
                "--reps",
                "1",
                "--local",
                "1",
            ])
            .args(["--set", "target.expected_hosts=2", "--set", &format!("target.require_hosts={require}"), "--output"])
            .arg(&out);
        let ended = run(command);
        assert_eq!(ended.code(), Some(code), "{}", ended.text);
        let row = &Results::of(&out).summary()[0];
        assert!(row["verdict_reasons"].contains("1 of 2 expected hosts answered"), "{row:?}");
        assert_eq!(row["verdict"], if code == 0 { "valid" } else { "invalid" });
        assert_eq!(ended.text.contains("does the load balancer"), code == 6, "{}", ended.text);
    }
}

#[test]
fn json_is_one_document_on_standard_output() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let mut command = coordinator();
    command
        .args([
            "run",
            "--target",
            &server.url,
            "--batch-sizes",
            "2",
            "--wait",
            "0",
            "--reps",
            "1",
            "--local",
            "1",
            "--json",
        ])
        .arg("--output")
        .arg(dir.path().join("out"));
    let output = command.output().expect("ran");
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).expect("standard output is JSON alone");
    assert_eq!(document["status"], "complete");
    assert_eq!(document["batches"][0]["summary"]["ledger"]["succeeded"], 2);
    assert_eq!(document["output"], dir.path().join("out").display().to_string());
}
