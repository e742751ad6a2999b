//! raw.jsonl: one line per session. Recorded whole microseconds are written as seconds with six decimals.

use std::borrow::Cow;
use std::io::{self, Write};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::number::{JsonSeconds, ShortJsonSeconds};
use crate::results::attempt::FinishedAttempt;
use crate::results::row::Row;
use crate::text::rfc3339;

/// A line: the historical keys in their order, then new ones. Fields not deserialized are for other programs.
#[derive(Debug, Serialize, Deserialize)]
pub struct Line<'a> {
    #[serde(skip_deserializing)]
    pub request_id: u64,
    pub mode: proto::Mode,
    #[serde(skip_deserializing)]
    pub timestamp: String,
    pub wait_requested: ShortJsonSeconds,
    pub batch_size: u64,
    #[serde(skip_deserializing)]
    pub hardware: Cow<'a, str>,
    pub connect_latency: Option<JsonSeconds>,
    pub reset_latency: Option<JsonSeconds>,
    pub step_latency: Option<JsonSeconds>,
    pub total_latency: Option<JsonSeconds>,
    #[serde(skip_deserializing)]
    pub waited_seconds: Option<JsonSeconds>,
    #[serde(skip_deserializing)]
    pub pid: Option<u64>,
    #[serde(skip_deserializing)]
    pub session_hash: Option<Cow<'a, str>>,
    pub host_url: Option<Cow<'a, str>>,
    pub success: bool,
    pub error_type: Option<String>,
    #[serde(skip_deserializing)]
    pub error_message: Option<Cow<'a, str>>,
    #[serde(skip_deserializing)]
    pub repetition: u32,
    #[serde(skip_deserializing)]
    pub attempt: u32,
    #[serde(default)]
    pub agent: Cow<'a, str>,
    #[serde(skip_deserializing)]
    pub outcome: &'static str,
    #[serde(skip_deserializing)]
    pub phase: Option<proto::Phase>,
    #[serde(skip_deserializing)]
    pub launch_lag: Option<JsonSeconds>,
    #[serde(skip_deserializing)]
    pub response_time: Option<JsonSeconds>,
    /// A sum over the steps, as `step_latency`.
    #[serde(skip_deserializing)]
    pub wire_latency: Option<JsonSeconds>,
    #[serde(skip_deserializing)]
    pub receive_lag: Option<JsonSeconds>,
    #[serde(skip_deserializing)]
    pub close_latency: Option<JsonSeconds>,
    pub step_latencies: Option<Vec<JsonSeconds>>,
    pub start_offset: Option<JsonSeconds>,
    #[serde(skip_deserializing)]
    pub step_wire_latencies: Vec<JsonSeconds>,
    #[serde(skip_deserializing)]
    pub step_receive_lags: Vec<JsonSeconds>,
    #[serde(skip_deserializing)]
    pub reset_wire_latency: Option<JsonSeconds>,
    #[serde(skip_deserializing)]
    pub reset_receive_lag: Option<JsonSeconds>,
    #[serde(skip_deserializing)]
    pub generator_delay: Option<JsonSeconds>,
    #[serde(skip_deserializing)]
    pub connect_generator_delay: Option<JsonSeconds>,
    #[serde(skip_deserializing)]
    pub handshake_rtt: Option<JsonSeconds>,
    #[serde(skip_deserializing)]
    pub syn_retransmissions: Option<u32>,
    /// The waits and pauses that were asked for in the steps that were made.
    #[serde(skip_deserializing)]
    pub asked: Option<JsonSeconds>,
    #[serde(skip_deserializing)]
    pub done: bool,
    #[serde(skip_deserializing)]
    pub untidy: Option<String>,
    #[serde(skip_deserializing)]
    pub open_generator_delay: Option<JsonSeconds>,
    #[serde(skip_deserializing)]
    pub pings: u32,
    #[serde(skip_deserializing)]
    pub ping_late: Option<JsonSeconds>,
    /// How long the server had been silent before a cut; below it, the agent's own delay within that time.
    #[serde(skip_deserializing)]
    pub silence: Option<JsonSeconds>,
    #[serde(skip_deserializing)]
    pub silence_generator_delay: Option<JsonSeconds>,
}

/// Bytes that are collected before they are written.
const PIECE_BYTES: usize = 1 << 20;

/// Writes every session of an attempt, in the order of session numbers. It writes in pieces, since the text of a large
/// batch is many times its size in memory.
///
/// # Errors
/// Errors of `out`.
pub fn write(finished: &FinishedAttempt, out: &mut impl Write) -> io::Result<()> {
    let mut piece = Vec::new();
    for row in &finished.rows {
        serde_json::to_writer(&mut piece, &line(finished, row))?;
        piece.push(b'\n');
        if piece.len() >= PIECE_BYTES {
            out.write_all(&piece)?;
            piece.clear();
        }
    }
    out.write_all(&piece)
}

fn line<'a>(finished: &'a FinishedAttempt, row: &'a Row) -> Line<'a> {
    let (summary, r) = (&finished.summary, &row.record);
    let seconds = |us: Option<u64>| us.map(JsonSeconds);
    let success = r.outcome == proto::Outcome::Succeeded;
    Line {
        request_id: r.session,
        mode: summary.batch.mode,
        timestamp: rfc3339(later(summary.timestamp, r.started_us.unwrap_or(0))),
        wait_requested: ShortJsonSeconds(summary.batch.wait_us),
        batch_size: summary.batch.batch_size,
        hardware: summary.hardware.as_str().into(),
        connect_latency: seconds(r.connect_us),
        reset_latency: seconds(r.reset_us),
        step_latency: seconds(r.step_sum_us()),
        total_latency: seconds(r.total_us),
        waited_seconds: seconds(r.waited_us),
        pid: r.pid,
        session_hash: r.session_hash.as_deref().map(Cow::Borrowed),
        host_url: r.host_url.as_deref().map(Cow::Borrowed),
        success,
        error_type: r.outcome.error_type(),
        error_message: (!success).then_some(r.error_message.as_str().into()),
        repetition: summary.batch.repetition,
        attempt: finished.id.attempt,
        agent: (&*row.agent).into(),
        outcome: r.outcome.as_str(),
        phase: r.outcome.phase(),
        launch_lag: seconds(r.launch_lag_us()),
        response_time: seconds(r.response_us()),
        wire_latency: seconds(r.wire.steps_wire_us()),
        receive_lag: seconds(r.wire.steps_lag_us()),
        close_latency: seconds(r.close_us),
        step_latencies: Some(r.step_us.iter().copied().map(JsonSeconds).collect()),
        start_offset: seconds(r.started_us),
        step_wire_latencies: r.wire.steps.iter().map(|split| JsonSeconds(split.wire_us)).collect(),
        step_receive_lags: r.wire.steps.iter().map(|split| JsonSeconds(split.lag_us)).collect(),
        reset_wire_latency: seconds(r.wire.reset.map(|split| split.wire_us)),
        reset_receive_lag: seconds(r.wire.reset.map(|split| split.lag_us)),
        generator_delay: seconds(r.wire.own_delay_us),
        connect_generator_delay: seconds(r.wire.connect_own_us),
        handshake_rtt: seconds(r.wire.handshake_rtt_us),
        syn_retransmissions: r.wire.syn_retransmits,
        asked: Some(JsonSeconds(r.asked_us)),
        done: r.done,
        untidy: r.untidy.as_ref().map(ToString::to_string),
        open_generator_delay: seconds(r.wire.open_own_us),
        pings: r.wire.pings,
        ping_late: seconds(r.wire.ping_late_us),
        silence: seconds(r.wire.silence.map(|silence| silence.us)),
        silence_generator_delay: seconds(r.wire.silence.map(|silence| silence.own_us)),
    }
}

fn later(timestamp: Timestamp, us: u64) -> Timestamp {
    let span = SignedDuration::from_micros(i64::try_from(us).unwrap_or(i64::MAX));
    timestamp.checked_add(span).unwrap_or(timestamp)
}
