//! raw.jsonl, read: the lives of one batch's sessions, from its place in the file.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;

use serde::Deserialize;

use crate::report::timeline::Life;

/// What a timeline needs of a line.
#[derive(Debug, Deserialize)]
struct Line {
    agent: String,
    start_offset: Option<f64>,
    connect_latency: Option<f64>,
    reset_latency: Option<f64>,
    total_latency: Option<f64>,
    success: bool,
}

/// The sessions whose lines are at these bytes of the file, as far as they were started; `planned` lines.
///
/// # Errors
/// If they can't be read, are not lines of a run, or not all are there.
pub(super) fn read(path: &Path, from: u64, to: u64, planned: u64) -> io::Result<Vec<Life>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let part = file.take(to.saturating_sub(from));
    let packed = path.extension().is_some_and(|extension| extension == "zst");
    let reader: Box<dyn Read> = if packed { Box::new(zstd::Decoder::new(part)?) } else { Box::new(part) };
    let (mut lives, mut lines) = (Vec::new(), 0);
    for line in BufReader::new(reader).lines() {
        let line: Line = serde_json::from_str(&line?)?;
        lives.extend(life(line));
        lines += 1;
    }
    if lines == planned {
        Ok(lives)
    } else {
        Err(io::Error::other(format!("{lines} of {planned} lines of a batch are there")))
    }
}

fn life(line: Line) -> Option<Life> {
    let started = line.start_offset?;
    Some(Life {
        agent: line.agent,
        opened_us: line.connect_latency.zip(line.reset_latency).map(|(connect, reset)| us(started + connect + reset)),
        ended_us: us(started + line.total_latency?),
        succeeded: line.success,
    })
}

/// Microseconds of seconds; nothing that is not a time comes out.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and no number becomes 0")]
pub(super) fn us(seconds: f64) -> u64 {
    (seconds * 1e6).round().clamp(0.0, 1e15) as u64
}
