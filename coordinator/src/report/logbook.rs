//! PURE: the experiment log, text to text. Entries are put in where they belong in time, and what people wrote is kept.
//!
//! An entry that this program wrote stands between two comments:
//!
//! ```text
//! ## Run: 2026-11-27-slurm-multi
//!
//! <!-- muster run 3f1c...: written by `coordinator log`, which keeps what you add -->
//! ...
//! <!-- muster end 5e0a31 77c0de ... -->
//! ```
//!
//! The last comment has a short hash of every line that was written: a line between the two whose hash is not there was
//! written by a person, and is carried over to the end of its section when the entry is written again. What stands before
//! or after the two comments is never touched.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};

use super::overview::{COLUMNS, OverviewRow};
use super::sheet::Sheet;

const START: &str = "<!-- EXPERIMENT RUNS START -->";
const HEADING: &str = "## Run: ";
const END: &str = "<!-- muster end";

/// What a log that is begun looks like.
pub const EMPTY: &str = "\
# OpenEnv Scaling Experiment Log

This log tracks all experiment runs for the OpenEnv infrastructure scaling benchmark.

## Overview

| Infrastructure | Status | Last Run | Max Batch (WS) | Cores | Batch/Core |
|----------------|--------|----------|----------------|-------|------------|

---

## Experiment Runs

<!-- New runs are put in below this line, newest first, by `coordinator log DIR --into THIS_FILE` -->

<!-- EXPERIMENT RUNS START -->
";

/// A run as the log needs it.
#[derive(Debug, Clone)]
pub struct NewEntry {
    pub id: String,
    /// RFC 3339: where it belongs among the others.
    pub started: String,
    /// [`super::entry::body`].
    pub body: String,
    pub row: OverviewRow,
}

/// A log with the entry in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    pub text: String,
    /// It was there before.
    pub renewed: bool,
    /// Lines between the two comments that a person wrote.
    pub carried: usize,
    /// Whether the overview tells of this run: it does not if a newer one of the infrastructure is in the log.
    pub in_overview: bool,
}

/// Why nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    #[error(
        "there is no line `{START}`: entries are put in below it; add that line where the runs begin, or give a file that is \
         not there yet"
    )]
    NoStart,
    #[error(
        "line {line}: the entry of this run has no line that begins with `{END}` after it: put it back (git has it), or delete \
         the entry, and it is written anew"
    )]
    NoEnd { line: usize },
    #[error(
        "there is no table with the columns {}: restore its heading, or add one under `## Overview`",
        COLUMNS.join(" | ")
    )]
    NoOverview,
}

/// The heading under which the run stands or will stand: its title, with `-2`, `-3`, ... if others have it.
///
/// # Errors
/// If the file is no log.
pub fn heading_of(log: &str, id: &str, title: &str) -> Result<String, LogError> {
    let lines: Vec<&str> = log.lines().collect();
    let entries = entries(&lines)?;
    if let Some(own) = entries.iter().find(|entry| entry.id.as_deref() == Some(id)) {
        return Ok(own.title.to_owned());
    }
    let taken = |name: &str| entries.iter().any(|entry| entry.title == name);
    let names = std::iter::once(title.to_owned()).chain((2..).map(|n| format!("{title}-{n}")));
    Ok(names.into_iter().find(|name| !taken(name)).unwrap_or_else(|| title.to_owned()))
}

/// Puts the entry in, or renews it, and refreshes the overview.
///
/// # Errors
/// If the file is no log, or its own marks are broken.
pub fn log(text: &str, title: &str, new: &NewEntry) -> Result<Logged, LogError> {
    let lines: Vec<&str> = text.lines().collect();
    let found = entries(&lines)?;
    let mut out: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    let heading = heading_of(text, &new.id, title)?;
    let own = found.iter().find(|entry| entry.id.as_deref() == Some(new.id.as_str()));
    let mut carried = 0;
    if let Some(own) = own {
        let begin = own.mark.unwrap_or(own.line);
        let until = found.iter().map(|entry| entry.line).find(|line| *line > own.line).unwrap_or(lines.len());
        let end = (begin..until).find(|n| lines[*n].starts_with(END)).ok_or(LogError::NoEnd { line: own.line + 1 })?;
        let (block, n) = renewed(&lines[begin + 1..end], lines[end], new);
        carried = n;
        out.splice(begin..=end, block);
    } else {
        let at = place(&lines, &found, &new.started);
        let mut block = vec![format!("{HEADING}{heading}"), String::new()];
        block.extend(marked(new, &new.body.lines().map(str::to_owned).collect::<Vec<_>>(), &new.body));
        block.extend(["", "---", ""].map(str::to_owned));
        if at > 0 && !lines[at - 1].trim().is_empty() {
            block.insert(0, String::new());
        }
        out.splice(at..at, block);
    }
    let newest = found
        .iter()
        .filter(|entry| {
            entry.id.as_deref() != Some(new.id.as_str()) && entry.infrastructure == Some(new.row.name.as_str())
        })
        .all(|entry| entry.started.is_none_or(|started| moment(started) <= moment(&new.started)));
    if newest {
        refresh(&mut out, &new.row)?;
    }
    let mut text = out.join("\n");
    text.truncate(text.trim_end().len());
    text.push('\n');
    Ok(Logged { text, renewed: own.is_some(), carried, in_overview: newest })
}

/// An entry that is there.
struct Found<'a> {
    /// Of its heading.
    line: usize,
    title: &'a str,
    infrastructure: Option<&'a str>,
    started: Option<&'a str>,
    id: Option<String>,
    /// Of the comment that has the id.
    mark: Option<usize>,
}

/// The entries below the start line. What stands in code or in comments of several lines is an example.
fn entries<'a>(lines: &[&'a str]) -> Result<Vec<Found<'a>>, LogError> {
    let start = lines.iter().position(|line| line.trim() == START).ok_or(LogError::NoStart)?;
    let mut found: Vec<Found<'a>> = Vec::new();
    for (n, line) in visible(lines).filter(|(n, _)| *n > start) {
        if let Some(title) = line.strip_prefix(HEADING) {
            found.push(Found {
                line: n,
                title: title.trim(),
                infrastructure: None,
                started: None,
                id: None,
                mark: None,
            });
        } else if let Some(entry) = found.last_mut() {
            let value = |name: &str| line.strip_prefix(&format!("**{name}:**")).map(str::trim);
            entry.infrastructure = entry.infrastructure.or(value("Infrastructure"));
            entry.started = entry.started.or(value("Start"));
            if let Some(id) = line.strip_prefix("<!-- muster run ").and_then(|rest| rest.split([':', ' ']).next())
                && entry.id.is_none()
            {
                (entry.id, entry.mark) = (Some(id.to_owned()), Some(n));
            }
        }
    }
    Ok(found)
}

/// The lines that are neither in a fence of code nor in a comment of several lines.
fn visible<'a, 'b>(lines: &'b [&'a str]) -> impl Iterator<Item = (usize, &'a str)> + 'b {
    let (mut fence, mut comment) = (false, false);
    lines.iter().enumerate().filter_map(move |(n, line)| {
        if comment {
            comment = !line.contains("-->");
            return None;
        }
        if line.trim_start().starts_with("```") {
            fence = !fence;
            return None;
        }
        if !fence && line.trim_start().starts_with("<!--") && !line.contains("-->") {
            comment = true;
            return None;
        }
        (!fence).then_some((n, *line))
    })
}

/// Before the first entry that is older; else after the last one.
fn place(lines: &[&str], found: &[Found<'_>], started: &str) -> usize {
    let older = |entry: &&Found<'_>| {
        // An entry without a start is as old as its heading says.
        let theirs = entry.started.unwrap_or(entry.title);
        moment(theirs) < moment(started)
    };
    if let Some(older) = found.iter().find(older) {
        return older.line;
    }
    let after =
        found.last().map_or_else(|| lines.iter().position(|line| line.trim() == START).unwrap_or(0), |last| last.line);
    let rest = visible(lines).find(|(n, line)| *n > after && (line.trim() == "---" || ends(line)));
    match rest {
        // Its own line of separation; then a line of air.
        Some((n, line)) if line.trim() == "---" && !found.is_empty() => (n + 2).min(lines.len()),
        Some((n, _)) => n,
        None => lines
            .iter()
            .enumerate()
            .skip(after + 1)
            .find(|(_, line)| line.trim() == "<!--")
            .map_or(lines.len(), |(n, _)| n),
    }
}

/// A heading that is above an entry's.
fn ends(line: &str) -> bool {
    (line.starts_with("# ") || line.starts_with("## ")) && !line.starts_with(HEADING)
}

/// To the second, and a date for the whole day: texts that sort as times do.
fn moment(text: &str) -> &str {
    text.get(..19).or_else(|| text.get(..10)).unwrap_or(text)
}

/// Between its marks. The hashes are of what was written, not of what was carried over.
fn marked(new: &NewEntry, lines: &[String], written: &str) -> Vec<String> {
    let mut block =
        vec![format!("<!-- muster run {}: written by `coordinator log`, which keeps what you add -->", new.id)];
    block.extend(lines.iter().cloned());
    while block.last().is_some_and(|line| line.trim().is_empty()) {
        block.pop();
    }
    let hashes: BTreeSet<String> = written.lines().filter(|line| !line.trim().is_empty()).map(hash).collect();
    block.push(String::new());
    block.push(format!("{END} {} -->", hashes.into_iter().collect::<Vec<_>>().join(" ")));
    block
}

/// Of a line without the blanks at its end, which editors take away: 24 bits, as hex.
fn hash(line: &str) -> String {
    Sha256::digest(line.trim_end().as_bytes()).iter().take(3).map(|byte| format!("{byte:02x}")).collect()
}

/// The entry written again, with the lines that a person put between its marks, and how many these are.
fn renewed(old: &[&str], end: &str, new: &NewEntry) -> (Vec<String>, usize) {
    let written: BTreeSet<&str> = end.trim_start_matches(END).trim_end_matches("-->").split_whitespace().collect();
    let mut lines: Vec<String> = new.body.lines().map(str::to_owned).collect();
    let fresh: BTreeSet<String> = new.body.lines().map(hash).collect();
    let mut section = "";
    let mut carried = 0;
    for line in old {
        if line.starts_with("### ") {
            section = line;
        }
        let own = hash(line);
        if line.trim().is_empty() || written.contains(own.as_str()) || fresh.contains(&own) {
            continue;
        }
        carried += 1;
        if section == *line {
            lines.extend([String::new(), (*line).to_owned()]);
        } else {
            let at = end_of(&lines, section);
            lines.insert(at, (*line).to_owned());
        }
    }
    (marked(new, &lines, &new.body), carried)
}

/// After the last line of a section that is not blank; sections that are not there end with the entry.
fn end_of(lines: &[String], section: &str) -> usize {
    let begin =
        if section.is_empty() { Some(0) } else { lines.iter().position(|line| line.trim_end() == section.trim_end()) };
    let Some(begin) = begin else { return lines.len() };
    let next = lines.iter().skip(begin + 1).position(|line| line.starts_with("### "));
    let mut at = next.map_or(lines.len(), |n| begin + 1 + n);
    while at > begin + 1 && lines[at - 1].trim().is_empty() {
        at -= 1;
    }
    at
}

/// Puts the row into the first table that has the overview's columns, in the place of the one of that name.
fn refresh(lines: &mut Vec<String>, row: &OverviewRow) -> Result<(), LogError> {
    let borrowed: Vec<&str> = lines.iter().map(String::as_str).collect();
    let header = |line: &str| cells(line).iter().take(COLUMNS.len()).eq(COLUMNS.iter());
    let first = visible(&borrowed).find(|(_, line)| header(line)).map(|(n, _)| n).ok_or(LogError::NoOverview)?;
    let table = borrowed[first..].iter().take_while(|line| line.trim_start().starts_with('|')).count();
    let mut sheet = Sheet::new(cells(borrowed[first]), 0..0);
    // The second line only draws.
    sheet.rows = borrowed[first..first + table].iter().skip(2).map(|line| cells(line)).collect();
    let mut own: Vec<String> = row.cells().to_vec();
    match sheet.rows.iter_mut().find(|cells| cells.first() == Some(&row.name)) {
        Some(there) => {
            // Columns that somebody added stay.
            own.extend(there.iter().skip(COLUMNS.len()).cloned());
            *there = own;
        }
        None => sheet.rows.push(own),
    }
    let text = sheet.markdown();
    lines.splice(first..first + table, text.lines().map(str::to_owned));
    Ok(())
}

fn cells(line: &str) -> Vec<String> {
    let inner = line.trim().trim_start_matches('|');
    let inner = inner.strip_suffix('|').unwrap_or(inner);
    inner.split('|').map(|cell| cell.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests;
