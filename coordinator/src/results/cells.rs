//! PURE: aggregates over repetitions: the cells (mode x batch size x wait) and the grid of a run.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use proto::{HistogramSet, Metric, Mode};

use crate::plan::Plan;
use crate::plan::expand::Batch;
use crate::results::batch::Summary;
use crate::results::failure::FailedAs;
use crate::results::verdict::Validity;

/// The outcome of one batch.
#[derive(Debug, Clone)]
pub enum Done {
    Ran(Box<Summary>),
    Skipped { batch: Batch, why: String },
}

impl Done {
    #[must_use]
    pub fn summary(&self) -> Option<&Summary> {
        match self {
            Self::Ran(summary) => Some(summary),
            Self::Skipped { .. } => None,
        }
    }

    #[must_use]
    pub fn batch(&self) -> &Batch {
        match self {
            Self::Ran(summary) => &summary.batch,
            Self::Skipped { batch, .. } => batch,
        }
    }
}

/// Merged histograms of each cell's repetitions, so that percentiles are never averages of percentiles.
///
/// A running run keeps total latencies only; a report adds other metrics for the cells that it shows in detail.
#[derive(Debug, Default, PartialEq)]
pub struct CellHistograms {
    merged: BTreeMap<(Mode, u64, u64, Metric), Histogram<u64>>,
    /// Number of repetitions merged into each histogram.
    parts: BTreeMap<(Mode, u64, u64, Metric), usize>,
}

/// The p99 of a cell with totals above the histograms' range; `None` if it has no such totals.
fn clipped_p99_us(runs: &[&Summary], merged: Option<&Histogram<u64>>) -> Option<u64> {
    let above: u64 = runs.iter().map(|run| run.total_over_range).sum();
    let end_us = runs.iter().map(|run| run.range_us).max().unwrap_or(0);
    (above > 0).then(|| proto::histograms::quantile_of(merged, above, end_us, 0.99)).flatten()
}

impl CellHistograms {
    pub fn add(&mut self, batch: &Batch, histograms: &HistogramSet) {
        // This can't fail: a run has one set of bounds.
        let added = self.add_one(batch, Metric::Total, histograms.get(Metric::Total));
        debug_assert!(added.is_ok(), "{added:?}");
    }

    /// Adds the histogram of one repetition.
    ///
    /// # Errors
    /// If its bounds differ from those of the histogram that is there.
    pub fn add_one(&mut self, batch: &Batch, metric: Metric, values: &Histogram<u64>) -> Result<(), String> {
        let merged = self
            .merged
            .entry((batch.mode, batch.batch_size, batch.wait_us, metric))
            .or_insert_with(|| Histogram::new_from(values));
        merged.add(values).map_err(|error| format!("{error:?}"))?;
        *self.parts.entry((batch.mode, batch.batch_size, batch.wait_us, metric)).or_default() += 1;
        Ok(())
    }

    fn parts(&self, cell: &Cell<'_>, metric: Metric) -> usize {
        self.parts.get(&(cell.mode, cell.batch_size, cell.wait_us, metric)).copied().unwrap_or(0)
    }

    /// The merged histogram; `None` if it is empty or was never added.
    #[must_use]
    pub fn get(&self, mode: Mode, batch_size: u64, wait_us: u64, metric: Metric) -> Option<&Histogram<u64>> {
        self.merged.get(&(mode, batch_size, wait_us, metric)).filter(|merged| !merged.is_empty())
    }

    fn p99_us(&self, mode: Mode, batch_size: u64, wait_us: u64) -> Option<u64> {
        self.get(mode, batch_size, wait_us, Metric::Total).map(|merged| merged.value_at_quantile(0.99))
    }
}

/// All repetitions of one cell.
#[derive(Debug)]
pub struct Cell<'a> {
    pub mode: Mode,
    pub batch_size: u64,
    pub wait_us: u64,
    pub runs: Vec<&'a Summary>,
    pub skipped: Option<&'a str>,
    /// Percentile of the merged total latencies of succeeded sessions.
    pub p99_us: Option<u64>,
}

impl Cell<'_> {
    #[must_use]
    pub fn succeeded(&self) -> u64 {
        self.runs.iter().map(|run| run.ledger.succeeded).sum()
    }

    #[must_use]
    pub fn planned(&self) -> u64 {
        self.runs.iter().map(|run| run.ledger.planned).sum()
    }

    /// Mean over the repetitions. All have the same size, so it equals the pooled rate.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a fraction")]
    pub fn success_rate(&self) -> f64 {
        if self.planned() == 0 { 0.0 } else { self.succeeded() as f64 / self.planned() as f64 }
    }

    /// Median over the repetitions; for an even number the lower of the two middle ones.
    #[must_use]
    pub fn rps(&self) -> f64 {
        let mut values: Vec<f64> = self.runs.iter().map(|run| run.requests_per_second).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
    }

    /// The lowest and the highest success rate of a repetition, 0 to 1.
    #[must_use]
    pub fn spread(&self) -> (f64, f64) {
        let rates = self.runs.iter().map(|run| run.success_rate());
        rates.fold((1.0_f64, 0.0_f64), |(low, high), rate| (low.min(rate), high.max(rate)))
    }

    /// Failures over all repetitions, most frequent first.
    #[must_use]
    pub fn errors(&self) -> Vec<(&FailedAs, u64)> {
        let mut all: BTreeMap<&FailedAs, u64> = BTreeMap::new();
        for (what, count) in self.runs.iter().flat_map(|run| &run.errors) {
            *all.entry(what).or_default() += count;
        }
        let mut all: Vec<(&FailedAs, u64)> = all.into_iter().collect();
        all.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        all
    }

    /// Whether every repetition met the success criterion with a verdict that counts.
    #[must_use]
    pub fn reliable(&self, plan: &Plan) -> bool {
        let counts = |run: &&Summary| {
            plan.enough_succeeded(run.ledger.succeeded, run.ledger.planned)
                && matches!(run.verdict.validity, Validity::Valid | Validity::GeneratorLimited)
        };
        !self.runs.is_empty() && self.runs.iter().all(counts)
    }
}

/// All cells by mode and wait; batch sizes ascend.
#[derive(Debug)]
pub struct Grid<'a> {
    pub lines: BTreeMap<(Mode, u64), Vec<Cell<'a>>>,
    plan: &'a Plan,
}

impl<'a> Grid<'a> {
    #[must_use]
    pub fn of(plan: &'a Plan, results: &'a [Done], histograms: &CellHistograms) -> Self {
        let mut cells: BTreeMap<(Mode, u64, u64), Cell<'a>> = BTreeMap::new();
        for done in results {
            let batch = done.batch();
            let cell = cells.entry((batch.mode, batch.wait_us, batch.batch_size)).or_insert_with(|| Cell {
                mode: batch.mode,
                batch_size: batch.batch_size,
                wait_us: batch.wait_us,
                runs: Vec::new(),
                skipped: None,
                p99_us: histograms.p99_us(batch.mode, batch.batch_size, batch.wait_us),
            });
            match done {
                Done::Ran(summary) => cell.runs.push(summary),
                Done::Skipped { why, .. } => cell.skipped = Some(why),
            }
        }
        let mut lines: BTreeMap<(Mode, u64), Vec<Cell<'a>>> = BTreeMap::new();
        for ((mode, wait_us, _), cell) in cells {
            lines.entry((mode, wait_us)).or_default().push(cell);
        }
        for cell in lines.values_mut().flatten() {
            let counting = cell.runs.iter().filter(|run| run.accepted && run.ledger.succeeded > 0).count();
            if histograms.parts(cell, Metric::Total) < counting {
                // Histograms of some repetitions are missing. The largest p99 is an upper bound of the merged one.
                cell.p99_us = cell.runs.iter().map(|run| run.total.p99_us).max().filter(|p99_us| *p99_us > 0);
            }
            let merged = histograms.get(cell.mode, cell.batch_size, cell.wait_us, Metric::Total);
            if let Some(end_us) = clipped_p99_us(&cell.runs, merged) {
                cell.p99_us = Some(end_us);
                continue;
            }
            // The upper edge of the bucket may exceed the largest value.
            let max_us = cell.runs.iter().map(|run| run.total_max_us).max().unwrap_or(0);
            cell.p99_us = cell.p99_us.map(|p99| if max_us > 0 { p99.min(max_us) } else { p99 });
        }
        Self { lines, plan }
    }

    /// Whether any cell missed a success criterion over its repetitions, as in the tables. A skipped cell counts as
    /// missed.
    #[must_use]
    pub fn misses_criteria(&self) -> bool {
        self.lines.values().flatten().any(|cell| {
            let late = cell.p99_us.is_some_and(|p99| p99 > self.plan.latency_limit_us(cell.wait_us));
            cell.skipped.is_some() || !self.meets(cell) || late
        })
    }

    /// Whether the mean success over the repetitions reaches the criterion.
    #[must_use]
    pub fn meets(&self, cell: &Cell<'_>) -> bool {
        self.plan.enough_succeeded(cell.succeeded(), cell.planned())
    }

    /// Index of the largest batch size whose mean success met the criterion. As in the historical tables, each size is
    /// judged on its own.
    #[must_use]
    pub fn max_batch(&self, line: &[Cell<'a>]) -> Option<usize> {
        line.iter().rposition(|cell| self.meets(cell))
    }

    /// Index of the cell shown in detail: the largest that met the criterion, else the largest with any success.
    #[must_use]
    pub fn max_load(&self, line: &[Cell<'a>]) -> Option<usize> {
        self.max_batch(line).or_else(|| line.iter().rposition(|cell| cell.succeeded() > 0))
    }

    /// The largest batch size such that every repetition of it and of every smaller one met the criterion.
    #[must_use]
    pub fn reliable(&self, line: &[Cell<'a>]) -> Option<u64> {
        line.iter().take_while(|cell| cell.reliable(self.plan)).last().map(|cell| cell.batch_size)
    }
}

/// Number of smaller batch sizes, of the same mode and wait, that have failed: all repetitions are done and valid, and
/// their mean success is below the criterion.
#[must_use]
pub fn failing_sizes(plan: &Plan, results: &[Done], batch: &Batch) -> u64 {
    let grid = Grid::of(plan, results, &CellHistograms::default());
    let Some(line) = grid.lines.get(&(batch.mode, batch.wait_us)) else { return 0 };
    let failing = |cell: &&Cell<'_>| {
        cell.batch_size < batch.batch_size
            && cell.runs.len() == plan.grid.repetitions as usize
            && !grid.meets(cell)
            && cell.runs.iter().all(|run| run.verdict.validity == Validity::Valid)
    };
    line.iter().filter(failing).count() as u64
}
