//! PURE: several runs in one table, beside what others have published.

use std::collections::BTreeSet;

use comfy_table::{CellAlignment, Table as Markdown, presets::ASCII_MARKDOWN};
use proto::Mode;

use super::cells::{Cell, CellHistograms, Done, Grid};
use super::format::{count, latency, percent, rate, seconds_short};
use super::published::{Published, Table, latest, of_batch};
use crate::plan::Plan;

/// What the overview needs of a run.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    pub plan: &'a Plan,
    pub status: &'a str,
    /// `YYYY-MM-DD`.
    pub date: &'a str,
    pub results: &'a [Done],
    pub cells: &'a CellHistograms,
}

impl Run<'_> {
    fn name(&self) -> String {
        let experiment = &self.plan.experiment;
        if experiment.variant.is_empty() {
            experiment.infrastructure.clone()
        } else {
            format!("{}-{}", experiment.infrastructure, experiment.variant)
        }
    }
}

const HERE: &str = "this program";
const THERE: &str = "published, Python script";

/// One row a run, then the published rows of the same infrastructures.
#[must_use]
pub fn overview(runs: &[Run<'_>], published: &[Published]) -> String {
    let header = ["Infrastructure", "Status", "Last Run", "Max Batch (WS)", "Cores", "Batch/Core", "Measured by"];
    let mut table = table(&header);
    let mut seen = BTreeSet::new();
    let mut unlimited = Vec::new();
    for run in runs {
        let grid = Grid::of(run.plan, run.results, run.cells);
        let line = grid.lines.iter().find(|((mode, _), _)| *mode == Mode::Ws).map(|(_, line)| line);
        let largest = line.and_then(|line| grid.max_batch(line).map(|n| (n + 1 == line.len(), line[n].batch_size)));
        let max = largest.map(|(_, size)| size);
        if largest.is_some_and(|(all, _)| all) {
            unlimited.push(run.name());
        }
        table.add_row(overview_row(&run.name(), &status(run.status), run.date, max, run.plan.experiment.cores, HERE));
    }
    for run in runs {
        let infrastructure = &run.plan.experiment.infrastructure;
        if !seen.insert(infrastructure) {
            continue;
        }
        let rows = latest(published, infrastructure, Table::Summary);
        if let Some(row) =
            rows.iter().filter(|row| row.mode == Mode::Ws).min_by(|a, b| a.wait_seconds.total_cmp(&b.wait_seconds))
        {
            let max = row.batch_size;
            table.add_row(overview_row(infrastructure, "✅ Complete", &row.date, max, row.cores, THERE));
        }
    }
    align(&mut table, &[3, 4, 5]);
    let mut text = format!("{table}\n");
    if !unlimited.is_empty() {
        let names = unlimited.join(", ");
        text.push_str(&format!(
            "\nThe largest batch that was tried held in {names}: what these hold at most was not reached.\n"
        ));
    }
    text
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn overview_row(name: &str, status: &str, date: &str, max: Option<u64>, cores: Option<u64>, by: &str) -> [String; 7] {
    let per_core = match max.zip(cores) {
        None => "-".to_owned(),
        Some((max, cores)) if max.is_multiple_of(cores) => count(max / cores),
        Some((max, cores)) => format!("{:.1}", max as f64 / cores as f64),
    };
    [
        name.to_owned(),
        status.to_owned(),
        date.to_owned(),
        max.map_or_else(|| "-".to_owned(), count),
        cores.map_or_else(|| "unknown".to_owned(), |cores| cores.to_string()),
        per_core,
        by.to_owned(),
    ]
}

fn status(status: &str) -> String {
    match status {
        "complete" => "✅ Complete",
        "interrupted" => "⏸ Interrupted",
        "failed" => "❌ Failed",
        // Or killed: nobody has written down its end.
        _ => "⏳ Running",
    }
    .to_owned()
}

/// The batches of one run, each beside what was published of its mode, wait and size, on whatever date.
#[must_use]
pub fn side_by_side(run: &Run<'_>, published: &[Published]) -> String {
    let grid = Grid::of(run.plan, run.results, run.cells);
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
    let mut table = table(&header);
    let mut dates = BTreeSet::new();
    for ((mode, wait_us), line) in &grid.lines {
        for cell in line {
            let infrastructure = &run.plan.experiment.infrastructure;
            let others = of_batch(published, infrastructure, *mode, *wait_us, cell.batch_size);
            dates.extend(others.iter().map(|row| row.date.as_str()));
            table.add_row([
                mode.to_string(),
                seconds_short(*wait_us),
                count(cell.batch_size),
                if cell.runs.is_empty() { "skipped".to_owned() } else { percent(cell.succeeded(), cell.planned()) },
                each_once(others.iter().map(|row| row.success.clone())),
                cell.p99_us.map_or_else(|| "-".to_owned(), latency),
                each_once(
                    others.iter().map(|row| row.p99_seconds.map_or_else(|| "-".to_owned(), |p99| format!("{p99:.2}s"))),
                ),
                if cell.succeeded() == 0 { "-".to_owned() } else { rate(cell.rps()) },
                limits(cell),
                verdicts(cell),
            ]);
        }
    }
    align(&mut table, &[1, 2, 3, 4, 5, 6, 7]);
    let mut text = table.to_string();
    if !dates.is_empty() {
        let dates = dates.into_iter().rev().collect::<Vec<_>>().join(", ");
        text.push_str(&format!(
            "\n\nThe published columns are from {dates}: what was measured of the same batch, newest first, equal values once."
        ));
    }
    text
}

/// In their order; `-` if there is none.
fn each_once(values: impl Iterator<Item = String>) -> String {
    let mut seen: Vec<String> = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    if seen.is_empty() { "-".to_owned() } else { seen.join(", ") }
}

fn limits(cell: &Cell<'_>) -> String {
    let all: BTreeSet<String> = cell.runs.iter().map(|run| run.verdict.limit.to_string()).collect();
    if all.is_empty() { "-".to_owned() } else { all.into_iter().collect::<Vec<_>>().join(", ") }
}

fn verdicts(cell: &Cell<'_>) -> String {
    let all: BTreeSet<String> = cell.runs.iter().map(|run| run.verdict.worth.to_string()).collect();
    if all.is_empty() { "-".to_owned() } else { all.into_iter().collect::<Vec<_>>().join(", ") }
}

/// What may be read from one beside the other.
pub const COMPARABLE: &str = "\
What can be compared: the meaning of the columns. A session, its phases, success, the 95 % rule and RPS (successful sessions by \
wall time) are the same here and there, and so is the shape of a deployment: a Space lets through 200 connections and has no \
HTTP API; servers behind a balancer share the sessions.

What can't: the numbers, as long as the machines differ (see Cores, and the hardware named above each table; where servers, \
balancer and agents share the same processors, what one uses the others lack). And not the published p99 with these: it was \
measured by one Python process on one machine, whose own scheduling, connection set-up and processor are part of every latency, \
and nothing in its output tells how large a part. Here it is measured how late each session was started and read, and a batch for \
which that matters is called generator-limited. A published success rate below 100 % may be the client's for the same reason.
";

fn table(header: &[&str]) -> Markdown {
    let mut table = Markdown::new();
    table.load_style(ASCII_MARKDOWN).set_header(header);
    table
}

fn align(table: &mut Markdown, columns: &[usize]) {
    for n in columns {
        if let Some(column) = table.column_mut(*n) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::check::plan_of;
    use crate::report::published::parse;
    use crate::report::tables::tests::done;

    #[test]
    fn runs_beside_the_published_rows() {
        let published = parse(include_str!("../../../experiments/reports/published.csv")).expect("rows");
        let plan = |infrastructure: &str, variant: &str, cores: &str| {
            plan_of(&format!(
                "[experiment]\ninfrastructure={infrastructure:?}\nvariant={variant:?}\n{cores}[target]\nurls=\"http://h\"\n\
                 [grid]\nbatch_sizes=[32,128,512]\n"
            ))
            .expect("plan")
        };
        let (single, space) = (plan("slurm-single", "smoke", "cores=2\n"), plan("hf-spaces", "", ""));
        let mut cells = CellHistograms::default();
        let held = [done(32, 1, 32, 1_080_000, &mut cells), done(512, 1, 500, 1_980_000, &mut cells)];
        let mut others = CellHistograms::default();
        let refused = [done(128, 1, 128, 1_100_000, &mut others), done(512, 1, 200, 1_200_000, &mut others)];
        let runs = [
            Run { plan: &single, status: "complete", date: "2026-11-24", results: &held, cells: &cells },
            Run { plan: &space, status: "interrupted", date: "2026-11-25", results: &refused, cells: &others },
        ];
        insta::assert_snapshot!(format!(
            "{}\n\n{}\n\n{}",
            overview(&runs, &published),
            side_by_side(&runs[0], &published),
            side_by_side(&runs[1], &published)
        ));
    }
}
