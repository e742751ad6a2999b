//! PURE: one agent's share of an attempt, and the results uploaded so far.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proto::limits::RESEND_MAX;
use proto::message::{RecordChunk, Report, Resend};
use proto::{AttemptId, SessionRecord};

use super::clock::Offset;

/// The progress of a share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShareProgress {
    /// Its sessions run, or its results arrive. It is complete once all results are there.
    Open,
    /// The agent was told to end and cut its sessions. Its results may still arrive; the attempt does not count.
    Leaving(String),
    /// The connection broke during the upload. The agent process `instance` may reconnect until `until`.
    Away { instance: [u8; 16], until: Duration },
    /// The attempt was given up before the agent started its sessions.
    NeverStarted(String),
    /// The results will not arrive.
    Lost(String),
    /// The agent's uploads contradict each other and were discarded.
    Rejected(String),
}

/// One agent's share of the sessions of an attempt.
#[derive(Debug, Clone)]
pub struct Share {
    pub agent: Arc<str>,
    /// Number of the first session.
    pub first: u64,
    pub sessions: u64,
    /// Limit of the agent's sessions open at one time.
    pub in_flight_max: u64,
    pub progress: ShareProgress,
    pub report: Option<Report>,
    pub chunks: BTreeMap<u64, Vec<SessionRecord>>,
    /// The offset of the agent's clock with which its start was ordered.
    pub clock: Option<Offset>,
    /// When something new arrived, or was last requested.
    last_news: Duration,
    /// How long to wait from then until the next request.
    patience: Duration,
}

impl Share {
    #[must_use]
    pub fn new(agent: &str, first: u64, sessions: u64) -> Self {
        Self {
            agent: Arc::from(agent),
            first,
            sessions,
            in_flight_max: sessions,
            progress: ShareProgress::Open,
            report: None,
            chunks: BTreeMap::new(),
            clock: None,
            last_news: Duration::ZERO,
            patience: Duration::ZERO,
        }
    }

    /// Most sessions that may have to run one after the other in one place.
    #[must_use]
    pub fn turns(&self) -> u64 {
        self.sessions.div_ceil(self.in_flight_max.max(1)).max(1)
    }

    /// Whether some results have arrived and others have not. The sessions have ended then.
    #[must_use]
    pub fn is_uploading(&self) -> bool {
        !self.is_settled() && (self.report.is_some() || !self.chunks.is_empty())
    }

    /// Notes an arrival at `now`. If nothing new arrives for `patience`, the rest is requested.
    pub fn heard(&mut self, now: Duration, patience: Duration) {
        (self.last_news, self.patience) = (now, patience);
    }

    /// When to request what has not arrived.
    #[must_use]
    pub fn ask_at(&self) -> Option<Duration> {
        (self.is_uploading() && self.away_until().is_none()).then_some(self.last_news + self.patience)
    }

    /// Notes a request at `now`. The next one waits twice as long: on a slow connection requests only add to the
    /// upload.
    pub fn asked(&mut self, now: Duration) {
        (self.last_news, self.patience) = (now, self.patience * 2);
    }

    /// Whether the last chunk has arrived and others have not.
    #[must_use]
    pub fn has_gap(&self) -> bool {
        let last = self.chunks.last_key_value().map(|(last, _)| last + 1);
        !self.is_settled() && self.report.as_ref().is_some_and(|report| last == Some(report.chunks))
    }

    /// The request for what has not arrived.
    #[must_use]
    pub fn missing(&self, attempt: AttemptId) -> Resend {
        let beyond = self.chunks.last_key_value().map_or(0, |(last, _)| last + 1);
        let until = self.report.as_ref().map_or(beyond, |report| report.chunks);
        let sequences = (0..until).filter(|n| !self.chunks.contains_key(n)).take(RESEND_MAX).collect();
        let from = self.report.is_none().then_some(beyond);
        Resend { attempt, report: self.report.is_none(), sequences, from }
    }

    /// Notes that the agent was told to end. Its sessions were cut, so the attempt does not count.
    pub fn leave(&mut self, why: &str) {
        if !self.is_settled() {
            self.progress = ShareProgress::Leaving(why.to_owned());
        }
    }

    #[must_use]
    pub fn is_leaving(&self) -> bool {
        matches!(self.progress, ShareProgress::Leaving(_))
    }

    /// The time until which the agent may reconnect, if its connection broke.
    #[must_use]
    pub fn away_until(&self) -> Option<Duration> {
        match self.progress {
            ShareProgress::Away { until, .. } => Some(until),
            _ => None,
        }
    }

    /// Takes the report; a second one is ignored.
    pub fn take_report(&mut self, report: Report) {
        if self.chunks.last_key_value().is_some_and(|(last, _)| *last >= report.chunks) {
            self.reject("sent more chunks than its report tells of");
        }
        if !self.has_failed() {
            self.report.get_or_insert(report);
        }
    }

    fn reject(&mut self, why: &str) {
        self.chunks.clear();
        self.report = None;
        self.progress = ShareProgress::Rejected(why.to_owned());
    }

    /// Takes a chunk of records, in any order; a repeated one is ignored. An agent that sends more records than it has
    /// sessions is rejected, and the chunk is not kept.
    pub fn take_chunk(&mut self, chunk: RecordChunk) {
        let held: usize = self.chunks.values().map(Vec::len).sum();
        if self.has_failed() || self.chunks.contains_key(&chunk.sequence) {
            return;
        }
        if (held + chunk.records.len()) as u64 > self.sessions {
            self.reject(&format!("sent more records than its {} sessions", self.sessions));
        } else if chunk.records.is_empty() || self.report.as_ref().is_some_and(|r| chunk.sequence >= r.chunks) {
            self.reject("sent an empty chunk, or more than its report tells of");
        } else {
            self.chunks.insert(chunk.sequence, chunk.records);
        }
    }

    /// Notes that the agent is gone. Complete results are kept.
    pub fn lose(&mut self, why: &str) {
        if !self.is_complete() && !matches!(self.progress, ShareProgress::Rejected(_)) {
            self.progress = ShareProgress::Lost(why.to_owned());
        }
    }

    pub fn never_start(&mut self, why: &str) {
        if !self.is_complete() && !self.has_failed() {
            self.progress = ShareProgress::NeverStarted(why.to_owned());
        }
    }

    fn has_failed(&self) -> bool {
        matches!(self.progress, ShareProgress::Lost(_) | ShareProgress::Rejected(_))
    }

    /// Whether the attempt does not count because of this agent, even if its results arrived.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.has_failed() || self.is_leaving()
    }

    /// Whether the report and every chunk have arrived.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.report.as_ref().is_some_and(|report| report.chunks == self.chunks.len() as u64)
    }

    /// Whether nothing more is expected.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let ended = matches!(self.progress, ShareProgress::NeverStarted(_)) || self.has_failed();
        ended || self.is_complete()
    }
}
