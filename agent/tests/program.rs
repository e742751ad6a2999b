//! The program as a user or a scheduler runs it: what ends it, and with which exit code.

use std::process::{Output, Stdio};

use proto::message::RefusedWhy;
use proto::{FromAgent, FromCoordinator, RunId};
use tokio::process::{Child, Command};

#[expect(dead_code, reason = "each test file needs a part of it")]
mod support;

use support::coordinator::Coordinator;
use support::{bounded, nobody};

/// What a coordinator without TLS needs.
const PLAIN: [&str; 3] = ["--insecure-plaintext", "--allow-target", "127.0.0.0/8"];

fn agent(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agent"));
    command.args(arguments).env_remove("MUSTER_LOG").kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

async fn run(arguments: &[&str]) -> (Option<i32>, String) {
    said(&agent(arguments).output().await.expect("the program starts"))
}

fn said(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

async fn ended(child: Child) -> (Option<i32>, String) {
    said(&child.wait_with_output().await.expect("the program ends"))
}

async fn terminate(child: &Child) {
    let pid = child.id().expect("the program runs").to_string();
    let sent = Command::new("sh").args(["-c", r#"kill -TERM "$0""#, &pid]).status().await.expect("sh");
    assert!(sent.success());
}

#[test]
fn no_coordinator_is_11() {
    bounded(async {
        let (address, _held) = nobody();
        let address = address.to_string();
        let (code, said) =
            run(&[&["--coordinator", &address, "--reconnect-for", "1"], PLAIN.as_slice()].concat()).await;
        assert_eq!(code, Some(11), "{said}");
        assert!(said.contains(&address) && said.contains("--reconnect-for"), "{said}");
    });
}

#[test]
fn flags_that_make_no_sense_are_2_and_name_themselves() {
    bounded(async {
        for (flags, named) in [
            (vec!["--coordinator", "nonsense"], "HOST:PORT"),
            (vec!["--coordinator", "h:99999"], "HOST:PORT"),
            (vec![], "--coordinator"),
            (vec!["--coordinator", "10.0.0.1:1", "--insecure-plaintext"], "--allow-target"),
            (vec!["--coordinator", "127.0.0.1:1", "--insecure-plaintext"], "--allow-target"),
            (vec!["--coordinator", "h:1", "--insecure-plaintext", "--identity", "d"], "--identity"),
            (vec!["--coordinator", "127.0.0.1:1", "--allow-target", "a b"], "--allow-target"),
            (vec!["--coordinator", "127.0.0.1:1", "--threads", "0"], "--threads"),
            (vec!["--coordinator", "127.0.0.1:1", "--reconnect-for", "soon"], "--reconnect-for"),
            (vec!["--coordinator", "127.0.0.1:1", "--source-ip", "here"], "--source-ip"),
            // TEST-NET-1: no machine has it. Every session would fail for want of an address of this machine.
            (vec!["--coordinator", "127.0.0.1:1", "--source-ip", "192.0.2.1"], "--source-ip 192.0.2.1: no address"),
            (vec!["--coordinator", "127.0.0.1:1", "--name", "a b"], "--name"),
            (vec!["--coordinator", "127.0.0.1:1", "--frobnicate"], "--frobnicate"),
        ] {
            let (code, said) = run(&flags).await;
            assert_eq!(code, Some(2), "{flags:?}: {said}");
            assert!(said.contains(named), "{flags:?}: {said}");
        }
    });
}

#[test]
fn help_and_version_are_no_failure() {
    bounded(async {
        for flag in ["--help", "--version"] {
            let output = agent(&[flag]).output().await.expect("the program starts");
            assert_eq!(output.status.code(), Some(0));
            assert!(!output.stdout.is_empty() && output.stderr.is_empty());
        }
    });
}

#[test]
fn another_version_is_12_and_dismissal_is_0() {
    bounded(async {
        let mut coordinator = Coordinator::start();
        let address = coordinator.address.to_string();
        let child =
            agent(&[&["--coordinator", &address], PLAIN.as_slice()].concat()).spawn().expect("the program starts");
        let _visit = coordinator.refuse(RefusedWhy::Version, "this coordinator is 9.9.9").await;
        let (code, said) = ended(child).await;
        assert_eq!(code, Some(12), "{said}");
        assert!(said.contains("this coordinator is 9.9.9"), "{said}");

        let child = agent(&[&["--coordinator", &address, "--name", "n1"], PLAIN.as_slice()].concat())
            .spawn()
            .expect("the program starts");
        let (visit, _) = coordinator.welcome(RunId::random()).await;
        visit.say(FromCoordinator::Dismiss("the run is over".to_owned())).await;
        let (code, said) = ended(child).await;
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("n1") && said.contains("the run is over"), "{said}");
    });
}

#[test]
fn it_ends_with_its_standard_input_if_asked_to() {
    bounded(async {
        let mut coordinator = Coordinator::start();
        let address = coordinator.address.to_string();
        let mut command = agent(&[&["--coordinator", &address, "--exit-with-stdin"], PLAIN.as_slice()].concat());
        let mut child = command.stdin(Stdio::piped()).spawn().expect("the program starts");
        let (_visit, _) = coordinator.welcome(RunId::random()).await;
        // Alive for as long as the pipe is: signs of life come after the welcome.
        coordinator.beat().await;
        drop(child.stdin.take());
        let (code, said) = ended(child).await;
        assert_eq!(code, Some(11), "{said}");
    });
}

#[test]
fn sigterm_is_130() {
    bounded(async {
        let mut coordinator = Coordinator::start();
        let address = coordinator.address.to_string();
        let child =
            agent(&[&["--coordinator", &address], PLAIN.as_slice()].concat()).spawn().expect("the program starts");
        let (mut visit, _) = coordinator.welcome(RunId::random()).await;
        terminate(&child).await;
        let Some(FromAgent::Goodbye(reason)) = visit.hear().await else { panic!("no goodbye") };
        assert!(reason.contains("signal"), "{reason}");
        let (code, said) = ended(child).await;
        assert_eq!(code, Some(130), "{said}");
    });
}

#[test]
fn sigterm_ends_it_while_it_waits_to_be_greeted() {
    bounded(async {
        let mut coordinator = Coordinator::start();
        let address = coordinator.address.to_string();
        let child =
            agent(&[&["--coordinator", &address], PLAIN.as_slice()].concat()).spawn().expect("the program starts");
        let mut visit = coordinator.visit().await;
        assert!(matches!(visit.hear().await, Some(FromAgent::Hello(_))));
        terminate(&child).await;
        assert!(
            matches!(visit.hear().await, Some(FromAgent::Goodbye(_))),
            "a goodbye, for a welcome may be on its way"
        );
        // It gives up waiting for the greeting after ten seconds by itself and would greet again.
        let (code, said) = ended(child).await;
        assert_eq!(code, Some(130), "{said}");
        assert!(!said.contains("no answer to the greeting"), "{said}");
    });
}
