//! PURE: selects the figures of a report and their data.

use proto::Metric;

use crate::plan::expand::Batch;
use crate::report::comparison::max_loads;
use crate::report::figures::{
    self, AgentLaunch, Bar, Figure, HeatCell, Heatmap, Latency, Launch, PhaseBar, ScalingLine, ScalingPoint, Source,
    SpectrumLine, Timeline,
};
use crate::report::overview::{infrastructures, max_batch, published_row};
use crate::report::published::{Published, PublishedTable, latest};
use crate::results::batch::Summary;
use crate::results::cells::Cell;
use crate::results::run::Run;
use crate::results::timeline::BatchTimeline;
use crate::text::{count, seconds_short};

/// The most lines in one figure that a reader can tell apart.
const LINES_MAX: usize = 8;

#[derive(Debug, Clone, Copy)]
pub struct FigureKind {
    /// The file name without its extension, or its start if there are several figures.
    pub stem: &'static str,
    pub extent: Extent,
    draw: fn(&[Run], &[Published]) -> Vec<Figure>,
}

/// The scope of a kind of figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// One figure for one run or for several compared runs.
    Runs,
    /// One figure for each batch or mode of a single run. Their names begin with the stem.
    EachOfRun,
}

/// All kinds of figures, in the order of the report. To add one, add a file in `figures/` and a row here.
pub const FIGURES: &[FigureKind] = &[
    FigureKind { stem: "scaling", extent: Extent::Runs, draw: draw_scaling },
    FigureKind { stem: "max-batch", extent: Extent::Runs, draw: draw_max_batch },
    FigureKind { stem: "batch-per-core", extent: Extent::Runs, draw: draw_batch_per_core },
    FigureKind {
        stem: "p99-heatmap",
        extent: Extent::Runs,
        draw: |runs, _| vec![figures::p99_heatmap(&heatmaps(runs))],
    },
    FigureKind { stem: "phases", extent: Extent::Runs, draw: draw_phases },
    FigureKind {
        stem: "spectrum-",
        extent: Extent::EachOfRun,
        draw: |runs, _| runs.iter().flat_map(spectra).collect(),
    },
    FigureKind {
        stem: "timeline-",
        extent: Extent::EachOfRun,
        draw: |runs, _| runs.iter().flat_map(timelines).collect(),
    },
    FigureKind { stem: "launch-", extent: Extent::EachOfRun, draw: |runs, _| runs.iter().flat_map(launches).collect() },
];

/// All figures of one run. Figures without data are omitted.
#[must_use]
pub fn of_run(run: &Run, published: &[Published]) -> Vec<Figure> {
    let runs = std::slice::from_ref(run);
    let mut all = of_runs(runs, published);
    let each = FIGURES.iter().filter(|kind| kind.extent == Extent::EachOfRun);
    all.extend(each.flat_map(|kind| (kind.draw)(runs, published)));
    all
}

/// The figures that compare several runs.
#[must_use]
pub fn of_runs(runs: &[Run], published: &[Published]) -> Vec<Figure> {
    if runs.iter().all(|run| run.results.is_empty()) {
        return Vec::new();
    }
    let compare = FIGURES.iter().filter(|kind| kind.extent == Extent::Runs);
    compare.flat_map(|kind| (kind.draw)(runs, published)).collect()
}

/// The success criterion in the figures. It is taken from the first run.
fn criterion(runs: &[Run]) -> f64 {
    runs.first().map_or(0.95, |run| run.plan.success.min_success_rate)
}

fn draw_scaling(runs: &[Run], published: &[Published]) -> Vec<Figure> {
    let criterion = criterion(runs);
    let mut remark = String::new();
    if runs.len() > 1 {
        remark.push_str("Of each run its first protocol at its smallest wait.");
    }
    #[expect(clippy::float_cmp, reason = "as they were written down")]
    if runs.iter().any(|run| run.plan.success.min_success_rate != criterion) {
        remark.push_str(&format!(" Not all runs have the same criterion: that of {} is drawn.", runs[0].title()));
    }
    vec![figures::scaling(&scaling(runs, published), criterion, remark.trim())]
}

fn draw_max_batch(runs: &[Run], published: &[Published]) -> Vec<Figure> {
    vec![figures::max_batch(&max_batches(runs, published), criterion(runs))]
}

fn draw_batch_per_core(runs: &[Run], published: &[Published]) -> Vec<Figure> {
    let per_core = per_core(runs, published);
    // A figure with only published rows would show nothing of these runs.
    let own = per_core.iter().any(|bar| bar.source == Source::Here && bar.value.is_some());
    own.then(|| figures::batch_per_core(&per_core)).into_iter().collect()
}

fn draw_phases(runs: &[Run], _: &[Published]) -> Vec<Figure> {
    let phases = phases(runs);
    (!phases.is_empty()).then(|| figures::phases(&phases)).into_iter().collect()
}

fn timelines(run: &Run) -> Vec<Figure> {
    let of = |traced: &BatchTimeline| {
        figures::timeline(&Timeline {
            name: short(&traced.batch),
            batch: long(&traced.batch),
            bin_us: traced.bin_us,
            agents: traced.agents.clone(),
        })
    };
    run.traced.iter().map(of).collect()
}

/// The lines of the scaling figure.
fn scaling(runs: &[Run], published: &[Published]) -> Vec<ScalingLine> {
    let mut lines = Vec::new();
    for run in runs {
        let grid = run.grid();
        for ((mode, wait_us), cells) in &grid.lines {
            let smallest = grid.lines.keys().find(|(m, _)| m == mode).is_some_and(|(_, wait)| wait == wait_us);
            let several = runs.len() > 1;
            let first = run.plan.target.mode.list().first() == Some(mode);
            if several && !(first && smallest) {
                continue;
            }
            let ran = cells.iter().filter(|cell| !cell.runs.is_empty());
            let points = ran.map(|cell| {
                let (low, high) = cell.spread();
                ScalingPoint { batch_size: cell.batch_size, success: cell.success_rate(), low, high }
            });
            let wait = seconds_short(*wait_us);
            let label = if several {
                format!("{}, {mode}, wait {wait} s", run.title())
            } else {
                format!("{mode}, wait {wait} s")
            };
            lines.push(ScalingLine { label, source: Source::Here, points: points.collect() });
        }
    }
    // Published lines are added only while the figure stays readable.
    for name in infrastructures(runs) {
        let rows = latest(published, name, PublishedTable::Scaling);
        let points: Vec<ScalingPoint> = rows.iter().filter_map(|row| published_point(row)).collect();
        if lines.len() < LINES_MAX && !points.is_empty() {
            // The figure of a single run needs no infrastructure in the label.
            let of = if runs.len() > 1 { format!("{}-{name}", rows[0].date) } else { rows[0].date.clone() };
            let label = format!("{of}, {}, wait {:.1} s", rows[0].mode, rows[0].wait_seconds);
            lines.push(ScalingLine { label, source: Source::Published, points });
        }
    }
    lines
}

/// The point of a published row. A range of success rates is drawn at its middle.
fn published_point(row: &Published) -> Option<ScalingPoint> {
    let text = row.success.trim_start_matches('~');
    let text = text.split('%').next()?;
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (low.parse::<f64>().ok()? / 100.0, high.parse::<f64>().ok()? / 100.0);
    Some(ScalingPoint { batch_size: row.batch_size?, success: f64::midpoint(low, high), low, high })
}

#[expect(clippy::cast_precision_loss, reason = "for a picture")]
fn max_batches(runs: &[Run], published: &[Published]) -> Vec<Bar> {
    let mut bars = Vec::new();
    for run in runs {
        let grid = run.grid();
        for ((mode, wait_us), line) in &grid.lines {
            let max = grid.max_batch(line);
            let wait = seconds_short(*wait_us);
            let label = if runs.len() > 1 {
                format!("{} · {mode}, wait {wait} s", run.title())
            } else {
                format!("{} · {mode}, wait {wait} s", run.name())
            };
            bars.push(Bar {
                label,
                source: Source::Here,
                value: max.map(|n| line[n].batch_size as f64),
                at_least: max.is_some_and(|n| n + 1 == line.len()),
            });
        }
    }
    for name in infrastructures(runs) {
        for row in latest(published, name, PublishedTable::Summary) {
            bars.push(Bar {
                label: format!("{}-{name} · {}, wait {:.1} s", row.date, row.mode, row.wait_seconds),
                source: Source::Published,
                value: row.batch_size.map(|size| size as f64),
                at_least: is_largest(published, row),
            });
        }
    }
    bars
}

#[expect(clippy::cast_precision_loss, reason = "for a picture")]
fn per_core(runs: &[Run], published: &[Published]) -> Vec<Bar> {
    let mut bars = Vec::new();
    for run in runs {
        if let Some(cores) = run.plan.experiment.cores {
            let max = max_batch(run);
            bars.push(Bar {
                label: if runs.len() > 1 { run.title() } else { run.name() },
                source: Source::Here,
                value: max.map(|(size, _)| size as f64 / cores as f64),
                at_least: max.is_some_and(|(_, largest)| largest),
            });
        }
    }
    for name in infrastructures(runs) {
        if let Some((row, cores)) = published_row(published, name).and_then(|row| Some((row, row.cores?))) {
            bars.push(Bar {
                label: format!("{}-{name}", row.date),
                source: Source::Published,
                value: row.batch_size.map(|size| size as f64 / cores as f64),
                at_least: is_largest(published, row),
            });
        }
    }
    bars
}

/// Whether a published maximum is also the largest size in the published scaling table.
fn is_largest(published: &[Published], row: &Published) -> bool {
    let sizes = latest(published, &row.infrastructure, PublishedTable::Scaling);
    let tried = sizes.iter().filter(|size| size.mode == row.mode).filter_map(|size| size.batch_size).max();
    row.batch_size.is_some() && row.batch_size == tried
}

fn heatmaps(runs: &[Run]) -> Vec<Heatmap> {
    let mut panels = Vec::new();
    for run in runs {
        let grid = run.grid();
        for mode in run.plan.target.mode.list() {
            let cells = grid.lines.iter().filter(|((m, _), _)| m == mode).flat_map(|(_, line)| line);
            let cells = cells.map(|cell| HeatCell {
                batch_size: cell.batch_size,
                wait_us: cell.wait_us,
                p99_us: cell.p99_us,
                met: grid.meets(cell),
                skipped: cell.runs.is_empty(),
            });
            let cells: Vec<HeatCell> = cells.collect();
            if !cells.is_empty() {
                let of = if runs.len() > 1 { run.title() } else { run.name() };
                panels.push(Heatmap { label: format!("{of}, {mode}"), cells });
            }
        }
    }
    panels
}

/// The mean duration of each phase at maximum load.
#[expect(clippy::cast_precision_loss, reason = "for a picture")]
fn phases(runs: &[Run]) -> Vec<PhaseBar> {
    let mut bars = Vec::new();
    for run in runs {
        for cell in max_loads(&run.grid()) {
            let mean =
                |metric| run.cells.get(cell.mode, cell.batch_size, cell.wait_us, metric).map(|values| values.mean());
            let Some(step) = mean(Metric::Step) else { continue };
            let steps = f64::from(run.plan.session.steps);
            // The requested time includes thinking.
            let asked_us = run.plan.session_floor_us(cell.wait_us) as f64;
            let name = if runs.len() > 1 { format!("{} · ", run.title()) } else { String::new() };
            bars.push(PhaseBar {
                label: format!(
                    "{name}{}, {} at wait {} s",
                    cell.mode,
                    count(cell.batch_size),
                    seconds_short(cell.wait_us)
                ),
                connect_us: mean(Metric::Connect).unwrap_or(0.0),
                reset_us: mean(Metric::Reset).unwrap_or(0.0),
                wait_us: asked_us,
                step_us: (steps * (step - cell.wait_us as f64)).max(0.0),
                close_us: mean(Metric::Close).unwrap_or(0.0),
            });
        }
    }
    bars
}

/// Number of points per halving of the distance to 100 %, as in HdrHistogram's percentile iterator.
const TICKS_PER_HALF: u32 = 10;

fn spectra(run: &Run) -> Vec<Figure> {
    let grid = run.grid();
    let mut all = Vec::new();
    for mode in run.plan.target.mode.list() {
        let cells: Vec<&Cell<'_>> = max_loads(&grid).into_iter().filter(|cell| cell.mode == *mode).collect();
        let mut lines = Vec::new();
        for cell in cells.iter().take(LINES_MAX / 2) {
            let label = format!("{} at wait {} s", count(cell.batch_size), seconds_short(cell.wait_us));
            // Subtracting the requested time makes lines with different waits comparable.
            let floor_us = run.plan.session_floor_us(cell.wait_us);
            for (metric, kind) in [(Metric::Total, Latency::Service), (Metric::Response, Latency::Response)] {
                let Some(values) = run.cells.get(cell.mode, cell.batch_size, cell.wait_us, metric) else { continue };
                let points: Vec<(f64, u64)> = values
                    .iter_quantiles(TICKS_PER_HALF)
                    .map(|at| (at.quantile_iterated_to(), at.value_iterated_to().min(values.max())))
                    .map(|(quantile, us)| (quantile, us.saturating_sub(floor_us)))
                    .collect();
                let censored_above = censored(run, cell, kind);
                // If the figure cannot separate the cut sessions, the label gives their number.
                let cut = timed_out(cell);
                let hidden = kind == Latency::Response && cut > 0 && censored_above.is_none();
                let label = if hidden { format!("{label}, {} cut", count(cut)) } else { label.clone() };
                lines.push(SpectrumLine { label, kind, points, censored_above });
            }
        }
        if !lines.is_empty() {
            let mut figure = figures::spectrum(&format!("{mode} at maximum load"), &lines);
            figure.name = format!("spectrum-{mode}");
            all.push(figure);
        }
    }
    all
}

/// The quantile above which all response times belong to sessions that were cut. `None` if no session was cut, or if
/// the longest session exceeds the shortest time limit: the times of cut sessions may then lie anywhere.
#[expect(clippy::cast_precision_loss, reason = "for a picture")]
fn censored(run: &Run, cell: &Cell<'_>, kind: Latency) -> Option<f64> {
    let timed_out = timed_out(cell);
    let session = &run.plan.session;
    let phases = [
        session.connect_timeout_us,
        session.reset_timeout_us,
        session.step_timeout_us.saturating_add(cell.wait_us),
        session.close_timeout_us,
    ];
    let soonest_us = phases.into_iter().chain(session.total_timeout_us).min()?;
    let longest_us = cell.runs.iter().map(|run| run.total_max_us).max()?;
    let all = cell.succeeded() + timed_out;
    (kind == Latency::Response && timed_out > 0 && longest_us <= soonest_us)
        .then(|| cell.succeeded() as f64 / all as f64)
}

fn timed_out(cell: &Cell<'_>) -> u64 {
    cell.runs.iter().map(|run| run.ledger.timed_out).sum()
}

/// One launch figure for each batch that the report shows in detail.
fn launches(run: &Run) -> Vec<Figure> {
    let of = |summary: &Summary| Launch {
        name: short(&summary.batch),
        batch: long(&summary.batch),
        agents: summary
            .by_agent
            .iter()
            .filter(|agent| agent.sessions > 0)
            .map(|agent| AgentLaunch {
                agent: agent.name.clone(),
                sessions: agent.sessions,
                start_offset_us: agent.start_offset_us,
                clock_error_us: agent.clock_error_us,
                launch_lag_p99_us: agent.launch_lag_p99_us,
            })
            .collect(),
        start_skew_us: summary.start_skew_us,
        launch_window_us: summary.launch_window_us.unwrap_or(0),
    };
    let grid = run.grid();
    let mut seen = Vec::new();
    for mode in run.plan.target.mode.list() {
        let Some((_, line)) = grid.lines.iter().find(|((m, _), _)| m == mode) else { continue };
        let largest = line.iter().rposition(|cell| !cell.runs.is_empty());
        let mut cells: Vec<usize> = [grid.max_load(line), largest].into_iter().flatten().collect();
        cells.dedup();
        for n in cells {
            let summary = line[n].runs.iter().find(|summary| summary.accepted && !summary.by_agent.is_empty());
            seen.extend(summary.map(|summary| figures::launch(&of(summary))));
        }
    }
    seen
}

/// A short name, such as `ws-2048`.
fn short(batch: &Batch) -> String {
    format!("{}-{}", batch.mode, batch.batch_size)
}

/// A long name, such as `ws, 2,048 sessions, wait 1.0 s, repetition 1`.
fn long(batch: &Batch) -> String {
    format!(
        "{}, {} sessions, wait {} s, repetition {}",
        batch.mode,
        count(batch.batch_size),
        seconds_short(batch.wait_us),
        batch.repetition
    )
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;
    use proto::Mode;

    use super::*;
    use crate::report::published::built_in;
    use crate::report::tables::tests::{done, with};
    use crate::results::cells::{CellHistograms, Done};
    use crate::results::run::tests::run_of;

    /// A run with batches of 32 and 512 sessions. `held` is the number of successes in the larger batch.
    fn run(plan: &str, mode: Mode, held: u64) -> Run {
        let mut cells = CellHistograms::default();
        let results = [(32, 32), (512, held)].map(|(size, held)| {
            with(done(size, 1, held, 1_200_000, &mut cells), |summary| {
                summary.batch.mode = mode;
                summary.total_max_us = 1_200_000;
            })
        });
        let mut run = run_of(plan, "2026-11-24T10:00:00Z", results.to_vec(), cells);
        if mode == Mode::Http {
            run.plan.target.mode = crate::plan::Modes::One(Mode::Http);
        }
        run
    }

    const MULTI: &str = "[experiment]\ninfrastructure=\"slurm-multi\"\ncores=8\n";

    #[test]
    fn published_rows_stand_beside_runs_of_the_same_kind_only() {
        let burst = run(MULTI, Mode::Ws, 512);
        let lines = scaling(std::slice::from_ref(&burst), &built_in());
        assert_eq!(lines.iter().map(|line| line.source).collect::<Vec<_>>(), [Source::Here, Source::Published]);
        assert_eq!(lines[1].points.len(), 7);
        let ramp = run(&format!("{MULTI}[session]\nlaunch={{kind=\"ramp\",over_seconds=5}}\n"), Mode::Ws, 512);
        assert_eq!(scaling(std::slice::from_ref(&ramp), &built_in()).len(), 1);
        assert!(max_batches(&[ramp], &built_in()).iter().all(|bar| bar.source == Source::Here));
    }

    #[test]
    fn a_maximum_that_is_the_largest_that_was_tried_is_a_bound() {
        let bars = max_batches(&[run(MULTI, Mode::Ws, 512)], &built_in());
        assert!(bars.iter().all(|bar| bar.at_least), "here and there nothing larger was tried: {bars:?}");
        let bars = max_batches(&[run(&MULTI.replace("multi", "single"), Mode::Ws, 100)], &built_in());
        assert!(bars.iter().all(|bar| !bar.at_least), "{bars:?}");
        assert_eq!(bars[0].value, Some(32.0));
        assert_eq!(per_core(&[run(MULTI, Mode::Ws, 512)], &[])[0].value, Some(64.0));
    }

    #[test]
    fn runs_over_http_alone_have_a_line_among_others() {
        let runs = [run(MULTI, Mode::Http, 512), run("[experiment]\ninfrastructure=\"hf-spaces\"\n", Mode::Ws, 100)];
        let lines = scaling(&runs, &[]);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].label.contains("http") && lines[0].points.len() == 2, "{lines:?}");
        assert_eq!((lines[1].points[1].success, lines[1].points[1].low), (100.0 / 512.0, 100.0 / 512.0));
    }

    #[test]
    fn what_a_session_asks_for_has_its_thinking_in_it() {
        let mut run = run("[session]\nsteps=3\nthink_seconds=0.1\n", Mode::Ws, 512);
        let mut step = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("bounds");
        step.record(1_050_000).expect("in range");
        run.cells.add_one(run.results[1].batch(), Metric::Step, &step).expect("the same bounds");
        let bar = &phases(std::slice::from_ref(&run))[0];
        assert_eq!(bar.wait_us, 3_300_000.0, "steps x (wait + think)");
        assert!((bar.step_us - 150_000.0).abs() < 3_000.0, "three steps, each 50 ms beyond its wait: {}", bar.step_us);
    }

    #[test]
    fn sessions_that_were_cut_are_marked_only_where_it_is_known_which() {
        let cut = |plan: &str| {
            let mut run = run(plan, Mode::Ws, 508);
            let Done::Ran(summary) = &mut run.results[1] else { panic!("it ran") };
            (summary.ledger.failed, summary.ledger.timed_out) = (0, 4);
            let batch = summary.batch;
            let mut response = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("bounds");
            response.record(1_200_000).expect("in range");
            run.cells.add_one(&batch, Metric::Response, &response).expect("the same bounds");
            let grid = run.grid();
            let cell = &grid.lines.values().next().expect("a line")[1];
            (censored(&run, cell, Latency::Response), censored(&run, cell, Latency::Service))
        };
        assert_eq!(cut("[session]\ntimeout_seconds=2\n"), (Some(508.0 / 512.0), None));
        // A session cut at 0.5 s in connect is shorter than the successful sessions of 1.2 s.
        assert_eq!(cut("[session]\nconnect_timeout_seconds=0.5\n"), (None, None));
    }

    #[test]
    fn figures_are_named_after_their_kind() {
        let batch = Batch { index: 0, mode: proto::Mode::Ws, batch_size: 8, wait_us: 1_000_000, repetition: 1 };
        let done = crate::results::cells::Done::Ran(Box::new(Summary::empty(batch)));
        let run = run_of("[experiment]\ncores=4\n", "2026-01-09T00:00:00Z", vec![done], CellHistograms::default());
        let figures = of_run(&run, &[]);
        assert!(!figures.is_empty());
        for figure in figures {
            let of = |kind: &&FigureKind| match kind.extent {
                Extent::Runs => figure.name == kind.stem,
                Extent::EachOfRun => figure.name.starts_with(kind.stem),
            };
            assert_eq!(FIGURES.iter().filter(of).count(), 1, "{}", figure.name);
        }
    }
}
