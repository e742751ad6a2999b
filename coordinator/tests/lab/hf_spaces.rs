//! Hugging Face Spaces: the stand-in behaves as the log says that Spaces do, and the deployed Space is as announced.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Ended, Process, Results, coordinator, run, workspace};

/// A batch that a Space refuses in part takes less than this, since it refuses at once.
const REFUSED_SECONDS_MAX: f64 = 5.0;

fn script(name: &str) -> Command {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=20", "280"]).arg(workspace().join("deploy/hf_spaces").join(name));
    // The user who runs the tests may have a token.
    command.env_remove("HF_TOKEN");
    command
}

/// A process of `deploy/hf_spaces/stand_in.sh`.
struct StandIn {
    process: Option<Process>,
    port: u16,
    dir: PathBuf,
    command: String,
}

impl StandIn {
    fn start(server: &str, dir: &Path) -> Self {
        // Both ports are held at the same time, so that they differ.
        let free = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("port"));
        let [port, server_port] = free.map(|listener| listener.local_addr().expect("address").port());
        let mut command = script("stand_in.sh");
        command
            .env("SERVER", server)
            .env("REFSERVER", concat!(env!("CARGO_BIN_EXE_coordinator"), " __refserver"))
            .env("PORT", port.to_string())
            .env("SERVER_PORT", server_port.to_string())
            .env("CONNECTION_FILE", dir.join("connection.toml"))
            .env("CA_FILE", dir.join("ca.pem"));
        let mut process = Process::start(command);
        let command = process.line_with("run: coordinator run ").trim_start_matches("run: coordinator ").to_owned();
        Self { process: Some(process), port, dir: dir.to_path_buf(), command }
    }

    /// Runs the printed command with a smaller grid.
    fn bench(&self, out: &str, flags: &[&str]) -> (Ended, Results) {
        let out = self.dir.join(out);
        let mut command = coordinator();
        let words = self.command.replace("plans/hf-spaces.toml", "plans/smoke/hf-spaces.toml");
        command.args(words.split(' ')).args(flags).arg("--output").arg(&out).current_dir(workspace());
        let ended = run(command);
        assert_eq!(ended.code(), Some(0), "{}", ended.text);
        (ended, Results::of(&out))
    }

    fn stop(&mut self) -> Option<Ended> {
        self.process.take().map(|process| {
            process.signal(Signal::SIGTERM);
            process.end()
        })
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The three findings of the log: all of 128 sessions succeed at once, about 200 of 512, and none over HTTP.
fn check_findings(ended: &Ended, results: &Results) {
    results.check_with_python();
    for row in results.summary() {
        let number = |column: &str| row[column].parse::<f64>().expect("number");
        let (planned, successful) = (number("num_requests"), number("successful"));
        match (row["mode"].as_str(), planned) {
            ("ws", ..=128.0) => assert!(successful >= planned, "{row:?}\n{}", ended.text),
            ("ws", _) => {
                assert!((180.0..=220.0).contains(&successful), "{row:?}\n{}", ended.text);
                assert!(number("total_wall_time") < REFUSED_SECONDS_MAX, "refused at once: {row:?}");
                assert_eq!(row["limit"], "server");
            }
            ("http", _) => assert!(successful <= 0.0, "{row:?}\n{}", ended.text),
            (mode, _) => panic!("a mode called {mode}"),
        }
    }
    for row in results.raw() {
        let failed = (row["mode"].as_str(), row["error_type"].as_str(), row["phase"].as_str());
        match failed {
            (_, None, _) | (_, _, Some("connect")) => {}
            (Some("http"), Some(kind), Some("reset")) => assert!(kind.starts_with("http_status"), "{row}"),
            _ => panic!("nothing else goes wrong: {row}"),
        }
    }
}

#[test]
fn the_stand_in_shows_what_was_found_on_spaces() {
    let dir = tempfile::tempdir().expect("dir");
    let mut space = StandIn::start("openenv", dir.path());
    let (ended, results) = space.bench("out", &["--reps", "1"]);
    assert_eq!(results.summary().len(), 8, "4 sizes in 2 modes");
    check_findings(&ended, &results);
    assert!(ended.text.contains("(http) from agent local-1: http_status(404) at reset"), "{}", ended.text);

    let stopped = space.stop().expect("it ran");
    assert_eq!(stopped.code(), Some(143), "{}", stopped.text);
    assert!(TcpStream::connect(("127.0.0.1", space.port)).is_err(), "HAProxy is gone");
    for name in ["connection.toml", "ca.pem"] {
        assert!(!dir.path().join(name).exists(), "{name}");
    }
}

#[test]
fn the_stand_in_is_the_same_in_front_of_the_reference_server() {
    let dir = tempfile::tempdir().expect("dir");
    let space = StandIn::start("refserver", dir.path());
    let (ended, results) = space.bench("out", &["--batch-sizes", "128,512", "--reps", "1"]);
    assert_eq!(results.summary().len(), 4);
    check_findings(&ended, &results);

    // Without its certificate the server is not trusted.
    let mut command = coordinator();
    command
        .args(["run", "experiments/plans/smoke/hf-spaces.toml", "--set", "target.ready_timeout_seconds=2", "--set"])
        .arg(format!("server.connection={}", dir.path().join("connection.toml").display()))
        .arg("--output")
        .arg(dir.path().join("untrusted"))
        .current_dir(workspace());
    let ended = run(command);
    assert_eq!(ended.code(), Some(4), "{}", ended.text);
    assert!(ended.text.contains("tls"), "{}", ended.text);
}

fn deploy(arguments: &[&str]) -> Command {
    let mut command = script("deploy.sh");
    command.args(arguments);
    command
}

#[test]
fn a_dry_run_names_every_file_and_every_call_and_sends_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let (connection, venv) = (dir.path().join("connection.toml"), dir.path().join("venv"));
    // Run it in a network namespace without a network.
    let mut command = Command::new("unshare");
    command
        .arg("--net")
        .arg(workspace().join("deploy/hf_spaces/deploy.sh"))
        .args(["--repo-id", "Some.Body/open_env", "--private", "--hardware", "cpu-upgrade", "--dry-run"])
        .env_remove("HF_TOKEN")
        .env("MAX_CONCURRENT_ENVS", "64")
        .env("CONNECTION_FILE", &connection)
        .env("VENV", &venv);
    let ended = run(command);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    assert!(!connection.exists() && !venv.exists(), "nothing is made");

    let sources = BTreeMap::from([
        ("Dockerfile", "docker/openenv/Dockerfile"),
        ("README.md", "hf_spaces/README.md"),
        ("app/benchmark_env/__init__.py", "openenv/benchmark_env/__init__.py"),
        ("app/benchmark_env/app.py", "openenv/benchmark_env/app.py"),
        ("app/benchmark_env/environment.py", "openenv/benchmark_env/environment.py"),
        ("app/benchmark_env/models.py", "openenv/benchmark_env/models.py"),
        ("app/healthcheck.py", "docker/openenv/healthcheck.py"),
        ("requirements.txt", "openenv/requirements.txt"),
        ("app/serve.sh", "docker/openenv/serve.sh"),
    ]);
    let size = |path: &&str| std::fs::metadata(workspace().join("deploy").join(path)).expect("file").len();
    let files: String = sources.iter().map(|(name, path)| format!("{:>8}  {name}\n", size(path))).collect();
    let total: u64 = sources.values().map(size).sum();
    let library = std::fs::read_to_string(workspace().join("deploy/hf_spaces/requirements.txt")).expect("requirements");
    let expected = format!(
        "dry run: nothing is sent

files of https://huggingface.co/spaces/Some.Body/open_env
{files}{total:>8}  in all

calls of HfApi ({})
  whoami()
  space_info(repo_id='Some.Body/open_env')
  if there is such a Space
    hf_hub_download(repo_id='Some.Body/open_env', repo_type='space', filename='README.md', local_dir='a folder that is thrown away')
    it must be an earlier deployment's, or what the Hub puts into an empty Space; else nothing more is asked
    update_repo_settings(repo_id='Some.Body/open_env', repo_type='space', private=True)
  if there is none
    create_repo(repo_id='Some.Body/open_env', repo_type='space', space_sdk='docker', private=True)
  space_info(repo_id='Some.Body/open_env'), which must say that it is private
  add_space_variable(repo_id='Some.Body/open_env', key='WORKERS', value='2')
  add_space_variable(repo_id='Some.Body/open_env', key='MAX_CONCURRENT_ENVS', value='64')
  request_space_hardware(repo_id='Some.Body/open_env', hardware='cpu-upgrade')
  upload_folder(repo_id='Some.Body/open_env', repo_type='space', folder_path='the files above', delete_patterns='*', \
commit_message='Deploy the OpenEnv benchmark environment')
  get_space_runtime, until it runs

then {}, with the url that the Hub tells
  urls = [\"https://some-body-open-env.hf.space\"]
  workers = 2
  max_concurrent_envs = 64
  nodes = 1
  backends = [\"Some.Body/open_env\"]
  start_command = \"WORKERS=2 MAX_CONCURRENT_ENVS=64 ./deploy/hf_spaces/deploy.sh --repo-id Some.Body/open_env --private --hardware cpu-upgrade\"
",
        library.trim(),
        connection.display(),
    );
    assert_eq!(ended.text, expected);

    let ended = run(deploy(&["--repo-id", "a/b", "--overwrite", "--dry-run"]));
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    assert!(
        ended.text.contains(
            "
  if there is such a Space
    nothing is looked at: --overwrite replaces whatever it holds
  if there is none
    create_repo(repo_id='a/b', repo_type='space', space_sdk='docker', private=False)
  add_space_variable("
        ),
        "a Space that is there is not made public:\n{}",
        ended.text
    );

    // The port that the Space's proxy connects to is the one that the image listens on.
    let read = |path: &str| std::fs::read_to_string(workspace().join("deploy").join(path)).expect(path);
    let readme = read("hf_spaces/README.md");
    let front = readme.split("---\n").nth(1).expect("front matter");
    let port = front.lines().find_map(|line| line.strip_prefix("app_port: ")).expect("app_port");
    assert!(front.contains("\nsdk: docker\n") && read("docker/openenv/Dockerfile").contains(&format!(" PORT={port} ")));
}

#[test]
fn a_deployment_that_cannot_be_is_refused_before_anything_is_sent() {
    for (arguments, said) in [
        (&["--dry-run"][..], "which Space? give --repo-id OWNER/NAME"),
        (&["--repo-id", "name"], "--repo-id 'name': give OWNER/NAME"),
        (&["--repo-id", "a/b--c"], "--repo-id 'a/b--c': give OWNER/NAME"),
        (&["--repo-id", "a/b", "--hardware"], "--hardware needs a value"),
        (&["--repo-id", "a/b", "--public"], "unknown argument '--public'"),
    ] {
        let ended = run(deploy(arguments));
        assert_eq!(ended.code(), Some(2), "{arguments:?}: {}", ended.text);
        assert!(ended.text.contains(said), "{said:?} in:\n{}", ended.text);
    }
    let mut command = deploy(&["--repo-id", "a/b", "--dry-run"]);
    command.env("WORKERS", "two");
    let ended = run(command);
    assert_eq!(ended.code(), Some(1), "{}", ended.text);
    assert!(ended.text.contains("WORKERS must be a positive whole number, not 'two'"), "{}", ended.text);
}

/// `tests/fake_hub.py`, which `deploy.sh` with the real huggingface_hub talks to.
struct Hub {
    _process: Process,
    url: String,
    dir: tempfile::TempDir,
    /// Number of log lines that have been read.
    known: Cell<usize>,
}

impl Hub {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let mut command = Command::new("python3");
        command.arg(workspace().join("deploy/hf_spaces/tests/fake_hub.py")).arg(dir.path().join("asked.jsonl"));
        let mut process = Process::start(command);
        let url = process.line_with("hub on ").trim_start_matches("hub on ").to_owned();
        Self { _process: process, url, dir, known: Cell::new(0) }
    }

    fn connection(&self) -> PathBuf {
        self.dir.path().join("connection.toml")
    }

    fn deploy(&self, token: &str, space: &str, flags: &[&str]) -> Ended {
        // All runs share one environment, and two tests must not create it at the same time.
        let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("hf-venv");
        let lock = File::create(venv.with_extension("lock")).expect("lock file");
        lock.lock().expect("locked");
        let mut command = deploy(&["--repo-id", space]);
        command
            .args(flags)
            .env("HF_ENDPOINT", &self.url)
            .env("HF_TOKEN", token)
            .env("HF_HOME", self.dir.path().join("hf-home"))
            .env("CONNECTION_FILE", self.connection())
            .env("VENV", venv);
        run(command)
    }

    fn deployed(&self, space: &str, flags: &[&str]) -> Ended {
        let ended = self.deploy("hf_good", space, flags);
        assert_eq!(ended.code(), Some(0), "{}", ended.text);
        ended
    }

    fn refused(&self, token: &str, space: &str, flags: &[&str], said: &str) {
        let ended = self.deploy(token, space, flags);
        assert_eq!(ended.code(), Some(1), "{}", ended.text);
        assert!(ended.text.contains(said), "{said:?} in:\n{}", ended.text);
        assert!(!ended.text.contains("serving "), "{}", ended.text);
    }

    /// The changes that were requested since the last call.
    fn changes(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.path().join("asked.jsonl")).expect("log");
        let known = self.known.replace(text.lines().count());
        text.lines().skip(known).map(|line| serde_json::from_str(line).expect("json")).collect()
    }
}

fn bodies<'a>(changes: &'a [Value], call: &str) -> Vec<&'a Value> {
    changes.iter().filter(|change| change["call"] == call).map(|change| &change["body"]).collect()
}

#[test]
fn a_deployment_pushes_the_files_and_waits_until_the_space_serves() {
    let hub = Hub::start();
    let space = "somebody/space";
    hub.refused("hf_wrong", space, &[], "whoami: the Hub answers 401");
    hub.refused("hf_readonly", space, &[], "the token may not do this to somebody/space: it needs write access");
    let unknown = "--hardware cpu-basicc: there is no such flavour; there are cpu-basic, ";
    hub.refused("hf_good", space, &["--hardware", "cpu-basicc"], unknown);
    assert!(!hub.connection().exists());
    assert!(hub.changes().is_empty(), "nothing was asked of the hub in vain");

    // The script ends between creating the Space and pushing the files, and can be run again.
    hub.refused("hf_good", space, &["--hardware", "a100-large"], "request_space_hardware: the Hub answers 402");
    let created = hub.changes();
    let created = bodies(&created, "create");
    assert_eq!((created.len(), &created[0]["type"], &created[0]["sdk"]), (1, &"space".into(), &"docker".into()));
    assert_eq!(created[0]["visibility"], "public");

    let ended = hub.deployed(space, &["--hardware", "cpu-basic"]);
    for said in ["the Space is BUILDING", "the Space is RUNNING", "; the Hub says that the Space is public; "] {
        assert!(ended.text.contains(said), "{said:?} in:\n{}", ended.text);
    }
    let changes = hub.changes();
    assert!(bodies(&changes, "create").is_empty() && bodies(&changes, "settings").is_empty(), "{changes:?}");
    let variables: Vec<_> =
        bodies(&changes, "variables").iter().map(|v| (v["key"].clone(), v["value"].clone())).collect();
    assert_eq!(variables, [("WORKERS".into(), "2".into()), ("MAX_CONCURRENT_ENVS".into(), "100".into())]);
    assert_eq!(bodies(&changes, "hardware")[0]["flavor"], "cpu-basic");
    let commit = bodies(&changes, "commit")[0];
    let pushed = commit["files"].as_object().expect("files");
    assert_eq!(pushed.len(), 9, "{:?}", pushed.keys());
    let dockerfile = std::fs::read_to_string(workspace().join("deploy/docker/openenv/Dockerfile")).expect("Dockerfile");
    assert_eq!(pushed["Dockerfile"], dockerfile, "word for word");
    let connection = std::fs::read_to_string(hub.connection()).expect("connection file");
    let url = format!("urls = [\"{}/run/somebody/space\"]\n", hub.url);
    assert!(connection.starts_with(&url), "the url that the hub told: {connection}");
}

#[test]
fn what_is_said_of_a_space_s_visibility_is_what_the_hub_says() {
    let hub = Hub::start();
    let space = "somebody/space";
    let (public, private) = ("the Hub says that the Space is public", "the Hub says that the Space is private");
    let refuses = "Muster's agents send no token and a private Space refuses them";
    let ended = hub.deployed(space, &[]);
    assert!(ended.text.contains(public) && !ended.text.contains(refuses), "{}", ended.text);

    // The Space exists and is public: making it private is a separate call, before any file is pushed.
    hub.changes();
    let ended = hub.deployed(space, &["--private"]);
    assert!(ended.text.contains(private) && ended.text.contains(refuses), "{}", ended.text);
    let changes = hub.changes();
    assert_eq!((&changes[0]["call"], &changes[0]["body"]["visibility"]), (&"settings".into(), &"private".into()));

    // Leaving the flag out does not ask for the contrary.
    let ended = hub.deployed(space, &[]);
    assert!(ended.text.contains("the Space somebody/space is private and stays so"), "{}", ended.text);
    assert!(ended.text.contains(private) && ended.text.contains(refuses), "{}", ended.text);
    let changes = hub.changes();
    assert!(bodies(&changes, "settings").is_empty(), "{changes:?}");
    assert_eq!(bodies(&changes, "commit").len(), 1);

    // A new Space.
    let ended = hub.deployed("somebody/new", &["--private"]);
    assert!(ended.text.contains(private), "{}", ended.text);
    let changes = hub.changes();
    assert_eq!(bodies(&changes, "create")[0]["visibility"], "private");

    // The Hub accepts the call and does not carry it out.
    let said = "--private: the Hub says that somebody/stuck is public all the same, and no file has been pushed";
    hub.refused("hf_good", "somebody/stuck", &["--private", "--overwrite"], said);
    let changes = hub.changes();
    assert!(bodies(&changes, "commit").is_empty(), "{changes:?}");
}

#[test]
fn a_space_of_somebody_else_s_making_is_only_replaced_when_that_is_said() {
    let hub = Hub::start();
    let said = "the Space somebody/chess exists, and its README.md is not that of an earlier deployment";
    hub.refused("hf_good", "somebody/chess", &[], said);
    hub.refused("hf_good", "somebody/chess", &["--private"], "or --overwrite to replace what it holds");
    assert!(hub.changes().is_empty(), "neither its files nor its settings");

    hub.deployed("somebody/chess", &["--overwrite"]);
    let changes = hub.changes();
    let commit = bodies(&changes, "commit")[0];
    assert_eq!(commit["deleted"], serde_json::json!(["old/app.py"]), "what is no longer part of it");
    let connection = std::fs::read_to_string(hub.connection()).expect("connection file");
    assert!(!connection.contains("--overwrite"), "it is not said again by a command that is repeated: {connection}");

    // From now on the Space is known to be the user's.
    hub.deployed("somebody/chess", &[]);
    hub.changes();

    // A Space that the token can't see is not known to be the user's.
    hub.refused("hf_blind", "somebody/chess", &[], "there is a Space somebody/chess that this token may not see");
    assert!(hub.changes().is_empty());
}
