//! Tests of the results folder on real files: crashes, resuming and reading.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;

use proptest::prelude::*;
use proto::{AttemptId, Bounds, HistogramSet, Mode, Outcome, RunId, SessionRecord};

use super::resume::{Resumed, resume, stored};
use super::*;
use crate::plan::Plan;
use crate::plan::check::plan_of;
use crate::plan::expand::Batch;
use crate::results::batch::Context;
use crate::results::metadata::RunMetadata;
use crate::results::metadata::RunState;
use crate::results::row::Row;
use crate::results::run::Status;
use crate::results::samples::context;
use crate::results::verdict::{Validity, Verdict};

const FILES: [&str; 5] = ["raw.jsonl", "raw.jsonl.zst", SUMMARY, HISTOGRAMS, JOURNAL];

fn plan(raw: &str) -> Plan {
    let text = "[target]\nurls=[\"http://h:1\"]\n[grid]\nbatch_sizes=[5]\nrepetitions=4\n[output]\nraw=";
    plan_of(&format!("{text}\"{raw}\"")).expect("plan")
}

/// An attempt at repetition `index` + 1 of five sessions, one of which failed.
fn finished(index: u32, attempt: u32, accepted: bool) -> FinishedAttempt {
    let batch = Batch { index, mode: Mode::Ws, batch_size: 5, wait_us: 1_000_000, repetition: index + 1 };
    let rows: Vec<Row> = (0..5)
        .map(|session| {
            let outcome = if session == 3 { Outcome::Lost } else { Outcome::Succeeded };
            let mut record = SessionRecord::without_life(session, outcome.clone(), "n1 \"was\" lost\n".to_owned());
            if outcome == Outcome::Succeeded {
                record.started_us = Some(session);
                record.total_us = Some(1_000_000 + u64::from(index) * 1_000 + session);
            }
            Row { agent: Arc::from("n1"), record }
        })
        .collect();
    let mut histograms = HistogramSet::new(Bounds::STANDARD);
    rows.iter().for_each(|row| histograms.record(&row.record));
    let context = Context { url: "http://h:1", hardware: "a \"box\", with commas", attempt, ..context(batch) };
    let mut summary = Summary::of(&context, &rows, &histograms);
    summary.accepted = accepted;
    let worth = if accepted { Validity::Valid } else { Validity::Degraded };
    summary.verdict = Verdict { validity: worth, reasons: vec!["because, \"so\"".to_owned()], ..Verdict::default() };
    let id = AttemptId { run: RunId(uuid::Uuid::nil()), batch: index, attempt };
    FinishedAttempt { id, summary, rows, histograms, stands: accepted, faults: Vec::new(), lost: Vec::new() }
}

fn put_run(store: &Store, plan: &Plan, metadata: &RunMetadata) {
    let (agents, urls) = (Default::default(), plan.target.urls.clone());
    let state = RunState {
        run: RunId(uuid::Uuid::nil()),
        plan,
        urls: &urls,
        metadata,
        output: store.place(),
        ended: None,
        end: None,
        agents: &agents,
        results: &[],
    };
    store.put_run(&state).expect("run.json");
}

/// A folder with two batches, the second one after a refused attempt.
fn two_batches(dir: &Path, raw: &str) {
    let plan = plan(raw);
    let mut store =
        Store::create(dir.to_path_buf(), plan.output.raw, Timestamp::UNIX_EPOCH, Faults::default()).expect("created");
    put_run(&store, &plan, &RunMetadata::default());
    for attempt in [finished(0, 1, true), finished(1, 1, false), finished(1, 2, true)] {
        store.put(&attempt).expect("put");
    }
}

fn again(dir: &Path) -> Resumed {
    resume(dir.to_path_buf(), stored(dir).expect("stored"), Faults::default()).expect("resumed")
}

fn contents(dir: &Path) -> Vec<(&'static str, Option<Vec<u8>>)> {
    FILES.iter().map(|name| (*name, fs::read(dir.join(name)).ok())).collect()
}

fn append(dir: &Path, name: &str, bytes: &[u8]) {
    let path = dir.join(name);
    if path.exists() {
        OpenOptions::new().append(true).open(path).and_then(|mut file| file.write_all(bytes)).expect("appended");
    }
}

#[test]
fn what_is_whole_is_read_back_as_it_was() {
    for raw in ["jsonl", "jsonl.zst", "none"] {
        let dir = tempfile::tempdir().expect("dir");
        two_batches(dir.path(), raw);
        let before = contents(dir.path());
        let mut back = again(dir.path());
        assert_eq!(back.notes, Vec::<String>::new(), "{raw}");
        assert_eq!(contents(dir.path()), before, "{raw}");
        let decided: Vec<u32> = back.history.decided.keys().copied().collect();
        assert_eq!((decided, &back.history.refused), (vec![0, 1], &[(1, 1)].into()));
        assert_eq!(back.history.decided[&0], finished(0, 1, true).summary, "to the last bit");
        let mut cells = crate::results::cells::CellHistograms::default();
        for attempt in [finished(0, 1, true), finished(1, 2, true)] {
            cells.add(&attempt.summary.batch, &attempt.histograms);
        }
        assert!(back.cells == cells, "{raw}: the merged totals");
        // The run continues.
        back.store.put(&finished(2, 1, true)).expect("put");
        drop(back);
        assert_eq!(again(dir.path()).history.decided.len(), 3);
    }
}

#[test]
fn one_coordinator_at_a_time() {
    let dir = tempfile::tempdir().expect("dir");
    two_batches(dir.path(), "jsonl");
    let first = again(dir.path());
    let second = resume(dir.path().to_path_buf(), stored(dir.path()).expect("stored"), Faults::default());
    let problem = second.expect_err("it is taken").to_string();
    assert!(problem.contains("another coordinator"), "{problem}");
    drop(first);
    let _ = again(dir.path());
}

#[test]
fn an_entry_whose_files_are_not_all_there_is_done_again() {
    let dir = tempfile::tempdir().expect("dir");
    two_batches(dir.path(), "jsonl");
    let raw = dir.path().join("raw.jsonl");
    let length = fs::metadata(&raw).expect("raw").len();
    OpenOptions::new().write(true).open(&raw).and_then(|file| file.set_len(length - 7)).expect("cut");
    let back = again(dir.path());
    assert_eq!(back.history.decided.keys().copied().collect::<Vec<_>>(), [0]);
    assert_eq!(back.history.refused, [(1, 1)].into(), "the refused attempt stands");
    let told = &back.history.told[&1];
    assert!(told.len() == 1 && told[0].starts_with("attempt 1: "), "and why: {told:?}");
    assert!(back.notes.iter().any(|note| note.contains("batch 1 is in the journal")), "{:?}", back.notes);
    assert_eq!(fs::read_to_string(&raw).expect("raw").lines().count(), 5);
}

#[test]
fn records_of_an_attempt_that_was_never_finished_are_removed() {
    let dir = tempfile::tempdir().expect("dir");
    two_batches(dir.path(), "jsonl");
    let stray = dir.path().join("attempts/ws-5-1.0-3-attempt-1.jsonl");
    fs::write(&stray, "half").expect("written");
    fs::write(dir.path().join("attempts/notes.txt"), "mine").expect("written");
    let back = again(dir.path());
    assert!(back.notes.iter().any(|note| note.contains("attempt-1.jsonl is removed")), "{:?}", back.notes);
    let left = fs::read_dir(dir.path().join("attempts")).expect("list").count();
    assert_eq!((stray.exists(), left), (false, 2), "the known attempt and what is not ours");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// A crash in the next attempt leaves any number of bytes at the end of any file.
    #[test]
    fn half_written_tails_are_cut_off_and_said(
        raw in prop_oneof![Just("jsonl"), Just("jsonl.zst"), Just("none")],
        parts in proptest::collection::vec(0.0_f64..=1.0, 4),
        garbage in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let (dir, next) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
        two_batches(dir.path(), raw);
        two_batches(next.path(), raw);
        let before = contents(dir.path());
        // The bytes that the next batch would have written.
        again(next.path()).store.put(&finished(2, 1, true)).expect("put");
        let mut cut = false;
        for ((name, was), part) in before.iter().zip([parts[0], parts[0], parts[1], parts[2], parts[3]]) {
            let Some(was) = was else { continue };
            let whole = fs::read(next.path().join(name)).expect("whole");
            let added = &whole[was.len()..];
            // The journal's line is never complete: the attempt would be finished then.
            let most = if *name == JOURNAL { added.len() - 1 } else { added.len() };
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a part")]
            let tail = &added[..(most as f64 * part) as usize];
            append(dir.path(), name, tail);
            append(dir.path(), name, &garbage);
            cut |= !tail.is_empty() || !garbage.is_empty();
        }
        let back = again(dir.path());
        prop_assert_eq!(contents(dir.path()), before);
        prop_assert_eq!(back.history.decided.len(), 2);
        prop_assert_eq!(cut, back.notes.iter().any(|note| note.contains("cut back from")), "{:?}", back.notes);
    }
}

/// Reading for a report changes nothing, notes what is missing, and reports the rest.
#[test]
fn a_report_reads_what_is_there() {
    let dir = tempfile::tempdir().expect("dir");
    assert!(matches!(read::read(dir.path()), Err(read_error::ReadError::NoRun { .. })));
    two_batches(dir.path(), "jsonl");
    let before = contents(dir.path());
    let run = read::read(dir.path()).expect("run");
    assert_eq!((run.status, run.results.len()), (Status::Running, 2));
    assert_eq!(run.notes, ["2 of 4 batches were decided"]);
    let whole = crate::report::tables::final_tables(&run.plan, &run.results, &run.cells);
    assert!(whole.contains("| ws   |    1.0 |"), "{whole}");
    assert_eq!(contents(dir.path()), before);

    append(dir.path(), HISTOGRAMS, b"Tag=half");
    append(dir.path(), JOURNAL, b"{\"format\":1,");
    let run = read::read(dir.path()).expect("run");
    assert_eq!(run.results.len(), 2);
    assert!(run.notes[0].contains("line 4 is half written"), "{:?}", run.notes);
    assert_eq!(crate::report::tables::final_tables(&run.plan, &run.results, &run.cells), whole);

    fs::remove_file(dir.path().join(HISTOGRAMS)).expect("removed");
    let run = read::read(dir.path()).expect("run");
    assert!(run.notes.contains(&"histograms.hlog is missing".to_owned()), "{:?}", run.notes);
    let bounds = crate::report::tables::final_tables(&run.plan, &run.results, &run.cells);
    assert_eq!(bounds, whole, "the largest of the repetitions' p99s stands for the merged one");

    let path = dir.path().join(RUN);
    let text = fs::read_to_string(&path).expect("run.json");
    fs::write(&path, text.replacen("\"format\": 2", "\"format\": 1", 1)).expect("written");
    let run = read::read(dir.path()).expect("a run of before");
    assert!(run.notes.iter().any(|note| note.contains("as open from its connection on")), "{:?}", run.notes);
    fs::write(&path, text.replacen("\"format\": 2", "\"format\": 0", 1)).expect("written");
    let error = read::read(dir.path()).expect_err("another format").to_string();
    assert!(error.contains("is of format 0") && error.contains("report it with version"), "{error}");

    // run.json is cut in half, as by an interrupted copy: the batches are in summary.csv too.
    fs::write(&path, &text[..text.len() / 2]).expect("written");
    let run = read::read(dir.path()).expect("run");
    assert!(run.notes[0].starts_with("run.json can't be read"), "{:?}", run.notes);
    assert_eq!((run.results.len(), run.judged()), (2, true));
    assert_eq!(run.cells.get(Mode::Ws, 5, 1_000_000, Metric::Total).map(|total| total.len()), Some(8));
    fs::remove_file(dir.path().join(SUMMARY)).expect("removed");
    let error = read::read(dir.path()).expect_err("nothing left").to_string();
    assert!(error.contains("run.json") && error.contains("not the whole"), "{error}");
}

/// If the histograms have a wrong byte or end early, those before that point are reported.
#[test]
fn histograms_that_end_early_cost_what_is_behind() {
    let dir = tempfile::tempdir().expect("dir");
    two_batches(dir.path(), "jsonl.zst");
    let path = dir.path().join(HISTOGRAMS);
    let text = fs::read(&path).expect("histograms");
    let second = text.windows(11).position(|part| part == b"Tag=ws-5-1.").expect("a tag");
    let whole = read::read(dir.path()).expect("run");
    assert_eq!((whole.traced.len(), whole.notes.len()), (1, 1), "{:?}", whole.notes);
    assert_eq!(whole.traced[0].agents[0].completed.iter().sum::<u64>(), 4);
    for part in 1..4 {
        fs::write(&path, &text[..second + (text.len() - second) * part / 4]).expect("written");
        let run = read::read(dir.path()).expect("run");
        let note = run.notes.iter().find(|note| note.starts_with(HISTOGRAMS)).expect("a note");
        assert!(note.contains("it lacks") && note.contains("of 2 batches"), "{note}");
        assert_eq!(run.results.len(), 2);
    }
    fs::write(dir.path().join("raw.jsonl.zst"), b"no frame").expect("written");
    let run = read::read(dir.path()).expect("run");
    assert!(run.traced.is_empty() && run.notes.iter().any(|note| note.starts_with("raw.jsonl.zst")), "{:?}", run.notes);
}

/// If a change to a file of the folder changes the report, the report says so.
#[test]
fn a_report_that_lacks_something_says_so() {
    let said = |change: &dyn Fn(&Path)| {
        let dir = tempfile::tempdir().expect("dir");
        two_batches(dir.path(), "jsonl");
        change(dir.path());
        let run = read::read(dir.path()).expect("run");
        let document = crate::report::document::of_run(&run, &[]);
        let text = crate::report::html::render(&document).replace(&dir.path().display().to_string(), "");
        (run.notes, text)
    };
    let whole = said(&|_| ());
    type Change = fn(&Path) -> io::Result<()>;
    let changes: [(&str, Change); 4] = [
        ("half", |path| {
            let bytes = fs::read(path)?;
            fs::write(path, &bytes[..bytes.len() / 2])
        }),
        ("empty", |path| fs::write(path, "")),
        ("garbage", |path| fs::write(path, "\u{1}garbage, and more of it\n".repeat(40))),
        ("missing", |path| fs::remove_file(path)),
    ];
    for name in [JOURNAL, HISTOGRAMS, "raw.jsonl", RUN] {
        for (how, change) in &changes {
            let (notes, _) = said(&|dir| change(&dir.join(name)).expect("changed"));
            let told = notes.iter().any(|note| note.contains(name) && !whole.0.contains(note));
            assert!(told, "{name} {how}: {notes:?}");
        }
    }
    // summary.csv is read only if it is needed.
    assert_eq!(said(&|dir| fs::remove_file(dir.join(SUMMARY)).expect("removed")), whole);
}

mod published_log;
mod scripts_folder;
