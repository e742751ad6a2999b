//! Rebuilds the tables of the experiment log from folders that hold its numbers.

use std::collections::BTreeMap;

use proto::Ledger;

use super::*;
use crate::log::entry::{Links, body};
use crate::report::comparison;
use crate::report::overview::{OverviewRow, overview};
use crate::report::published::{Published, PublishedTable, built_in};
use crate::report::table::Table;
use crate::report::tables::{results_summary, scalings};
use crate::results::attempt::FinishedAttempt;
use crate::results::run::{Run, Status};
use crate::results::samples::context;

/// A published row. Its fields are text, so that `2.90` is not `2.9`.
#[derive(Debug, Clone, serde::Deserialize)]
struct Row {
    infrastructure: String,
    variant: String,
    date: String,
    table: PublishedTable,
    mode: Mode,
    wait_seconds: String,
    batch_size: Option<u64>,
    success: String,
    p99_seconds: String,
    requests_per_second: String,
    cores: Option<u64>,
    note: String,
}

fn rows() -> Vec<Row> {
    let text = include_str!("../../../../experiments/reports/published.csv");
    csv::Reader::from_reader(text.as_bytes()).deserialize().collect::<Result<_, _>>().expect("rows")
}

/// Succeeded sessions of three repetitions. They differ a little, unless the log says that they did not.
fn repetitions(row: &Row, size: u64) -> [u64; 3] {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "shares")]
    let of = |percent: f64| (percent / 100.0 * size as f64).round() as u64;
    let share = |text: &str| text.parse::<f64>().expect("a share");
    let text = row.success.trim_start_matches('~').split('%').next().expect("a share");
    match text.split_once('-') {
        _ if row.note.starts_with("Unstable") => [0, size, 0],
        _ if row.note.starts_with("Only 200/512") => [200; 3],
        Some((low, high)) => [of(share(low)), of(f64::midpoint(share(low), share(high))), of(share(high))],
        None if text == "100" || text == "0" => [of(share(text)); 3],
        None => [of(share(text)) - 1, of(share(text)), of(share(text)) + 1],
    }
}

fn attempt(index: u32, row: &Row, size: u64, repetition: u32, succeeded: u64) -> FinishedAttempt {
    let seconds = |text: &str| text.parse::<f64>().unwrap_or(0.0);
    let us = |text: &str| super::super::schema::number::us(seconds(text));
    let batch = Batch { index, mode: row.mode, batch_size: size, wait_us: us(&row.wait_seconds), repetition };
    let mut histograms = HistogramSet::new(Bounds::STANDARD);
    let mut record = SessionRecord::without_life(0, Outcome::Succeeded, String::new());
    (record.started_us, record.total_us) = (Some(0), Some(us(&row.p99_seconds)));
    if succeeded > 0 {
        histograms.record(&record);
    }
    let context = Context { url: "http://localhost:8000", hardware: "as published", ..context(batch) };
    let mut summary = Summary::of(&context, &[], &histograms);
    summary.ledger = Ledger { planned: size, succeeded, failed: size - succeeded, ..Ledger::default() };
    summary.total_max_us = us(&row.p99_seconds);
    summary.total_wall_us = if row.note.contains("wall time ~124s") { 124_000_000 } else { summary.total_max_us };
    summary.requests_per_second = seconds(&row.requests_per_second);
    if row.note == "Some connection failures" {
        summary.errors = vec![("refused at connect".to_owned().into(), size - succeeded)];
    } else if row.mode == Mode::Http {
        summary.errors = vec![("http_status(404) at reset".to_owned().into(), size)];
    }
    FinishedAttempt {
        id: AttemptId { run: RunId(uuid::Uuid::nil()), batch: index, attempt: 1 },
        summary,
        rows: Vec::new(),
        histograms,
        stands: true,
        faults: Vec::new(),
        lost: Vec::new(),
    }
}

/// Writes what was published of one run to a results folder, and reads the run from it.
fn stored_run(dir: &Path, rows: &[Row]) -> Run {
    let first = &rows[0];
    let cores = first.cores.map_or_else(String::new, |cores| format!("cores={cores}\n"));
    let mut plan = plan_of(&format!(
        "[experiment]\ninfrastructure={:?}\nvariant={:?}\n{cores}[target]\nurls=\"http://localhost:8000\"\n[grid]\nbatch_sizes=[1]\n\
         [output]\nraw=\"none\"\n",
        first.infrastructure, first.variant
    ))
    .expect("plan");
    let modes: Vec<Mode> = rows.iter().map(|row| row.mode).collect();
    if modes.contains(&Mode::Http) {
        plan.target.mode = crate::plan::Modes::Compare;
    }
    let started = format!("{}T12:00:00Z", first.date).parse().expect("a time");
    let mut store = Store::create(dir.to_path_buf(), plan.output.raw, started, Faults::default()).expect("created");
    // A batch that is in two tables is one batch; the summary's row also has a rate.
    let mut cells: BTreeMap<(Mode, String, u64), Row> = BTreeMap::new();
    let sizes: Vec<u64> = rows.iter().filter_map(|row| row.batch_size).collect();
    for row in rows {
        // A row without a size stands for all sizes.
        for size in row.batch_size.map_or_else(|| sizes.clone(), |size| vec![size]) {
            let cell = cells.entry((row.mode, row.wait_seconds.clone(), size)).or_insert_with(|| row.clone());
            if cell.note.is_empty() {
                cell.note.clone_from(&row.note);
            }
        }
    }
    let mut index = 0;
    for ((_, _, size), row) in &cells {
        for (repetition, succeeded) in (1..).zip(repetitions(row, *size)) {
            store.put(&attempt(index, row, *size, repetition, succeeded)).expect("stored");
            index += 1;
        }
    }
    let mut metadata = RunMetadata { started, ..RunMetadata::default() };
    metadata.command = vec!["coordinator".to_owned(), "run".to_owned(), "plan.toml".to_owned()];
    put_run(&store, &plan, &metadata);
    let mut run = read::read(dir).expect("run");
    run.status = Status::Complete;
    run
}

/// Cells that differ from the log: place, column, the log's text, and the text made from its numbers.
#[derive(Default)]
struct Differing(Vec<[String; 4]>);

impl Differing {
    fn compare(&mut self, place: &str, column: &str, log: &str, here: Option<&String>) {
        let here = here.map_or("(no such row)", String::as_str);
        // The text may add facts after the log's words.
        let more = !log.is_empty() && here.strip_prefix(log).is_some_and(|rest| rest.starts_with([',', ' ']));
        if here != log && !more {
            self.0.push([place.to_owned(), column.to_owned(), log.to_owned(), here.to_owned()]);
        }
    }
}

fn seconds(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { format!("{text}s") }
}

fn compare(run: &Run, rows: &[Row], differing: &mut Differing) {
    let grid = run.grid();
    let summary = results_summary(&run.plan, &grid);
    let scaling: Vec<(Mode, u64, Table)> = scalings(&run.plan, &grid);
    for row in rows {
        let size = row.batch_size.map_or_else(|| "-".to_owned(), |size| size.to_string());
        match row.table {
            PublishedTable::Summary => {
                let place = format!("{}, Results Summary, {} {}", run.title(), row.mode, row.wait_seconds);
                let own = summary
                    .rows
                    .iter()
                    .find(|own| own[0].to_string() == row.mode.to_string() && own[1].to_string() == row.wait_seconds);
                let mut cell = |n: usize, column: &str, log: &str| {
                    differing.compare(&place, column, log, own.map(|own| own[n].to_string()).as_ref());
                };
                cell(2, "Max Batch (95%+)", &size);
                cell(3, "p99 Latency", &seconds(&row.p99_seconds));
                cell(4, "Success %", &row.success);
                cell(
                    5,
                    if row.note.is_empty() { "RPS" } else { "Notes" },
                    if row.note.is_empty() { &row.requests_per_second } else { &row.note },
                );
            }
            PublishedTable::Scaling => {
                let place = format!("{}, Scaling Behavior, {size}", run.title());
                let (_, _, table) = scaling.iter().find(|(mode, _, _)| *mode == row.mode).expect("the mode's table");
                let own = table.rows.iter().find(|own| own[0].to_string() == size);
                let mut cell = |n: usize, column: &str, log: &str| {
                    differing.compare(&place, column, log, own.map(|own| own[n].to_string()).as_ref());
                };
                cell(1, "Success Rate", &row.success);
                cell(2, "p99 Latency", &seconds(&row.p99_seconds));
                cell(3, "Notes", &row.note);
            }
        }
    }
}

/// All runs of the log as results folders, in its order, and its overview with the newest run of each infrastructure.
#[test]
fn the_tables_of_the_experiment_log_from_stores_that_hold_its_numbers() {
    let all = rows();
    let mut titles: Vec<(String, String, String)> = Vec::new();
    for row in &all {
        let title = (row.infrastructure.clone(), row.variant.clone(), row.date.clone());
        if !titles.contains(&title) {
            titles.push(title);
        }
    }
    assert_eq!(titles.len(), 10, "nine entries, one of them with two variants");
    let dir = tempfile::tempdir().expect("dir");
    let mut differing = Differing::default();
    let mut runs = Vec::new();
    for (infrastructure, variant, date) in &titles {
        let of = |row: &&Row| (&row.infrastructure, &row.variant, &row.date) == (infrastructure, variant, date);
        let rows: Vec<Row> = all.iter().filter(of).cloned().collect();
        let folder = dir.path().join(format!("{date}-{infrastructure}-{variant}"));
        fs::create_dir(&folder).expect("created");
        let run = stored_run(&folder, &rows);
        compare(&run, &rows, &mut differing);
        runs.push(run);
    }

    // The log's overview has the newest run of each infrastructure.
    let names = ["local-uvicorn", "local-docker", "hf-spaces", "slurm-single", "slurm-multi"];
    let newest =
        names.map(|name| runs.iter().filter(|run| run.name() == name).max_by_key(|run| run.date()).expect("a run"));
    let expected = [
        ["local-uvicorn", "✅ Complete", "2026-01-09", "2,048", "8", "256"],
        ["local-docker", "✅ Complete", "2026-01-13", "2,048", "8", "256"],
        ["hf-spaces", "✅ Complete", "2026-01-13", "128", "2", "64"],
        ["slurm-single", "✅ Complete", "2026-01-13", "512", "48", "10.7"],
        ["slurm-multi", "✅ Complete", "2026-01-13", "16,384", "96", "170.7"],
    ];
    for (run, log) in newest.iter().zip(expected) {
        for ((cell, log), column) in OverviewRow::of(run).cells().iter().zip(log).zip(crate::report::overview::COLUMNS)
        {
            differing.compare("Overview", column, log, Some(cell));
        }
    }

    let list: String = differing.0.iter().map(|cell| format!("{}\n", cell.join(" | "))).collect();
    insta::assert_snapshot!("cells_that_no_rule_gives", list);
    let page = include_str!("../../../../docs/experiment_log.md");
    for [place, column, log, here] in &differing.0 {
        let row = format!("| {place} | {column} | {log} | {here} |");
        assert!(page.contains(&row), "docs/experiment_log.md lacks this cell, with its reason: {row}");
    }

    let links = Links { summary: None, figures: None };
    let mut text = format!("{}\n\n{}\n", overview(&runs, &[]).markdown(), comparison::by_wait(&runs, &[]).markdown());
    for run in &runs {
        let entry = body(run, &links).replace(&dir.path().display().to_string(), "results");
        text.push_str(&format!("\n## Run: {}\n\n{entry}", run.title()));
    }
    insta::assert_snapshot!("the_log_again", text);
}

/// The published rows that users get are the ones that are compared above.
#[test]
fn the_rows_beside_new_runs_are_the_same() {
    let published: Vec<Published> = built_in();
    assert_eq!(published.len(), rows().len());
    for (published, row) in published.iter().zip(rows()) {
        assert_eq!((&published.infrastructure, published.batch_size), (&row.infrastructure, row.batch_size));
        assert_eq!(published.p99_seconds, row.p99_seconds.parse().ok());
    }
}
