//! raw.jsonl: one line a session. Numbers are the recorded integers, written as seconds with six decimals.

use std::io::{self, Write};

use jiff::{SignedDuration, Timestamp};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::report::facts::Row;
use crate::report::format::{seconds_short, seconds6};
use crate::report::summary::rfc3339;
use crate::run::collect::Finished;

/// A JSON number in exactly these digits.
struct Number(String);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        RawValue::from_string(self.0.clone()).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

/// The keys in their order: the historical ones, then ours.
#[derive(Serialize)]
struct Line<'a> {
    request_id: u64,
    mode: proto::Mode,
    timestamp: String,
    wait_requested: Number,
    batch_size: u64,
    hardware: &'a str,
    connect_latency: Option<Number>,
    reset_latency: Option<Number>,
    step_latency: Option<Number>,
    total_latency: Option<Number>,
    waited_seconds: Option<Number>,
    pid: Option<u64>,
    session_hash: Option<&'a str>,
    host_url: Option<&'a str>,
    success: bool,
    error_type: Option<String>,
    error_message: Option<&'a str>,
    repetition: u32,
    attempt: u32,
    agent: &'a str,
    outcome: &'static str,
    phase: Option<proto::Phase>,
    launch_lag: Option<Number>,
    response_time: Option<Number>,
    /// As `step_latency`, a sum over the steps.
    wire_latency: Option<Number>,
    receive_lag: Option<Number>,
    close_latency: Option<Number>,
    step_latencies: Vec<Number>,
    start_offset: Option<Number>,
    step_wire_latencies: Vec<Number>,
    step_receive_lags: Vec<Number>,
    reset_wire_latency: Option<Number>,
    reset_receive_lag: Option<Number>,
    generator_delay: Option<Number>,
    connect_generator_delay: Option<Number>,
    handshake_rtt: Option<Number>,
    syn_retransmissions: Option<u32>,
    /// Waits and pauses that were asked for, of the steps that were made.
    asked: Number,
    done: bool,
    untidy: Option<String>,
    open_generator_delay: Option<Number>,
    pings: u32,
    ping_late: Option<Number>,
    /// Before a cut: how long the server had been silent, and what the agent was late by in that time.
    silence: Option<Number>,
    silence_generator_delay: Option<Number>,
}

/// Bytes that are put together before they are written.
const PIECE_BYTES: usize = 1 << 20;

/// Every session of an attempt, in the order of its number, piece by piece: the text of a large batch is many times what
/// is held of it.
///
/// # Errors
/// Those of `out`.
pub fn write(finished: &Finished, out: &mut impl Write) -> io::Result<()> {
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

fn line<'a>(finished: &'a Finished, row: &'a Row) -> Line<'a> {
    let (summary, r) = (&finished.summary, &row.record);
    let seconds = |us: Option<u64>| us.map(|us| Number(seconds6(us)));
    let success = r.outcome == proto::Outcome::Succeeded;
    Line {
        request_id: r.session,
        mode: summary.batch.mode,
        timestamp: rfc3339(later(summary.timestamp, r.started_us.unwrap_or(0))),
        wait_requested: Number(seconds_short(summary.batch.wait_us)),
        batch_size: summary.batch.batch_size,
        hardware: &summary.hardware,
        connect_latency: seconds(r.connect_us),
        reset_latency: seconds(r.reset_us),
        step_latency: seconds(r.step_sum_us()),
        total_latency: seconds(r.total_us),
        waited_seconds: seconds(r.waited_us),
        pid: r.pid,
        session_hash: r.session_hash.as_deref(),
        host_url: r.host_url.as_deref(),
        success,
        error_type: r.outcome.error_type(),
        error_message: (!success).then_some(r.error_message.as_str()),
        repetition: summary.batch.repetition,
        attempt: finished.id.attempt,
        agent: &row.agent,
        outcome: r.outcome.as_str(),
        phase: r.outcome.phase(),
        launch_lag: seconds(r.launch_lag_us()),
        response_time: seconds(r.response_us()),
        wire_latency: seconds(r.wire.steps_wire_us()),
        receive_lag: seconds(r.wire.steps_lag_us()),
        close_latency: seconds(r.close_us),
        step_latencies: r.step_us.iter().map(|us| Number(seconds6(*us))).collect(),
        start_offset: seconds(r.started_us),
        step_wire_latencies: r.wire.steps.iter().map(|split| Number(seconds6(split.wire_us))).collect(),
        step_receive_lags: r.wire.steps.iter().map(|split| Number(seconds6(split.lag_us))).collect(),
        reset_wire_latency: seconds(r.wire.reset.map(|split| split.wire_us)),
        reset_receive_lag: seconds(r.wire.reset.map(|split| split.lag_us)),
        generator_delay: seconds(r.wire.own_delay_us),
        connect_generator_delay: seconds(r.wire.connect_own_us),
        handshake_rtt: seconds(r.wire.handshake_rtt_us),
        syn_retransmissions: r.wire.syn_retransmits,
        asked: Number(seconds6(r.asked_us)),
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
