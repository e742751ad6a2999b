//! A network link that breaks in the middle of a batch and is restored.

use std::path::Path;

use crate::network::Lab;
use crate::support::{Process, Results};

/// Number of connections that the target has established with this agent.
fn open(lab: &Lab, agent: &str) -> usize {
    let program = format!(
        "import subprocess\n\
         out = subprocess.run(['ss', '-Htn', 'state', 'established', 'sport = :8000', 'dst {agent}'], \
         capture_output=True, text=True, check=True).stdout\n\
         print('open', len(out.splitlines()))"
    );
    let text = lab.python("s", &program);
    text.trim().trim_start_matches("open ").parse().unwrap_or_else(|_| panic!("{text}"))
}

/// A target, a coordinator that listens at an address of its own, and two agents.
fn start(lab: &Lab, out: &Path) -> (Process, Process, [Process; 2]) {
    lab.inside("s", &["ip", "addr", "add", "10.97.0.2/32", "dev", "lo"]);
    let mut server = lab.muster("s", &["__refserver", "--exit-with-stdin", "--listen", "10.97.0.1:8000"]);
    server.line_with("listening on ");
    let mut run = lab.muster(
        "s",
        &[
            "run",
            "--target",
            "http://10.97.0.1:8000",
            "--batch-sizes",
            "8",
            "--wait",
            "15",
            "--reps",
            "2",
            "--agents",
            "2",
            "--listen",
            "10.97.0.2:50051",
            "--set",
            "grid.warmup=false",
            "--set",
            "agents.lease_seconds=3",
            "--output",
            out.to_str().expect("path"),
        ],
    );
    run.line_with("start each with: agent --coordinator");
    let agents = ["a", "b"].map(|host| {
        let flags = ["__agent", "--exit-with-stdin", "--coordinator", "10.97.0.2:50051", "--name", host];
        lab.muster(host, &[&flags[..], &["--allow-target", "10.97.0.0/16"]].concat())
    });
    (server, run, agents)
}

#[test]
fn an_agent_that_is_cut_off_stops_loading_the_target_that_it_still_reaches() {
    let lab = Lab::new();
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let (_server, mut run, mut agents) = start(&lab, &out);
    run.line_with("open 8");
    assert_eq!(open(&lab, "10.97.1.2"), 4);
    // Only the coordinator is unreachable: the agent notices nothing but silence.
    lab.inside("a", &["ip", "route", "add", "blackhole", "10.97.0.2/32"]);
    agents[0].line_with("trying to reconnect");
    assert_eq!(open(&lab, "10.97.1.2"), 0, "its sessions are over");
    run.line_with("agent a was silent for 3 s");
    lab.inside("a", &["ip", "route", "del", "blackhole", "10.97.0.2/32"]);
    let ended = run.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    let results = Results::of(&out);
    let journal = results.journal();
    assert_eq!(
        (journal[0]["accepted"].as_bool(), journal[0]["summary"]["ledger"]["lost"].as_u64()),
        (Some(false), Some(4))
    );
    let rows = results.summary();
    assert!(rows.iter().all(|row| row["successful"] == "8" && row["lost"] == "0"), "{rows:?}");
    assert_eq!(rows[1]["agents"], "2", "it is back");
    results.check_with_python();
}

#[test]
fn a_machine_whose_cable_is_pulled_costs_one_attempt() {
    let lab = Lab::new();
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let (_server, mut run, _agents) = start(&lab, &out);
    run.line_with("open 8");
    let cable = format!("{}v", lab.name("b"));
    lab.inside("b", &["ip", "link", "set", &cable, "down"]);
    run.line_with("agent b was silent for 3 s");
    lab.inside("b", &["ip", "link", "set", &cable, "up"]);
    lab.inside("b", &["ip", "route", "add", "default", "via", "10.97.2.1"]);
    let ended = run.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    let results = Results::of(&out);
    assert_eq!(results.journal()[0]["accepted"], false);
    let rows = results.summary();
    assert_eq!((rows.len(), rows[1]["agents"].as_str()), (2, "2"), "it is back: {rows:?}");
    assert!(rows.iter().all(|row| row["successful"] == "8"), "{rows:?}");
    results.check_with_python();
}
