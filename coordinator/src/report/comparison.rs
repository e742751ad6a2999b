//! PURE: runs, waits and protocols side by side.

use std::collections::BTreeSet;

use proto::{Metric, Mode};

use super::cells::{Cell, Grid};
use super::format::{count, latency, rate, seconds_short};
use super::overview::infrastructures;
use super::published::{Published, Table, latest};
use super::run::Run;
use super::sheet::Sheet;
use super::tables::{p99, success};

/// The max batch of every run and mode, a column a wait; then what was published of the same infrastructures.
#[must_use]
pub fn by_wait(runs: &[Run], published: &[Published]) -> Sheet {
    let published: Vec<(&str, Vec<&Published>)> = infrastructures(runs)
        .into_iter()
        .map(|name| (name, latest(published, name, Table::Summary)))
        .filter(|(_, rows)| !rows.is_empty())
        .collect();
    let mut waits: BTreeSet<u64> =
        runs.iter().flat_map(|run| run.results.iter().map(|done| done.batch().wait_us)).collect();
    waits.extend(published.iter().flat_map(|(_, rows)| rows.iter().map(|row| wait_us(row))));
    let names = ["Infrastructure".to_owned(), "Mode".to_owned()];
    let columns = waits.iter().map(|wait_us| format!("wait={}s", seconds_short(*wait_us)));
    let mut sheet = Sheet::new(names.into_iter().chain(columns), 2..2 + waits.len());
    for run in runs {
        let grid = run.grid();
        for mode in run.plan.target.mode.list() {
            let of = |wait: &u64| match grid.lines.get(&(*mode, *wait)) {
                None => String::new(),
                Some(line) => grid.max_batch(line).map_or_else(|| "-".to_owned(), |n| count(line[n].batch_size)),
            };
            sheet.row([run.title(), mode.to_string()].into_iter().chain(waits.iter().map(of)));
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
            sheet.row([title, mode.to_string()].into_iter().chain(waits.iter().map(of)));
        }
    }
    sheet
}

/// Published waits have one decimal.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few seconds")]
fn wait_us(row: &Published) -> u64 {
    (row.wait_seconds * 1e6).round() as u64
}

/// The max batches of WebSocket beside those of HTTP, a row a wait, for the runs that did both.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub fn protocols(runs: &[Run]) -> Sheet {
    let mut sheet = Sheet::new(["Infrastructure", "wait_s", "WS Max", "HTTP Max", "WS/HTTP Ratio", "Winner"], 1..5);
    for run in runs {
        let grid = run.grid();
        for ((_, wait_us), line) in grid.lines.iter().filter(|((mode, _), _)| *mode == Mode::Ws) {
            let Some(http) = grid.lines.get(&(Mode::Http, *wait_us)) else { continue };
            let max = |line: &[Cell<'_>]| grid.max_batch(line).map(|n| line[n].batch_size);
            let (ws, http) = (max(line), max(http));
            let ratio = ws.zip(http).map(|(ws, http)| format!("{:.1}x", ws as f64 / http as f64));
            let winner = match ws.cmp(&http) {
                _ if ws.is_none() && http.is_none() => "-",
                std::cmp::Ordering::Greater => "WS",
                std::cmp::Ordering::Less => "HTTP",
                std::cmp::Ordering::Equal => "Tie",
            };
            let size = |size: Option<u64>| size.map_or_else(|| "-".to_owned(), count);
            let ratio = ratio.unwrap_or_else(|| "-".to_owned());
            sheet.row([told_by(runs, run), seconds_short(*wait_us), size(ws), size(http), ratio, winner.to_owned()]);
        }
    }
    sheet
}

/// Every batch size of a run over WebSocket beside the same over HTTP.
#[must_use]
pub fn protocols_by_size(run: &Run) -> Sheet {
    let grid = run.grid();
    let mut sheet = Sheet::new(
        ["wait_s", "Batch Size", "Success (ws)", "Success (http)", "p99 (ws)", "p99 (http)", "RPS (ws)", "RPS (http)"],
        0..8,
    );
    for ((_, wait_us), line) in grid.lines.iter().filter(|((mode, _), _)| *mode == Mode::Ws) {
        for ws in line {
            let http = grid.lines.get(&(Mode::Http, *wait_us));
            let http = http.and_then(|line| line.iter().find(|cell| cell.batch_size == ws.batch_size));
            let Some(http) = http else { continue };
            let per_second = |cell: &Cell<'_>| if cell.succeeded() == 0 { "-".to_owned() } else { rate(cell.rps()) };
            sheet.row([
                seconds_short(*wait_us),
                ws.batch_size.to_string(),
                success(ws),
                success(http),
                p99(ws),
                p99(http),
                per_second(ws),
                per_second(http),
            ]);
        }
    }
    sheet
}

/// The cell of each mode and wait that is shown in detail, with its mode and wait.
#[must_use]
pub fn max_loads<'a, 'b>(grid: &'b Grid<'a>) -> Vec<&'b Cell<'a>> {
    grid.lines.values().filter_map(|line| grid.max_load(line).map(|n| &line[n])).collect()
}

/// Where the time goes at maximum load, from the repetitions' merged histograms.
#[must_use]
pub fn breakdown(runs: &[Run]) -> Sheet {
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
    let mut sheet = Sheet::new(header, 2..14);
    for run in runs {
        for cell in max_loads(&run.grid()) {
            let at = |metric, quantile| {
                let values = run.cells.get(cell.mode, cell.batch_size, cell.wait_us, metric);
                values.map_or_else(|| "-".to_owned(), |v| latency(v.value_at_quantile(quantile).min(v.max())))
            };
            sheet.row([
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
                p99(cell),
                at(Metric::Wire, 0.99),
            ]);
        }
    }
    sheet
}

/// A single run is told by its name alone.
fn told_by(runs: &[Run], run: &Run) -> String {
    if runs.len() == 1 { run.name() } else { run.title() }
}

/// What the columns of [`breakdown`] mean.
pub const BREAKDOWN: &str = "\
Of succeeded sessions, all repetitions together. The step contains the wait that it asks for; wire is the step until the kernel of \
the agent's machine had the reply. Percentiles of phases do not add up to those of the total: a session that is slow in one phase \
need not be slow in another.";

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::*;
    use crate::report::cells::{CellHistograms, Done};
    use crate::report::published::built_in;
    use crate::report::run::tests::run_of;
    use crate::report::tables::tests::done;

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
