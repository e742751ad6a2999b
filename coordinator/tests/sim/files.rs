//! Compares a run's files with expected files: a plan, a seed and fake servers determine the results folder and report.
//!
//! `MUSTER_SIM_FILES=write` replaces the expected files after an intended change. For large files only the length and
//! the hash are compared. `MUSTER_SIM_KEEP=DIR` keeps the complete folders in DIR, to compare two builds.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::{fs, io};

use coordinator::plan::Raw;
use coordinator::publish;
use coordinator::report::document::of_run;
use coordinator::report::published::built_in;
use coordinator::results::attempt::FinishedAttempt;
use coordinator::results::metadata::RunState;
use coordinator::run::sink::ResultSink;
use coordinator::store::fault::Faults;
use coordinator::store::{Store, read};
use sha2::{Digest as _, Sha256};

use crate::world::{AGENTS, COORDINATOR, play, wall};

const PLAN: &str = r#"
[experiment]
infrastructure = "simulated"
cores = 4
[target]
urls = ["http://target:1"]
mode = "compare"
[grid]
batch_sizes = [5, 12]
wait_seconds = [1.0, 0.25]
repetitions = 2
[session]
steps = 2
think_seconds = 0.5
[agents]
count = 3
lease_seconds = 3.0
ready_timeout_seconds = 60.0
max_attempts = 50
[measure]
wire = false
max_clock_error_ms = 60000
"#;

/// The real store. Simulated time does not advance while it writes.
#[derive(Debug, Clone)]
struct Files(Arc<Mutex<Store>>);

impl ResultSink for Files {
    const BLOCKS: bool = false;

    fn put(&mut self, finished: &FinishedAttempt) -> io::Result<()> {
        self.0.lock().expect("lock").put(finished)
    }

    fn put_run(&self, run: &RunState<'_>) -> io::Result<()> {
        self.0.lock().expect("lock").put_run(run)
    }

    fn place(&self) -> String {
        "results".to_owned()
    }
}

fn below(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { below(&path, found) } else { found.push(path) }
    }
}

/// The content of summary.csv and report.md, and the length and hash of other files.
fn seen(dir: &Path) -> BTreeMap<String, String> {
    let mut found = Vec::new();
    below(dir, &mut found);
    let own = dir.display().to_string();
    found
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(dir).expect("below it").display().to_string();
            let bytes = fs::read(&path).expect("read");
            // The protocol version changes independently of the results.
            let protocol = format!("\"protocol\": {},", proto::PROTOCOL);
            let text = String::from_utf8(bytes).map(|text| text.replace(&own, "place").replace(&protocol, ""));
            let bytes = text.clone().map_or_else(|error| error.into_bytes(), String::into_bytes);
            let whole = ["summary.csv", "report.md"].contains(&name.as_str());
            let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            let digest = format!("{} bytes, SHA-256 {hash}\n", bytes.len());
            (name, if whole { text.unwrap_or(digest) } else { digest })
        })
        .collect()
}

fn expected_in() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sim/files")
}

fn compare(name: &str, trouble: impl FnMut(&mut turmoil::Sim<'_>, std::time::Duration)) {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = match std::env::var_os("MUSTER_SIM_KEEP") {
        Some(keep) => Path::new(&keep).join(name),
        None => folder.path().join("results"),
    };
    fs::create_dir_all(&dir).expect("made");
    let store = Store::create(dir.clone(), Raw::Jsonl, wall(), Faults::default()).expect("a store");
    let (code, table, told) = play(11, PLAN, Files(Arc::new(Mutex::new(store))), trouble);
    assert_eq!(code, 0, "{told:#?}");
    let run = read::read(&dir).expect("a run");
    publish::report(&dir, &of_run(&run, &built_in())).expect("written");
    let mut seen = seen(&dir);
    seen.insert("table.txt".to_owned(), table);
    let expected = expected_in().join(name);
    if std::env::var("MUSTER_SIM_FILES").is_ok_and(|what| what == "write") {
        let _ = fs::remove_dir_all(&expected);
        for (file, text) in &seen {
            let path = expected.join(file);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        }
        return;
    }
    let mut known = Vec::new();
    below(&expected, &mut known);
    let known: BTreeMap<String, String> = known
        .into_iter()
        .map(|path| {
            let name = path.strip_prefix(&expected).expect("below it").display().to_string();
            (name, fs::read_to_string(path).expect("read"))
        })
        .collect();
    assert_eq!(seen.keys().collect::<Vec<_>>(), known.keys().collect::<Vec<_>>(), "the same files");
    for (file, text) in &seen {
        let first = text.lines().zip(known[file].lines()).find(|(now, before)| now != before);
        assert!(
            *text == known[file],
            "{name}/{file} is not as before; its first other line, now and before: {first:#?}"
        );
    }
}

#[test]
fn an_undisturbed_run_leaves_the_same_files() {
    compare("undisturbed", |_, _| ());
}

#[test]
fn a_run_that_loses_an_agent_leaves_the_same_files() {
    let mut gone = false;
    compare("agent_lost", move |sim, now| {
        if !gone && now.as_millis() >= 9_000 {
            gone = true;
            sim.partition(COORDINATOR, AGENTS[1]);
        } else if gone && now.as_millis() == 20_000 {
            sim.repair(COORDINATOR, AGENTS[1]);
        }
    });
}
