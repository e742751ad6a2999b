//! What an agent tells: who it is, what the readiness check found, its records, its report.

use super::invalid::{Checked, Invalid, invalid, need};
use super::value::{Value, at_most, mirror};
use crate::histograms::{EncodedHistogram, Metric};
use crate::limits as max;
use crate::message::{Hello, Pong, ProbeResult, Progress, RecordChunk, Report, Served};
use crate::outcome::{Ledger, Outcome};
use crate::pb;
use crate::record::{SessionRecord, Silence, Split, WireRecord};
use crate::spec::Capacity;
use crate::vitals::Vitals;

mirror!(Hello = Hello in "" {
    messages { capacity }
    values { protocol, version, name, host, pid, instance, plan_hash, holding }
    check |hello| {
        let name = &hello.name;
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if !(1..=max::NAME_CHARS_MAX).contains(&name.chars().count()) || !name.chars().all(allowed) {
            let most = max::NAME_CHARS_MAX;
            return invalid("name", format!("{name:?}: give 1 to {most} letters, digits, '-', '_' or '.'"));
        }
        at_most("version", hello.version.len() as u64, max::NAME_CHARS_MAX as u64)
    }
});

mirror!(Capacity = Capacity in "capacity." {
    values {
        threads, descriptors, ports, port_pool, memory_bytes, max_sessions, ports_taken, ports_waiting, ports_back_us,
        conntrack_room
    }
    check |capacity| {
        if !(1..=4_096).contains(&capacity.threads) {
            return invalid("capacity.threads", format!("{}, 1 to 4096", capacity.threads));
        }
        if capacity.ports_taken > capacity.ports || capacity.ports_waiting > capacity.ports_taken {
            return invalid("capacity.ports_taken", "more than there are");
        }
        at_most("capacity.ports_back_us", capacity.ports_back_us, max::DURATION_US_MAX)
    }
});

mirror!(ProbeResult = ProbeResult in "results." {
    values { url, mode, ready, last_word, problem, addresses, served_by, refused_connects }
    check |result| {
        at_most("results.addresses", result.addresses.len() as u64, max::URLS_MAX as u64)?;
        let sessions_max = u64::from(max::PROBE_SESSIONS_MAX) * max::URLS_MAX as u64;
        at_most("results.served_by", result.served_by.len() as u64, sessions_max)
    }
});

mirror!(Served = Served in "results.served_by." { values { host_url, pid } });

mirror!(Progress = Progress in "" {
    messages { attempt }
    values { launched, open, succeeded, failed }
    check |progress| {
        let counters = [progress.launched, progress.open, progress.succeeded, progress.failed];
        counters.into_iter().try_for_each(|count| at_most("progress", count, max::SESSIONS_MAX))
    }
});

mirror!(Pong = Pong in "" {
    values { sequence, agent_us }
    check |pong| at_most("agent_us", pong.agent_us, max::CLOCK_US_MAX)
});

mirror!(RecordChunk = RecordChunk in "" {
    messages { attempt }
    values { sequence, records }
    check |chunk| {
        at_most("records", chunk.records.len() as u64, max::CHUNK_RECORDS_MAX as u64)?;
        at_most("sequence", chunk.sequence, max::CHUNKS_MAX)
    }
});

mirror!(SessionRecord = Record in "" {
    messages { outcome, wire }
    values {
        session, error_message, intended_us, started_us, connect_us, reset_us, step_us, close_us, total_us, waited_us,
        asked_us, step_wait_us, done, untidy, pid, session_hash, host_url
    }
    check |record| {
        at_most("session", record.session, max::SESSIONS_MAX)?;
        at_most("error_message", record.error_message.len() as u64, max::ERROR_BYTES_MAX as u64)?;
        at_most("intended_us", record.intended_us, max::DURATION_US_MAX)?;
        at_most("step_us", record.step_us.len() as u64, max::STEPS_MAX.into())?;
        let started = !matches!(record.outcome, Outcome::Lost | Outcome::NeverStarted);
        if started != record.started_us.is_some() || started != record.total_us.is_some() {
            let outcome = record.outcome.as_str();
            return invalid("started_us", format!("session {} is {outcome}: start or end is wrong", record.session));
        }
        let stamped = record.wire.steps.len();
        if stamped > 0 && stamped != record.step_us.len() {
            return invalid("wire.steps", "not one a step");
        }
        Ok(())
    }
});

impl Value for Outcome {
    type Wire = pb::Outcome;

    fn encode(self) -> pb::Outcome {
        use pb::OutcomeKind as Kind;
        let phase = self.phase().map(Value::encode);
        let (kind, error_type) = match self {
            Self::Succeeded => (Kind::Succeeded, String::new()),
            Self::Failed(kind, _) => (Kind::Failed, kind.encode()),
            Self::TimedOut(_) => (Kind::TimedOut, String::new()),
            Self::Lost => (Kind::Lost, String::new()),
            Self::NeverStarted => (Kind::NeverStarted, String::new()),
        };
        pb::Outcome { kind: kind.into(), phase, error_type }
    }

    fn decode(field: &'static str, wire: pb::Outcome) -> Checked<Self> {
        use pb::OutcomeKind as Kind;
        let phase = || Value::decode("phase", need("phase", wire.phase)?);
        Ok(match Kind::try_from(wire.kind).unwrap_or_default() {
            Kind::Unspecified => return invalid(field, format!("unknown value {}", wire.kind)),
            Kind::Succeeded => Self::Succeeded,
            Kind::Failed => Self::Failed(Value::decode("error_type", wire.error_type)?, phase()?),
            Kind::TimedOut => Self::TimedOut(phase()?),
            Kind::Lost => Self::Lost,
            Kind::NeverStarted => Self::NeverStarted,
        })
    }
}

mirror!(WireRecord = WireRecord in "wire." {
    values {
        reset, steps, own_delay_us, connect_own_us, open_own_us, pings, ping_late_us, silence, handshake_rtt_us,
        syn_retransmits
    }
});

mirror!(Split = Split in "split." { values { wire_us, lag_us } });

mirror!(Silence = Silence in "silence." { values { us, own_us } });

mirror!(Report = Report in "" {
    messages { attempt, ledger, vitals }
    values { start_offset_us, chunks, histograms }
    check |report| {
        at_most("start_offset_us", report.start_offset_us, max::DURATION_US_MAX)?;
        at_most("chunks", report.chunks, max::CHUNKS_MAX)?;
        at_most("histograms", report.histograms.len() as u64, Metric::ALL.len() as u64)
    }
});

mirror!(Ledger = Ledger in "ledger." {
    values { planned, succeeded, failed, timed_out, lost, never_started }
    check |ledger| {
        at_most("ledger.planned", ledger.planned, max::SESSIONS_MAX)?;
        if ledger.balances() { Ok(()) } else { invalid("ledger", format!("does not balance: {ledger}")) }
    }
});

mirror!(EncodedHistogram = MetricHistogram in "histograms." {
    values { metric, data, over_range }
    check |histogram| at_most("histograms.data", histogram.data.len() as u64, max::HISTOGRAM_BYTES_MAX as u64)
});

mirror!(Vitals = Vitals in "vitals." {
    values {
        threads, wall_us, process_cpu_us, load_cpu_us, run_queue_us, throttled_us, host_cpu_permille,
        host_steal_permille, overshoot, retransmits, syn_retransmits, listen_overflows, errnos, memory_bytes_max,
        descriptors_max, in_flight_max, tcp_in_use, time_wait, realtime_step_us, wire, host_cpus, beside_target,
        let_go_us_max, left_open
    }
    check |vitals| {
        at_most("vitals.overshoot", vitals.overshoot.len() as u64, max::HISTOGRAM_BYTES_MAX as u64)?;
        at_most("vitals.errnos", vitals.errnos.len() as u64, max::ERRNOS_MAX as u64)
    }
});

/// An errno and how often it ended a session.
impl Value for (i32, u64) {
    type Wire = pb::ErrnoCount;

    fn encode(self) -> pb::ErrnoCount {
        pb::ErrnoCount { errno: self.0, count: self.1 }
    }

    fn decode(_field: &'static str, wire: pb::ErrnoCount) -> Checked<Self> {
        Ok((wire.errno, wire.count))
    }
}
