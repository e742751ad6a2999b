//! journal.jsonl: one line per finished attempt, with the lengths of the other files right after it. Bytes beyond the
//! last line's lengths belong to an attempt that was not finished.

use std::borrow::Cow;

use proto::Mode;
use serde::{Deserialize, Serialize};

use super::format::{FORMAT, Head, READ};
use crate::results::attempt::FinishedAttempt;
use crate::results::batch::Summary;
use crate::text::printable;
use crate::text::rfc3339;

/// Lengths of the files in bytes, right after an attempt was written to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lengths {
    pub raw: Option<u64>,
    pub summary: u64,
    pub histograms: u64,
}

impl Lengths {
    /// Whether a file lacks even its header.
    #[must_use]
    pub fn any_empty(&self) -> bool {
        self.raw == Some(0) || self.summary == 0 || self.histograms == 0
    }

    /// Whether no file is shorter than in `other`.
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

/// A line, as it is written and read. Fields that are not deserialized repeat the summary, for other programs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry<'a> {
    pub format: u32,
    pub batch: u32,
    #[serde(skip_deserializing)]
    mode: Option<Mode>,
    #[serde(skip_deserializing)]
    batch_size: u64,
    #[serde(skip_deserializing)]
    wait_us: u64,
    #[serde(skip_deserializing)]
    repetition: u32,
    pub attempt: u32,
    #[serde(skip_deserializing)]
    timestamp: String,
    pub accepted: bool,
    pub in_summary: bool,
    pub summary: Cow<'a, Summary>,
    pub bytes: Lengths,
}

impl<'a> Entry<'a> {
    pub(in crate::store) fn of(finished: &'a FinishedAttempt, bytes: Lengths) -> Self {
        let summary = &finished.summary;
        let b = &summary.batch;
        Self {
            format: FORMAT,
            batch: b.index,
            mode: Some(b.mode),
            batch_size: b.batch_size,
            wait_us: b.wait_us,
            repetition: b.repetition,
            attempt: finished.id.attempt,
            timestamp: rfc3339(summary.timestamp),
            accepted: summary.accepted,
            in_summary: finished.stands,
            summary: Cow::Borrowed(summary),
            bytes,
        }
    }
}

/// Why a journal can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JournalError {
    #[error("it is of format {0}, this program writes {FORMAT}; go on with that version")]
    Format(u32),
    /// A crash can't cause this.
    #[error("line {line} can't be read ({problem}), and whole lines follow; put it back as it was, or start a new run")]
    Damaged { line: usize, problem: String },
}

/// The whole lines of a journal, each with the offset of its end; and why reading stopped, if that was before the end.
#[derive(Debug, Default)]
pub struct Journal {
    pub entries: Vec<(Entry<'static>, u64)>,
    pub stopped: Option<String>,
}

impl Journal {
    /// Reads up to an incomplete last line.
    ///
    /// # Errors
    /// If the journal has another format, or is damaged elsewhere than at its end.
    pub fn read(text: &[u8]) -> Result<Self, JournalError> {
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
            match serde_json::from_slice::<Entry<'_>>(line) {
                Ok(entry) if READ.contains(&entry.format) => journal.entries.push((entry, at as u64)),
                Ok(entry) => return Err(JournalError::Format(entry.format)),
                Err(error) => {
                    if let Ok(head) = Head::of(line)
                        && !head.is_readable()
                    {
                        return Err(JournalError::Format(head.format));
                    }
                    let problem = printable(&error.to_string());
                    let whole =
                        |line: &[u8]| line.ends_with(b"\n") && serde_json::from_slice::<Entry<'_>>(line).is_ok();
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
