//! Three simulated machines per test: network namespaces with their own addresses, port ranges and settings.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::support::{Process, config_home, run};

/// The ephemeral ports of each agent's namespace.
const PORTS: &str = "40000 49999";

/// Three namespaces: `s` with server and coordinator, `a` and `b` with one agent each. Dropping this removes them.
pub(crate) struct Lab {
    id: String,
}

impl Lab {
    pub(crate) fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let lab = Self { id: format!("m{}x{made}", std::process::id()) };
        let s = lab.name("s");
        ip(&["netns", "add", &s]);
        lab.inside("s", &["ip", "link", "set", "lo", "up"]);
        lab.inside("s", &["ip", "addr", "add", "10.97.0.1/32", "dev", "lo"]);
        for (n, agent) in [(1, "a"), (2, "b")] {
            let name = lab.name(agent);
            let (here, there) = (format!("{s}{agent}"), format!("{name}v"));
            ip(&["netns", "add", &name]);
            ip(&["link", "add", &here, "netns", &s, "type", "veth", "peer", "name", &there, "netns", &name]);
            lab.inside("s", &["ip", "addr", "add", &format!("10.97.{n}.1/30"), "dev", &here]);
            lab.inside("s", &["ip", "link", "set", &here, "up"]);
            lab.inside(agent, &["ip", "addr", "add", &format!("10.97.{n}.2/30"), "dev", &there]);
            lab.inside(agent, &["ip", "link", "set", &there, "up"]);
            lab.inside(agent, &["ip", "link", "set", "lo", "up"]);
            lab.inside(agent, &["ip", "route", "add", "default", "via", &format!("10.97.{n}.1")]);
            lab.inside(agent, &["sysctl", "-qw", &format!("net.ipv4.ip_local_port_range={PORTS}")]);
        }
        lab
    }

    pub(crate) fn name(&self, host: &str) -> String {
        format!("{}{host}", self.id)
    }

    pub(crate) fn command(&self, host: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.env("XDG_CONFIG_HOME", config_home());
        command.args(["netns", "exec", &self.name(host), program]);
        command
    }

    pub(crate) fn inside(&self, host: &str, words: &[&str]) {
        let ended = run({
            let mut command = self.command(host, words[0]);
            command.args(&words[1..]);
            command
        });
        assert!(ended.status.success(), "{words:?} in {host}: {}", ended.text);
    }

    /// Runs a Python program in a namespace to its end.
    pub(crate) fn python(&self, host: &str, program: &str) -> String {
        let mut command = self.command(host, "python3");
        command.args(["-c", program]);
        let ended = run(command);
        assert!(ended.status.success(), "python in {host}: {}", ended.text);
        ended.text
    }

    /// Starts a Python program in a namespace that runs until its standard input ends.
    pub(crate) fn python_beside(&self, host: &str, program: &str) -> Process {
        let mut command = self.command(host, "python3");
        command.args(["-u", "-c", program]).stdin(Stdio::piped());
        Process::start(command)
    }

    /// Starts this program in one of its roles.
    pub(crate) fn muster(&self, host: &str, words: &[&str]) -> Process {
        let mut command = self.command(host, env!("CARGO_BIN_EXE_coordinator"));
        command.args(words).stdin(if words[0].starts_with("__") { Stdio::piped() } else { Stdio::null() });
        Process::start(command)
    }

    pub(crate) fn agent(&self, host: &str) -> Process {
        let flags = ["--name", host, "--allow-target", "10.97.0.0/16"];
        self.muster(host, &[&["__agent", "--exit-with-stdin", "--coordinator", "10.97.0.1:50051"], &flags[..]].concat())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in ["a", "b", "s"] {
            // After a failed set-up some namespaces may be missing.
            let _ = Command::new("ip").args(["netns", "del", &self.name(host)]).stderr(Stdio::null()).status();
        }
    }
}

fn ip(words: &[&str]) {
    let ended = run({
        let mut command = Command::new("ip");
        command.args(words);
        command
    });
    assert!(ended.status.success(), "ip {words:?}: {}; this test needs root", ended.text);
}
