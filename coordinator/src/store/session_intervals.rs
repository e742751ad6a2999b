//! Reads from raw.jsonl when each session of one batch opened and ended.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;

use super::schema::raw::Line;
use crate::results::timeline::SessionInterval;

/// Reads the started sessions from the bytes `from..to` of the file, which hold `planned` lines.
///
/// # Errors
/// If the lines can't be read, are not lines of a run, or are not `planned` in number.
pub(super) fn read(path: &Path, from: u64, to: u64, planned: u64) -> io::Result<Vec<SessionInterval>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let part = file.take(to.saturating_sub(from));
    let packed = path.extension().is_some_and(|extension| extension == "zst");
    let reader: Box<dyn Read> = if packed { Box::new(zstd::Decoder::new(part)?) } else { Box::new(part) };
    let (mut intervals, mut lines) = (Vec::new(), 0);
    for line in BufReader::new(reader).lines() {
        let line = line?;
        intervals.extend(interval(serde_json::from_str(&line)?));
        lines += 1;
    }
    if lines == planned {
        Ok(intervals)
    } else {
        Err(io::Error::other(format!("{lines} of {planned} lines of a batch are there")))
    }
}

fn interval(line: Line<'_>) -> Option<SessionInterval> {
    // Each value is a whole number of microseconds, and so is their sum.
    let started_us = line.start_offset?.0;
    let opened = line.connect_latency.zip(line.reset_latency);
    Some(SessionInterval {
        agent: line.agent.into_owned(),
        opened_us: opened.map(|(connect, reset)| started_us.saturating_add(connect.0).saturating_add(reset.0)),
        ended_us: started_us.saturating_add(line.total_latency?.0),
        succeeded: line.success,
    })
}
