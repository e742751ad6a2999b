//! Jobs that are cancelled, cut short, or lose a node: each ends as docs/operations.md says.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use nix::sys::signal::Signal;

use crate::cluster::{Cluster, Job, all_succeeded};
use crate::support::{Process, workspace};

/// A grid whose sessions are open long enough to be disturbed.
const LONG: &str = "batch_sizes = [64]\nwait_seconds = [1.0, 6.0]\nrepetitions = 2\nwarmup = false";
/// An agent that is silent for longer than three seconds is lost.
const SHORT_LEASE: &str = "[agents]\nlease_seconds = 3.0";

/// The attempts by batch, and whether each was accepted.
fn attempts(cluster: &Cluster) -> Vec<(u64, bool)> {
    let journal = cluster.results().journal();
    journal.iter().filter_map(|line| Some((line["batch"].as_u64()?, line["accepted"].as_bool()?))).collect()
}

/// Waits until a long batch is under way with all its sessions open.
fn begun(job: &Job<'_>) {
    job.says("open 64 ");
}

#[test]
fn scancel_keeps_what_is_finished_and_the_next_job_goes_on() {
    let cluster = Cluster::up(3, &[]);
    let _server = cluster.serve(&["--nodes", "1"], &[("BALANCER", "none")]);
    let plan = cluster.plan("plan.toml", LONG, "");
    let job = cluster.submit(&["--nodes", "2"], "sweep.sbatch", &[&plan], &[]);
    begun(&job);
    job.cancel();
    job.says("go on with: coordinator run --resume");
    assert!(job.end().starts_with("CANCELLED"), "{}", job.end());
    cluster.nothing_is_left_on(&["n2", "n3"]);
    let run = cluster.results().run_json();
    assert_eq!((run["status"].as_str(), run["exit_code"].as_u64()), (Some("interrupted"), Some(130)));
    let kept = cluster.results().summary();
    assert_eq!(kept.len(), 2, "{kept:?}");

    let out = cluster.path("out").display().to_string();
    let job = cluster.submit(&["--nodes", "2"], "sweep.sbatch", &["--resume", &out], &[]);
    assert_eq!(job.end(), "COMPLETED 0:0", "{}", job.output("muster-sweep"));
    all_succeeded(&cluster.results(), 4, &job.output("muster-sweep"));
    let after = cluster.results().summary();
    assert_eq!(after[..2], kept[..], "what was finished stands");
    cluster.results().check_with_python();
}

#[test]
fn before_the_time_limit_the_sweep_ends_by_itself() {
    let cluster = Cluster::up(2, &[]);
    let _server = cluster.serve(&["--nodes", "1"], &[("BALANCER", "none")]);
    let plan = cluster.plan("plan.toml", "batch_sizes = [32]\nwait_seconds = [1.0]\nrepetitions = 500", "");
    // The shortest limit is a minute. SLURM sends the signal up to half a minute early.
    let flags = ["--nodes", "1", "--time", "1", "--signal=B:TERM@15"];
    let job = cluster.submit(&flags, "sweep.sbatch", &[&plan], &[]);
    assert_eq!(job.end(), "FAILED 130:0", "{}", job.output("muster-sweep"));
    job.says("go on with: coordinator run --resume");
    job.says("the coordinator's exit code is 130");
    let summary = cluster.results().summary();
    assert!(summary.len() > 3 && summary.len() < 500, "{} batches", summary.len());
    cluster.results().check_with_python();
    cluster.nothing_is_left_on(&["n2"]);
}

#[test]
fn a_node_that_loses_power_costs_one_attempt() {
    let cluster = Cluster::up(4, &[]);
    let _server = cluster.serve(&["--nodes", "1"], &[("BALANCER", "none")]);
    // SLURM takes half a minute to notice the crash: the other agents must run for longer.
    let grid = "batch_sizes = [64]\nwait_seconds = [6.0]\nrepetitions = 8\nwarmup = false";
    let plan = cluster.plan("plan.toml", grid, SHORT_LEASE);
    let job = cluster.submit(&["--nodes", "3"], "sweep.sbatch", &[&plan], &[]);
    begun(&job);
    cluster.fault(&["crash", "n4"]);
    job.until("the loss of n4 in SLURM's own eyes", || {
        cluster.user(&["sinfo", "-hNn", "n4", "-o%T"], &[]).text.starts_with("down")
    });
    assert!(!job.is_over(), "{}", job.output("muster-sweep"));
    assert_eq!(job.end(), "COMPLETED 0:0", "{}", job.output("muster-sweep"));
    all_succeeded(&cluster.results(), 8, &job.output("muster-sweep"));
    let refused: Vec<u64> =
        attempts(&cluster).iter().filter(|(_, accepted)| !accepted).map(|(batch, _)| *batch).collect();
    assert_eq!(refused, [0], "{}", job.output("muster-sweep"));
    job.says("agent n4-2 was silent for 3 s");
    let last = cluster.results().summary().pop().expect("row");
    assert_eq!(last["agents"], "2");
    cluster.results().check_with_python();
    cluster.nothing_is_left_on(&["n2", "n3"]);
}

#[test]
fn a_node_that_is_cut_off_comes_back() {
    let cluster = Cluster::up(4, &[]);
    let _server = cluster.serve(&["--nodes", "1"], &[("BALANCER", "none")]);
    let grid = "batch_sizes = [64]\nwait_seconds = [1.0, 8.0]\nrepetitions = 3\nwarmup = false";
    let plan = cluster.plan("plan.toml", grid, SHORT_LEASE);
    let job = cluster.submit(&["--nodes", "3"], "sweep.sbatch", &[&plan], &[]);
    begun(&job);
    cluster.fault(&["cut", "n4"]);
    job.says("was silent for 3 s");
    cluster.fault(&["heal", "n4"]);
    assert_eq!(job.end(), "COMPLETED 0:0", "{}", job.output("muster-sweep"));
    let results = cluster.results();
    all_succeeded(&results, 6, &job.output("muster-sweep"));
    assert!(attempts(&cluster).iter().any(|(_, accepted)| !accepted), "{}", job.output("muster-sweep"));
    let last = results.summary().pop().expect("row");
    assert_eq!(last["agents"], "3", "it takes part again\n{}", job.output("muster-sweep"));
    results.check_with_python();
    cluster.nothing_is_left_on(&["n2", "n3", "n4"]);
}

/// The coordinator's node crashes: its agents end, nothing loads the target, and another job resumes the run.
#[test]
fn the_first_node_crashes_and_another_job_goes_on() {
    let cluster = Cluster::up(3, &[]);
    let _server = cluster.serve(&["--nodes", "1"], &[("BALANCER", "none")]);
    let plan = cluster.plan("plan.toml", LONG, SHORT_LEASE);
    let job = cluster.submit(&["--nodes", "2"], "sweep.sbatch", &[&plan], &[("AGENT_FLAGS", "--reconnect-for 5")]);
    begun(&job);
    cluster.fault(&["crash", "n2"]);
    // SLURM keeps a job whose batch script was lost with its node, so the agents cancel it.
    assert!(job.end().starts_with("CANCELLED"), "{}", job.end());
    cluster.nothing_is_left_on(&["n3"]);
    cluster.fault(&["boot", "n2"]);

    let out = cluster.path("out").display().to_string();
    let job = cluster.submit(&["--nodes", "2"], "sweep.sbatch", &["--resume", &out], &[]);
    assert_eq!(job.end(), "COMPLETED 0:0", "{}", job.output("muster-sweep"));
    all_succeeded(&cluster.results(), 4, &job.output("muster-sweep"));
    cluster.results().check_with_python();
}

/// Neither the end of one agent nor that of a node's slurmd ends the others.
#[test]
fn an_agent_is_killed_and_a_slurmd_ends() {
    let cluster = Cluster::up(4, &[]);
    let _server = cluster.serve(&["--nodes", "1"], &[("BALANCER", "none")]);
    let plan = cluster.plan("plan.toml", LONG, SHORT_LEASE);
    let job = cluster.submit(&["--nodes", "3"], "sweep.sbatch", &[&plan], &[]);
    begun(&job);
    // `pkill` does not see the processes of other nodes.
    cluster.fault(&["on", "n3", "pkill", "-KILL", "-f", "__agent"]);
    cluster.fault(&["on", "n4", "pkill", "-KILL", "slurmd"]);
    assert_eq!(job.end(), "COMPLETED 0:0", "{}", job.output("muster-sweep"));
    all_succeeded(&cluster.results(), 4, &job.output("muster-sweep"));
    let refused = attempts(&cluster).iter().filter(|(_, accepted)| !accepted).count();
    assert_eq!(refused, 1, "{}", job.output("muster-sweep"));
    assert_eq!(cluster.results().summary().pop().expect("row")["agents"], "2", "n3's agent is gone, n4's is not");
    cluster.nothing_is_left_on(&["n2", "n3"]);
}

#[test]
fn ctrl_c_cancels_servers_and_sweep() {
    let cluster = Cluster::up(2, &[]);
    let plan = cluster.plan("plan.toml", LONG, "");
    let script = workspace().join("deploy/slurm/serve_and_sweep.sh").display().to_string();
    let words = [&script, "--server-nodes", "1", "--agent-nodes", "1", &plan];
    let mut process = Process::start(cluster.command(&words, &[]));
    process.line_with("open 64 ");
    process.signal(Signal::SIGINT);
    let ended = process.end();
    assert_eq!(ended.code(), Some(130), "{}", ended.text);
    cluster.nothing_is_left_on(&["n1", "n2"]);
    let states = cluster.user(&["squeue", "--noheader", "--states=all", "--format=%T"], &[]).text;
    assert_eq!(states.lines().collect::<Vec<_>>(), ["CANCELLED", "CANCELLED"]);
    let run = cluster.results().run_json();
    assert_eq!((run["status"].as_str(), run["exit_code"].as_u64()), (Some("interrupted"), Some(130)));
}

/// Sessions refused by a server that is gone are no measurement: the sweep stops, and finished batches are kept.
#[test]
fn a_server_that_ends_ends_the_sweep() {
    let cluster = Cluster::up(2, &[]);
    let server = cluster.serve(&["--nodes", "1"], &[("BALANCER", "none")]);
    let plan = cluster.plan("plan.toml", LONG, "");
    let connection = cluster.path("connection.toml").display().to_string();
    let job = cluster.submit(&["--nodes", "1"], "sweep.sbatch", &[&plan], &[("CONNECTION_FILE", connection.as_str())]);
    begun(&job);
    server.cancel();
    assert_eq!(job.end(), "FAILED 130:0", "{}", job.output("muster-sweep"));
    job.says(&format!("the server's job {} has ended: the sweep is stopped", server.id));
    let results = cluster.results();
    all_succeeded(&results, 2, &job.output("muster-sweep"));
    let run = results.run_json();
    assert_eq!(run["status"], "interrupted");
    cluster.nothing_is_left_on(&["n1", "n2"]);

    // A new server at the same address gets the rest of the sessions.
    let url = run["urls"][0].as_str().expect("url").to_owned();
    let port = url.rsplit(':').next().expect("port");
    let _server = cluster.serve(&["--nodes", "1"], &[("BALANCER", "none"), ("BACKEND_PORT", port)]);
    let out = cluster.path("out").display().to_string();
    let again = [("CONNECTION_FILE", connection.as_str())];
    let job = cluster.submit(&["--nodes", "1"], "sweep.sbatch", &["--resume", &out], &again);
    assert_eq!(job.end(), "COMPLETED 0:0", "{}", job.output("muster-sweep"));
    all_succeeded(&cluster.results(), 4, &job.output("muster-sweep"));
}

/// A controller that does not answer for a moment does not mean that the jobs have ended.
#[test]
fn a_question_that_fails_is_no_end() {
    let cluster = Cluster::up(2, &[]);
    let shims = cluster.path("shims");
    fs::create_dir(&shims).expect("folder");
    // Every second query fails.
    let shim = "#!/bin/bash\nn=$(($(cat \"$0.count\" 2>/dev/null || echo 0) + 1))\necho $n >\"$0.count\"\n\
                ((n % 2)) || { echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1; }\n\
                exec /usr/bin/squeue \"$@\"\n";
    fs::write(shims.join("squeue"), shim).expect("shim");
    fs::set_permissions(shims.join("squeue"), fs::Permissions::from_mode(0o755)).expect("executable");
    let plan = cluster.plan("plan.toml", "batch_sizes = [16]\nwait_seconds = [1.0]\nrepetitions = 4", "");
    let script = workspace().join("deploy/slurm/serve_and_sweep.sh").display().to_string();
    let path = format!("{}:{}", shims.display(), std::env::var("PATH").expect("PATH"));
    let words = [&script, "--server-nodes", "1", "--agent-nodes", "1", &plan];
    let ended = cluster.user(&words, &[("PATH", path.as_str())]);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    all_succeeded(&cluster.results(), 4, &ended.text);
    assert!(fs::exists(shims.join("squeue.count")).expect("looked"), "it was asked");
    cluster.nothing_is_left_on(&["n1", "n2"]);
}

#[test]
fn a_sweep_that_never_began_is_no_success() {
    let cluster = Cluster::up(2, &[]);
    let plan = cluster.plan("plan.toml", "batch_sizes = [16]", "");
    let script = workspace().join("deploy/slurm/serve_and_sweep.sh").display().to_string();
    // More nodes than are left besides the server's.
    let words = [&script, "--server-nodes", "1", "--agent-nodes", "2", &plan];
    let mut process = Process::start(cluster.command(&words, &[]));
    process.line_with("job 2: agents on 2 node(s)");
    assert!(cluster.user(&["scancel", "2"], &[]).status.success());
    let ended = process.end();
    assert_eq!(ended.code(), Some(143), "{}", ended.text);
    assert!(ended.text.contains("job 2: CANCELLED"), "{}", ended.text);
    cluster.nothing_is_left_on(&["n1", "n2"]);
}
