//! Images, compose and `run_docker.sh` on the real engine. Tests that need the engine are called `docker_...`.

mod engine;

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::support::{Results, coordinator, run, workspace};
use engine::{Images, Script, bounded, debian_with_packages, docker, inspect, left_of, need_engine, until};

/// A user who is neither root nor anyone else on the machine.
const NOBODY: &str = "65532:65532";

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address").port()
}

/// `deploy/docker/run.sh` with these images, as a compose project of its own.
fn run_sh(images: &Images, project: &str, plan: &Path, results: &Path) -> Script {
    let mut command = bounded(workspace().join("deploy/docker/run.sh"));
    command
        .arg(plan)
        .env("PREFIX", &images.prefix)
        .env("TAG", "t")
        .env("COMPOSE_PROJECT_NAME", project)
        .env("RESULTS", results)
        .env("RUN", "run");
    Script::start(command)
}

/// The containers of a service.
fn service(project: &str, name: &str) -> Vec<Value> {
    let of_project = format!("label=com.docker.compose.project={project}");
    let of_service = format!("label=com.docker.compose.service={name}");
    // One-off containers create the identity and are gone by now.
    let filters =
        ["--filter", &of_project, "--filter", &of_service, "--filter", "label=com.docker.compose.oneoff=False"];
    let ids = docker(&[&["ps", "--quiet"], &filters[..]].concat()).expect("listed");
    ids.lines().map(inspect).collect()
}

fn id(container: &Value) -> &str {
    container["Id"].as_str().expect("id")
}

fn address<'a>(container: &'a Value, network: &str) -> &'a str {
    container["NetworkSettings"]["Networks"][network]["IPAddress"].as_str().expect("address")
}

/// User and program of each process in a container.
fn users(container: &str) -> Vec<(String, String)> {
    let table = docker(&["top", container, "-eo", "pid,uid,comm"]).expect("its processes");
    let row = |line: &str| {
        let mut words = line.split_whitespace().skip(1).map(str::to_owned);
        Some((words.next()?, words.next()?))
    };
    let found: Vec<_> = table.lines().skip(1).filter_map(row).collect();
    assert!(!found.is_empty(), "{table}");
    found
}

/// The answer of `refserver health` for `place`, asked in the network of `container`.
fn asked_from(images: &Images, container: &Value, place: &str) -> Result<String, String> {
    let network = format!("container:{}", id(container));
    docker(&["run", "--rm", "--network", &network, &images.name("refserver"), "health", "--listen", place])
}

#[test]
fn docker_compose_runs_a_plan_apart_from_the_server_and_leaves_nothing() {
    need_engine();
    let dir = tempfile::tempdir().expect("dir");
    let images = Images::new("compose");
    images.build(&["coordinator", "agent", "refserver"], "unused");
    for name in ["coordinator", "agent", "refserver"] {
        let image = inspect(&images.name(name));
        assert_eq!(image["Config"]["User"], NOBODY);
        assert_eq!(image["Config"]["Healthcheck"]["Test"][2], "health", "{name}");
        // Debug builds without debug information: a base image alone would be larger.
        assert!(image["Size"].as_u64().is_some_and(|size| size < 60 << 20), "{name}: {}", image["Size"]);
    }

    // The smoke plan, made longer so that it can be inspected while it runs.
    let plan = dir.path().join("plan.toml");
    let smoke = std::fs::read_to_string(workspace().join("experiments/plans/smoke/local-docker.toml")).expect("plan");
    let longer = smoke.replace("[32, 128, 512]", "[32, 128]").replace("repetitions = 2", "repetitions = 6");
    assert_ne!(longer, smoke);
    std::fs::write(&plan, longer).expect("plan");
    let results = dir.path().join("results");
    let project = images.prefix.clone();
    let mut compose = run_sh(&images, &project, &plan, &results);
    compose.line_with("3 of 3 ready");
    let servers = service(&project, "server");
    let agents = service(&project, "agent");
    let coordinators = service(&project, "coordinator");
    assert_eq!((servers.len(), agents.len(), coordinators.len()), (1, 3, 1));
    for container in [&servers, &agents, &coordinators].into_iter().flatten() {
        assert_eq!(container["Config"]["User"], NOBODY);
        assert!(users(id(container)).iter().all(|(uid, _)| uid == "65532"), "{:?}", users(id(container)));
        until("healthy", || (inspect(id(container))["State"]["Health"]["Status"] == "healthy").then_some(()));
    }
    let mounted = |container: &Value| -> BTreeSet<String> {
        let mounts = container["Mounts"].as_array().expect("mounts");
        mounts.iter().map(|mount| mount["Destination"].as_str().expect("destination").to_owned()).collect()
    };
    for agent in &agents {
        assert_eq!(mounted(agent), BTreeSet::from(["/muster/agents".to_owned()]), "no key of the authority");
    }

    // The same query from both networks.
    let load = format!("{project}_load");
    let server = format!("{}:8000", address(&servers[0], &load));
    let from_agent = asked_from(&images, &agents[0], &server);
    assert!(from_agent.as_ref().is_ok_and(|said| said.contains("says healthy")), "{from_agent:?}");
    let from_control = asked_from(&images, &coordinators[0], &server).expect_err("the server is on another network");
    assert!(["unreachable", "timed out"].iter().any(|why| from_control.contains(why)), "{from_control}");
    let door = format!("{}:50051", address(&coordinators[0], &format!("{project}_control")));
    let from_server = asked_from(&images, &servers[0], &door).expect_err("so is the coordinator");
    assert!(["unreachable", "timed out"].iter().any(|why| from_server.contains(why)), "{from_server}");
    // A health check must be able to fail: in this network no coordinator listens.
    let network = format!("container:{}", id(&servers[0]));
    let vain = docker(&["run", "--rm", "--network", &network, &images.name("coordinator"), "health"]);
    assert!(vain.is_err_and(|said| said.contains("nothing listens on port 50051")));

    let ended = compose.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    let out = Results::of(&results.join("run"));
    out.check_with_python();
    let summary = out.summary();
    assert_eq!(summary.len(), 12, "2 sizes, six times");
    for row in &summary {
        assert_eq!(
            (&row["successful"], row["agents"].as_str()),
            (&row["num_requests"], "3"),
            "{row:?}\n{}",
            ended.text
        );
    }
    let planned: usize = summary.iter().map(|row| row["num_requests"].parse::<usize>().expect("number")).sum();
    let raw = out.raw();
    assert_eq!(raw.len(), planned, "a record for every session");
    let took_part: BTreeSet<&str> = raw.iter().filter_map(|row| row["agent"].as_str()).collect();
    assert_eq!(took_part.len(), 3, "{took_part:?}");
    assert_eq!(left_of(&project), Vec::<String>::new());

    // If it is stopped during a run, the coordinator keeps finished batches, and nothing is left either.
    let mut again = run_sh(&images, &project, &plan, &dir.path().join("stopped"));
    again.line_with("1/6");
    let ended = again.terminate();
    assert_eq!(ended.code(), Some(143), "{}", ended.text);
    assert_eq!(left_of(&project), Vec::<String>::new());
    let kept = Results::of(&dir.path().join("stopped/run"));
    assert!(!kept.summary().is_empty(), "{}", ended.text);
    drop(images);
    assert_eq!(Images { prefix: project }.list(), Vec::<String>::new());
}

#[test]
fn docker_runs_the_openenv_server_and_removes_it() {
    need_engine();
    let dir = tempfile::tempdir().expect("dir");
    let images = Images::new("openenv");
    let base = debian_with_packages(&images);
    let (port, connection) = (free_port(), dir.path().join("connection.toml"));
    let name = format!("{}-server", images.prefix);
    let script = |port: u16| {
        let mut command = bounded(workspace().join("deploy/local/run_docker.sh"));
        command
            .env("IMAGE", images.name("openenv"))
            .env("BASE", &base)
            .env("NAME", &name)
            .env("WORKERS", "2")
            .env("MAX_CONCURRENT_ENVS", "512")
            .env("PORT", port.to_string())
            .env("CONNECTION_FILE", &connection);
        command
    };
    let mut server = Script::start(script(port));
    server.line_with("connection.toml");
    assert!(connection.exists(), "the script names its connection file once it is there");
    let container = inspect(&name);
    let serving: Vec<_> = users(&name).into_iter().filter(|(_, program)| program.starts_with("python")).collect();
    assert!(serving.len() >= 3 && serving.iter().all(|(uid, _)| uid == "1000"), "{serving:?}");
    let healthy = || docker(&["exec", &name, "python", "healthcheck.py"]);
    assert_eq!(healthy(), Ok(String::new()));
    let published = &container["NetworkSettings"]["Ports"][format!("{port}/tcp")][0];
    assert_eq!((&published["HostIp"], &published["HostPort"]), (&"127.0.0.1".into(), &port.to_string().into()));

    // A second server is refused, and does not affect the first.
    let ended = run(script(port));
    assert_eq!(ended.code(), Some(1), "{}", ended.text);
    assert!(ended.text.contains(&format!("there is a container {name} already")), "{}", ended.text);

    let out = dir.path().join("out");
    let mut command = coordinator();
    command
        .args(["run", "experiments/plans/smoke/local-docker.toml", "--reps", "1", "--set"])
        .arg(format!("server.connection={}", connection.display()))
        .arg("--output")
        .arg(&out)
        .current_dir(workspace());
    let ended = run(command);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    let results = Results::of(&out);
    results.check_with_python();
    let summary = results.summary();
    assert_eq!(summary.len(), 3, "3 sizes");
    for row in &summary {
        assert_eq!(row["successful"], row["num_requests"], "{row:?}\n{}", ended.text);
    }
    assert!(summary.iter().any(|row| row["unique_pids"] == "2"), "both workers");
    let host = container["Config"]["Hostname"].as_str().expect("host name");
    assert!(results.raw().iter().all(|row| row["host_url"] == format!("{host}:{port}")), "the container answered");
    let facts = &results.run_json()["plan"]["server"];
    assert_eq!((facts["workers"].as_u64(), facts["backends"][0].as_str()), (Some(2), Some(host)));

    // With one worker missing the check fails, whichever worker answers /health.
    docker(&["exec", &name, "sh", "-c", "rm \"$(ls -d /tmp/openenv-ready/* | head -n 1)\""]).expect("removed");
    let one = healthy().expect_err("a worker is missing");
    assert!(one.contains("1 of 2 workers serve"), "{one}");

    let ended = server.terminate();
    assert_eq!(ended.code(), Some(143), "{}", ended.text);
    assert!(docker(&["container", "inspect", &name]).is_err(), "the container is gone");
    assert!(!connection.exists());
}

#[test]
fn docker_scripts_refuse_what_cannot_be() {
    need_engine();
    let refused = |script: &str, arguments: &[&str], variables: &[(&str, &str)], said: &str| {
        let mut command = bounded(workspace().join(script));
        command.args(arguments).envs(variables.iter().copied());
        let ended = run(command);
        assert_ne!(ended.code(), Some(0), "{script} {arguments:?} {variables:?}");
        assert!(ended.text.contains(said), "{said:?} in:\n{}", ended.text);
    };
    let (build, run_sh, local) = ("deploy/docker/build.sh", "deploy/docker/run.sh", "deploy/local/run_docker.sh");
    refused(build, &["agnet"], &[], "unknown image 'agnet'; there are coordinator, agent, refserver and openenv");
    refused(build, &["agent"], &[("BASE", "a base")], "BASE must be the name of an image, not 'a base'");
    refused(run_sh, &["no-such-plan.toml"], &[], "there is no plan no-such-plan.toml");
    refused(
        run_sh,
        &[],
        &[("PREFIX", "muster-test-none")],
        "there is no image muster-test-none/coordinator:latest; make it",
    );
    refused(run_sh, &[], &[("SERVER", "apache")], "SERVER must be refserver or openenv, not 'apache'");
    refused(local, &["--port", "1"], &[], "unknown argument '--port'; settings are environment variables");
    refused(local, &[], &[("WORKERS", "0")], "WORKERS must be a positive whole number, not '0'");
    refused(local, &[], &[("IMAGE", "something")], "IMAGE must be PREFIX/openenv:TAG");
    refused(local, &[], &[("REACH", "far")], "REACH must be published or address, not 'far'");
}
