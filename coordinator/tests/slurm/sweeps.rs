//! Sweeps without disturbances.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use crate::cluster::{Cluster, all_succeeded, programs};
use crate::support::{Results, run, workspace};

fn addresses(results: &Results) -> BTreeSet<String> {
    let run = results.run_json();
    let agents = run["agents"].as_object().expect("agents");
    agents.values().map(|agent| agent["address"].as_str().expect("address").to_owned()).collect()
}

/// The whole deployment with one command: servers on two nodes behind two proxies, agents on four other nodes.
#[test]
fn sixteen_thousand_sessions_from_four_nodes_on_two_behind_a_balancer() {
    let cluster = Cluster::up(6, &[]);
    let plan = cluster.plan(
        "plan.toml",
        "batch_sizes = [512, 16384]\nwait_seconds = [10.0]\nrepetitions = 1",
        "[target]\nexpected_hosts = 2\nrequire_hosts = true\n[session]\nlaunch = { kind = \"ramp\", over_seconds = 5.0 }",
    );
    let script = workspace().join("deploy/slurm/serve_and_sweep.sh").display().to_string();
    let ended = cluster.user(&[&script, &plan], &[]);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    assert!(ended.text.contains("job 2: COMPLETED"), "{}", ended.text);

    let results = cluster.results();
    all_succeeded(&results, 2, &ended.text);
    let summary = results.summary();
    assert_eq!(summary[1]["num_requests"], "16384");
    assert_eq!(summary[1]["agents"], "4");
    assert_eq!(summary[1]["open_max"], "16384", "all of them at one time");
    for row in &summary {
        assert_eq!(row["unique_hosts"], "2", "{row:?}");
    }
    let hosts = results.run_json()["batches"][1]["summary"]["hosts"].clone();
    for sessions in hosts.as_object().expect("hosts").values() {
        assert!((7_000..=9_400).contains(&sessions.as_u64().expect("count")), "both nodes carry about half: {hosts}");
    }
    results.check_with_python();

    let run = results.run_json();
    let server = &run["plan"]["server"];
    assert_eq!((server["balancer"].as_str(), server["nodes"].as_u64()), (Some("haproxy"), Some(2)));
    assert_eq!(run["urls"].as_array().map(Vec::len), Some(2), "two proxies: one has too few descriptors");
    assert_eq!(run["plan"]["experiment"]["cores"].as_u64(), Some(8), "of the nodes that serve");
    assert_eq!(addresses(&results).len(), 4, "{:?}", addresses(&results));
    let names: Vec<&String> = run["agents"].as_object().expect("agents").keys().collect();
    assert_eq!(names, ["n3-0", "n4-1", "n5-2", "n6-3"], "node and rank");

    // The command ended the server's job, which removed its connection file.
    cluster.nothing_is_left_on(&["n1", "n2", "n3", "n4", "n5", "n6"]);
    assert!(!ended.text.contains(" INFO "), "what agents say has a file of its own");
    let left: Vec<String> = fs::read_dir(cluster.path("."))
        .expect("folder")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Servers and agents are the two components of one job, with two agents per node.
#[test]
fn a_heterogeneous_job_keeps_load_and_servers_apart() {
    let cluster = Cluster::up(4, &[]);
    let plan = cluster.plan("plan.toml", "batch_sizes = [256]\nrepetitions = 2", "");
    let flags = ["--nodes", "2", ":", "--nodes", "2"];
    let connection = cluster.path("het.toml").display().to_string();
    let settings = [("AGENTS_PER_NODE", "2"), ("CONNECTION_FILE", connection.as_str())];
    let job = cluster.submit(&flags, "sweep_het.sbatch", &[&plan], &settings);
    let text = || job.output("muster-sweep");
    assert_eq!(job.end(), "COMPLETED 0:0", "{}", text());
    let results = cluster.results();
    all_succeeded(&results, 2, &text());
    let run = results.run_json();
    let agents = run["agents"].as_object().expect("agents");
    assert_eq!(agents.keys().collect::<Vec<_>>(), ["n1-0", "n1-1", "n2-2", "n2-3"]);
    for agent in agents.values() {
        assert_eq!(agent["capacity"]["threads"], 2, "half of a node's four processors: SLURM_CPUS_PER_TASK");
    }
    assert_eq!(addresses(&results).len(), 2);
    let hosts = run["batches"][0]["summary"]["hosts"].clone();
    let hosts: Vec<&str> = hosts.as_object().expect("hosts").keys().filter_map(|host| host.split(':').next()).collect();
    assert_eq!(hosts, ["n3", "n4"], "no node of the agents serves");
    cluster.nothing_is_left_on(&["n1", "n2", "n3", "n4"]);
    assert!(!fs::exists(&connection).expect("looked"), "it goes with the server");
}

/// Several urls without a balancer: sessions go round robin over the servers themselves.
#[test]
fn several_servers_need_no_balancer() {
    let cluster = Cluster::up(3, &[]);
    let plan = cluster.plan("plan.toml", "batch_sizes = [64]\nrepetitions = 1", "[target]\nexpected_hosts = 2");
    let server = cluster.serve(&["--nodes", "2"], &[("BALANCER", "none")]);
    let job = cluster.submit(&["--nodes", "1"], "sweep.sbatch", &[&plan], &[]);
    assert_eq!(job.end(), "COMPLETED 0:0", "{}", job.output("muster-sweep"));
    let results = cluster.results();
    all_succeeded(&results, 1, "");
    assert_eq!(results.summary()[0]["unique_hosts"], "2");
    assert_eq!(results.run_json()["urls"].as_array().map(Vec::len), Some(2));
    server.cancel();
    assert!(server.end().starts_with("CANCELLED"), "{}", server.end());
    cluster.nothing_is_left_on(&["n1", "n2", "n3"]);
    assert!(!cluster.path("connection.toml").exists());
}

/// The plan of slurm-single with the real server.
#[test]
fn openenv_core_on_one_node() {
    let cluster = Cluster::up(2, &[]);
    let script = workspace().join("deploy/slurm/serve_and_sweep.sh").display().to_string();
    let plan = workspace().join("experiments/plans/smoke/slurm-single.toml").display().to_string();
    let out = cluster.path("out").display().to_string();
    let words = [&script, "--server-nodes", "1", "--agent-nodes", "1", &plan, "--output", &out];
    let ended = cluster.user(&words, &[("SERVER", "openenv"), ("WORKERS", "2")]);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    let results = cluster.results();
    let summary = results.summary();
    all_succeeded(&results, summary.len(), &ended.text);
    for row in &summary {
        assert_eq!((row["unique_hosts"].as_str(), row["unique_pids"].as_str()), ("1", "2"), "{row:?}");
    }
    let run = results.run_json();
    assert_eq!(run["plan"]["experiment"]["infrastructure"], "slurm-single");
    assert_eq!(run["plan"]["server"]["start_command"], "sbatch deploy/slurm/serve_single.sh");
    cluster.nothing_is_left_on(&["n1", "n2"]);
}

/// Jobs of a user who is not root, from a copy of the repository that is read-only for this user.
#[test]
fn a_user_without_privileges() {
    let cluster = Cluster::up(2, &[]);
    let home = cluster.path("home");
    for part in ["deploy/slurm", "deploy/local", "deploy/common.sh", "deploy/write_connection.sh"] {
        let to = home.join("muster").join(part);
        fs::create_dir_all(to.parent().expect("parent")).expect("folder");
        assert!(run(command(&["cp", "-r", &path_of(part), &to.display().to_string()])).status.success());
    }
    // The program may also lie where only root can read it.
    let program = home.join("coordinator");
    fs::copy(env!("CARGO_BIN_EXE_coordinator"), &program).expect("copied");
    let bin = home.join("bin");
    programs(&bin, &program);
    fs::write(
        home.join("plan.toml"),
        "[experiment]\ninfrastructure = \"slurm-single\"\n[server]\nconnection = \"c.toml\"\n[grid]\nbatch_sizes = [64]\nrepetitions = 1\n",
    )
    .expect("plan");
    assert!(run(command(&["chown", "-R", "nobody:nogroup", &home.display().to_string()])).status.success());
    // A shared copy that no user can write.
    assert!(run(command(&["chown", "-R", "root:root", &home.join("muster").display().to_string()])).status.success());
    let script = home.join("muster/deploy/slurm/serve_and_sweep.sh").display().to_string();
    let words =
        ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "env", "-C", &home.display().to_string()]
            .map(str::to_owned);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let flags = [script.as_str(), "--server-nodes", "1", "--agent-nodes", "1", "plan.toml"];
    let config = home.join("config").display().to_string();
    let bin = bin.display().to_string();
    let home_text = home.display().to_string();
    let settings = [("MUSTER_BIN", bin.as_str()), ("XDG_CONFIG_HOME", &config), ("HOME", &home_text)];
    let ended = cluster.user(&[&words[..], &flags].concat(), &settings);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    let results: Vec<_> = fs::read_dir(home.join("experiments/results/slurm-single")).expect("results").collect();
    assert_eq!(results.len(), 1);
    let results = Results::of(&results[0].as_ref().expect("folder").path());
    all_succeeded(&results, 1, &ended.text);
    cluster.nothing_is_left_on(&["n1", "n2"]);
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command
}

fn path_of(name: &str) -> String {
    workspace().join(name).display().to_string()
}

/// The command that the coordinator prints, run in a job that started nothing else.
#[test]
fn the_srun_line_starts_the_agents() {
    let cluster = Cluster::up(3, &[]);
    let _server = cluster.serve(&["--nodes", "1"], &[("BALANCER", "none")]);
    let plan = cluster.plan("plan.toml", "batch_sizes = [64]\nrepetitions = 1", "");
    let script = format!(
        "#!/bin/bash\nset -e\n{0}/coordinator run {plan} --agents 4 >coordinator.out 2>&1 &\n\
         until grep -q 'start them with: ' coordinator.out; do sleep 0.1; done\n\
         export PATH={0}:$PATH\neval \"$(sed -n 's/.*start them with: //p' coordinator.out)\"\nwait %1\n",
        cluster.path("bin").display()
    );
    fs::write(cluster.path("by-hand.sh"), script).expect("script");
    let path = cluster.path("by-hand.sh").display().to_string();
    let ended = cluster.user(&["sbatch", "--wait", "--nodes=2", "--exclusive", "--output=by-hand.out", &path], &[]);
    let text = fs::read_to_string(cluster.path("coordinator.out")).expect("output");
    assert_eq!(
        ended.code(),
        Some(0),
        "{text}\n{}",
        fs::read_to_string(cluster.path("by-hand.out")).unwrap_or_default()
    );
    assert!(
        text.contains("start them with: srun --overlap --nodes=2 --ntasks=4 --ntasks-per-node=2 --cpus-per-task=2 "),
        "{text}"
    );
    assert!(text.contains("agent --coordinator n2:50051"), "by SLURM's name of the node: {text}");
    let results = cluster.results();
    all_succeeded(&results, 1, &text);
    assert_eq!(results.summary()[0]["agents"], "4");
    cluster.nothing_is_left_on(&["n2", "n3"]);
}

/// One node that runs proxies on two addresses, each with source ports of its own.
#[test]
fn proxies_on_several_addresses_of_a_node() {
    let cluster = Cluster::up(2, &[]);
    let (first, second) = (cluster.address(1), cluster.address(101));
    cluster.fault(&["on", "n1", "ip", "addr", "add", &format!("{second}/24"), "dev", "eth0"]);
    let nodes = format!("n1={first},{second}");
    let _server = cluster.serve(&["--nodes", "1"], &[("PROXY_NODES", &nodes)]);
    let plan = cluster.plan("plan.toml", "batch_sizes = [64]\nrepetitions = 1", "");
    let job = cluster.submit(&["--nodes", "1"], "sweep.sbatch", &[&plan], &[]);
    assert_eq!(job.end(), "COMPLETED 0:0", "{}", job.output("muster-sweep"));
    let results = cluster.results();
    all_succeeded(&results, 1, "");
    let urls = results.run_json()["urls"].clone();
    let starts =
        |n: usize, address: &str| urls[n].as_str().is_some_and(|url| url.starts_with(&format!("http://{address}:")));
    assert!(starts(0, &first) && starts(1, &second), "{urls}");
}
