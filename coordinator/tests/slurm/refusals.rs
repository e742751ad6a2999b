//! Sweeps that can't work are refused, with the reason, before time is lost.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::cluster::Cluster;
use crate::support::workspace;

/// A node with 2,000 ports, and a batch that needs more.
#[test]
fn a_node_with_too_few_ports_is_found_before_the_first_batch() {
    let cluster = Cluster::up(2, &[("PORT_RANGE", "n2=40000-41999")]);
    let _server = cluster.serve(&["--nodes", "1"], &[("BALANCER", "none")]);
    let plan = cluster.plan("plan.toml", "batch_sizes = [16384]\nwait_seconds = [1.0]\nrepetitions = 1", "");
    let job = cluster.submit(&["--nodes", "1"], "sweep.sbatch", &[&plan], &[]);
    assert_eq!(job.end(), "FAILED 5:0", "{}", job.output("muster-sweep"));
    let text = job.output("muster-sweep");
    assert!(
        text.contains("a batch of 16,384 sessions can't be carried: there is room for 2,000, 14,384 short"),
        "{text}"
    );
    assert!(text.contains("agent n2-0: 2,000 sessions, limited by 2,000 ephemeral ports to"), "{text}");
    assert!(text.contains("add 8 agents on another host") && text.contains("--source-ip"), "{text}");
    assert!(cluster.results().raw().is_empty(), "no session was started");
    cluster.nothing_is_left_on(&["n2"]);
}

#[test]
fn a_server_that_does_not_come_up_ends_the_sweep_that_waits_for_it() {
    let cluster = Cluster::up(2, &[]);
    let plan = cluster.plan("plan.toml", "batch_sizes = [8]", "");
    let script = workspace().join("deploy/slurm/serve_and_sweep.sh").display().to_string();
    let words = [&script, "--server-nodes", "1", "--agent-nodes", "1", &plan];
    let ended = cluster.user(&words, &[("SERVER", "command"), ("SERVE_COMMAND", "echo no licence left >&2; exit 3")]);
    assert_eq!(ended.code(), Some(1), "{}", ended.text);
    assert!(ended.text.contains("the server's job 1 ended before it wrote"), "{}", ended.text);
    let server = fs::read_to_string(cluster.path("muster-serve-1.out")).expect("output");
    assert!(server.contains("no licence left") && server.contains("ended while it started"), "{server}");
    cluster.nothing_is_left_on(&["n1", "n2"]);
}

#[test]
fn an_agent_of_another_version_is_found_at_once() {
    let cluster = Cluster::up(1, &[]);
    let agent = cluster.path("bin/agent");
    fs::write(&agent, "#!/bin/sh\necho agent 9.9.9\n").expect("script");
    fs::set_permissions(&agent, fs::Permissions::from_mode(0o755)).expect("executable");
    let plan = cluster.plan("plan.toml", "batch_sizes = [8]", "[target]\nurls = [\"http://127.0.0.1:1\"]");
    let job = cluster.submit(&["--nodes", "1"], "sweep.sbatch", &[&plan], &[]);
    assert_eq!(job.end(), "FAILED 1:0", "{}", job.output("muster-sweep"));
    job.says("the nodes have other versions of agent");
    fs::remove_file(&agent).expect("removed");
    let job = cluster.submit(&["--nodes", "1"], "sweep.sbatch", &[&plan], &[]);
    assert_eq!(job.end(), "FAILED 1:0", "{}", job.output("muster-sweep"));
    job.says("has no agent");
}

#[test]
fn scripts_say_what_they_are() {
    let cluster = Cluster::up(1, &[]);
    for (script, says) in [
        ("sweep.sbatch", "this is a batch script: submit it with sbatch"),
        ("serve_single.sh", "this is a batch script"),
        ("serve_and_sweep.sh", "no plan; see --help"),
    ] {
        let path = workspace().join("deploy/slurm").join(script).display().to_string();
        let ended = cluster.user(&["env", "-u", "SLURM_JOB_ID", &path], &[]);
        assert!(ended.code() == Some(2) && ended.text.contains(says), "{script}: {}", ended.text);
    }
    let job = cluster.submit(&[], "sweep.sbatch", &[], &[]);
    assert_eq!(job.end(), "FAILED 2:0");
    job.says("no plan: sbatch --nodes 4 deploy/slurm/sweep.sbatch PLAN");
    let job = cluster.submit(&["--nodes", "1"], "serve_multi_batch.sh", &[], &[("SERVER", "magic")]);
    assert_eq!(job.end(), "FAILED 1:0");
    assert!(job.output("muster-serve").contains("SERVER must be openenv, refserver or command, not 'magic'"));
}

/// Source ports of the proxies' nodes are counted, so that a lack of them is not blamed on the servers.
#[test]
fn proxies_with_too_few_ports_are_found_before_they_are_started() {
    let cluster = Cluster::up(1, &[("PORT_RANGE", "n1=40000-40099")]);
    let job = cluster.submit(&["--nodes", "1"], "serve_multi_batch.sh", &[], &[]);
    assert_eq!(job.end(), "FAILED 1:0", "{}", job.output("muster-serve"));
    let text = job.output("muster-serve");
    assert!(
        text.contains("16,384 sessions need as many source ports, 1 address has 100 (100 towards each of 1 backend)"),
        "{text}"
    );
    assert!(text.contains("the proxies' nodes (n1) can't carry SESSIONS=16384"), "{text}");
    cluster.nothing_is_left_on(&["n1"]);
}

#[test]
fn agents_that_all_end_take_the_coordinator_along() {
    let cluster = Cluster::up(1, &[]);
    let agent = cluster.path("bin/agent");
    let text = "#!/bin/sh\n[ \"$1\" != --version ] || exec \"$(dirname \"$0\")/coordinator\" __agent --version\necho no luck today >&2\nexit 1\n";
    fs::write(&agent, text).expect("script");
    let plan = cluster.plan("plan.toml", "batch_sizes = [8]", "[target]\nurls = [\"http://127.0.0.1:1\"]");
    let job = cluster.submit(&["--nodes", "1"], "sweep.sbatch", &[&plan], &[("AGENTLESS_SECONDS_MAX", "1")]);
    assert_eq!(job.end(), "FAILED 130:0", "{}", job.output("muster-sweep"));
    job.says("all agents have ended; without others the coordinator is stopped in 1 s");
    let agents = fs::read_to_string(cluster.path("muster-sweep-1-agents.out")).expect("output");
    assert!(agents.contains("no luck today"), "{agents}");
}

/// A server's job that was submitted with little of its environment, which is the default at some sites.
#[test]
fn steps_get_what_the_job_has() {
    let cluster = Cluster::up(1, &[]);
    let connection = cluster.path("connection.toml");
    let bin = cluster.path("bin");
    let export = format!(
        "--export=MUSTER_BIN={},SERVER=refserver,WORKERS=1,CONNECTION_FILE={}",
        bin.display(),
        connection.display()
    );
    let job = cluster.submit(&[&export], "serve_single.sh", &[], &[]);
    job.until("the connection file", || connection.exists() || job.is_over());
    assert!(connection.exists(), "{}", job.output("muster-serve"));
    job.cancel();
    assert!(job.end().starts_with("CANCELLED"));
    cluster.nothing_is_left_on(&["n1"]);
}
