//! Wrong input is reported in one place, with the right exit code, and leaves nothing unfinished behind.

use std::net::TcpListener;

use crate::support::{Process, Server, coordinator, run};

/// Exit code and text of a `run` with these flags, into a fresh folder.
fn refused(flags: &[&str]) -> (Option<i32>, String) {
    let dir = tempfile::tempdir().expect("dir");
    let mut command = coordinator();
    command.arg("run").args(flags);
    if !flags.contains(&"--output") {
        command.arg("--output").arg(dir.path().join("out"));
    }
    let ended = run(command);
    (ended.code(), ended.text)
}

#[test]
fn a_target_that_is_no_openenv_server_is_named_with_the_reason() {
    let html = Server::start(&["--not-openenv"]);
    let missing = Server::start(&["--refuse-upgrade", "404"]);
    let upgrade = Server::start(&["--refuse-upgrade", "426"]);
    let free = TcpListener::bind("127.0.0.1:0").expect("port");
    let nobody = format!("http://{}", free.local_addr().expect("address"));
    drop(free);
    let tls = html.url.replace("http", "https");
    for (url, mode, why) in [
        (nobody.as_str(), "ws", "nothing listens on 127.0.0.1:"),
        ("http://no-such-host.invalid", "ws", "does not resolve"),
        (tls.as_str(), "ws", "is the scheme right"),
        (html.url.as_str(), "ws", "upgrade_refused(200)"),
        (html.url.as_str(), "http", "does not look like an OpenEnv server"),
        (missing.url.as_str(), "ws", "upgrade_refused(404)"),
        (upgrade.url.as_str(), "ws", "upgrade_refused(426)"),
    ] {
        let (code, text) = refused(&[
            "--target",
            url,
            "--mode",
            mode,
            "--batch-sizes",
            "4",
            "--local",
            "2",
            "--set",
            "target.ready_timeout_seconds=1",
        ]);
        assert_eq!(code, Some(4), "{url}: {text}");
        for part in ["the target is not ready", why, "from agent local-1", "from agent local-2", url] {
            assert!(text.contains(part), "{part:?} for {url} in:\n{text}");
        }
    }
}

#[test]
fn one_url_of_several_that_does_not_answer_is_the_one_that_is_named() {
    let good = Server::start(&[]);
    let (code, text) = refused(&[
        "--target",
        &good.url,
        "--target",
        "http://127.0.0.1:1",
        "--batch-sizes",
        "4",
        "--local",
        "1",
        "--set",
        "target.ready_timeout_seconds=0.5",
    ]);
    assert_eq!(code, Some(4));
    let report = text.split("the target is not ready").nth(1).expect("report");
    assert!(report.contains("http://127.0.0.1:1 ") && !report.contains(&good.url), "{text}");
}

#[test]
fn usage_and_plan_faults_come_before_anything_is_bound_or_written() {
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let plan = dir.path().join("plan.toml");
    std::fs::write(&plan, "[target]\nurls = [\"http://127.0.0.1:1\"]\n[grid]\nbatch_sizes = [0]\nbatch_sizes = [0]\n")
        .expect("written");
    let plan = plan.to_str().expect("path");
    let url = "http://127.0.0.1:1";
    for (flags, code, part) in [
        (vec![], 2, "no plan"),
        (vec!["no-such-plan.toml"], 3, "no-such-plan.toml: No such file"),
        (vec![plan], 3, "plan.toml:5:1: duplicate key"),
        (vec!["--target", url, "--batch-sizes", "0"], 3, "--batch-sizes: grid.batch_sizes[0]: 0 sessions"),
        (vec!["--target", url, "--batch-sizes", "x"], 2, "invalid value 'x'"),
        (vec!["--target", url, "--batch-sizes", "4", "--wait", "1e12"], 3, "--wait: grid.wait_seconds[0]"),
        (vec!["--target", url, "--batch-sizes", "4", "--wait=-1"], 3, "-1 seconds; give 0 to 86400"),
        (
            vec!["--target", url, "--batch-sizes", "4", "--set", "experiment.infrastructure=../x"],
            3,
            "becomes a folder's name",
        ),
        (
            vec!["--target", url, "--batch-sizes", "4", "--insecure-plaintext", "--identity", "d"],
            2,
            "cannot be used with",
        ),
        (vec!["--target", url, "--batch-sizes", "4", "--local", "1", "--ui"], 2, "not supported yet"),
    ] {
        let mut all = flags.clone();
        all.extend(["--output", out.to_str().expect("path")]);
        let (got, text) = refused(&all);
        assert_eq!(got, Some(code), "{flags:?}: {text}");
        assert!(text.contains(part), "{part:?} for {flags:?} in:\n{text}");
        assert!(!text.contains("panicked"), "{text}");
        assert!(!out.exists(), "{flags:?} left a folder");
    }
}

#[test]
fn a_port_in_use_and_a_folder_that_can_not_be_written_are_named() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("port");
    let address = taken.local_addr().expect("address").to_string();
    let url = "http://127.0.0.1:1";
    let (code, text) = refused(&["--target", url, "--batch-sizes", "4", "--agents", "1", "--listen", &address]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains(&format!("--listen {address}: Address already in use")), "{text}");

    let (code, text) = refused(&["--target", url, "--batch-sizes", "4", "--local", "1", "--output", "/proc/results"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("/proc/results can't be created") && text.contains("--output"), "{text}");
}

#[test]
fn too_few_agents_are_listed() {
    let (code, text) = refused(&[
        "--target",
        "http://127.0.0.1:1",
        "--batch-sizes",
        "4",
        "--local",
        "1",
        "--agents",
        "3",
        "--listen",
        "127.0.0.1:0",
        "--set",
        "agents.ready_timeout_seconds=2",
    ]);
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains("1 of 3 agents came within 2 s: local-1;"), "{text}");
}

#[test]
fn a_dry_run_shows_the_grid_and_runs_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let mut command = coordinator();
    command
        .args([
            "run",
            "--target",
            "http://127.0.0.1:1",
            "--batch-sizes",
            "16384",
            "--local",
            "2",
            "--dry-run",
            "--output",
        ])
        .arg(&out);
    let ended = run(command);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    for part in
        ["16,384 ephemeral ports", "agents     2, started by the coordinator; about 8,192 sessions each", "rep 3/3"]
    {
        assert!(ended.text.contains(part), "{part} in:\n{}", ended.text);
    }
    assert!(!out.exists());
}

#[test]
fn a_target_that_comes_up_late_is_waited_for() {
    let free = TcpListener::bind("127.0.0.1:0").expect("port");
    let address = free.local_addr().expect("address").to_string();
    drop(free);
    let dir = tempfile::tempdir().expect("dir");
    let mut command = coordinator();
    command
        .args(["run", "--target", &format!("http://{address}"), "--batch-sizes", "2", "--wait", "0", "--reps", "1"])
        .args(["--local", "1", "--output"])
        .arg(dir.path().join("out"));
    let mut waiting = Process::start(command);
    waiting.line_with("target not ready yet");
    let server = Server::start(&["--listen", &address]);
    assert_eq!(server.address(), address);
    let ended = waiting.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
}
