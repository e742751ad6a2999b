//! PURE: the tables at the end of a run, in the words and columns of the experiment log.

use std::fmt;

use proto::Mode;

use crate::cells;
use crate::plan::Plan;
use crate::report::caveats;
use crate::report::scaling_notes::{Place, note, unstable};
use crate::report::table::{Table, TableCell};
use crate::report::wording::{p99_text, per_core, success};
use crate::results::cells::{Cell, CellHistograms, Done, Grid};
use crate::text::{count, rate, seconds_short};

/// The results summary, the scaling behaviour and the one-line answer, as Markdown.
#[must_use]
pub fn final_tables(plan: &Plan, results: &[Done], histograms: &CellHistograms) -> String {
    let grid = Grid::of(plan, results, histograms);
    let mut text = format!("Results Summary\n{}\n", results_summary(plan, &grid).markdown());
    text.push_str(&caveats::timeouts(results));
    for (mode, wait_us, table) in scalings(plan, &grid) {
        let wait = seconds_short(wait_us);
        text.push_str(&format!("\nScaling Behavior ({mode}, wait {wait} s)\n{}\n", table.markdown()));
    }
    let hosts = caveats::hosts(results);
    if !hosts.is_empty() {
        text.push_str(&format!("\n{hosts}"));
    }
    text.push('\n');
    text.push_str(&format!("{}\n", answer(plan, &grid)));
    text
}

/// The success criterion in per cent: `95`.
#[must_use]
pub fn criterion(plan: &Plan) -> String {
    let text = format!("{:.1}", plan.success.min_success_rate * 100.0);
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

/// The max batch of each mode and wait.
#[must_use]
pub fn results_summary(plan: &Plan, grid: &Grid<'_>) -> Table {
    let max = format!("Max Batch ({}%+)", criterion(plan));
    let mut table = Table::new(["Mode", "wait_s", &max, "p99 Latency", "Success %", "RPS"], 1..6);
    for ((mode, wait_us), line) in &grid.lines {
        let [size, p99, success, rps] = match grid.max_batch(line) {
            Some(n) => of_cell(&line[n]),
            // Nothing met it: what the smallest did instead.
            None => cells!["-", "-", line.first().map(success).unwrap_or_default(), "-"],
        };
        table.row(cells![mode.to_string(), seconds_short(*wait_us), size, p99, success, rps]);
    }
    table
}

fn of_cell(cell: &Cell<'_>) -> [TableCell; 4] {
    cells![cell.batch_size.to_string(), p99_text(cell), success(cell), rate(cell.rps())]
}

/// The scaling table of each mode at its smallest wait, as in the experiment log.
#[must_use]
pub fn scalings(plan: &Plan, grid: &Grid<'_>) -> Vec<(Mode, u64, Table)> {
    let of = |mode: &Mode| grid.lines.iter().find(|((m, _), _)| m == mode);
    let lines = plan.target.mode.list().iter().filter_map(of);
    lines.map(|((mode, wait_us), line)| (*mode, *wait_us, scaling(plan, grid, line))).collect()
}

/// The results of one mode and wait by batch size.
#[must_use]
pub fn scaling(plan: &Plan, grid: &Grid<'_>, line: &[Cell<'_>]) -> Table {
    let mut table = Table::new(["Batch Size", "Success Rate", "p99 Latency", "Notes"], 0..3);
    let max = grid.max_batch(line);
    for (n, cell) in line.iter().enumerate() {
        let place = Place { is_max: max == Some(n), is_largest: n + 1 == line.len() };
        let rate = if unstable(cell) {
            TableCell::from(format!("~{:.0}% (inconsistent)", cell.success_rate() * 100.0))
        } else {
            success(cell)
        };
        table.row(cells![cell.batch_size.to_string(), rate, p99_text(cell), note(plan, cell, place)]);
    }
    table
}

/// What the run found. As text: `largest batch at 95 %   wait 1.0 s: 16,384   wait 5.0 s: 8,192      170.7 per core`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The criterion, and one part for each mode and wait.
    pub parts: Vec<String>,
    pub per_core: Option<String>,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parts.join("   "))?;
        self.per_core.as_ref().map_or(Ok(()), |per_core| write!(f, "      {per_core}"))
    }
}

#[must_use]
pub fn answer(plan: &Plan, grid: &Grid<'_>) -> Answer {
    let mut parts = vec![format!("largest batch at {} %", criterion(plan))];
    if grid.lines.is_empty() {
        parts.push("none was measured".to_owned());
    }
    let modes = plan.target.mode.list();
    for ((mode, wait_us), line) in &grid.lines {
        let size = grid.max_batch(line).map(|n| line[n].batch_size);
        let reliable = grid.reliable(line);
        let name = if modes.len() > 1 { format!("{mode} ") } else { String::new() };
        let mut part = format!("{name}wait {} s: ", seconds_short(*wait_us));
        part.push_str(&size.map_or_else(|| "none".to_owned(), count));
        if size.is_some() && size != reliable {
            part.push_str(&match reliable {
                None => " (not in every repetition)".to_owned(),
                Some(reliable) => format!(" (in every repetition: {})", count(reliable)),
            });
        }
        parts.push(part);
    }
    let first = grid.lines.iter().find(|((mode, _), _)| *mode == modes.first().copied().unwrap_or(Mode::Ws));
    let best = first.and_then(|(_, line)| grid.max_batch(line).map(|n| line[n].batch_size));
    let per_core = plan.experiment.cores.zip(best).map(|(cores, best)| {
        let of = if modes.len() > 1 { format!(" ({})", modes[0]) } else { String::new() };
        format!("{} per core{of}", per_core(best, cores))
    });
    Answer { parts, per_core }
}

#[cfg(test)]
pub(crate) mod tests {
    use hdrhistogram::Histogram;
    use proto::{Bounds, HistogramSet, Ledger, Outcome, SessionRecord};

    use super::*;
    use crate::plan::check::plan_of;
    use crate::plan::expand::Batch;
    use crate::results::batch::Summary;
    use crate::results::samples::context;

    pub(crate) fn done(size: u64, repetition: u32, succeeded: u64, total_us: u64, cells: &mut CellHistograms) -> Done {
        let batch = Batch { index: 0, mode: Mode::Ws, batch_size: size, wait_us: 1_000_000, repetition };
        let mut histograms = HistogramSet::new(Bounds::STANDARD);
        let mut record = SessionRecord::without_life(0, Outcome::Succeeded, String::new());
        record.started_us = Some(0);
        record.total_us = Some(total_us);
        if succeeded > 0 {
            histograms.record(&record);
        }
        cells.add(&batch, &histograms);
        let context = context(batch);
        let mut summary = Summary::of(&context, &[], &histograms);
        summary.ledger = Ledger { planned: size, succeeded, failed: size - succeeded, ..Ledger::default() };
        summary.requests_per_second = 682.4 * f64::from(repetition);
        Done::Ran(Box::new(summary))
    }

    /// Changes the summary of a repetition.
    pub(crate) fn with(done: Done, change: impl FnOnce(&mut Summary)) -> Done {
        let Done::Ran(mut summary) = done else { panic!("it ran") };
        change(&mut summary);
        Done::Ran(summary)
    }

    #[test]
    fn the_tables_of_a_run_that_found_its_limit() {
        let plan = plan_of(
            "[experiment]\ncores=8\n[target]\nurls=\"http://h\"\n[grid]\nbatch_sizes=[32,128,512,2048,4096,8192,16384]\n",
        )
        .expect("plan");
        let mut cells = CellHistograms::default();
        let mut results = Vec::new();
        let rows = [
            (32, 32, 1_080_000),
            (128, 128, 1_150_000),
            (512, 509, 1_680_000),
            (2_048, 1_978, 2_900_000),
            (4_096, 2_925, 4_910_000),
            (8_192, 3_203, 9_350_000),
            (16_384, 2_802, 35_800_000),
        ];
        for (size, succeeded, total_us) in rows {
            for repetition in 1..=3 {
                // Repetitions differ a little: the same number every time would be a configured limit.
                let held = if succeeded == size { size } else { succeeded - 1 + u64::from(repetition) - 1 };
                results.push(done(size, repetition, held, total_us, &mut cells));
            }
        }
        // One repetition fails at a size that otherwise met the criterion: from there on it is not reliable.
        results[7] = done(512, 2, 400, 1_680_000, &mut cells);
        results[6] = done(512, 1, 512, 1_680_000, &mut cells);
        for repetition in 1..=2 {
            results.push(done(20_000, repetition, 200, 35_800_000, &mut cells));
        }
        results.push(Done::Skipped {
            batch: Batch { index: 0, mode: Mode::Ws, batch_size: 32_768, wait_us: 1_000_000, repetition: 1 },
            why: "3 smaller batch sizes failed (grid.stop_after_failing = 3)".to_owned(),
        });
        insta::assert_snapshot!(final_tables(&plan, &results, &cells));
    }

    #[test]
    fn the_tables_of_a_run_that_got_nowhere() {
        let plan = plan_of("[target]\nurls=\"http://h\"\n[grid]\nbatch_sizes=[1]\n").expect("plan");
        let mut cells = CellHistograms::default();
        let results = [done(1, 1, 0, 0, &mut cells)];
        insta::assert_snapshot!(final_tables(&plan, &results, &cells));
        insta::assert_snapshot!(final_tables(&plan, &[], &cells));
    }

    /// One agent of eight is slow: the merged p99 is its p99, while the average of the eight is no percentile.
    #[test]
    fn a_percentile_over_agents_or_repetitions_is_merged_and_not_averaged() {
        let mut cells = CellHistograms::default();
        let batch = Batch { index: 0, mode: Mode::Ws, batch_size: 800, wait_us: 0, repetition: 1 };
        let mut sum_of_p99_us = 0;
        for agent in 0..8 {
            let mut own = HistogramSet::new(Bounds::STANDARD);
            let total_us = if agent == 7 { 10_000_000 } else { 1_000_000 };
            for _ in 0..100 {
                let mut record = SessionRecord::without_life(0, Outcome::Succeeded, String::new());
                record.started_us = Some(0);
                record.total_us = Some(total_us);
                own.record(&record);
            }
            sum_of_p99_us += own.get(proto::Metric::Total).value_at_quantile(0.99);
            cells.add(&batch, &own);
        }
        let merged = cells.p99_us_for_tests(Mode::Ws, 800, 0).expect("values");
        let reference: Histogram<u64> = Histogram::new(3).expect("histogram");
        assert!(reference.equivalent(merged, 10_000_000), "{merged}");
        assert!(sum_of_p99_us / 8 < 3_000_000, "the average would say {}", sum_of_p99_us / 8);
    }

    impl CellHistograms {
        fn p99_us_for_tests(&self, mode: Mode, size: u64, wait_us: u64) -> Option<u64> {
            let plan = plan_of("[target]\nurls=\"http://h\"\n[grid]\nbatch_sizes=[1]\n").expect("plan");
            let batch = Batch { index: 0, mode, batch_size: size, wait_us, repetition: 1 };
            let results = [Done::Skipped { batch, why: String::new() }];
            Grid::of(&plan, &results, self).lines[&(mode, wait_us)][0].p99_us
        }
    }
}
