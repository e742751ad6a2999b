//! PURE: over repetitions: what a cell (mode x batch size x wait) amounts to, and what a whole run says.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use proto::{HistogramSet, Metric, Mode};

use crate::plan::Plan;
use crate::plan::expand::Batch;
use crate::results::batch::Summary;
use crate::results::failure::FailedAs;
use crate::results::verdict::Validity;

/// What was decided of one batch.
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

/// What was measured in a cell's repetitions, merged: its percentiles are never averages of percentiles.
///
/// A run that goes on keeps total latencies only; a report has the other metrics of the cells that it shows in detail.
#[derive(Debug, Default, PartialEq)]
pub struct CellHistograms {
    merged: BTreeMap<(Mode, u64, u64, Metric), Histogram<u64>>,
    /// How many repetitions are in each.
    parts: BTreeMap<(Mode, u64, u64, Metric), usize>,
}

/// What a cell's p99 is, of totals of which some are above the histograms' range; `None` if none is.
fn clipped_p99_us(runs: &[&Summary], merged: Option<&Histogram<u64>>) -> Option<u64> {
    let above: u64 = runs.iter().map(|run| run.total_over_range).sum();
    let end_us = runs.iter().map(|run| run.range_us).max().unwrap_or(0);
    (above > 0).then(|| proto::histograms::quantile_of(merged, above, end_us, 0.99)).flatten()
}

impl CellHistograms {
    pub fn add(&mut self, batch: &Batch, histograms: &HistogramSet) {
        // One set of bounds for the whole run: this can't fail.
        let added = self.add_one(batch, Metric::Total, histograms.get(Metric::Total));
        debug_assert!(added.is_ok(), "{added:?}");
    }

    /// What one repetition measured of `metric`.
    ///
    /// # Errors
    /// If it is of other bounds than what is here.
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

    /// `None` if nothing was measured, or it was not asked for.
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
    /// Of the merged total latencies of succeeded sessions.
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

    /// Mean over the repetitions; all have the same size, so it is the pooled rate.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a fraction")]
    pub fn success_rate(&self) -> f64 {
        if self.planned() == 0 { 0.0 } else { self.succeeded() as f64 / self.planned() as f64 }
    }

    /// Median over the repetitions; the lower one of two.
    #[must_use]
    pub fn rps(&self) -> f64 {
        let mut values: Vec<f64> = self.runs.iter().map(|run| run.requests_per_second).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
    }

    /// The success of the repetition that did worst, and of the one that did best, 0..1.
    #[must_use]
    pub fn spread(&self) -> (f64, f64) {
        let rates = self.runs.iter().map(|run| run.success_rate());
        rates.fold((1.0_f64, 0.0_f64), |(low, high), rate| (low.min(rate), high.max(rate)))
    }

    /// What went wrong, all repetitions together, most frequent first.
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

    /// Every repetition met it on its own, with a verdict that counts.
    #[must_use]
    pub fn reliable(&self, plan: &Plan) -> bool {
        let counts = |run: &&Summary| {
            plan.enough_succeeded(run.ledger.succeeded, run.ledger.planned)
                && matches!(run.verdict.validity, Validity::Valid | Validity::GeneratorLimited)
        };
        !self.runs.is_empty() && self.runs.iter().all(counts)
    }
}

/// Everything that was run, by mode and wait, batch sizes ascending.
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
                // A merged p99 is at most the largest of its parts': what there is where not all their histograms are.
                cell.p99_us = cell.runs.iter().map(|run| run.total.p99_us).max().filter(|p99_us| *p99_us > 0);
            }
            let merged = histograms.get(cell.mode, cell.batch_size, cell.wait_us, Metric::Total);
            if let Some(end_us) = clipped_p99_us(&cell.runs, merged) {
                cell.p99_us = Some(end_us);
                continue;
            }
            // The bucket's upper edge may lie beyond the largest value there was.
            let max_us = cell.runs.iter().map(|run| run.total_max_us).max().unwrap_or(0);
            cell.p99_us = cell.p99_us.map(|p99| if max_us > 0 { p99.min(max_us) } else { p99 });
        }
        Self { lines, plan }
    }

    /// Whether any cell missed a success criterion, over its repetitions as the tables show it. What was skipped was not
    /// shown to hold.
    #[must_use]
    pub fn misses_criteria(&self) -> bool {
        self.lines.values().flatten().any(|cell| {
            let late = cell.p99_us.is_some_and(|p99| p99 > self.plan.latency_limit_us(cell.wait_us));
            cell.skipped.is_some() || !self.meets(cell) || late
        })
    }

    /// The mean success over the repetitions reaches the criterion.
    #[must_use]
    pub fn meets(&self, cell: &Cell<'_>) -> bool {
        self.plan.enough_succeeded(cell.succeeded(), cell.planned())
    }

    /// The largest batch size whose mean success over its repetitions met the criterion: the rule of the historical
    /// tables, which looks at each size on its own.
    #[must_use]
    pub fn max_batch(&self, line: &[Cell<'a>]) -> Option<usize> {
        line.iter().rposition(|cell| self.meets(cell))
    }

    /// The cell that is shown in detail: the largest that met the criterion, or the largest of which anything succeeded.
    #[must_use]
    pub fn max_load(&self, line: &[Cell<'a>]) -> Option<usize> {
        self.max_batch(line).or_else(|| line.iter().rposition(|cell| cell.succeeded() > 0))
    }

    /// The largest whose every repetition met it, and every repetition of every smaller one.
    #[must_use]
    pub fn reliable(&self, line: &[Cell<'a>]) -> Option<u64> {
        line.iter().take_while(|cell| cell.reliable(self.plan)).last().map(|cell| cell.batch_size)
    }
}

/// How many batch sizes below this batch's, of its mode and wait, have failed: all repetitions done, mean success below
/// the criterion, and by verdicts that prove something.
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
