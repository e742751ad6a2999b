//! journal.jsonl: one line a finished attempt, with the lengths of the other files right after it. What lies beyond the
//! last line's lengths is an attempt that was never finished.

use serde::{Deserialize, Serialize};

use super::{FORMAT, READ};
use crate::report::format::printable;
use crate::report::summary::{Summary, rfc3339};
use crate::run::collect::Finished;

/// Of the files, right after an attempt was written to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lengths {
    pub raw: Option<u64>,
    pub summary: u64,
    pub histograms: u64,
}

impl Lengths {
    /// A file that should have a beginning at least has not even that.
    #[must_use]
    pub fn any_empty(&self) -> bool {
        self.raw == Some(0) || self.summary == 0 || self.histograms == 0
    }

    /// Whether files of these lengths hold everything that files of the other lengths do.
    #[must_use]
    pub fn cover(&self, other: &Self) -> bool {
        let raw = match (self.raw, other.raw) {
            (Some(own), Some(others)) => own >= others,
            (None, Some(_)) => false,
            (_, None) => true,
        };
        raw && self.summary >= other.summary && self.histograms >= other.histograms
    }
}

/// A line as it is written.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    format: u32,
    batch: u32,
    mode: proto::Mode,
    batch_size: u64,
    wait_us: u64,
    repetition: u32,
    attempt: u32,
    timestamp: String,
    accepted: bool,
    in_summary: bool,
    summary: &'a Summary,
    bytes: Lengths,
}

impl<'a> Line<'a> {
    pub(super) fn of(finished: &'a Finished, bytes: Lengths) -> Self {
        let summary = &finished.summary;
        let b = &summary.batch;
        Self {
            format: FORMAT,
            batch: b.index,
            mode: b.mode,
            batch_size: b.batch_size,
            wait_us: b.wait_us,
            repetition: b.repetition,
            attempt: finished.id.attempt,
            timestamp: rfc3339(summary.timestamp),
            accepted: summary.accepted,
            in_summary: finished.stands,
            summary,
            bytes,
        }
    }
}

/// A line as it is read.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Entry {
    pub format: u32,
    pub batch: u32,
    pub attempt: u32,
    pub accepted: bool,
    pub in_summary: bool,
    pub summary: Summary,
    pub bytes: Lengths,
}

/// Why a journal can't be gone by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    #[error("it is of format {0}, this program writes {FORMAT}; go on with that version")]
    Format(u32),
    /// No crash leaves that behind.
    #[error("line {line} can't be read ({problem}), and whole lines follow; put it back as it was, or start a new run")]
    Damaged { line: usize, problem: String },
}

/// The whole lines of a journal, each with where it ends; and what stopped the reading, if it was not the end.
#[derive(Debug, Default)]
pub struct Journal {
    pub entries: Vec<(Entry, u64)>,
    pub stopped: Option<String>,
}

impl Journal {
    /// Reads until a last line that is not whole.
    ///
    /// # Errors
    /// If it was written in another format, or is damaged elsewhere than at its end.
    pub fn read(text: &[u8]) -> Result<Self, JournalError> {
        #[derive(Deserialize)]
        struct Any {
            format: u32,
        }
        let mut journal = Self::default();
        let mut at = 0;
        while at < text.len() {
            let number = journal.entries.len() + 1;
            let Some(length) = text[at..].iter().position(|byte| *byte == b'\n') else {
                journal.stopped = Some(format!("line {number} is half written"));
                break;
            };
            let line = &text[at..at + length];
            at += length + 1;
            match serde_json::from_slice::<Entry>(line) {
                Ok(entry) if READ.contains(&entry.format) => journal.entries.push((entry, at as u64)),
                Ok(entry) => return Err(JournalError::Format(entry.format)),
                Err(error) => {
                    if let Ok(Any { format }) = serde_json::from_slice(line)
                        && !READ.contains(&format)
                    {
                        return Err(JournalError::Format(format));
                    }
                    let problem = printable(&error.to_string());
                    let whole = |line: &[u8]| line.ends_with(b"\n") && serde_json::from_slice::<Entry>(line).is_ok();
                    if text[at..].split_inclusive(|byte| *byte == b'\n').any(whole) {
                        return Err(JournalError::Damaged { line: number, problem });
                    }
                    journal.stopped = Some(format!("line {number} can't be read ({problem})"));
                    break;
                }
            }
        }
        Ok(journal)
    }
}
