//! The journal.jsonl of a run that is resumed: whole lines are entries, up to the first line that is none.
//!
//! `good-run.jsonl` is the journal of a small run; the other seeds were made from it. After the fields of an entry have
//! changed, make it again with `coordinator run --set target.embedded=true --batch-sizes 2,3 --wait 0 --reps 1 --local 1 --output DIR`.

use crate::assert_plain;
use std::collections::BTreeMap;

use coordinator::results::batch::Summary;
use coordinator::store::FORMAT;
use coordinator::store::schema::journal::{Entry, Journal, JournalError};
use serde_json::json;
use serde_json::value::RawValue;

pub fn body(data: &[u8]) {
    let _ = accepts(data);
}

/// Whether a run can be resumed from it.
#[must_use]
pub fn accepts(data: &[u8]) -> bool {
    let journal = match Journal::read(data) {
        Ok(journal) => journal,
        Err(error) => {
            assert_refused(data, &error);
            return false;
        }
    };
    assert_whole(data, &journal);
    let ends: Vec<usize> = ends(&journal);
    // The first and the last only: all would take long, and a test below does that for one journal.
    let first_and_last = [ends.first(), ends.last()].into_iter().flatten();
    // Behind the last entry the place of the cut decides whether whole lines follow.
    let first_line_beyond = lines(data).map(|(_, end)| end).nth(ends.len()).unwrap_or(data.len());
    let beyond = [(data.len() / 2).min(first_line_beyond), first_line_beyond, data.len()];
    for cut in first_and_last.flat_map(|end| [end / 2, end - 1, *end]).chain(beyond) {
        assert_cut(data, &journal, cut);
    }
    for (entry, _) in &journal.entries {
        assert_reads_back(entry);
    }
    if let Some((entry, end)) = journal.entries.last() {
        for format in [FORMAT + 1, u32::MAX] {
            let later = format!("{{\"format\":{format}}}\n").into_bytes();
            for line in [line(entry, format), later] {
                let all = [&data[..usize::try_from(*end).expect("of a slice")], &line].concat();
                assert_eq!(
                    Journal::read(&all).err(),
                    Some(JournalError::Format(format)),
                    "another format is taken for this one"
                );
            }
        }
    }
    !journal.entries.is_empty()
}

/// Asserts that a refusal has a reason that can be shown.
const SHOWN_BYTES_MAX: usize = 8 << 10;

/// Asserts that nothing is refused that a crash may leave.
fn assert_refused(data: &[u8], error: &JournalError) {
    match error {
        JournalError::Format(format) => {
            assert_ne!(*format, FORMAT, "its own format is refused");
            assert!(lines(data).any(|(line, _)| says(line, *format)), "no line says format {format}");
        }
        JournalError::Damaged { line, problem } => {
            assert!(!problem.is_empty(), "refused without a reason");
            assert_plain(problem, SHOWN_BYTES_MAX);
            let (_, end) = lines(data).nth(line - 1).expect("a line of it");
            let (before, after) = data.split_at(end);
            let journal = Journal::read(before).unwrap_or_else(|error| panic!("up to line {line}: {error}"));
            assert!(journal.entries.len() == line - 1 && journal.stopped.is_some(), "line {line} is whole");
            assert!(lines(after).any(|(line, _)| is_whole(line)), "nothing whole follows line {line}");
        }
    }
}

/// The line of an entry, with this number of the format.
fn is_whole(line: &[u8]) -> bool {
    match Journal::read(&[line, b"\n"].concat()) {
        Ok(journal) => !journal.entries.is_empty(),
        Err(error) => matches!(error, JournalError::Format(_)),
    }
}

/// Each line without its newline, and where the next one starts.
fn lines(data: &[u8]) -> impl Iterator<Item = (&[u8], usize)> {
    data.split_inclusive(|byte| *byte == b'\n').scan(0, |end, line| {
        *end += line.len();
        Some((line.strip_suffix(b"\n").unwrap_or(line), *end))
    })
}

/// Asserts that every entry is one line, and that the rest is reported.
fn assert_whole(data: &[u8], journal: &Journal) {
    let mut start = 0;
    for end in ends(journal) {
        assert!(end > start && end <= data.len(), "an entry from {start} to {end} of {}", data.len());
        let (newline, line) = data[start..end].split_last().expect("more than nothing");
        assert!(*newline == b'\n' && !line.contains(&b'\n'), "from {start} to {end} is not one line");
        start = end;
    }
    assert_eq!(journal.stopped.is_some(), start < data.len(), "{:?} at {start} of {}", journal.stopped, data.len());
    // The user who resumes the run sees it.
    if let Some(why) = &journal.stopped {
        assert_plain(why, SHOWN_BYTES_MAX);
        assert!(why.starts_with(&format!("line {} ", journal.entries.len() + 1)), "{why:?}");
    }
}

/// Asserts what a crash leaves: a beginning of the file has exactly the entries whose whole lines are in it.
fn assert_cut(data: &[u8], journal: &Journal, cut: usize) {
    let again = Journal::read(&data[..cut]).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
    let whole = ends(journal).iter().take_while(|end| **end <= cut).count();
    assert_eq!(again.entries, journal.entries[..whole], "cut at {cut}");
    assert_whole(&data[..cut], &again);
}

fn assert_reads_back(entry: &Entry<'_>) {
    let summary = serde_json::to_vec(&entry.summary).expect("plain data");
    assert_eq!(
        serde_json::from_slice::<Summary>(&summary).ok().as_ref(),
        Some(&*entry.summary),
        "what is stored reads back"
    );
    let line = line(entry, FORMAT);
    let read = Journal::read(&line);
    let Ok(Journal { entries, stopped: None }) = read else { panic!("a line of an entry: {read:?}") };
    // What is written anew is of the newest format.
    let mut newest = entry.clone();
    newest.format = FORMAT;
    assert_eq!(entries, [(newest, line.len() as u64)]);
}

fn line(entry: &Entry<'_>, format: u32) -> Vec<u8> {
    let Entry { format: _, batch, attempt, accepted, in_summary, summary, bytes, .. } = entry;
    let line = json!({
        "format": format, "batch": batch, "attempt": attempt, "accepted": accepted, "in_summary": in_summary,
        "summary": summary, "bytes": bytes,
    });
    format!("{line}\n").into_bytes()
}

fn says(line: &[u8], format: u32) -> bool {
    // Parts that are not read may be any bytes.
    let line = String::from_utf8_lossy(line);
    let Ok(fields) = serde_json::from_str::<BTreeMap<String, Box<RawValue>>>(&line) else { return false };
    fields.get("format").is_some_and(|value| value.get() == format.to_string())
}

fn ends(journal: &Journal) -> Vec<usize> {
    journal.entries.iter().map(|(_, end)| usize::try_from(*end).expect("of a slice")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cut_at_any_byte_it_holds_the_entries_whose_line_is_whole() {
        let data = include_bytes!("../corpus/journal/good-run.jsonl");
        let journal = Journal::read(data).expect("this format");
        assert_eq!((journal.entries.len(), &journal.stopped), (2, &None));
        for cut in 0..=data.len() {
            assert_cut(data, &journal, cut);
        }
    }
}
