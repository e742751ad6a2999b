//! PURE: adds entries to the text of the experiment log, in the order of time, and keeps what people wrote.
//!
//! An entry written by this program is enclosed in two comments:
//!
//! ```text
//! ## Run: 2026-11-27-slurm-multi
//!
//! <!-- muster run 3f1c...: written by `coordinator log`, which keeps what you add -->
//! ...
//! <!-- muster end 5e0a31 77c0de ... -->
//! ```
//!
//! The last comment holds a short hash of each written line, in order. A line between the comments that matches none of
//! them was written by a person: when the entry is written again, it is put back at its place among the remaining
//! lines. Outside of the comments only the run's row of the overview is changed.

use sha2::{Digest as _, Sha256};

use similar::{Algorithm, DiffOp, capture_diff_slices};

use crate::report::overview::{COLUMNS, OverviewRow};
use crate::report::wording::is_complete;

const START: &str = "<!-- EXPERIMENT RUNS START -->";
const HEADING: &str = "## Run: ";
const BEGIN: &str = "<!-- muster run ";
const END: &str = "<!-- muster end";

/// The text of a new log.
pub const EMPTY: &str = "\
# OpenEnv Scaling Experiment Log

This log tracks all experiment runs for the OpenEnv infrastructure scaling benchmark.

## Overview

| Infrastructure         | Status         | Last Run   | Max Batch (WS) | Cores   | Batch/Core |
|------------------------|----------------|------------|----------------|---------|------------|

---

## Experiment Runs

<!-- New runs are put in below this line, newest first, by `coordinator log DIR --into THIS_FILE` -->

<!-- EXPERIMENT RUNS START -->
";

/// The run to be logged.
#[derive(Debug, Clone)]
pub struct NewEntry {
    pub id: String,
    /// The start in RFC 3339, which gives the entry its place among the others.
    pub started: String,
    /// The text from [`super::entry::body`].
    pub body: String,
    pub row: OverviewRow,
}

/// The log with the entry in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    pub text: String,
    /// The heading of the entry.
    pub heading: String,
    /// Whether the entry was there before.
    pub renewed: bool,
    /// Number of lines between the two comments that a person wrote.
    pub carried: usize,
    pub overview: Overview,
}

/// What happened to the run's row in the overview.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Overview {
    /// The row was added, or the row of the same day was updated.
    Told,
    /// The row replaced this one of another day.
    Replaced(String),
    /// The log has a newer run of the infrastructure, whose row stays.
    Newer,
    /// The run is not complete, and the row of a complete one stays.
    Complete,
}

/// Why the log was not written.
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

/// The heading of the run's entry, present or new: its title, with `-2`, `-3`, ... if other entries have it.
fn heading_of(entries: &[Found<'_>], id: &str, title: &str) -> String {
    if let Some(own) = entries.iter().find(|entry| entry.id.as_deref() == Some(id)) {
        return own.title.to_owned();
    }
    let taken = |name: &str| entries.iter().any(|entry| entry.title == name);
    let mut names = std::iter::once(title.to_owned()).chain((2..).map(|n| format!("{title}-{n}")));
    names.find(|name| !taken(name)).unwrap_or_else(|| title.to_owned())
}

/// The name of the folder with the run's figures: the one that its entry links to, else `base`, with `-2`, `-3`, ... if
/// the log already links to a folder of that name.
///
/// # Errors
/// If the log has no start line.
pub fn folder_of(log: &str, id: &str, base: &str) -> Result<String, LogError> {
    let lines: Vec<&str> = log.lines().collect();
    if let Some(mark) = entries(&lines)?.iter().find(|entry| entry.id.as_deref() == Some(id)).and_then(|own| own.mark) {
        let links = lines[mark..].iter().take_while(|line| !line.starts_with(END)).find_map(|line| {
            let name = line.trim_end().split("](figures/").nth(1)?.split('/').next()?;
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            (name.starts_with(base) && name.chars().all(plain)).then(|| name.to_owned())
        });
        if let Some(name) = links {
            return Ok(name);
        }
    }
    let taken =
        |name: &str| log.contains(&format!("](figures/{name}/")) || log.contains(&format!("](summaries/{name}.csv)"));
    let mut names = std::iter::once(base.to_owned()).chain((2..).map(|n| format!("{base}-{n}")));
    Ok(names.find(|name| !taken(name)).unwrap_or_else(|| base.to_owned()))
}

/// Adds or renews the entry, and updates the overview.
///
/// # Errors
/// If the log has no start line or no overview, or the entry has no end mark.
pub fn log(text: &str, title: &str, new: &NewEntry) -> Result<Logged, LogError> {
    if text.contains("\r\n") {
        // Keep the line ends of the file.
        let logged = log(&text.replace("\r\n", "\n"), title, new)?;
        return Ok(Logged { text: logged.text.replace('\n', "\r\n"), ..logged });
    }
    let lines: Vec<&str> = text.lines().collect();
    let found = entries(&lines)?;
    let mut out: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
    let heading = heading_of(&found, &new.id, title);
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
        let body: Vec<&str> = written(&new.body);
        block.extend(marked(new, &body, &body));
        block.extend(["", "---", ""].map(str::to_owned));
        if at > 0 && !lines[at - 1].trim().is_empty() {
            block.insert(0, String::new());
        }
        out.splice(at..at, block);
    }
    let newest = found
        .iter()
        .filter(|entry| entry.id.as_deref() != Some(new.id.as_str()))
        .filter(|entry| entry.infrastructure == Some(new.row.name.as_str()))
        .all(|entry| entry.started.is_none_or(|started| moment(started) <= moment(&new.started)));
    let overview = if newest { refresh(&mut out, new)? } else { Overview::Newer };
    // The blank end of the file is kept as it was.
    let tail = &text[text.trim_end().len()..];
    let mut logged = out.join("\n");
    logged.truncate(logged.trim_end().len());
    logged.push_str(if tail.is_empty() { "\n" } else { tail });
    Ok(Logged { text: logged, heading, renewed: own.is_some(), carried, overview })
}

/// An entry found in the log.
struct Found<'a> {
    /// Index of the heading's line.
    line: usize,
    title: &'a str,
    infrastructure: Option<&'a str>,
    started: Option<&'a str>,
    id: Option<String>,
    /// Index of the line with the comment that holds the id.
    mark: Option<usize>,
}

/// The entries below the start line. Fenced code and comments of several lines are examples and are skipped; everything
/// between the marks of an entry belongs to it.
fn entries<'a>(lines: &[&'a str]) -> Result<Vec<Found<'a>>, LogError> {
    let start = lines.iter().position(|line| line.trim() == START).ok_or(LogError::NoStart)?;
    let mut found: Vec<Found<'a>> = Vec::new();
    for (n, line, place) in seen(lines).filter(|(n, _, place)| *n > start && *place != Place::Hidden) {
        if let (Some(title), Place::Open) = (line.strip_prefix(HEADING), place) {
            let title = title.trim();
            found.push(Found { line: n, title, infrastructure: None, started: None, id: None, mark: None });
        } else if let Some(entry) = found.last_mut() {
            let value = |name: &str| line.strip_prefix(&format!("**{name}:**")).map(str::trim);
            entry.infrastructure = entry.infrastructure.or(value("Infrastructure"));
            entry.started = entry.started.or(value("Start"));
            if let (None, Some(id)) = (&entry.id, id_of(line)) {
                (entry.id, entry.mark) = (Some(id.to_owned()), Some(n));
            }
        }
    }
    Ok(found)
}

fn id_of(line: &str) -> Option<&str> {
    line.strip_prefix(BEGIN)?.split([':', ' ']).next().filter(|id| !id.is_empty())
}

/// The context of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Open,
    /// The line is between the marks of an entry.
    Entry,
    /// The line is in a code fence, or in a comment of several lines.
    Hidden,
}

fn seen<'a, 'b>(lines: &'b [&'a str]) -> impl Iterator<Item = (usize, &'a str, Place)> + 'b {
    // The character and the length of the open fence (CommonMark 4.5).
    let mut fence: Option<(char, usize)> = None;
    let (mut comment, mut entry_ends) = (false, None);
    lines.iter().enumerate().map(move |(n, line)| {
        if let Some(end) = entry_ends {
            if n >= end {
                entry_ends = None;
            }
            return (n, *line, Place::Entry);
        }
        let trimmed = line.trim_start();
        if comment {
            comment = !line.contains("-->");
            return (n, *line, Place::Hidden);
        }
        if let Some((sign, length)) = fence {
            let run = trimmed.chars().take_while(|c| *c == sign).count();
            if run >= length && trimmed[run..].trim().is_empty() {
                fence = None;
            }
            return (n, *line, Place::Hidden);
        }
        if let Some(sign) = trimmed.chars().next().filter(|c| *c == '`' || *c == '~') {
            let run = trimmed.chars().take_while(|c| *c == sign).count();
            if run >= 3 && !(sign == '`' && trimmed[run..].contains('`')) {
                fence = Some((sign, run));
                return (n, *line, Place::Hidden);
            }
        }
        if id_of(line).is_some() {
            // Without an end mark it is an ordinary line; `log` reports the missing mark.
            entry_ends = lines[n..].iter().position(|line| line.starts_with(END)).map(|after| n + after);
            return (n, *line, if entry_ends.is_some() { Place::Entry } else { Place::Open });
        }
        if trimmed.starts_with("<!--") && !line.contains("-->") {
            comment = true;
            return (n, *line, Place::Hidden);
        }
        (n, *line, Place::Open)
    })
}

/// The lines outside of entries, code and comments.
fn visible<'a, 'b>(lines: &'b [&'a str]) -> impl Iterator<Item = (usize, &'a str)> + 'b {
    seen(lines).filter(|(_, _, place)| *place == Place::Open).map(|(n, line, _)| (n, line))
}

/// Index of the line at which a new entry goes: before the first older entry, else after the last one.
fn place(lines: &[&str], found: &[Found<'_>], started: &str) -> usize {
    let older = |entry: &&Found<'_>| {
        // An entry without a start time goes by the date in its heading.
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
        // Skip the last entry's own separator and the blank line after it.
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

/// Whether the line is a heading that ends the list of entries.
fn ends(line: &str) -> bool {
    (line.starts_with("# ") || line.starts_with("## ")) && !line.starts_with(HEADING)
}

/// The time to the second, or the date alone: a text that sorts by time.
fn moment(text: &str) -> &str {
    text.get(..19).or_else(|| text.get(..10)).unwrap_or(text)
}

/// The lines of a body, without blank lines at its end.
fn written(body: &str) -> Vec<&str> {
    body.trim_end().lines().collect()
}

/// The lines between the marks. The hashes are those of `written`, without the lines of people.
fn marked(new: &NewEntry, lines: &[&str], written: &[&str]) -> Vec<String> {
    let mut block = vec![format!("{BEGIN}{}: written by `coordinator log`, which keeps what you add -->", new.id)];
    block.extend(lines.iter().map(|line| (*line).to_owned()));
    let hashes: Vec<String> = written.iter().map(|line| hash(line)).collect();
    block.extend([String::new(), format!("{END} {} -->", hashes.join(" "))]);
    block
}

/// The first 24 bits of a line's SHA-256, as hex; `-` for a blank line. Editors may remove blanks at the line's end.
fn hash(line: &str) -> String {
    if line.trim().is_empty() {
        return "-".to_owned();
    }
    Sha256::digest(line.trim_end().as_bytes()).iter().take(3).map(|byte| format!("{byte:02x}")).collect()
}

/// The entry written again with the lines that a person put between its marks, and the number of these lines.
fn renewed(old: &[&str], end: &str, new: &NewEntry) -> (Vec<String>, usize) {
    let end = end.trim_start_matches(END);
    let mut before: Vec<String> =
        end.split("-->").next().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let last = old.iter().rposition(|line| !line.trim().is_empty()).map_or(0, |n| n + 1);
    let old = &old[..last];
    let now: Vec<String> = old.iter().map(|line| hash(line)).collect();
    let body = written(&new.body);
    let fresh: Vec<String> = body.iter().map(|line| hash(line)).collect();

    if before.is_empty() {
        // The hashes are missing: assume that the written lines are those of now.
        before.clone_from(&fresh);
    }
    // The new index of each line that was written before.
    let mut moved: Vec<Option<usize>> = vec![None; before.len()];
    for op in capture_diff_slices(Algorithm::Myers, &before, &fresh) {
        if let DiffOp::Equal { old_index, new_index, len } = op {
            (0..len).for_each(|n| moved[old_index + n] = Some(new_index + n));
        }
    }
    // The lines that a person added, by how many of the new lines go before them.
    let mut put_in: Vec<(usize, &[&str])> = Vec::new();
    for op in capture_diff_slices(Algorithm::Myers, &before, &now) {
        let (at, from, len) = match op {
            DiffOp::Insert { old_index, new_index, new_len } => slid(old, old_index, new_index, new_len),
            DiffOp::Replace { old_index, new_index, new_len, .. } => (old_index, new_index, new_len),
            DiffOp::Equal { .. } | DiffOp::Delete { .. } => continue,
        };
        let behind = moved[..at].iter().rev().find_map(|place| *place).map_or(0, |place| place + 1);
        put_in.push((behind, &old[from..from + len]));
    }
    let carried = put_in.iter().map(|(_, lines)| lines.iter().filter(|line| !line.trim().is_empty()).count()).sum();
    let mut lines: Vec<&str> = Vec::new();
    for n in 0..=body.len() {
        for (_, own) in put_in.iter().filter(|(behind, _)| *behind == n) {
            lines.extend(*own);
        }
        lines.extend(body.get(n));
    }
    (marked(new, &lines, &body), carried)
}

/// Lines added next to identical ones could have been added a little earlier or later. Moves them so that they split no
/// code fence. `at` is their index among the lines written before, `from` that in the present text.
fn slid(old: &[&str], at: usize, from: usize, len: usize) -> (usize, usize, usize) {
    let fences = |from: usize| old[from..from + len].iter().filter(|line| line.trim_start().starts_with("```")).count();
    let (mut back, mut on) = (0, 0);
    while fences(from - back) % 2 == 1 && back < from.min(at) && old[from - back - 1] == old[from - back + len - 1] {
        back += 1;
    }
    if fences(from - back) % 2 == 0 {
        return (at - back, from - back, len);
    }
    while fences(from + on) % 2 == 1 && from + on + len < old.len() && old[from + on] == old[from + on + len] {
        on += 1;
    }
    if fences(from + on) % 2 == 0 { (at + on, from + on, len) } else { (at, from, len) }
}

/// Puts the row into the first table with the overview's columns, in place of the row of the same name. Other rows and
/// added columns stay, as does a number of cores that the run does not know.
fn refresh(lines: &mut Vec<String>, new: &NewEntry) -> Result<Overview, LogError> {
    let row = &new.row;
    let borrowed: Vec<&str> = lines.iter().map(String::as_str).collect();
    let header = |line: &str| cells(line).iter().take(COLUMNS.len()).eq(COLUMNS.iter());
    let first = visible(&borrowed).find(|(_, line)| header(line)).map(|(n, _)| n).ok_or(LogError::NoOverview)?;
    let table = borrowed[first..].iter().take_while(|line| line.trim_start().starts_with('|')).count();
    let widths: Vec<usize> =
        borrowed[first].trim().trim_matches('|').split('|').map(|cell| cell.chars().count()).collect();
    // The second line of a table only separates.
    let there = (first + 2..first + table).find(|n| cells(borrowed[*n]).first() == Some(&row.name));
    let old = there.map(|n| cells(borrowed[n])).unwrap_or_default();
    let date = old.get(2).cloned().unwrap_or_default();
    let is_complete = |cells: &[String]| cells.get(1).is_some_and(|status| is_complete(status));
    let mut own: Vec<String> = row.cells().to_vec();
    if is_complete(&old) && !is_complete(&own) && date != row.date {
        return Ok(Overview::Complete);
    }
    let cores = old.get(4).and_then(|cores| cores.replace(',', "").parse::<u64>().ok());
    if let (None, Some(cores)) = (row.cores, cores) {
        own = OverviewRow { cores: Some(cores), ..row.clone() }.cells().to_vec();
    }
    own.extend(old.iter().skip(COLUMNS.len()).cloned());
    own.resize(widths.len().max(own.len()), String::new());
    let line: String = own
        .iter()
        .enumerate()
        .map(|(n, cell)| {
            // These characters are two columns wide.
            let wide = cell.chars().filter(|c| "✅❌⏳❓".contains(*c)).count();
            let width = widths.get(n).map_or(0, |width| width.saturating_sub(2 + wide));
            format!("| {cell:<width$} ")
        })
        .collect();
    let line = format!("{line}|");
    let outcome = match there {
        Some(_) if date != row.date => {
            Overview::Replaced(old.iter().take(COLUMNS.len()).cloned().collect::<Vec<_>>().join(" | "))
        }
        _ => Overview::Told,
    };
    match there {
        // Only the alignment differs: keep it.
        Some(_) if cells(&line) == old => {}
        Some(n) => lines[n] = line,
        None => lines.insert(first + table, line),
    }
    Ok(outcome)
}

/// Splits a table row into cells; an escaped bar is part of a cell.
fn cells(line: &str) -> Vec<String> {
    let inner = line.trim().trim_start_matches('|');
    let inner = inner.strip_suffix('|').filter(|rest| !rest.ends_with('\\')).unwrap_or(inner);
    let mut cells = vec![String::new()];
    let mut escaped = false;
    for c in inner.chars() {
        if c == '|' && !escaped {
            cells.push(String::new());
        } else if let Some(cell) = cells.last_mut() {
            cell.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    cells.into_iter().map(|cell| cell.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests;
