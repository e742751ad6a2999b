//! Tests with folders that hold only summary.csv and raw.jsonl.

use super::*;

const COLUMNS: &str = "mode,url,num_requests,batch_size,wait_seconds,repetition,timestamp,hardware,successful,failed,error_rate,\
                       total_wall_time,connect_p50,connect_p95,connect_p99,reset_p50,reset_p95,reset_p99,step_p50,step_p95,step_p99,\
                       total_min,total_max,total_avg,total_p50,total_p90,total_p95,total_p99,requests_per_second,\
                       effective_concurrency,unique_pids,unique_sessions,unique_hosts";

/// A line of summary.csv as the script writes it.
fn line(size: u64, repetition: u32, succeeded: u64, p99: f64) -> String {
    let failed = size - succeeded;
    format!(
        "ws,http://localhost:8000,{size},{size},1.0,{repetition},2026-01-13T12:2{repetition}:22.123456Z,cpu-basic,{succeeded},{failed},\
         {},2.5,0.01,0.02,0.031234567,0.01,0.02,0.03,1.0,1.01,1.02,1.0,{p99},1.05,1.04,1.05,1.06,{p99},682.1,1638.4,8,{succeeded},2",
        failed as f64 / size as f64
    )
}

/// A line of raw.jsonl as the script writes it: a failed session has zeros for phases that it did not reach.
fn session(size: u64, n: u64, succeeded: u64, total: f64) -> String {
    if n < succeeded {
        format!(
            "{{\"request_id\": {n}, \"mode\": \"ws\", \"timestamp\": \"2026-01-13T12:23:22.5Z\", \"wait_requested\": 1.0, \"batch_size\": {size}, \
             \"hardware\": \"cpu-basic\", \"connect_latency\": 0.01, \"reset_latency\": 0.02, \"step_latency\": 1.01, \"total_latency\": {total}, \
             \"waited_seconds\": 1.0, \"pid\": {n}, \"session_hash\": \"x\", \"host_url\": \"h{}:1\", \"success\": true, \"error_type\": null, \
             \"error_message\": null}}\n",
            n % 2
        )
    } else {
        format!(
            "{{\"request_id\": {n}, \"mode\": \"ws\", \"timestamp\": \"2026-01-13T12:23:22.5Z\", \"wait_requested\": 1.0, \"batch_size\": {size}, \
             \"hardware\": \"cpu-basic\", \"connect_latency\": 0.0, \"reset_latency\": 0.0, \"step_latency\": 0.0, \"total_latency\": 0.01, \
             \"waited_seconds\": 0.0, \"pid\": 0, \"session_hash\": \"\", \"host_url\": \"\", \"success\": false, \
             \"error_type\": \"ConnectionRefusedError\", \"error_message\": \"no\"}}\n"
        )
    }
}

/// Two repetitions of 100 sessions: 96 and 98 succeeded; a few of the second are slow.
fn folder(dir: &Path) -> PathBuf {
    let dir = dir.join("local-docker/2026-01-13");
    fs::create_dir_all(&dir).expect("created");
    let summary = format!("{COLUMNS}\n{}\n{}\n", line(100, 1, 96, 1.1), line(100, 2, 98, 5.0));
    fs::write(dir.join(SUMMARY), summary).expect("written");
    let raw: String = (0..100)
        .map(|n| session(100, n, 96, 1.1))
        .chain((0..100).map(|n| session(100, n, 98, if n > 95 { 5.0 } else { 1.2 })))
        .collect();
    fs::write(dir.join("raw.jsonl"), raw).expect("written");
    dir
}

#[test]
fn what_the_python_script_left_is_reported() {
    let dir = tempfile::tempdir().expect("dir");
    let place = folder(dir.path());
    let run = read::read(&place).expect("run");
    assert_eq!((run.title().as_str(), run.notes.len()), ("2026-01-13-local-docker", 0), "{:?}", run.notes);
    assert!(!run.judged());
    let grid = run.grid();
    let cell = &grid.lines.values().next().expect("a line")[0];
    assert_eq!((cell.succeeded(), cell.planned(), cell.runs.len()), (194, 200, 2));
    assert_eq!(run.cells.get(Mode::Ws, 100, 1_000_000, Metric::Connect).map(|connect| connect.len()), Some(194));
    // 2 of 194 are slow: the merged p99 is one of theirs, while the mean of the two p99s is 3.05 s.
    assert_eq!(cell.p99_us, Some(5_000_000));
    let errors: Vec<(String, u64)> = cell.errors().iter().map(|(what, n)| (what.to_string(), *n)).collect();
    assert_eq!(errors, [("ConnectionRefusedError".to_owned(), 6)]);
    assert_eq!(cell.runs[1].hosts, BTreeMap::from([("h0:1".to_owned(), 49), ("h1:1".to_owned(), 49)]));
    let page = crate::report::document::of_run(&run, &[]);
    let text = crate::report::markdown::render(&page, None);
    for said in ["not judged", "Nothing was judged", "the Python script", "2026-01-13"] {
        assert!(text.contains(said), "{said}: {text}");
    }
    assert!(!text.contains("valid"), "{text}");
}

#[test]
fn without_its_sessions_the_p99_is_a_bound_and_says_so() {
    let dir = tempfile::tempdir().expect("dir");
    let place = folder(dir.path());
    fs::remove_file(place.join("raw.jsonl")).expect("removed");
    let run = read::read(&place).expect("run");
    assert!(run.notes[0].contains("raw.jsonl is missing"), "{:?}", run.notes);
    assert_eq!(run.grid().lines.values().next().expect("a line")[0].p99_us, Some(5_000_000));
}

#[test]
fn what_is_broken_is_named_and_the_rest_reported() {
    let dir = tempfile::tempdir().expect("dir");
    let place = folder(dir.path());
    let raw = fs::read_to_string(place.join("raw.jsonl")).expect("raw");
    fs::write(place.join("raw.jsonl"), &raw[..raw.len() - 40]).expect("written");
    let run = read::read(&place).expect("run");
    assert!(run.notes[0].contains("1 lines can't be read (line 200:"), "{:?}", run.notes);
    assert!(run.notes[1].contains("does not have the sessions of 1 batches"), "{:?}", run.notes);
    // The first repetition is merged, the second is not: half a cell has no merged p99.
    assert_eq!(run.grid().lines.values().next().expect("a line")[0].p99_us, Some(5_000_000));

    // Oddities that Python and editors put into such files.
    let odd = format!(
        "\u{feff}{}\r\n\r\n",
        raw.replace("\"waited_seconds\": 1.0", "\"waited_seconds\": NaN").replace('\n', "\r\n\r\n")
    );
    fs::write(place.join("raw.jsonl"), odd).expect("written");
    assert_eq!(read::read(&place).expect("run").notes, Vec::<String>::new());
    let mut bytes = raw.clone().into_bytes();
    let at = raw.find("ConnectionRefusedError").expect("an error");
    bytes[at] = 0xe9;
    fs::write(place.join("raw.jsonl"), bytes).expect("written");
    assert_eq!(read::read(&place).expect("run").notes, Vec::<String>::new(), "a byte of another encoding in a text");

    let summary = fs::read_to_string(place.join(SUMMARY)).expect("summary");
    fs::write(place.join(SUMMARY), &summary[..summary.len() - 30]).expect("written");
    let run = read::read(&place).expect("run");
    assert_eq!(run.results.len(), 1);
    assert!(run.notes[0].contains("the 1 lines before it are reported"), "{:?}", run.notes);

    for (from, to) in [
        ("ws,http://localhost:8000,100,100", "ws,http://localhost:8000,18446744073709551615,100"),
        (",682.1,1638.4,8,98,2", ",682.1,1638.4,8,98,5000000000"),
    ] {
        let fault = summary.replace(from, to);
        assert_ne!(fault, summary);
        fs::write(place.join(SUMMARY), fault).expect("written");
        let said = match read::read(&place) {
            Ok(run) => run.notes.join("\n"),
            Err(error) => error.to_string(),
        };
        assert!(said.contains("no run has that many"), "{said}");
    }

    fs::write(place.join(SUMMARY), format!("{COLUMNS}\n")).expect("written");
    assert!(read::read(&place).expect_err("empty").to_string().contains("no batch was finished"));
    fs::write(place.join(SUMMARY), "a,b\n1,2\n").expect("written");
    let error = read::read(&place).expect_err("another file").to_string();
    assert!(error.contains("missing field") && error.contains("not the summary.csv of a run"), "{error}");
}

/// Other versions of the script count repetitions from 0, or write times without a zone, as seconds, or not at all.
#[test]
fn other_ways_to_count_and_to_tell_the_time() {
    let dir = tempfile::tempdir().expect("dir");
    let place = folder(dir.path());
    let path = place.join(SUMMARY);
    for (time, started) in [
        ("2026-01-13 12:00:00", "2026-01-13T12:00:00Z"),
        ("1768305600.5", "2026-01-13T12:00:00.5Z"),
        ("", "1970-01-01T00:00:00Z"),
    ] {
        let text = line(100, 0, 96, 1.1).replace("2026-01-13T12:20:22.123456Z", time);
        fs::write(&path, format!("{COLUMNS}\n{text}\n")).expect("written");
        let run = read::read(&place).expect("run");
        assert_eq!(run.started.to_string(), started);
        assert_eq!(run.results[0].batch().repetition, 1);
    }
}

/// Only summary.csv of a run of this program is left: it has the verdicts.
#[test]
fn the_summary_of_a_run_of_ours_alone() {
    let dir = tempfile::tempdir().expect("dir");
    two_batches(dir.path(), "jsonl");
    for name in [RUN, JOURNAL, HISTOGRAMS, "raw.jsonl"] {
        fs::remove_file(dir.path().join(name)).expect("removed");
    }
    let run = read::read(dir.path()).expect("run");
    assert!(run.judged());
    let summaries: Vec<&Summary> = run.results.iter().filter_map(|done| done.summary()).collect();
    assert_eq!((summaries.len(), summaries[0].ledger.lost), (2, 1));
    assert_eq!(summaries[0].verdict.reasons, ["because, \"so\""]);
}

/// The report of a folder, or why there is none.
fn reported(dir: &Path) -> String {
    match read::read(dir) {
        Ok(run) => {
            let document = crate::report::document::of_run(&run, &crate::report::published::built_in());
            crate::report::html::render(&document) + &crate::report::markdown::render(&document, None)
        }
        Err(error) => error.to_string(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// If any byte of any file is changed or any end is missing, a report still says something and never panics.
    #[test]
    fn whatever_happened_to_the_files_a_report_says_something(
        file in 0..6_usize,
        at in 0.0..1.0_f64,
        garbage in proptest::collection::vec(any::<u8>(), 0..8),
        cut in any::<bool>(),
    ) {
        let dir = tempfile::tempdir().expect("dir");
        let (place, name) = if file < 2 {
            (folder(dir.path()), [SUMMARY, "raw.jsonl"][file])
        } else {
            two_batches(dir.path(), "jsonl");
            (dir.path().to_path_buf(), [RUN, JOURNAL, HISTOGRAMS, "raw.jsonl"][file - 2])
        };
        let path = place.join(name);
        let mut bytes = fs::read(&path).expect("a file");
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a part")]
        let at = (bytes.len() as f64 * at) as usize;
        let end = if cut { bytes.len() } else { (at + garbage.len()).min(bytes.len()) };
        bytes.splice(at..end, garbage);
        fs::write(&path, bytes).expect("written");
        prop_assert!(!reported(&place).is_empty());
    }
}
