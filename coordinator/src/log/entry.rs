//! PURE: formats a run as an entry of the experiment log, by the log's own template.

use crate::report::commands::commands;
use crate::report::findings::findings;
use crate::report::table::{fenced, plain};
use crate::report::tables::{results_summary, scalings};
use crate::report::vitals::configuration;
use crate::results::run::{Run, Status};

/// Links from the log to the copies of the entry's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links {
    pub summary: Option<String>,
    /// The figures' folder, with a slash at its end, and the name and title of each figure.
    pub figures: Option<(String, Vec<(String, String)>)>,
}

/// The entry's body: everything below the heading, without the comments that mark it.
#[must_use]
pub fn body(run: &Run, links: &Links) -> String {
    let mut text = String::new();
    let mut field = |name: &str, value: &str| text.push_str(&format!("**{name}:** {}  \n", plain(value)));
    field("Infrastructure", &run.name());
    field("Start", &second(run.started));
    field("End", &run.ended.map_or_else(|| "unknown".to_owned(), second));
    let why = run.failure.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
    field("Status", &format!("{}{why}", status(run)));
    for note in &run.notes {
        field("Not whole", note);
    }
    text.push_str("\n### Configuration\n");
    for line in configuration(run) {
        text.push_str(&format!("- {}\n", plain(&line)));
    }
    text.push_str(&format!("\n### Command\n{}", fenced(&from_here(&commands(run), run))));
    let grid = run.grid();
    text.push_str(&format!("\n### Results Summary\n{}\n", results_summary(&run.plan, &grid).markdown()));
    let several = run.plan.target.mode.list().len() > 1;
    for (mode, _, table) in scalings(&run.plan, &grid) {
        let of = if several { format!(" ({})", mode.title()) } else { String::new() };
        text.push_str(&format!("\n### Scaling Behavior{of}\n{}\n", table.markdown()));
    }
    text.push_str(&format!("\n### Links\n{}", linked(run, links)));
    text.push_str("\n### Observations\n");
    for finding in findings(run) {
        text.push_str(&format!("- {}\n", plain(&finding.to_string())));
    }
    text
}

/// The status in the words of the log's template.
fn status(run: &Run) -> &'static str {
    match run.status {
        Status::Complete => "Complete",
        Status::Interrupted => "Interrupted (what was finished is here)",
        Status::Failed => "Failed",
        Status::Unknown => "Unknown",
        Status::Running => "Running (or ended without a final status)",
    }
}

fn second(timestamp: jiff::Timestamp) -> String {
    format!("{timestamp:.0}")
}

/// Shortens absolute paths, which a scheduler's script passes. If the results folder was named by a relative path, the
/// folder that this path starts from is removed, so that the log does not depend on the machine that wrote it.
fn from_here(text: &str, run: &Run) -> String {
    let root = run.output.strip_suffix(run.place.trim_end_matches('/'));
    root.filter(|root| root.len() > 1 && root.ends_with('/'))
        .map_or_else(|| text.to_owned(), |root| text.replace(root, ""))
}

fn linked(run: &Run, links: &Links) -> String {
    let mut text = match &run.raw {
        Some(name) => format!("- Raw data: `{}/{name}` (not in git)\n", run.place.trim_end_matches('/')),
        None => "- Raw data: none was kept\n".to_owned(),
    };
    if let Some(summary) = &links.summary {
        text.push_str(&format!("- Summary CSV: [summary.csv]({summary})\n"));
    }
    if let Some((folder, figures)) = links.figures.as_ref().filter(|(_, figures)| !figures.is_empty()) {
        text.push_str(&format!("- Figures: [figures/]({folder})"));
        for (name, title) in figures {
            // Of some kinds there are several figures: the rest of the name says which one this is.
            let of = name.split_once('-').filter(|(kind, _)| ["timeline", "launch", "spectrum"].contains(kind));
            let of = of.map_or_else(String::new, |(_, of)| format!(" ({of})"));
            text.push_str(&format!(" · [{title}{of}]({folder}{name}.svg)"));
        }
        text.push('\n');
        if figures.iter().any(|(name, _)| name == "scaling") {
            text.push_str(&format!("\n![Success rate by batch size]({folder}scaling.svg)\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::cells::CellHistograms;
    use crate::results::run::tests::run_of;

    #[test]
    fn paths_of_an_entry_are_from_where_the_results_are_named_from() {
        let mut run = run_of("", "2026-11-24T10:00:00Z", Vec::new(), CellHistograms::default());
        run.command = ["/opt/coordinator", "run", "/home/me/plan.toml", "--output", "/home/me/results/here"]
            .map(str::to_owned)
            .to_vec();
        let links = Links { summary: None, figures: None };
        assert!(body(&run, &links).contains("coordinator run plan.toml \\\n    --output results/here\n"));
        run.place = "/home/me/results/here".to_owned();
        assert!(body(&run, &links).contains("coordinator run /home/me/plan.toml"), "named by its whole path");
        assert!(commands(&run).contains("/home/me/plan.toml"), "a report has what was typed");
    }
}
