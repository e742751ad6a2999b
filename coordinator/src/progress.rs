//! The progress of a run on the terminal: a bar on a terminal, plain lines elsewhere.

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::plan::Plan;
use crate::plan::expand::Batch;
use crate::report::vitals::per_worker;
use crate::results::batch::Summary;
use crate::results::verdict::{Bottleneck, Validity};
use crate::run::events::{Counts, Place, RunEvent};
use crate::text::{count, duration, milliseconds, percent, rate, seconds_short};

/// Least time between two plain lines about one batch.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// How much is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// Only the results folder and problems.
    Quiet,
    Normal,
    Verbose,
}

/// The batch that is running, for the progress display.
#[derive(Debug, Clone, Copy)]
struct UnderWay {
    place: Place,
    batch: Batch,
    begun: Instant,
    /// How long the batch takes if the server takes no time.
    expected: Duration,
}

/// Displays a run. Rows go to standard output (with `--json` to standard error), progress to standard error.
#[derive(Debug)]
pub struct Progress {
    verbosity: Verbosity,
    rows_to_stderr: bool,
    bar: Option<ProgressBar>,
    header_shown: bool,
    under_way: Option<UnderWay>,
    last_plain: Instant,
    /// Problems already printed: the readiness check repeats itself.
    problems_told: BTreeSet<String>,
    repetitions: u32,
    /// Whether agents other than local ones take part.
    dial_in: bool,
}

impl Progress {
    #[must_use]
    pub fn new(plan: &Plan, verbosity: Verbosity, rows_to_stderr: bool) -> Self {
        let bar = (verbosity != Verbosity::Quiet && std::io::stderr().is_terminal()).then(|| {
            // A bar of length 0 would show as full before the run begins.
            let bar = ProgressBar::new(1);
            let style = ProgressStyle::with_template("{prefix} ▕{bar:16}▏ {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("█▉▊▋▌▍▎▏ "));
            bar.enable_steady_tick(Duration::from_millis(250));
            bar
        });
        Self {
            verbosity,
            rows_to_stderr,
            bar,
            header_shown: false,
            under_way: None,
            last_plain: Instant::now(),
            problems_told: BTreeSet::new(),
            repetitions: plan.grid.repetitions,
            dial_in: plan.agents.count > plan.agents.local,
        }
    }

    /// Prints a line that stays, above the bar.
    pub fn say(&self, line: &str) {
        if self.verbosity > Verbosity::Quiet {
            self.print(line, self.rows_to_stderr);
        }
    }

    /// Prints a line about a problem.
    pub fn warn(&self, line: &str) {
        self.print(line, true);
    }

    fn print(&self, line: &str, to_stderr: bool) {
        let write = || {
            // A closed pipe is the reader's choice; the run continues.
            let _ =
                if to_stderr { writeln!(std::io::stderr(), "{line}") } else { writeln!(std::io::stdout(), "{line}") };
        };
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    /// Clears the bar.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    pub fn on(&mut self, event: &RunEvent) {
        match event {
            RunEvent::AgentJoined { name, ready, wanted } => {
                self.status(&format!("agents  {ready} of {wanted} ready"), &format!("{name} joined"));
                // Without a bar, joins of agents from outside are printed: the first 16, then every fiftieth.
                let told = *ready <= 16 || ready.is_multiple_of(50);
                if self.bar.is_none() && self.dial_in && told && self.verbosity == Verbosity::Normal {
                    self.warn(&format!("agents  {ready} of {wanted} ready: {name} joined"));
                }
            }
            RunEvent::AgentLeft { name, why } => self.warn(&format!("agent {name} {why}")),
            RunEvent::AgentRefused { name, why } => self.warn(&format!("agent {name} was refused: {why}")),
            RunEvent::AgentsReady { names, threads, ports, clock_error_us } => {
                // With one agent there is nothing to compare. The error is a bound, so it is rounded up.
                let tenths = clock_error_us.filter(|_| names.len() > 1).map(|us| us.div_ceil(100));
                let clocks = tenths.map_or_else(String::new, |n| format!(" · clocks within {}.{} ms", n / 10, n % 10));
                let (agents, names) = (names.len(), shortened(names));
                let (threads, ports) = (count(*threads), count(*ports));
                self.say(&format!("agents  {agents} ready: {names} · {threads} threads · {ports} ports{clocks}"));
                self.status("target", "checking that it is ready");
            }
            RunEvent::TargetNotReady { problem } => {
                if self.problems_told.insert(problem.clone()) {
                    self.warn(&format!("target not ready yet: {problem}"));
                }
            }
            RunEvent::TargetReady { warnings } => {
                for warning in warnings {
                    self.warn(&format!("warning: {warning}"));
                }
            }
            RunEvent::WaitingForAgents { batch, pause, why } => {
                let (seconds, sessions) = (pause.as_secs(), count(batch.batch_size));
                self.warn(&format!("waiting up to {seconds} s for more agents before the batch of {sessions}: {why}"));
            }
            RunEvent::WaitingForPorts { batch, pause, agents } => {
                let seconds = pause.as_millis().div_ceil(1_000);
                let (sessions, agents) = (count(batch.batch_size), agents.join("; "));
                self.warn(&format!("waiting {seconds} s for ports before the batch of {sessions}: {agents}"));
            }
            RunEvent::Note(text) => self.warn(text),
            RunEvent::Interrupted => {
                self.warn(
                    "interrupted: sessions are being ended, what is complete is kept; Ctrl-C once more to stop at once",
                );
            }
            event => self.on_batch(event),
        }
    }

    /// Events of a batch.
    fn on_batch(&mut self, event: &RunEvent) {
        match event {
            RunEvent::WarmupStarted => self.status("warm-up", "one small batch that is not recorded"),
            RunEvent::BatchStarted { place, batch, attempt, expected } => {
                self.under_way =
                    Some(UnderWay { place: *place, batch: *batch, begun: Instant::now(), expected: *expected });
                self.last_plain = Instant::now();
                if self.verbosity == Verbosity::Verbose {
                    self.warn(&format!("batch under way: {} attempt {attempt}", cell(batch, self.repetitions).trim()));
                }
                self.counts(&Counts { planned: batch.batch_size, ..Counts::default() });
            }
            RunEvent::Progress(counts) => self.counts(counts),
            RunEvent::AttemptRefused { batch, attempt, why, again } => {
                let next = if *again { "it is repeated" } else { "it is not repeated" };
                self.warn(&format!(
                    "batch {} x {} s rep {}: attempt {attempt} does not count: {why}; {next}",
                    count(batch.batch_size),
                    seconds_short(batch.wait_us),
                    batch.repetition
                ));
            }
            RunEvent::BatchStored { summary } => {
                self.header();
                self.say(&row(summary, self.repetitions));
            }
            RunEvent::BatchSkipped { batch, why } => {
                self.header();
                self.say(&format!("{} skipped: {why}", cell(batch, self.repetitions)));
            }
            _ => {}
        }
    }

    fn header(&mut self) {
        if !std::mem::replace(&mut self.header_shown, true) {
            self.say(
                "                                                           beyond what was asked  step wire  own delay\n batch  mode    \
                 wait    rep  open at once  success  sessions/s         p50       p99        p99        p99  per worker  verdict",
            );
        }
    }

    fn status(&mut self, prefix: &str, message: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_prefix(prefix.to_owned());
                bar.set_message(message.to_owned());
            }
            None if self.verbosity == Verbosity::Verbose => self.warn(&format!("{prefix}: {message}")),
            None => {}
        }
    }

    fn counts(&mut self, counts: &Counts) {
        let Some(UnderWay { place, batch, begun, expected }) = self.under_way else { return };
        let gone = begun.elapsed();
        let left = |whole: Duration, of: &str| match whole.saturating_sub(gone) {
            Duration::ZERO => String::new(),
            left => format!(" · {of}{} left", duration(micros(left))),
        };
        let left = format!("{}{}", left(expected, ""), left(place.left, "run "));
        let prefix = format!(
            "[{}/{}] {} {} x {} s, rep {}",
            place.number,
            place.of,
            batch.mode,
            count(batch.batch_size),
            seconds_short(batch.wait_us),
            batch.repetition
        );
        let message = format!(
            "open {} · done {} · failed {}{left}",
            count(counts.open),
            count(counts.succeeded),
            count(counts.failed)
        );
        match &self.bar {
            Some(bar) => {
                bar.set_length(counts.planned);
                bar.set_position(counts.succeeded + counts.failed);
                bar.set_prefix(prefix);
                bar.set_message(message);
            }
            None if self.verbosity > Verbosity::Quiet && self.last_plain.elapsed() >= PLAIN_EVERY => {
                self.last_plain = Instant::now();
                self.print(&format!("{prefix}: {message}"), true);
            }
            None => {}
        }
    }
}

fn micros(duration: Duration) -> u64 {
    proto::units::micros(duration)
}

fn shortened(names: &[String]) -> String {
    if names.len() <= 8 {
        return names.join(" ");
    }
    format!("{} ... {}", names[..4].join(" "), names.last().map_or("", String::as_str))
}

fn cell(batch: &Batch, repetitions: u32) -> String {
    let mode = batch.mode.to_string();
    let (size, wait) = (count(batch.batch_size), format!("{} s", seconds_short(batch.wait_us)));
    let repetition = format!("{}/{repetitions}", batch.repetition);
    format!("{size:>6}  {mode:>4}  {wait:>6}  {repetition:>5}")
}

/// Formats the row of one finished batch.
#[must_use]
pub fn row(summary: &Summary, repetitions: u32) -> String {
    let time = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), milliseconds);
    let success = percent(summary.ledger.succeeded, summary.ledger.planned);
    let (p50, p99) = (time(summary.beyond.map(|b| b.p50_us)), time(summary.beyond.map(|b| b.p99_us)));
    let (wire, own) = (time(summary.wire_beyond.map(|b| b.p99_us)), time(summary.own_delay_p99_us));
    let (rate, open) = (rate(summary.requests_per_second), count(summary.open_max));
    let workers = per_worker(summary);
    format!(
        "{}  {open:>12}  {success:>7}  {rate:>10}  {p50:>10}  {p99:>8}  {wire:>9}  {own:>9}  {workers:>10}  {}",
        cell(&summary.batch, repetitions),
        verdict(summary)
    )
}

/// Formats the verdict with the failures. Reasons follow on lines of their own, unless the batch is simply valid.
fn verdict(summary: &Summary) -> String {
    let verdict = &summary.verdict;
    let mut text = verdict.validity.to_string();
    if verdict.limit == Bottleneck::Server {
        text.push_str(" (server)");
    }
    if let Some((what, n)) = summary.errors.first() {
        text.push_str(&format!(": {} {what}", count(*n)));
    }
    let untidy: u64 = summary.untidy.values().sum();
    if untidy > 0 {
        text.push_str(&format!("; {} did not end tidily", count(untidy)));
    }
    if summary.done > 0 {
        text.push_str(&format!("; {} ended with done", count(summary.done)));
    }
    if summary.over_range > 0 {
        text.push_str(&format!("; {} values above {}", count(summary.over_range), duration(summary.range_us)));
    }
    if verdict.validity > Validity::Valid || verdict.outage.is_some() {
        for reason in &verdict.reasons {
            text.push_str(&format!("\n        {reason}"));
        }
    }
    text
}
