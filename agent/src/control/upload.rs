//! What an agent sends back after a batch: a report, and the sessions' records in chunks of bounded size.

use std::sync::Arc;

use proto::message::{RecordChunk, Report, Resend};
use proto::{AttemptId, FromAgent, SessionRecord};
use tokio::sync::mpsc;

use crate::load::armed::Measured;

/// The results of an attempt, ready to be sent as often as it takes.
#[derive(Debug)]
pub(crate) struct Upload {
    report: Report,
    chunks: Vec<Vec<SessionRecord>>,
}

impl Upload {
    /// Encodes what was measured; `chunk_bytes` is the size that a chunk of records should have, in encoded bytes.
    pub(crate) fn new(attempt: AttemptId, measured: Measured, chunk_bytes: usize) -> Self {
        let chunks = chunks(measured.records, chunk_bytes);
        let report = Report {
            attempt,
            ledger: measured.ledger,
            start_offset_us: measured.start_offset_us,
            chunks: chunks.len() as u64,
            histograms: measured.histograms.encode(),
            vitals: Box::new(measured.vitals),
        };
        Self { report, chunks }
    }
}

/// Sends the parts that are wanted: the report first, then chunks of records. A lost connection ends it; the
/// coordinator asks for the missing parts on the next one.
pub(crate) async fn send_parts(upload: Arc<Upload>, wanted: Resend, out: mpsc::Sender<FromAgent>) {
    if wanted.report && out.send(FromAgent::Report(upload.report.clone())).await.is_err() {
        return;
    }
    let from = wanted.from.unwrap_or(u64::MAX);
    let all = upload.chunks.len() as u64;
    for sequence in wanted.sequences.into_iter().filter(|n| *n < from.min(all)).chain(from..all) {
        let Some(records) = usize::try_from(sequence).ok().and_then(|n| upload.chunks.get(n)) else { continue };
        let chunk = RecordChunk { attempt: wanted.attempt, sequence, records: records.clone() };
        if out.send(FromAgent::Records(chunk)).await.is_err() {
            return;
        }
    }
}

/// Splits records into chunks of about `bytes_target` encoded bytes.
fn chunks(records: Vec<SessionRecord>, bytes_target: usize) -> Vec<Vec<SessionRecord>> {
    let mut chunks = Vec::new();
    let mut chunk = Vec::new();
    let mut bytes = 0;
    for record in records {
        // An upper bound of the encoded size: ten bytes a number, two a tag, and the texts.
        bytes += 200
            + record.step_us.len() * 10
            + record.wire.steps.len() * 24
            + record.error_message.len()
            + record.session_hash.as_ref().map_or(0, String::len)
            + record.host_url.as_ref().map_or(0, String::len);
        chunk.push(record);
        if bytes >= bytes_target {
            chunks.push(std::mem::take(&mut chunk));
            bytes = 0;
        }
    }
    if !chunk.is_empty() {
        chunks.push(chunk);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_hold_every_record_once_and_stay_small() {
        let record = |n| SessionRecord {
            step_us: vec![1; 100],
            ..SessionRecord::without_life(n, proto::Outcome::Succeeded, String::new())
        };
        let chunks = chunks((0..1_000).map(record).collect(), 20_000);
        assert!(chunks.iter().all(|chunk| chunk.len() <= 18));
        let sessions: Vec<u64> = chunks.iter().flatten().map(|record| record.session).collect();
        assert_eq!(sessions, (0..1_000).collect::<Vec<_>>());
        assert!(super::chunks(Vec::new(), 1).is_empty());
    }
}
