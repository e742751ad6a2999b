//! The Docker engine, used through its command line. What a test creates there is removed with the test.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Ended, PATIENCE, Process, run, workspace};

/// Interval of polling.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Time limit of one command; the longest is compiling all of Muster for the first time.
const COMMAND_SECONDS_MAX: &str = "560";

/// A command that can't hang for ever, even if the test ends.
pub(crate) fn bounded(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command.arg("--kill-after=10").arg(COMMAND_SECONDS_MAX).arg(program);
    command
}

/// Runs `docker` with these arguments: its standard output, or the error.
pub(crate) fn docker(arguments: &[&str]) -> Result<String, String> {
    let done = bounded("docker").args(arguments).output().expect("timeout(1)");
    if done.status.success() {
        return Ok(String::from_utf8_lossy(&done.stdout).trim().to_owned());
    }
    Err(format!(
        "docker {arguments:?}: {}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    ))
}

/// Panics without an engine: what can't be tested must not look tested.
pub(crate) fn need_engine() {
    if let Err(error) = docker(&["version", "--format", "{{.Server.Version}}"]) {
        panic!(
            "the Docker engine does not answer; install docker.io and docker-compose and start it, or leave these tests out \
             (cargo nextest run -E 'not test(/docker_/)'): {error}"
        );
    }
}

pub(crate) fn inspect(what: &str) -> Value {
    let text = docker(&["inspect", what]).expect("inspected");
    serde_json::from_str::<Value>(&text).expect("json")[0].take()
}

/// Polls until `look` finds something.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let over = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < over, "not in time: {what}");
        std::thread::park_timeout(LOOK_EVERY);
    }
}

/// The images of one test, with a unique prefix; they are removed when this is dropped.
pub(crate) struct Images {
    pub(crate) prefix: String,
}

impl Images {
    pub(crate) fn new(test: &str) -> Self {
        Self { prefix: format!("muster-test-{test}-{}", std::process::id()) }
    }

    pub(crate) fn name(&self, image: &str) -> String {
        format!("{}/{image}:t", self.prefix)
    }

    /// Runs `deploy/docker/build.sh` with debug builds, beside the programs under test.
    pub(crate) fn build(&self, names: &[&str], openenv_base: &str) {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("target folder");
        let mut command = bounded(workspace().join("deploy/docker/build.sh"));
        command
            .args(names)
            .env("PROFILE", "dev")
            .env("PREFIX", &self.prefix)
            .env("TAG", "t")
            .env("OPENENV_BASE", openenv_base)
            .env("CARGO_TARGET_DIR", target);
        let done = command.output().expect("timeout(1)");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// The names of the images.
    pub(crate) fn list(&self) -> Vec<String> {
        let found = docker(
            &["image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter"]
                .map(str::to_owned)
                .iter()
                .map(String::as_str)
                .chain([format!("reference={}/*", self.prefix).as_str()])
                .collect::<Vec<_>>(),
        );
        found.unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

impl Drop for Images {
    fn drop(&mut self) {
        for name in self.list() {
            // If the test fails, its own message matters more.
            let _ = docker(&["image", "rm", "--force", &name]);
        }
    }
}

/// The containers, networks and volumes of a compose project.
pub(crate) fn left_of(project: &str) -> Vec<String> {
    let label = format!("label=com.docker.compose.project={project}");
    let lists: [&[&str]; 3] = [
        &["ps", "--all", "--quiet", "--filter"],
        &["network", "ls", "--quiet", "--filter"],
        &["volume", "ls", "--quiet", "--filter"],
    ];
    let mut found = Vec::new();
    for list in lists {
        let text = docker(&[list, &[label.as_str()]].concat()).expect("listed");
        found.extend(text.lines().map(|id| format!("{} {id}", list[0])));
    }
    found
}

/// A script that cleans up when it is terminated; dropping this terminates it.
pub(crate) struct Script(Option<Process>);

impl Script {
    pub(crate) fn start(command: Command) -> Self {
        Self(Some(Process::start(command)))
    }

    pub(crate) fn line_with(&mut self, part: &str) -> String {
        self.0.as_mut().expect("it runs").line_with(part)
    }

    pub(crate) fn terminate(mut self) -> Ended {
        let process = self.0.take().expect("it runs");
        process.signal(Signal::SIGTERM);
        process.end()
    }

    pub(crate) fn end(mut self) -> Ended {
        self.0.take().expect("it runs").end()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if let Some(process) = self.0.take() {
            process.signal(Signal::SIGTERM);
            process.end();
        }
    }
}

/// An image of a Debian root with Python and the packages of the environment, so that nothing is fetched while the
/// image under test is built. Fetched files stay in the target folder.
pub(crate) fn debian_with_packages(images: &Images) -> String {
    let requirements = workspace().join("deploy/openenv/requirements.txt");
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("docker-base");
    std::fs::create_dir_all(&cache).expect("cache");
    // Several tests may need it at the same time: it is made once.
    let lock = std::fs::File::create(cache.join("lock")).expect("lock");
    lock.lock().expect("locked");
    let mut command = bounded("bash");
    command
        .arg(workspace().join("coordinator/tests/lab/docker/base.sh"))
        .arg(&cache)
        .arg(&requirements)
        .arg(images.name("fetch"));
    let ended = run(command);
    assert!(ended.status.success(), "{}", ended.text);
    let archive = ended.text.lines().last().expect("the archive's name").to_owned();
    docker(&["import", &archive, &images.name("base")]).expect("imported");
    images.name("base")
}
