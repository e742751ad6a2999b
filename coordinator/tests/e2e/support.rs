//! Real processes with bounded waits, which are ended in any case.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest single wait of a test.
pub(crate) const PATIENCE: Duration = Duration::from_secs(150);

/// The program under test.
pub(crate) fn coordinator() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
    command.env_remove("MUSTER_LOG").env("XDG_CONFIG_HOME", config_home()).stdin(Stdio::null());
    command
}

/// The folder in which the programs of all tests keep their identity, instead of the user's home.
pub(crate) fn config_home() -> &'static Path {
    Path::new(concat!(env!("CARGO_TARGET_TMPDIR"), "/config"))
}

/// The identity that the tests' coordinators have created.
pub(crate) fn identity() -> agent::identity::Identity {
    agent::identity::Identity::load(&config_home().join("muster/identity")).expect("identity")
}

/// The folder of the workspace.
pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("workspace").to_path_buf()
}

/// A process whose output is read as it comes. Dropping it kills it.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    seen: String,
}

/// How a process ended, with all its output.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// Standard output and standard error, interleaved line by line.
    pub(crate) text: String,
}

impl Ended {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
        let (tell, lines) = channel();
        let stdout = child.stdout.take().expect("stdout");
        let stderr = child.stderr.take().expect("stderr");
        let tell_err = tell.clone();
        std::thread::spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|l| tell.send(l)));
        std::thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).try_for_each(|l| tell_err.send(l))
        });
        Self { child, lines, seen: String::new() }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("pid"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("signal sent");
    }

    /// Waits for a line that contains `part`.
    pub(crate) fn line_with(&mut self, part: &str) -> String {
        let over = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(over.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push_str(&line);
                    self.seen.push('\n');
                    if line.contains(part) {
                        return line;
                    }
                }
                Err(error) => panic!("no line with {part:?} ({error}) in:\n{}", self.seen),
            }
        }
    }

    /// Waits for the process's end.
    pub(crate) fn end(mut self) -> Ended {
        let over = Instant::now() + PATIENCE;
        // Both pipes close when the process ends.
        loop {
            match self.lines.recv_timeout(over.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push_str(&line);
                    self.seen.push('\n');
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("no end in time:\n{}", self.seen),
            }
        }
        let status = self.child.wait().expect("status");
        Ended { status, text: std::mem::take(&mut self.seen) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The process may have ended; its own children end with it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: Command) -> Ended {
    Process::start(command).end()
}

/// The reference server on a free port.
pub(crate) struct Server {
    process: Process,
    pub(crate) url: String,
}

impl Server {
    pub(crate) fn start(flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
        command.args(["__refserver", "--exit-with-stdin"]).args(flags).stdin(Stdio::piped());
        if !flags.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let mut process = Process::start(command);
        let line = process.line_with("listening on ");
        let url = format!("http://{}", line.trim_start_matches("listening on "));
        Self { process, url }
    }

    pub(crate) fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }
}

/// An agent in its own process.
pub(crate) fn agent(coordinator: &str, flags: &[&str]) -> Process {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coordinator"));
    command.args(["__agent", "--exit-with-stdin", "--coordinator", coordinator]).args(flags).stdin(Stdio::piped());
    command.env("XDG_CONFIG_HOME", config_home());
    Process::start(command)
}

/// A results folder, read without the program's own code.
pub(crate) struct Results {
    pub(crate) dir: PathBuf,
}

impl Results {
    pub(crate) fn of(dir: &Path) -> Self {
        Self { dir: dir.to_path_buf() }
    }

    pub(crate) fn text(&self, name: &str) -> String {
        let mut text = String::new();
        let path = self.dir.join(name);
        std::fs::File::open(&path)
            .and_then(|mut f| f.read_to_string(&mut text))
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        text
    }

    /// One map per batch.
    pub(crate) fn summary(&self) -> Vec<std::collections::BTreeMap<String, String>> {
        let text = self.text("summary.csv");
        let mut reader = csv::Reader::from_reader(text.as_bytes());
        reader.deserialize().map(|row| row.expect("row")).collect()
    }

    pub(crate) fn raw(&self) -> Vec<serde_json::Value> {
        self.text("raw.jsonl").lines().map(|line| serde_json::from_str(line).expect("json")).collect()
    }

    pub(crate) fn run_json(&self) -> serde_json::Value {
        serde_json::from_str(&self.text("run.json")).expect("json")
    }

    pub(crate) fn journal(&self) -> Vec<serde_json::Value> {
        self.text("journal.jsonl").lines().map(|line| serde_json::from_str(line).expect("json")).collect()
    }

    /// Runs `scripts/check_results.py`, which shares no code with the program. If `scripts/test` has set
    /// `MUSTER_TEST_PYTHON` to a Python with another HdrHistogram, the script also reads histograms.hlog.
    pub(crate) fn check_with_python(&self) {
        let own = std::env::var_os("MUSTER_TEST_PYTHON");
        let mut command = Command::new(own.as_deref().unwrap_or(std::ffi::OsStr::new("python3")));
        command.arg(workspace().join("scripts/check_results.py")).arg(&self.dir);
        if own.is_some() {
            command.arg("--hlog");
        }
        let ended = run(command);
        assert!(ended.status.success(), "{}", ended.text);
    }
}
