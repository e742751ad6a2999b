//! PURE: tables that compare runs, waits and protocols.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use proto::{Metric, Mode};

use crate::cells;
use crate::report::overview::infrastructures;
use crate::report::published::{Published, PublishedTable, latest};
use crate::report::table::{Table, TableCell};
use crate::report::wording::{p99_text, success};
use crate::results::batch::Summary;
use crate::results::cells::{Cell, Grid};
use crate::results::run::Run;
use crate::text::{count, latency, rate, seconds_short};

/// The max batch of every run and mode, with one column per wait; then the published ones of the same infrastructures.
#[must_use]
pub fn by_wait(runs: &[Run], published: &[Published]) -> Table {
    let published: Vec<(&str, Vec<&Published>)> = infrastructures(runs)
        .into_iter()
        .map(|name| (name, latest(published, name, PublishedTable::Summary)))
        .filter(|(_, rows)| !rows.is_empty())
        .collect();
    let mut waits: BTreeSet<u64> =
        runs.iter().flat_map(|run| run.results.iter().map(|done| done.batch().wait_us)).collect();
    waits.extend(published.iter().flat_map(|(_, rows)| rows.iter().map(|row| wait_us(row))));
    let names = ["Infrastructure".to_owned(), "Mode".to_owned()];
    let columns = waits.iter().map(|wait_us| format!("wait={}s", seconds_short(*wait_us)));
    let mut table = Table::new(names.into_iter().chain(columns), 2..2 + waits.len());
    for run in runs {
        let grid = run.grid();
        for mode in run.plan.target.mode.list() {
            let of = |wait: &u64| match grid.lines.get(&(*mode, *wait)) {
                None => String::new(),
                Some(line) => grid.max_batch(line).map_or_else(|| "-".to_owned(), |n| count(line[n].batch_size)),
            };
            table.row([run.title(), mode.to_string()].into_iter().chain(waits.iter().map(of)));
        }
    }
    for (name, rows) in published {
        let modes: BTreeSet<Mode> = rows.iter().map(|row| row.mode).collect();
        for mode in modes {
            let of = |wait: &u64| match rows.iter().find(|row| row.mode == mode && wait_us(row) == *wait) {
                None => String::new(),
                Some(row) => row.batch_size.map_or_else(|| "-".to_owned(), count),
            };
            let title = format!("{}-{name} (published)", rows[0].date);
            table.row([title, mode.to_string()].into_iter().chain(waits.iter().map(of)));
        }
    }
    table
}

/// The wait in microseconds; published waits have one decimal.
fn wait_us(row: &Published) -> u64 {
    proto::units::micros_of(row.wait_seconds)
}

/// The largest batch size at which one protocol met the criterion, of the sizes that both protocols ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub size: Option<u64>,
    /// Whether it is the largest size that both ran, so that the limit is unknown.
    pub largest: bool,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.size {
            None => f.write_str("-"),
            Some(size) if self.largest => write!(f, "≥ {}", count(size)),
            Some(size) => f.write_str(&count(size)),
        }
    }
}

/// WebSocket and HTTP at one wait, over the sizes that both ran with a verdict that counts; `None` if there are none.
#[must_use]
pub fn in_both(run: &Run, grid: &Grid<'_>, wait_us: u64) -> Option<(Held, Held)> {
    let of = |mode| grid.lines.get(&(mode, wait_us));
    let (ws, http) = (of(Mode::Ws)?, of(Mode::Http)?);
    let counts = |cell: &Cell<'_>| !cell.runs.is_empty() && (!run.judged() || cell.runs.iter().any(|run| run.accepted));
    let sizes: Vec<u64> = ws
        .iter()
        .filter(|cell| counts(cell) && http.iter().any(|other| other.batch_size == cell.batch_size && counts(other)))
        .map(|cell| cell.batch_size)
        .collect();
    let largest = *sizes.last()?;
    let held = |line: &[Cell<'_>]| {
        let met = line.iter().filter(|cell| sizes.contains(&cell.batch_size) && grid.meets(cell));
        let size = met.map(|cell| cell.batch_size).max();
        Held { size, largest: size == Some(largest) }
    };
    Some((held(ws), held(http)))
}

/// The max batches of WebSocket and HTTP, with one row per wait, for runs of both: over the sizes that both ran.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub fn protocols(runs: &[Run]) -> Table {
    let mut table = Table::new(["Infrastructure", "wait_s", "WS Max", "HTTP Max", "WS/HTTP Ratio", "Winner"], 1..5);
    for run in runs {
        let grid = run.grid();
        for (_, wait_us) in grid.lines.keys().filter(|(mode, _)| *mode == Mode::Ws) {
            let Some((ws, http)) = in_both(run, &grid, *wait_us) else { continue };
            let known = !ws.largest && !http.largest;
            let ratio = match ws.size.zip(http.size).filter(|_| known).map(|(ws, http)| ws as f64 / http as f64) {
                None => "-".to_owned(),
                Some(ratio) if ratio < 1.0 => format!("{ratio:.2}x"),
                Some(ratio) => format!("{ratio:.1}x"),
            };
            let winner = match ws.size.cmp(&http.size) {
                _ if ws.size.is_none() && http.size.is_none() || ws.largest && http.largest => "-",
                std::cmp::Ordering::Greater => "WS",
                std::cmp::Ordering::Less => "HTTP",
                std::cmp::Ordering::Equal => "Tie",
            };
            table.row([
                told_by(runs, run),
                seconds_short(*wait_us),
                ws.to_string(),
                http.to_string(),
                ratio,
                winner.to_owned(),
            ]);
        }
    }
    table
}

/// Success, p99 and throughput of the same batches in several runs, with one column per run. Batches of a single run
/// are left out; with more runs than a page has room for, so are the tables.
#[must_use]
pub fn by_batch(runs: &[Run]) -> Vec<(&'static str, Table)> {
    const RUNS_MAX: usize = 6;
    if runs.len() < 2 || runs.len() > RUNS_MAX {
        return Vec::new();
    }
    let grids: Vec<Grid<'_>> = runs.iter().map(Run::grid).collect();
    type Done<'a> = Vec<(usize, &'a Cell<'a>)>;
    let mut cells: BTreeMap<(Mode, u64, u64), Done<'_>> = BTreeMap::new();
    for (n, grid) in grids.iter().enumerate() {
        for cell in grid.lines.values().flatten().filter(|cell| !cell.runs.is_empty()) {
            cells.entry((cell.mode, cell.wait_us, cell.batch_size)).or_default().push((n, cell));
        }
    }
    cells.retain(|_, of| of.len() > 1);
    if cells.is_empty() {
        return Vec::new();
    }
    type Of = fn(&Cell<'_>) -> TableCell;
    let per_second: Of = |cell| if cell.succeeded() == 0 { "-".into() } else { rate(cell.rps()).into() };
    let tables: [(&'static str, Of); 3] =
        [("Success Rate", success), ("p99 Latency", |cell| p99_text(cell).into()), ("RPS", per_second)];
    let header = || ["Mode", "wait_s", "Batch Size"].map(str::to_owned).into_iter().chain(runs.iter().map(Run::title));
    let table = |of: Of| {
        let mut table = Table::new(header(), 1..3 + runs.len());
        for ((mode, wait_us, size), done) in &cells {
            let by_run = (0..runs.len())
                .map(|n| done.iter().find(|(run, _)| *run == n).map_or_else(TableCell::default, |(_, cell)| of(cell)));
            table.row(cells![mode.to_string(), seconds_short(*wait_us), size.to_string()].into_iter().chain(by_run));
        }
        table
    };
    tables.into_iter().map(|(title, of)| (title, table(of))).collect()
}

/// Every batch size of a run over WebSocket beside the same size over HTTP.
#[must_use]
pub fn protocols_by_size(run: &Run) -> Table {
    let grid = run.grid();
    let mut table = Table::new(
        ["wait_s", "Batch Size", "Success (ws)", "Success (http)", "p99 (ws)", "p99 (http)", "RPS (ws)", "RPS (http)"],
        0..8,
    );
    for ((_, wait_us), line) in grid.lines.iter().filter(|((mode, _), _)| *mode == Mode::Ws) {
        for ws in line {
            let http = grid.lines.get(&(Mode::Http, *wait_us));
            let http = http.and_then(|line| line.iter().find(|cell| cell.batch_size == ws.batch_size));
            let Some(http) = http else { continue };
            let per_second = |cell: &Cell<'_>| if cell.succeeded() == 0 { "-".to_owned() } else { rate(cell.rps()) };
            table.row(cells![
                seconds_short(*wait_us),
                ws.batch_size.to_string(),
                success(ws),
                success(http),
                p99_text(ws),
                p99_text(http),
                per_second(ws),
                per_second(http),
            ]);
        }
    }
    table
}

/// The cell of each mode and wait that is shown in detail.
#[must_use]
pub fn max_loads<'a, 'b>(grid: &'b Grid<'a>) -> Vec<&'b Cell<'a>> {
    grid.lines.values().filter_map(|line| grid.max_load(line).map(|n| &line[n])).collect()
}

/// The time in each phase at maximum load, from the repetitions' merged histograms.
#[must_use]
pub fn breakdown(runs: &[Run]) -> Table {
    let header = [
        "Infrastructure",
        "Mode",
        "wait_s",
        "Batch Size",
        "Connect p50",
        "Connect p99",
        "Reset p50",
        "Reset p99",
        "Step p50",
        "Step p99",
        "Close p99",
        "Total p50",
        "Total p99",
        "Wire p99",
    ];
    let mut table = Table::new(header, 2..14);
    for run in runs {
        for cell in max_loads(&run.grid()) {
            // Without merged histograms: one repetition's own value, or the largest, which bounds the merged one.
            let stored = |metric, quantile: f64| {
                let of = |run: &&Summary| {
                    let percentiles = match metric {
                        Metric::Connect => run.connect,
                        Metric::Reset => run.reset,
                        Metric::Step => run.step,
                        Metric::Total => run.total,
                        Metric::Wire => run.wire?,
                        _ => return None,
                    };
                    Some(if quantile < 0.9 { percentiles.p50_us } else { percentiles.p99_us })
                };
                let most = cell.runs.iter().filter_map(of).max().filter(|us| *us > 0);
                most.filter(|_| quantile > 0.9 || cell.runs.len() == 1)
            };
            let most_us = cell.runs.iter().map(|run| run.total_max_us).max().filter(|us| *us > 0).unwrap_or(u64::MAX);
            let at = |metric, quantile| {
                let values = run.cells.get(cell.mode, cell.batch_size, cell.wait_us, metric);
                // No phase takes longer than the whole, but the upper edge of a bucket may exceed its values.
                let us = values.map(|v| v.value_at_quantile(quantile).min(v.max()).min(most_us));
                us.or_else(|| stored(metric, quantile)).map_or_else(|| "-".to_owned(), latency)
            };
            table.row([
                told_by(runs, run),
                cell.mode.to_string(),
                seconds_short(cell.wait_us),
                cell.batch_size.to_string(),
                at(Metric::Connect, 0.5),
                at(Metric::Connect, 0.99),
                at(Metric::Reset, 0.5),
                at(Metric::Reset, 0.99),
                at(Metric::Step, 0.5),
                at(Metric::Step, 0.99),
                at(Metric::Close, 0.99),
                at(Metric::Total, 0.5),
                p99_text(cell),
                at(Metric::Wire, 0.99),
            ]);
        }
    }
    table
}

/// The label of a run: its name if it is the only one, else its title.
fn told_by(runs: &[Run], run: &Run) -> String {
    if runs.len() == 1 { run.name() } else { run.title() }
}

/// The explanation of the columns of [`breakdown`].
pub const BREAKDOWN: &str = "\
Of succeeded sessions, all repetitions together. The step contains the wait that it asks for; wire is the step until the kernel of \
the agent's machine had the reply. Percentiles of phases do not add up to those of the total: a session that is slow in one phase \
need not be slow in another.";

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::*;
    use crate::report::published::built_in;
    use crate::report::tables::tests::done;
    use crate::results::cells::{CellHistograms, Done};
    use crate::results::run::tests::run_of;

    #[test]
    fn waits_protocols_and_phases() {
        let mut cells = CellHistograms::default();
        let mut results = vec![done(32, 1, 32, 1_080_000, &mut cells), done(512, 1, 400, 1_980_000, &mut cells)];
        for (size, succeeded) in [(32, 32), (512, 0)] {
            let Done::Ran(mut summary) = done(size, 1, succeeded, 1_200_000, &mut CellHistograms::default()) else {
                panic!("it ran")
            };
            summary.batch.mode = Mode::Http;
            results.push(Done::Ran(summary));
        }
        for (metric, us) in [(Metric::Connect, 20_000), (Metric::Step, 1_050_000)] {
            let mut values = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("bounds");
            values.record(us).expect("in range");
            values.record(2 * us).expect("in range");
            cells.add_one(results[0].batch(), metric, &values).expect("the same bounds");
        }
        let plan = "[experiment]\ninfrastructure=\"hf-spaces\"\n";
        let runs = [run_of(plan, "2026-11-24T10:00:00Z", results, cells)];
        let published = built_in();
        insta::assert_snapshot!(format!(
            "{}\n\n{}\n\n{}",
            by_wait(&runs, &published).markdown(),
            format!("{}\n\n{}", protocols(&runs).markdown(), protocols_by_size(&runs[0]).markdown()),
            breakdown(&runs).markdown()
        ));
    }
}
