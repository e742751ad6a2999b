//! PURE: the overview of several runs, beside published rows.

use std::collections::{BTreeMap, BTreeSet};

use proto::Mode;

use crate::cells;
use crate::report::published::{Published, PublishedTable, latest, of_batch};
use crate::report::table::{Badge, Table, TableCell};
use crate::report::wording::{not_judged, p99_text, per_core, status, success};
use crate::results::batch::Summary;
use crate::results::cells::Cell;
use crate::results::run::{Client, Run, Status};
use crate::text::{count, latency, rate, seconds_short};

const THERE: &str = "published, Python script";

/// A row of the overview, as in the experiment log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverviewRow {
    pub name: String,
    pub status: Status,
    /// `YYYY-MM-DD`.
    pub date: String,
    pub max: Option<u64>,
    pub cores: Option<u64>,
}

/// The names of the columns of [`OverviewRow::cells`].
pub const COLUMNS: [&str; 6] = ["Infrastructure", "Status", "Last Run", "Max Batch (WS)", "Cores", "Batch/Core"];

impl OverviewRow {
    /// The row of a run; its max batch is that over WebSocket at the smallest wait.
    #[must_use]
    pub fn of(run: &Run) -> Self {
        Self {
            name: run.name(),
            status: run.status,
            date: run.date(),
            max: max_batch(run).map(|(size, _)| size),
            cores: run.plan.experiment.cores,
        }
    }

    #[must_use]
    pub fn cells(&self) -> [String; 6] {
        [
            self.name.clone(),
            status(self.status),
            self.date.clone(),
            self.max.map_or_else(|| "-".to_owned(), count),
            self.cores.map_or_else(|| "unknown".to_owned(), |cores| cores.to_string()),
            self.max.zip(self.cores).map_or_else(|| "-".to_owned(), |(max, cores)| per_core(max, cores)),
        ]
    }
}

/// The max batch over WebSocket at the smallest wait, and whether it is the largest that was tried.
#[must_use]
pub fn max_batch(run: &Run) -> Option<(u64, bool)> {
    let grid = run.grid();
    let line = grid.lines.iter().find(|((mode, _), _)| *mode == Mode::Ws).map(|(_, line)| line)?;
    grid.max_batch(line).map(|n| (line[n].batch_size, n + 1 == line.len()))
}

/// The published row of an infrastructure: that of its latest date and smallest wait, over WebSocket.
#[must_use]
pub fn published_row<'a>(published: &'a [Published], infrastructure: &str) -> Option<&'a Published> {
    let rows = latest(published, infrastructure, PublishedTable::Summary);
    rows.into_iter().filter(|row| row.mode == Mode::Ws).min_by(|a, b| a.wait_seconds.total_cmp(&b.wait_seconds))
}

/// The infrastructures of runs that can be compared with published rows, each once, in order.
#[must_use]
pub fn infrastructures(runs: &[Run]) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for run in runs.iter().filter(|run| run.is_plain_burst()) {
        let name = run.plan.experiment.infrastructure.as_str();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// One row per run, then the published rows of the same infrastructures.
#[must_use]
pub fn overview(runs: &[Run], published: &[Published]) -> Table {
    let published: Vec<&Published> =
        infrastructures(runs).into_iter().filter_map(|name| published_row(published, name)).collect();
    // The client is named if there is more than one.
    let mixed = !published.is_empty() || runs.iter().any(|run| run.client == Client::Script);
    let mut table = Table::new(COLUMNS.into_iter().chain(mixed.then_some("Measured by")), 3..6);
    let mut add = |row: &OverviewRow, by: String| {
        let mut cells: Vec<TableCell> =
            row.cells().into_iter().chain(mixed.then_some(by)).map(TableCell::from).collect();
        cells[1] = Badge::from(row.status).into();
        table.row(cells);
    };
    for run in runs {
        let row = OverviewRow::of(run);
        add(&OverviewRow { name: format!("{}{}", row.name, run.again), ..row }, run.client());
    }
    for row in published {
        let published = OverviewRow {
            name: row.infrastructure.clone(),
            status: Status::Complete,
            date: row.date.clone(),
            max: row.batch_size,
            cores: row.cores,
        };
        add(&published, THERE.to_owned());
    }
    table
}

/// A remark that names the runs whose largest batch met the criterion, so that their limit is unknown.
#[must_use]
pub fn unlimited(runs: &[Run]) -> Option<String> {
    let names: Vec<String> = runs
        .iter()
        .filter(|run| max_batch(run).is_some_and(|(_, all)| all))
        .map(|run| format!("{}{}", run.name(), run.again))
        .collect();
    let names = names.join(", ");
    (!names.is_empty())
        .then(|| format!("The largest batch that was tried held in {names}: what these hold at most was not reached."))
}

/// The batches of a run beside published ones of the same mode, wait and size, whatever their date; and a remark on the
/// dates.
#[must_use]
pub fn side_by_side(run: &Run, published: &[Published]) -> (Table, Option<String>) {
    let grid = run.grid();
    let header = [
        "Mode",
        "wait_s",
        "Batch Size",
        "Success Rate",
        "Success, published",
        "p99 Latency",
        "p99, published",
        "RPS",
        "Limit",
        "Verdict",
    ];
    let mut table = Table::new(header, 1..8);
    let mut dates = BTreeSet::new();
    let lines = grid.lines.iter().filter(|_| run.is_plain_burst());
    for ((mode, wait_us), line) in lines {
        for cell in line {
            let infrastructure = &run.plan.experiment.infrastructure;
            let others = of_batch(published, infrastructure, *mode, *wait_us, cell.batch_size);
            if others.is_empty() {
                continue;
            }
            dates.extend(others.iter().map(|row| row.date.as_str()));
            table.row(cells![
                mode.to_string(),
                seconds_short(*wait_us),
                cell.batch_size.to_string(),
                success(cell),
                each_once(others.iter().map(|row| row.success.clone())),
                p99_text(cell),
                each_once(others.iter().map(|row| row.p99_seconds.map_or_else(|| "-".to_owned(), published_seconds))),
                if cell.succeeded() == 0 { "-".to_owned() } else { rate(cell.rps()) },
                limits(run, cell),
                verdicts(run, cell),
            ]);
        }
    }
    let dates = dates.into_iter().rev().collect::<Vec<_>>().join(", ");
    let note = (!dates.is_empty()).then(|| {
        format!(
            "The published columns are from {dates}: what was measured of the same batch, newest first, equal values once."
        )
    });
    (table, note)
}

fn published_seconds(seconds: f64) -> String {
    latency(proto::units::micros_of(seconds))
}

/// The distinct values in their order; `-` if there are none.
fn each_once(values: impl Iterator<Item = String>) -> String {
    let mut seen: Vec<String> = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    if seen.is_empty() { "-".to_owned() } else { seen.join(", ") }
}

/// The bottlenecks of the cell's repetitions.
#[must_use]
pub fn limits(run: &Run, cell: &Cell<'_>) -> TableCell {
    all_of(run, cell, |summary| summary.verdict.limit.into())
}

/// The validity of the cell's repetitions.
#[must_use]
pub fn verdicts(run: &Run, cell: &Cell<'_>) -> TableCell {
    all_of(run, cell, |summary| summary.verdict.validity.into())
}

/// Each of them once, in the order of their texts.
fn all_of(run: &Run, cell: &Cell<'_>, what: impl Fn(&Summary) -> Badge) -> TableCell {
    if !run.judged() {
        return not_judged().into();
    }
    let all: BTreeMap<String, Badge> =
        cell.runs.iter().map(|summary| what(summary)).map(|badge| (badge.text.clone(), badge)).collect();
    if all.is_empty() { "-".into() } else { TableCell::badges("", all.into_values()) }
}

/// The explanation of what can be compared with published rows.
pub const COMPARABLE: &str = "\
What can be compared: the meaning of the columns. A session, its phases, success, the 95 % rule and RPS (successful sessions by \
wall time) are the same here and there, and so is the shape of a deployment: a Space lets through 200 connections and has no \
HTTP API; servers behind a balancer share the sessions.

What can't: the numbers, as long as the machines differ (see Cores and Hardware; where servers, \
balancer and agents share the same processors, what one uses the others lack). And not the published p99 with these: it was \
measured by one Python process on one machine, whose own scheduling, connection set-up and processor are part of every latency, \
and nothing in its output tells how large a part. Here it is measured how late each session was started and read, and a batch for \
which that matters is called generator-limited. A published success rate below 100 % may be the client's for the same reason.
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::published::built_in;
    use crate::report::tables::tests::done;
    use crate::results::cells::CellHistograms;
    use crate::results::run::tests::run_of;

    #[test]
    fn runs_beside_the_published_rows() {
        let published = built_in();
        let mut cells = CellHistograms::default();
        let held = vec![done(32, 1, 32, 1_080_000, &mut cells), done(512, 1, 500, 1_980_000, &mut cells)];
        let mut others = CellHistograms::default();
        let refused = vec![done(128, 1, 128, 1_100_000, &mut others), done(512, 1, 200, 1_200_000, &mut others)];
        let single = "[experiment]\ninfrastructure=\"slurm-single\"\nvariant=\"smoke\"\ncores=2\n";
        let mut runs = [
            run_of(single, "2026-11-24T10:00:00Z", held, cells),
            run_of("[experiment]\ninfrastructure=\"hf-spaces\"\n", "2026-11-25T10:00:00Z", refused, others),
        ];
        runs[1].status = Status::Interrupted;
        let beside = |run: &Run| {
            let (table, dates) = side_by_side(run, &published);
            format!("{}\n{}", table.markdown(), dates.unwrap_or_default())
        };
        insta::assert_snapshot!(format!(
            "{}\n{}\n\n{}\n\n{}",
            overview(&runs, &published).markdown(),
            unlimited(&runs).unwrap_or_default(),
            beside(&runs[0]),
            beside(&runs[1])
        ));
        runs[1].client = Client::Script;
        insta::assert_snapshot!(format!("{}\n{}", overview(&runs[1..], &[]).markdown(), beside(&runs[1])));
    }
}
