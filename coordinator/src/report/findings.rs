//! PURE: describes the results of a run in sentences. Every sentence is derived from the stored numbers.

use std::collections::BTreeMap;
use std::fmt;

use proto::{Metric, Mode};

use crate::report::caveats;
use crate::report::comparison;
use crate::report::scaling_notes::unstable;
use crate::report::tables::criterion;
use crate::report::wording::{per_core, success};
use crate::results::batch::Summary;
use crate::results::cells::{Cell, Done, Grid};
use crate::results::run::Run;
use crate::results::verdict::{Bottleneck, Validity};
use crate::text::{count, latency, percent, rate, seconds_short};

/// The most findings of one kind that are listed individually.
const TOLD_MAX: usize = 5;
/// A repetition is an outlier if its p99 exceeds its cell's median by more than this factor and this difference.
const OUTLIER_FACTOR: f64 = 1.5;
const OUTLIER_US: u64 = 300_000;
/// A repetition is also an outlier if its success rate differs from its cell's median by more than this fraction.
const OUTLIER_SUCCESS: f64 = 0.05;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    Verdicts,
    Launch,
    Capacity,
    PerCore,
    Floor,
    ConnectShare,
    Workers,
    Hosts,
    Failures,
    Instability,
    Throughput,
    Protocols,
    Outliers,
    Starts,
    Disturbances,
    Endings,
    Attempts,
}

/// One finding. `Display` gives one or two sentences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub topic: Topic,
    text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// All findings of a run, in the order of the report.
#[must_use]
pub fn findings(run: &Run) -> Vec<Finding> {
    let grid = run.grid();
    let mut found = Vec::new();
    let mut add = |topic: Topic, texts: Vec<String>| {
        found.extend(texts.into_iter().map(|text| Finding { topic, text }));
    };
    let some = |text: Option<String>| text.into_iter().collect::<Vec<_>>();
    add(Topic::Verdicts, verdicts(run));
    add(Topic::Launch, some(not_at_once(run)));
    for mode in run.plan.target.mode.list() {
        let Some(((_, wait_us), line)) = grid.lines.iter().find(|((m, _), _)| m == mode) else { continue };
        let line = Line { run, grid: &grid, mode: *mode, wait_us: *wait_us, cells: line };
        add(Topic::Capacity, Vec::from_iter(line.capacity()));
        add(Topic::PerCore, Vec::from_iter(line.per_core()));
        add(Topic::Floor, Vec::from_iter(line.floor()));
        add(Topic::ConnectShare, Vec::from_iter(line.connect_share()));
        add(Topic::Workers, Vec::from_iter(line.workers()));
        add(Topic::Hosts, Vec::from_iter(line.hosts()));
        add(Topic::Failures, Vec::from_iter(line.failures()));
        add(Topic::Instability, Vec::from_iter(line.instability()));
        add(Topic::Throughput, Vec::from_iter(line.throughput()));
    }
    add(Topic::Protocols, some(protocols(run, &grid)));
    add(Topic::Outliers, outliers(&grid));
    add(Topic::Starts, some(starts(run)));
    add(Topic::Disturbances, disturbed(run));
    add(Topic::Endings, endings(run));
    add(Topic::Attempts, some(attempts(run)));
    found
}

/// Attempts that did not count, and accepted batches during which the server went away.
fn disturbed(run: &Run) -> Vec<String> {
    let texts = |summary: &Summary| {
        let before = summary.refused_before.iter().map(|why| format!("{}, {why}", caveats::cell(summary)));
        let own = summary.verdict.outage.as_ref().filter(|_| summary.accepted);
        before
            .chain(own.map(|outage| format!("{}: {}", caveats::cell(summary), outage.evidence.join("; "))))
            .collect::<Vec<_>>()
    };
    let all: Vec<String> = summaries(run).flat_map(texts).collect();
    let rest = all.len().saturating_sub(TOLD_MAX);
    let more = (rest > 0).then(|| format!("And {rest} more attempts that did not count: see journal.jsonl."));
    all.into_iter().take(TOLD_MAX).map(|text| format!("{text}.")).chain(more).collect()
}

/// Episodes that the environment ended early, and successful sessions whose connection did not close cleanly.
fn endings(run: &Run) -> Vec<String> {
    let (mut done, mut succeeded, mut untidy) = (0, 0, BTreeMap::<&str, u64>::new());
    for summary in summaries(run) {
        done += summary.done;
        succeeded += summary.ledger.succeeded;
        for (kind, n) in &summary.untidy {
            *untidy.entry(kind).or_default() += n;
        }
    }
    let mut texts = Vec::new();
    if done > 0 {
        texts.push(format!("{} episodes ended because the environment texts that they were done.", count(done)));
    }
    let all: u64 = untidy.values().sum();
    if all > 0 {
        let kinds: Vec<String> = untidy.iter().map(|(kind, n)| format!("{} {kind}", count(*n))).collect();
        texts.push(format!(
            "{} of {} succeeded sessions had all of their answers and no tidy end: {}.",
            count(all),
            count(succeeded),
            kinds.join(", ")
        ));
    }
    texts
}

/// The largest number of open sessions, if sessions do not start at once.
fn not_at_once(run: &Run) -> Option<String> {
    let words = run.launch_words()?;
    let most = summaries(run).max_by_key(|summary| summary.open_max)?;
    Some(format!(
        "Sessions were started {words}, not at once: a batch is so many sessions in all. At most {} were open at one time ({}).",
        count(most.open_max),
        caveats::cell(most)
    ))
}

fn summaries(run: &Run) -> impl Iterator<Item = &Summary> {
    run.results.iter().filter_map(Done::summary)
}

/// Formats a number of batches: `3 batches`, `1 batch`.
fn batches(n: usize) -> String {
    if n == 1 { "1 batch".to_owned() } else { format!("{n} batches") }
}

/// The number of batches with each verdict, and the reasons of those that are not valid.
fn verdicts(run: &Run) -> Vec<String> {
    if !run.judged() {
        return vec![
            "Nothing was judged: the Python script does not measure what it adds itself, so its latencies and its failures may be \
             its own."
                .to_owned(),
        ];
    }
    let mut by_validity: BTreeMap<Validity, usize> = BTreeMap::new();
    for summary in summaries(run) {
        *by_validity.entry(summary.verdict.validity).or_default() += 1;
    }
    let all: usize = by_validity.values().sum();
    if all == 0 {
        return vec!["No batch was finished.".to_owned()];
    }
    let list: Vec<String> = by_validity.iter().map(|(validity, n)| format!("{n} {validity}")).collect();
    let server = summaries(run).filter(|summary| summary.verdict.limit == Bottleneck::Server).count();
    let mut first = format!("{}: {}", batches(all), list.join(", "));
    if server > 0 {
        first.push_str(&format!("; the server was the limit of {server}"));
    }
    let mut texts = vec![format!("{first}.")];
    // What happened to many batches for one reason is told once.
    let mut less: Vec<(Validity, String, Vec<&Summary>)> = Vec::new();
    for summary in summaries(run).filter(|summary| summary.verdict.validity > Validity::Valid) {
        let (validity, why) = (summary.verdict.validity, summary.verdict.reasons.join("; "));
        match less.iter_mut().find(|(other, reasons, _)| *other == validity && *reasons == why) {
            Some((_, _, same)) => same.push(summary),
            None => less.push((validity, why, vec![summary])),
        }
    }
    for (validity, why, same) in less.iter().take(TOLD_MAX) {
        let more = if same.len() > 1 { format!(" and {} more", same.len() - 1) } else { String::new() };
        texts.push(format!("{validity}: {}{more}: {why}.", caveats::cell(same[0])));
    }
    let rest: usize = less.iter().skip(TOLD_MAX).map(|(_, _, same)| same.len()).sum();
    if rest > 0 {
        texts.push(format!(
            "And {rest} more that are less than valid, for other reasons: see verdict_reasons in summary.csv."
        ));
    }
    texts
}

/// The cells of one mode at its smallest wait.
struct Line<'a> {
    run: &'a Run,
    grid: &'a Grid<'a>,
    mode: Mode,
    wait_us: u64,
    cells: &'a [Cell<'a>],
}

impl Line<'_> {
    /// A label such as `ws, wait 1.0 s`.
    fn what(&self) -> String {
        format!("{}, wait {} s", self.mode, seconds_short(self.wait_us))
    }

    fn max_load(&self) -> Option<&Cell<'_>> {
        self.grid.max_load(self.cells).map(|n| &self.cells[n])
    }

    fn capacity(&self) -> Option<String> {
        let (what, at) = (self.what(), criterion(&self.run.plan));
        let Some(n) = self.grid.max_batch(self.cells) else {
            let first = self.cells.iter().find(|cell| !cell.runs.is_empty())?;
            return Some(self.without_max(first, &what, &at));
        };
        let max = self.cells[n].batch_size;
        let above = self.cells[n + 1..].iter().find(|cell| !cell.runs.is_empty());
        let skipped = self.cells[n + 1..].iter().any(|cell| cell.runs.is_empty());
        // `reliable` needs verdicts, which runs of the Python script do not have.
        let reliable = self.grid.reliable(self.cells);
        let mut text = format!("Max batch of {max} at {at}% success ({what})");
        text.push_str(&match above {
            Some(above) => format!("; {} had {}", above.batch_size, success(above)),
            None if skipped => "; larger ones were skipped".to_owned(),
            None if reliable == Some(max) || !self.run.judged() => {
                ": the largest that was tried, so the limit was not reached".to_owned()
            }
            None => ": the largest that was tried".to_owned(),
        });
        if self.run.judged() && reliable != Some(max) {
            text.push_str(&match reliable {
                Some(size) => format!("; in every repetition, with a verdict that counts, it held up to {size}"),
                None => "; at no size did every repetition hold with a verdict that counts".to_owned(),
            });
        }
        text.push('.');
        Some(text)
    }

    /// The sentence for a line in which no batch met the criterion.
    fn without_max(&self, first: &Cell<'_>, what: &str, at: &str) -> String {
        let lines = || self.grid.lines.iter().filter(|((mode, _), _)| *mode == self.mode).flat_map(|(_, line)| line);
        if lines().any(|cell| cell.succeeded() > 0) {
            return format!(
                "No batch reached {at}% success ({what}): at the smallest, {}, it was {}.",
                first.batch_size,
                success(first)
            );
        }
        let counts = |run: &&Summary| !self.run.judged() || run.verdict.validity == Validity::Valid;
        if lines().flat_map(|cell| &cell.runs).any(counts) {
            format!("{} mode completely fails: {}.", self.mode.title(), failed(self.run, first))
        } else {
            format!("Over {} nothing succeeded, in batches that do not count: it was not measured.", self.mode.title())
        }
    }

    fn per_core(&self) -> Option<String> {
        let max = self.cells[self.grid.max_batch(self.cells)?].batch_size;
        let cores = self.run.plan.experiment.cores?;
        Some(format!("Batch per core ({}): {max}/{cores} = {}.", self.mode, per_core(max, cores)))
    }

    /// The largest batch size up to which the p99 stays near the requested time.
    fn floor(&self) -> Option<String> {
        let plan = &self.run.plan;
        let floor_us = plan.session_floor_us(self.wait_us);
        let limit_us = floor_us.saturating_add(plan.success.overhead_us);
        let near = |cell: &&Cell<'_>| self.grid.meets(cell) && cell.p99_us.is_some_and(|p99| p99 <= limit_us);
        let last = self.cells.iter().take_while(near).last()?;
        Some(format!(
            "p99 stays within {} of the theoretical minimum of {} s ({}) up to batch {} ({}).",
            latency(plan.success.overhead_us),
            seconds_short(floor_us),
            if plan.session.think_us == 0 { "steps x wait" } else { "steps x (wait + think)" },
            last.batch_size,
            self.mode
        ))
    }

    fn connect_share(&self) -> Option<String> {
        let cell = self.max_load()?;
        let of = |metric| {
            let values = self.run.cells.get(self.mode, cell.batch_size, self.wait_us, metric)?;
            Some(values.value_at_quantile(0.99).min(values.max()))
        };
        let (connect, total) = (of(Metric::Connect)?, cell.p99_us?.max(1));
        let floor_us = self.run.plan.session_floor_us(self.wait_us);
        let overhead = total.saturating_sub(floor_us);
        Some(format!(
            "Connect p99 is {} at batch {} ({}): {} of the total p99 of {}, of which {} are beyond what was asked for.",
            latency(connect),
            cell.batch_size,
            self.what(),
            percent(connect.min(total), total),
            latency(total),
            latency(overhead)
        ))
    }

    fn workers(&self) -> Option<String> {
        let cell = self.max_load()?;
        let pids = cell.runs.iter().map(|run| run.unique_pids).max().filter(|pids| *pids > 0)?;
        let at = format!("Unique PIDs at batch {} ({})", cell.batch_size, self.mode);
        let server = &self.run.plan.server;
        // `workers` is per node, and processes on different nodes may have the same PID.
        let nodes = server.nodes.unwrap_or(1);
        Some(match server.workers.map(|workers| workers.saturating_mul(nodes)) {
            Some(workers) if pids == workers => format!("{at}: {pids}, as many as there are workers."),
            Some(workers) if pids < workers && nodes > 1 => {
                format!("{at}: {pids} of {workers} workers (on {nodes} nodes, where two may have the same PID).")
            }
            Some(workers) if pids < workers => format!("{at}: {pids} of {workers} workers."),
            _ => format!("{at}: {pids}."),
        })
    }

    /// The distribution of sessions over hosts, summed over all repetitions at maximum load.
    fn hosts(&self) -> Option<String> {
        let cell = self.max_load()?;
        let mut hosts: BTreeMap<&str, u64> = BTreeMap::new();
        for (host, sessions) in cell.runs.iter().flat_map(|run| &run.hosts) {
            *hosts.entry(host).or_default() += sessions;
        }
        // If only the number of hosts is known, the hosts have no session counts.
        let counted = |run: &&Summary| run.ledger.succeeded == 0 || run.hosts.values().sum::<u64>() > 0;
        let named = cell.runs.iter().all(counted);
        let seen = if named { hosts.len() } else { cell.runs.iter().map(|run| run.hosts.len()).max()? };
        let of = match self.run.plan.target.expected_hosts {
            Some(expected) if (seen as u64) < expected => format!("Only {seen} of {expected} expected hosts"),
            _ if seen <= 1 => return None,
            _ => format!("{seen} unique hosts"),
        };
        let at = format!("answered at batch {} ({})", cell.batch_size, self.mode);
        let all: u64 = hosts.values().sum();
        let (Some(most), Some(least), true) = (hosts.values().max(), hosts.values().min(), named && all > 0) else {
            return Some(format!("{of} {at}."));
        };
        Some(format!(
            "{of} {at}: the busiest had {} of the sessions, the least busy {} ({} each were even).",
            percent(*most, all),
            percent(*least, all),
            percent(all / seen as u64, all)
        ))
    }

    /// The failures at the smallest and at the largest batch size that missed the criterion.
    fn failures(&self) -> Vec<String> {
        if self.cells.iter().all(|cell| cell.succeeded() == 0) {
            // Another finding covers a line without any success.
            return Vec::new();
        }
        let failing: Vec<&Cell<'_>> =
            self.cells.iter().filter(|cell| !cell.runs.is_empty() && !self.grid.meets(cell)).collect();
        let mut told: Vec<&&Cell<'_>> = failing.first().into_iter().chain(failing.last()).collect();
        told.dedup_by_key(|cell| cell.batch_size);
        told.into_iter()
            .map(|cell| format!("At batch {} ({}): {}.", cell.batch_size, self.mode, failed(self.run, cell)))
            .collect()
    }

    fn instability(&self) -> Vec<String> {
        let of = |cell: &Cell<'_>| {
            let rates: Vec<String> =
                cell.runs.iter().map(|run| percent(run.ledger.succeeded, run.ledger.planned)).collect();
            format!(
                "At batch {} ({}) the repetitions contradict each other: {} succeeded.",
                cell.batch_size,
                self.mode,
                rates.join(", ")
            )
        };
        self.cells.iter().filter(|cell| unstable(cell)).map(of).collect()
    }

    fn throughput(&self) -> Option<String> {
        let lines = self.grid.lines.iter().filter(|((mode, _), _)| *mode == self.mode);
        let cells = lines.flat_map(|(_, line)| line).filter(|cell| self.grid.meets(cell));
        let best = cells.max_by(|a, b| a.rps().total_cmp(&b.rps()))?;
        Some(format!(
            "Highest throughput ({}): {} sessions a second at batch {}, wait {} s.",
            self.mode,
            rate(best.rps()),
            best.batch_size,
            seconds_short(best.wait_us)
        ))
    }
}

/// `1,171 of 12,288 sessions failed: 900 refused at connect, 271 timeout at reset`
fn failed(run: &Run, cell: &Cell<'_>) -> String {
    let failed = cell.planned() - cell.succeeded();
    let mut text = format!("{} of {} sessions failed", count(failed), count(cell.planned()));
    let errors = cell.errors();
    let list: Vec<String> = errors.iter().take(TOLD_MAX).map(|(what, n)| format!("{} {what}", count(*n))).collect();
    if !list.is_empty() {
        text.push_str(&format!(": {}", list.join(", ")));
    }
    if errors.len() > TOLD_MAX {
        text.push_str(&format!(" and {} other kinds", errors.len() - TOLD_MAX));
    }
    let sum = |of: fn(&Summary) -> u64| cell.runs.iter().map(|run| of(run)).sum::<u64>();
    // This is not known for the Python script, which names a time-out after its exception.
    let ended_by_the_server = run.judged() && sum(|run| run.ledger.lost + run.ledger.never_started) == 0;
    if failed > 0 && !list.is_empty() && ended_by_the_server && sum(|run| run.ledger.timed_out) == 0 {
        text.push_str("; none by time-out");
    }
    text
}

/// Compares the modes over the batch sizes that both completed, at the smallest wait.
fn protocols(run: &Run, grid: &Grid<'_>) -> Option<String> {
    let wait_us = *grid.lines.keys().map(|(_, wait_us)| wait_us).min()?;
    let (ws, http) = comparison::in_both(run, grid, wait_us)?;
    let size = |held: comparison::Held| held.size.map_or_else(|| "none".to_owned(), |_| held.to_string());
    Some(match (ws.largest && http.largest, ws.size.cmp(&http.size)) {
        (true, _) => format!("WebSocket and HTTP both hold the largest batch that was tried in both: {}.", size(ws)),
        (_, std::cmp::Ordering::Equal) if ws.size.is_none() => return None,
        (_, std::cmp::Ordering::Equal) => format!("WebSocket and HTTP hold the same batch: {}.", size(ws)),
        (_, std::cmp::Ordering::Greater) => {
            format!("WebSocket holds more than HTTP: {} against {}.", size(ws), size(http))
        }
        (_, std::cmp::Ordering::Less) => {
            format!("HTTP holds more than WebSocket: {} against {}.", size(http), size(ws))
        }
    })
}

fn outliers(grid: &Grid<'_>) -> Vec<String> {
    let mut texts = Vec::new();
    for cell in grid.lines.values().flatten().filter(|cell| cell.runs.len() > 2 && !unstable(cell)) {
        let p99s_us = median(cell.runs.iter().map(|run| run.total.p99_us).collect());
        let rates = median_rate(cell);
        for run in &cell.runs {
            let slow = run.total.p99_us.saturating_sub(p99s_us) > OUTLIER_US
                && run.total.p99_us as f64 > OUTLIER_FACTOR * p99s_us as f64;
            let name = caveats::cell(run);
            if slow {
                texts.push(format!(
                    "One repetition stands out: {name} has a p99 of {}, the median of its cell is {}.",
                    latency(run.total.p99_us),
                    latency(p99s_us)
                ));
            }
            if (run.success_rate() - rates).abs() > OUTLIER_SUCCESS {
                texts.push(format!(
                    "One repetition stands out: {name} has {} success, the median of its cell is {:.1}%.",
                    percent(run.ledger.succeeded, run.ledger.planned),
                    rates * 100.0
                ));
            }
        }
    }
    if texts.len() > TOLD_MAX {
        let more = texts.len() - TOLD_MAX;
        texts.truncate(TOLD_MAX);
        texts.push(format!("And {more} more repetitions that stand out: see summary.csv."));
    }
    texts
}

/// The median, or the lower of the two middle values.
fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}

fn median_rate(cell: &Cell<'_>) -> f64 {
    let mut rates: Vec<f64> = cell.runs.iter().map(|run| run.success_rate()).collect();
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len().saturating_sub(1) / 2).copied().unwrap_or(0.0)
}

/// The largest difference between the start times of several agents in one batch.
fn starts(run: &Run) -> Option<String> {
    let several = summaries(run).filter(|summary| summary.agents > 1);
    let worst = several.filter_map(|summary| Some((summary.start_skew_us?, summary))).max_by_key(|(skew, _)| *skew)?;
    Some(format!(
        "Agents started within {:.1} ms of each other at worst, clock errors included ({}).",
        worst.0 as f64 / 1e3,
        caveats::cell(worst.1)
    ))
}

fn attempts(run: &Run) -> Option<String> {
    let repeated: Vec<&Summary> = summaries(run).filter(|summary| summary.attempt > 1).collect();
    let first = repeated.first()?;
    let lost: u64 = summaries(run).map(|summary| summary.ledger.lost).sum();
    let lost = if lost > 0 {
        format!("; {} {} lost with agents", count(lost), if lost == 1 { "session was" } else { "sessions were" })
    } else {
        String::new()
    };
    Some(format!(
        "{} took more than one attempt, the first of them {}{lost}.",
        batches(repeated.len()),
        caveats::cell(first)
    ))
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;

    use super::*;
    use crate::report::tables::tests::{done, with};
    use crate::results::cells::CellHistograms;
    use crate::results::run::Client;
    use crate::results::run::tests::run_of;
    use crate::results::verdict::Verdict;

    fn judged(validity: Validity, limit: Bottleneck, why: &str) -> Verdict {
        Verdict { validity, limit, reasons: vec![why.to_owned()], ..Verdict::default() }
    }

    fn list(run: &Run) -> String {
        findings(run).into_iter().map(|line| format!("- {line}\n")).collect()
    }

    #[test]
    fn every_sentence_where_there_is_something_to_say() {
        let mut cells = CellHistograms::default();
        let mut results = Vec::new();
        for repetition in 1..=3 {
            results.push(with(done(32, repetition, 32, 1_080_000, &mut cells), |summary| {
                summary.verdict = judged(Validity::Degraded, Bottleneck::Unknown, "n2 was lost: it was killed");
                summary.attempt = 3;
                summary.ledger.lost = u64::from(repetition == 1);
            }));
            results.push(with(done(512, repetition, 512, 1_300_000, &mut cells), |summary| {
                summary.agents = 2;
                summary.start_skew_us = Some(900 * u64::from(repetition));
                summary.unique_pids = 3;
                summary.hosts = [("a:1".to_owned(), 300), ("b:1".to_owned(), 212)].into();
                // One repetition is slow.
                summary.total.p99_us = if repetition == 2 { 2_500_000 } else { 1_300_000 };
            }));
            results.push(with(
                done(2_048, repetition, if repetition == 2 { 0 } else { 2_048 }, 1_900_000, &mut cells),
                |summary| {
                    summary.errors = vec![("refused at connect".to_owned().into(), 2_048 - summary.ledger.succeeded)];
                    summary.errors.retain(|(_, count)| *count > 0);
                },
            ));
            results.push(with(done(4_096, repetition, 100, 1_950_000, &mut cells), |summary| {
                summary.errors = (1..=7).map(|n| (format!("http_status(50{n}) at reset").into(), 500)).collect();
                summary.ledger.timed_out = 496;
                summary.ledger.failed -= 496;
                summary.verdict = judged(Validity::Valid, Bottleneck::Server, "the server refused");
            }));
            results.push(with(done(32, repetition, 0, 0, &mut CellHistograms::default()), |summary| {
                summary.batch.mode = Mode::Http;
                summary.errors = vec![("http_status(404) at reset".to_owned().into(), 32)];
            }));
        }
        for (metric, us) in [(Metric::Connect, 250_000), (Metric::Step, 1_040_000)] {
            let mut values = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("bounds");
            values.record(us).expect("in range");
            cells.add_one(results[1].batch(), metric, &values).expect("the same bounds");
        }
        let plan = "[experiment]\ncores=8\n[server]\nworkers=4\n";
        let run = run_of(plan, "2026-11-24T10:00:00Z", results, cells);
        insta::assert_snapshot!(list(&run));
    }

    #[test]
    fn little_to_say() {
        let mut cells = CellHistograms::default();
        let results = vec![with(done(8, 1, 4, 1_100_000, &mut cells), |summary| summary.unique_pids = 1)];
        let mut run = run_of("", "2026-11-24T10:00:00Z", results, cells);
        let ours = list(&run);
        run.client = Client::Script;
        let theirs = list(&run);
        run.results.clear();
        run.client = Client::Muster { version: "0.1.0".to_owned() };
        insta::assert_snapshot!(format!("{ours}\n{theirs}\n{}", list(&run)));
    }
}
