//! PURE: builds a report independently of Markdown and HTML. The order is verdicts, numbers, figures, configuration.

use crate::report::caveats;
use crate::report::charts;
use crate::report::commands::commands;
use crate::report::comparison::{BREAKDOWN, breakdown, by_batch, by_wait, protocols, protocols_by_size};
use crate::report::figures::Figure;
use crate::report::findings::findings;
use crate::report::overview::{COMPARABLE, infrastructures, overview, published_row, side_by_side, unlimited};
use crate::report::published::Published;
use crate::report::table::Table;
use crate::report::tables::{Answer, answer, results_summary, scalings};
use crate::report::vitals::{AGENTS, BATCHES, VERDICTS, agents, batches, configuration, times, verdicts};
use crate::results::run::{Run, Status};

/// A piece of a report.
#[derive(Debug, Clone)]
pub enum Block {
    /// A heading with its level, which is 2 or more. The document's title has level 1.
    Heading(u8, String),
    Paragraph(String),
    /// The main result.
    Answer(Answer),
    /// A reason to doubt the numbers.
    Warning(String),
    Bullets(Vec<String>),
    Table(Table),
    Code(String),
    Figure(Figure),
}

pub const FIGURES: &str = "Figures";

#[derive(Debug, Clone)]
pub struct Document {
    pub title: String,
    pub blocks: Vec<Block>,
}

impl Document {
    #[must_use]
    pub fn figures(&self) -> Vec<&Figure> {
        let figure = |block: &'_ Block| matches!(block, Block::Figure(_));
        self.blocks
            .iter()
            .filter(|block| figure(block))
            .map(|block| match block {
                Block::Figure(figure) => figure,
                _ => unreachable!("only figures are left"),
            })
            .collect()
    }
}

/// The report of one run.
#[must_use]
pub fn of_run(run: &Run, published: &[Published]) -> Document {
    let mut to = Writer::default();
    to.warnings(run);
    to.heading(2, "Verdict");
    to.put(Block::Answer(answer(&run.plan, &run.grid())));
    for (mode, table) in verdicts(run) {
        to.heading(3, &format!("What the batches are worth ({mode})"));
        to.table(table);
    }
    if run.judged() && !run.results.is_empty() {
        to.paragraph(VERDICTS);
    }
    to.heading(3, "Observations");
    to.put(Block::Bullets(findings(run).iter().map(ToString::to_string).collect()));
    to.heading(2, "Numbers");
    to.numbers(run);
    to.protocols(std::slice::from_ref(run));
    to.latencies(std::slice::from_ref(run));
    to.figures(charts::of_run(run, published));
    to.comparison(run, published);
    to.heading(2, "Every batch");
    if run.judged() {
        to.paragraph(BATCHES);
    }
    to.table(batches(run));
    let agents = agents(run);
    if !agents.is_empty() {
        to.heading(2, "Agents");
        to.paragraph(AGENTS);
        to.table(agents);
    }
    to.heading(2, "How it was run");
    to.put(Block::Bullets(std::iter::once(times(run)).chain(configuration(run)).collect()));
    to.put(Block::Code(commands(run)));
    Document { title: run.title(), blocks: to.whole() }
}

/// The report of several runs: first a comparison, then a summary of each run.
#[must_use]
pub fn of_runs(runs: &[Run], published: &[Published]) -> Document {
    if let [run] = runs {
        return of_run(run, published);
    }
    let mut to = Writer::default();
    to.heading(2, "Overview");
    to.overview(runs, published);
    to.heading(2, "Max Batch by Infrastructure and Wait");
    to.table(by_wait(runs, published));
    for (title, table) in by_batch(runs) {
        to.heading(2, &format!("The same batches: {title}"));
        to.table(table);
    }
    to.protocols(runs);
    to.latencies(runs);
    to.figures(charts::of_runs(runs, published));
    for run in runs {
        to.heading(2, &run.title());
        to.warnings(run);
        to.put(Block::Answer(answer(&run.plan, &run.grid())));
        to.put(Block::Bullets(configuration(run)));
        to.numbers(run);
        to.beside(run, published);
        to.heading(3, "Observations");
        to.put(Block::Bullets(findings(run).iter().map(ToString::to_string).collect()));
    }
    to.can_be_compared(runs, published);
    Document { title: format!("{} runs", runs.len()), blocks: to.whole() }
}

#[derive(Default)]
struct Writer {
    blocks: Vec<Block>,
}

impl Writer {
    /// The blocks without headings of empty sections.
    fn whole(self) -> Vec<Block> {
        let mut kept: Vec<Block> = Vec::new();
        // The reverse order also removes a heading whose subsections have all been removed.
        for block in self.blocks.into_iter().rev() {
            let next = kept.last();
            let over_nothing = match (&block, next) {
                (Block::Heading(..), None) => true,
                (Block::Heading(level, _), Some(Block::Heading(next, _))) => next <= level,
                _ => false,
            };
            if !over_nothing {
                kept.push(block);
            }
        }
        kept.reverse();
        kept
    }

    fn put(&mut self, block: Block) {
        self.blocks.push(block);
    }

    fn heading(&mut self, level: u8, text: &str) {
        self.put(Block::Heading(level, text.to_owned()));
    }

    fn paragraph(&mut self, text: &str) {
        self.put(Block::Paragraph(text.to_owned()));
    }

    fn table(&mut self, table: Table) {
        if !table.is_empty() {
            self.put(Block::Table(table));
        }
    }

    fn warnings(&mut self, run: &Run) {
        let (what, then) = match run.status {
            Status::Complete => ("", ""),
            Status::Running => ("The run has not ended, or was killed before it could say so", ":"),
            Status::Failed => ("The run failed", ";"),
            Status::Interrupted => ("The run was interrupted", ";"),
            Status::Unknown => ("How the run ended is not known", ";"),
        };
        if !what.is_empty() {
            let why = run.failure.as_ref().map_or_else(String::new, |why| format!(": {why}"));
            self.put(Block::Warning(format!("{what}{why}{then} what follows is what was finished.")));
        }
        for note in &run.notes {
            self.put(Block::Warning(format!("Not whole: {note}.")));
        }
    }

    fn overview(&mut self, runs: &[Run], published: &[Published]) {
        self.table(overview(runs, published));
        if let Some(note) = unlimited(runs) {
            self.paragraph(&note);
        }
    }

    /// Adds the tables of the experiment log with their notes.
    fn numbers(&mut self, run: &Run) {
        let grid = run.grid();
        self.heading(3, "Results Summary");
        self.table(results_summary(&run.plan, &grid));
        let timeouts = caveats::timeouts(&run.results);
        let mut lines = timeouts.lines().map(str::to_owned);
        if let Some(first) = lines.next() {
            self.paragraph(&first);
            self.put(Block::Bullets(lines.collect()));
        }
        for (mode, wait_us, table) in scalings(&run.plan, &grid) {
            let wait = crate::text::seconds_short(wait_us);
            self.heading(3, &format!("Scaling Behavior ({mode}, wait {wait} s)"));
            self.table(table);
        }
        let by_size = protocols_by_size(run);
        if !by_size.is_empty() {
            self.heading(3, "WebSocket beside HTTP");
            self.table(by_size);
        }
        if let Some((of, table)) = caveats::spread(&run.results) {
            self.heading(3, &format!("Hosts ({of})"));
            self.table(table);
        }
    }

    /// Adds a table that compares each batch with the published one.
    fn beside(&mut self, run: &Run, published: &[Published]) {
        let (table, dates) = side_by_side(run, published);
        self.table(table);
        if let Some(dates) = dates {
            self.paragraph(&dates);
        }
    }

    fn protocols(&mut self, runs: &[Run]) {
        let table = protocols(runs);
        if !table.is_empty() {
            self.heading(if runs.len() == 1 { 3 } else { 2 }, "Protocol Comparison");
            self.table(table);
        }
    }

    fn latencies(&mut self, runs: &[Run]) {
        let table = breakdown(runs);
        if !table.is_empty() {
            self.heading(if runs.len() == 1 { 3 } else { 2 }, "Latency Breakdown at Max Load");
            self.table(table);
            self.paragraph(BREAKDOWN);
        }
    }

    /// Adds a comparison of a single run with published results for its infrastructure.
    fn comparison(&mut self, run: &Run, published: &[Published]) {
        let runs = std::slice::from_ref(run);
        let beside = published_row(published, &run.plan.experiment.infrastructure).is_some();
        if beside && !run.is_plain_burst() {
            self.heading(2, "Beside what was published");
            self.paragraph("Nothing: the published rows are of sessions of one step, all started at once.");
        } else if beside {
            self.heading(2, "Beside what was published");
            self.overview(runs, published);
            self.table(by_wait(runs, published));
            self.beside(run, published);
            self.can_be_compared(runs, published);
        } else if !run.judged() {
            self.can_be_compared(runs, published);
        }
    }

    fn figures(&mut self, figures: Vec<Figure>) {
        self.heading(2, FIGURES);
        for figure in figures {
            self.put(Block::Figure(figure));
        }
    }

    fn can_be_compared(&mut self, runs: &[Run], published: &[Published]) {
        let scripts = runs.iter().any(|run| !run.judged());
        if scripts || infrastructures(runs).iter().any(|name| published_row(published, name).is_some()) {
            self.heading(if runs.len() == 1 { 3 } else { 2 }, "What can be compared");
            for paragraph in COMPARABLE.split("\n\n") {
                self.paragraph(paragraph.trim());
            }
        }
    }
}

/// The tables of [`of_runs`] that fit into a terminal.
#[must_use]
pub fn in_short(runs: &[Run], published: &[Published]) -> Document {
    let mut to = Writer::default();
    to.overview(runs, published);
    to.table(by_wait(runs, published));
    for (title, table) in by_batch(runs) {
        to.heading(2, title);
        to.table(table);
    }
    Document { title: format!("{} runs", runs.len()), blocks: to.whole() }
}
