//! A SLURM cluster that ends when it is dropped, and jobs on it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Ended, PATIENCE, Results, config_home, run, workspace};

/// Interval of polling.
const LOOK_EVERY: Duration = Duration::from_millis(100);

pub(crate) struct Cluster {
    /// The folder of the cluster's files, the jobs' output and the results; every node sees it.
    dir: tempfile::TempDir,
    subnet: String,
}

impl Cluster {
    /// Starts a cluster; `settings` are those of `scripts/slurm-lab`.
    pub(crate) fn up(nodes: u32, settings: &[(&str, &str)]) -> Self {
        // Paths of sockets must be short.
        let dir = tempfile::Builder::new().prefix("muster-slurm").tempdir_in("/tmp").expect("folder");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("readable");
        programs(&dir.path().join("bin"), Path::new(env!("CARGO_BIN_EXE_coordinator")));
        let cluster =
            Self { dir, subnet: format!("10.{}.{}", 80 + std::process::id() % 100, std::process::id() / 100 % 250) };
        let mut command = cluster.lab(&["up", &nodes.to_string()]);
        command.env("WHILE_PID", std::process::id().to_string()).envs(settings.iter().copied());
        let ended = run(command);
        assert!(ended.status.success(), "slurm-lab up: {}", ended.text);
        cluster
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn address(&self, host: u32) -> String {
        format!("{}.{host}", self.subnet)
    }

    fn lab(&self, words: &[&str]) -> Command {
        let mut command = Command::new(workspace().join("scripts/slurm-lab"));
        command.args(words).env("LAB", self.path("lab")).env("SUBNET", &self.subnet).current_dir(self.dir.path());
        command
    }

    /// Injects a fault: `crash`, `cut`, `heal` and others of `scripts/slurm-lab`.
    pub(crate) fn fault(&self, words: &[&str]) {
        let ended = run(self.lab(words));
        assert!(ended.status.success(), "slurm-lab {words:?}: {}", ended.text);
    }

    /// A user's command, with these variables set.
    pub(crate) fn command(&self, words: &[&str], settings: &[(&str, &str)]) -> Command {
        let mut command = self.lab(&[&["run"], words].concat());
        command
            .env("MUSTER_BIN", self.path("bin"))
            .env("XDG_CONFIG_HOME", config_home())
            .env("SERVER", "refserver")
            .env("WORKERS", "1")
            .envs(settings.iter().copied());
        command
    }

    pub(crate) fn user(&self, words: &[&str], settings: &[(&str, &str)]) -> Ended {
        run(self.command(words, settings))
    }

    /// Writes a plan that takes its servers from a connection file, and returns its path.
    pub(crate) fn plan(&self, name: &str, grid: &str, more: &str) -> String {
        let out = self.path("out");
        let text = format!(
            "[experiment]\ninfrastructure = \"slurm-multi\"\n[server]\nconnection = \"connection.toml\"\n[grid]\n{grid}\n\
             [output]\ndir = {out:?}\n{more}\n"
        );
        let path = self.path(name);
        fs::write(&path, text).expect("plan");
        path.display().to_string()
    }

    /// Submits a batch script of deploy/slurm, with sbatch's flags before its name.
    pub(crate) fn submit(&self, flags: &[&str], script: &str, words: &[&str], settings: &[(&str, &str)]) -> Job<'_> {
        let script = workspace().join("deploy/slurm").join(script).display().to_string();
        let ended = self.user(&[&["sbatch", "--parsable"], flags, &[&script], words].concat(), settings);
        assert!(ended.status.success(), "sbatch: {}", ended.text);
        Job { cluster: self, id: ended.text.trim().to_owned() }
    }

    /// Submits a server job and waits until it serves.
    pub(crate) fn serve(&self, flags: &[&str], settings: &[(&str, &str)]) -> Job<'_> {
        let connection = self.path("connection.toml");
        let settings = [settings, &[("CONNECTION_FILE", connection.to_str().expect("utf-8"))]].concat();
        let job = self.submit(flags, "serve_multi_batch.sh", &[], &settings);
        job.until("the connection file", || connection.exists() || job.is_over());
        assert!(connection.exists(), "{}", job.output("muster-serve"));
        job
    }

    pub(crate) fn results(&self) -> Results {
        Results::of(&self.path("out"))
    }

    /// The processes of jobs on a node: all but its init, slurmd and the query itself.
    pub(crate) fn processes(&self, node: &str) -> String {
        let ended = run(self.lab(&["on", node, "ps", "-eo", "args"]));
        assert!(ended.status.success(), "{}", ended.text);
        let own = ["COMMAND", "bash -c", "slurmd -N", "sleep 0.2", "ps -eo"];
        ended
            .text
            .lines()
            .filter(|line| !own.iter().any(|own| line.trim_start().starts_with(own)))
            .collect::<Vec<_>>()
            .join("\n")
    }

    /// Asserts that no step and no process of a job is left on these nodes.
    pub(crate) fn nothing_is_left_on(&self, nodes: &[&str]) {
        let mut left = String::new();
        let done = eventually(|| {
            let there = format!("--nodelist={}", nodes.join(","));
            let steps = self.user(&["squeue", "--steps", "--noheader", &there], &[]).text;
            let there: Vec<String> =
                nodes.iter().map(|node| self.processes(node)).filter(|text| !text.is_empty()).collect();
            left = format!("{steps}{}", there.join("\n"));
            left.is_empty()
        });
        assert!(done, "left:\n{left}");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // This must not panic. What it can't end is ended by the cluster's own watchdog.
        let _ = self.lab(&["down"]).status();
    }
}

/// A submitted job.
pub(crate) struct Job<'a> {
    cluster: &'a Cluster,
    pub(crate) id: String,
}

impl Job<'_> {
    /// One value of `scontrol show job`.
    pub(crate) fn fact(&self, name: &str) -> String {
        let text = self.cluster.user(&["scontrol", "--oneliner", "show", "job", &self.id], &[]).text;
        let found = text.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        found.unwrap_or_else(|| panic!("{name} in {text}")).to_owned()
    }

    pub(crate) fn is_over(&self) -> bool {
        !["PENDING", "CONFIGURING", "RUNNING", "COMPLETING"].contains(&self.fact("JobState").as_str())
    }

    /// Waits for the job's end and returns its state and exit code, such as `COMPLETED 0:0`.
    pub(crate) fn end(&self) -> String {
        self.until("its end", || self.is_over());
        format!("{} {}", self.fact("JobState"), self.fact("ExitCode"))
    }

    /// The text of `name-JOB.out`.
    pub(crate) fn output(&self, name: &str) -> String {
        fs::read_to_string(self.cluster.path(&format!("{name}-{}.out", self.id))).unwrap_or_default()
    }

    pub(crate) fn until(&self, what: &str, holds: impl FnMut() -> bool) {
        let held = eventually(holds);
        let sweep = self.output("muster-sweep");
        assert!(held, "job {}: no {what} in time\n{sweep}{}", self.id, self.output("muster-serve"));
    }

    /// Waits for a line with this text in the sweep's output.
    pub(crate) fn says(&self, part: &str) {
        self.until(part, || self.output("muster-sweep").contains(part) || self.is_over());
        let text = self.output("muster-sweep");
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }

    pub(crate) fn cancel(&self) {
        let ended = self.cluster.user(&["scancel", &self.id], &[]);
        assert!(ended.status.success(), "{}", ended.text);
    }
}

/// Whether the condition holds within [`PATIENCE`].
pub(crate) fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let over = Instant::now() + PATIENCE;
    while Instant::now() < over {
        if holds() {
            return true;
        }
        std::thread::park_timeout(LOOK_EVERY);
    }
    false
}

/// Asserts that every session of every row succeeded.
pub(crate) fn all_succeeded(results: &Results, rows: usize, text: &str) {
    let summary = results.summary();
    assert_eq!(summary.len(), rows, "{text}");
    for row in &summary {
        assert_eq!(row["successful"], row["num_requests"], "{row:?}\n{text}");
    }
}

/// Writes the programs that users build as scripts that start this one in another role.
pub(crate) fn programs(folder: &Path, executable: &Path) {
    fs::create_dir(folder).expect("folder");
    for (name, role) in [("coordinator", ""), ("agent", "__agent "), ("refserver", "__refserver ")] {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\nexec {} {role}\"$@\"\n", executable.display())).expect("script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    }
}
