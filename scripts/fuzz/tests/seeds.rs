//! The seeds that are no text. `FUZZ_SEEDS=write` writes them anew, after a message has changed.

use std::io::Write as _;
use std::path::Path;

use base64::Engine as _;
use flate2::Compression;
use flate2::write::ZlibEncoder;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer as _, V2Serializer};
use prost::Message as _;
use proto::pb::{self, agent_message, coordinator_message};
use proto::{Bounds, HistogramSet, Metric, PROTOCOL};

fn attempt() -> Option<pb::Attempt> {
    Some(pb::Attempt { run: vec![7; 16], batch: 3, attempt: 1 })
}

fn capacity() -> Option<pb::Capacity> {
    Some(pb::Capacity {
        threads: 2,
        descriptors: 20_000,
        ports: 28_000,
        port_pool: "net:[1]/127.0.0.1".to_owned(),
        ports_taken: 5,
        ports_waiting: 3,
        ..Default::default()
    })
}

fn hello() -> pb::Hello {
    pb::Hello {
        protocol: PROTOCOL,
        version: "0.1.0".to_owned(),
        name: "node-7.example".to_owned(),
        host: "node-7".to_owned(),
        pid: 1,
        instance: vec![9; 16],
        capacity: capacity(),
        ..Default::default()
    }
}

fn record(kind: pb::OutcomeKind) -> pb::Record {
    let failed = kind == pb::OutcomeKind::Failed;
    pb::Record {
        session: 5,
        outcome: Some(pb::Outcome {
            kind: kind.into(),
            phase: failed.then_some(pb::Phase::Step.into()),
            error_type: if failed { "server_error(X))".to_owned() } else { String::new() },
        }),
        error_message: "closed 1012 (bye)".to_owned(),
        intended_us: 9,
        started_us: Some(10),
        connect_us: Some(100),
        reset_us: Some(200),
        step_us: vec![1_000, u64::MAX],
        total_us: Some(u64::MAX),
        session_hash: Some("0123456789ab".to_owned()),
        asked_us: u64::MAX,
        step_wait_us: 6,
        done: !failed,
        untidy: (!failed).then(|| "closed(1006)".to_owned()),
        wire: Some(pb::WireRecord {
            reset: Some(pb::Split { wire_us: 1, lag_us: 2 }),
            steps: vec![pb::Split { wire_us: 3, lag_us: 4 }, pb::Split { wire_us: u64::MAX, lag_us: u64::MAX }],
            open_own_us: Some(5),
            pings: 2,
            ping_late_us: Some(7),
            silence: failed.then_some(pb::Silence { us: 9, own_us: 8 }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn report(planned: u64) -> pb::Report {
    let histograms = HistogramSet::new(Bounds::STANDARD).encode();
    pb::Report {
        attempt: attempt(),
        ledger: Some(pb::Ledger { planned, succeeded: 2, failed: 1, ..Default::default() }),
        chunks: 1,
        histograms: histograms
            .into_iter()
            .zip(1..)
            .map(|(one, metric)| pb::MetricHistogram { metric, data: one.data, over_range: 0 })
            .collect(),
        vitals: Some(pb::Vitals { wire: pb::WireState::Measured.into(), threads: 2, ..Default::default() }),
        ..Default::default()
    }
}

fn from_agent(body: agent_message::Body) -> Vec<u8> {
    pb::AgentMessage { body: Some(body) }.encode_to_vec()
}

fn from_coordinator(body: coordinator_message::Body) -> Vec<u8> {
    pb::CoordinatorMessage { body: Some(body) }.encode_to_vec()
}

fn prepare() -> pb::Prepare {
    pb::Prepare {
        attempt: attempt(),
        plan_hash: vec![1; 32],
        target: Some(pb::Target { urls: vec!["http://127.0.0.1:1".to_owned()], ca_pem: Vec::new() }),
        mode: pb::Mode::Ws.into(),
        script: Some(pb::Script { steps: 2, wait_us: 1_500_000, step_timeout_us: 3, ..Default::default() }),
        launch: Some(pb::Launch {
            kind: Some(pb::launch::Kind::Arrivals(pb::Arrivals { over_us: 12, poisson: true })),
        }),
        first_session: 10,
        sessions: 20,
        batch_size: 30,
        agent_index: 1,
        agent_count: 2,
        bounds: Some(pb::Bounds { low_us: 1, high_us: 3_600_000_000, significant_digits: 3 }),
        in_flight_max: 5,
        ..Default::default()
    }
}

fn histogram(values: &[u64], bounds: Bounds) -> Vec<u8> {
    let mut histogram: Histogram<u64> =
        Histogram::new_with_bounds(bounds.low_us, bounds.high_us, bounds.significant_digits).expect("bounds");
    for value in values {
        histogram.record(*value).expect("in range");
    }
    let mut data = Vec::new();
    V2Serializer::new().serialize(&histogram, &mut data).expect("to memory");
    data
}

/// A header, a claim of how long the payload is, the payload.
fn encoded(claim: u32, payload: &[u8]) -> Vec<u8> {
    let mut data = histogram(&[], Bounds::STANDARD);
    data.truncate(40);
    data[4..8].copy_from_slice(&claim.to_be_bytes());
    data.extend_from_slice(payload);
    data
}

/// A compressed histogram, as intervals of a log hold it; `claim` is of how long what is compressed is.
fn zipped(claim: Option<u32>, plain: &[u8]) -> Vec<u8> {
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
    zlib.write_all(plain).expect("to memory");
    let zlib = zlib.finish().expect("to memory");
    let length = claim.unwrap_or_else(|| u32::try_from(zlib.len()).expect("a short one"));
    [&0x1c84_9314_u32.to_be_bytes()[..], &length.to_be_bytes(), &zlib].concat()
}

/// A line of a log.
fn interval(tag: &str, histogram: &[u8]) -> Vec<u8> {
    let packed = base64::engine::general_purpose::STANDARD.encode(histogram);
    format!("{tag}0.100,0.005,1.000,{packed}\n").into_bytes()
}

/// A log of one histogram, that is `plain` before it is compressed.
fn log(plain: &[u8]) -> Vec<u8> {
    interval("Tag=ws-2-0.0-1-total,", &zipped(None, plain))
}

fn hlogs() -> Vec<(&'static str, Vec<u8>)> {
    let good = histogram(&[1, 2_000, 150_000], Bounds::STANDARD);
    let line = log(&good);
    let broken = interval("Tag=ws-2-0.0-1-step,", &zipped(None, &good[..30]));
    let third = interval("Tag=ws-2-0.0-1-close,", &zipped(None, &good));
    let mut endless = good.clone();
    // The highest value, then the digits.
    endless[24..32].copy_from_slice(&u64::MAX.to_be_bytes());
    endless[15] = 5;
    let mut torn = zipped(None, &good);
    torn.truncate(torn.len() - 5);
    vec![
        ("good-no-tag", interval("", &zipped(None, &good))),
        ("good-same-tag-twice", [&line[..], &log(&histogram(&[7], Bounds::STANDARD))].concat()),
        ("good-large-count", log(&encoded(9, &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f]))),
        ("good-lines-of-two-bytes", [&line[..line.len() - 1], b"\r\n"].concat()),
        // Nobody needs the length that stands outside: the stream knows its end, and has a sum.
        ("good-length-outside-lies", interval("Tag=a,", &zipped(Some(u32::MAX), &good))),
        ("bad-empty", Vec::new()),
        ("bad-half-a-line", [&line[..], &third[..third.len() / 2]].concat()),
        ("bad-tag-without-histogram", interval("Tag=a,", &[])),
        ("bad-one-of-three", [&line[..], &broken, &third].concat()),
        ("bad-not-compressed", interval("Tag=a,", &good)),
        ("bad-torn-stream", interval("Tag=a,", &torn)),
        ("bad-claim", log(&encoded(u32::MAX, &[2]))),
        ("bad-claim-of-a-gib", log(&encoded(1 << 30, &[2]))),
        ("bad-beyond-the-end", log(&encoded(4, &[0xff, 0xff, 0x7f, 2]))),
        ("bad-least-number", log(&encoded(9, &[0xff; 9]))),
        ("bad-bounds", log(&endless)),
        // A few KiB that become 3 MiB, and claim as much.
        ("bad-much-of-nothing", log(&encoded(3 << 20, &vec![0; 3 << 20]))),
        ("bad-seconds", b"Tag=a,99999999999999999999.0,0.0,0.0,\n".to_vec()),
    ]
}

fn all() -> Vec<(&'static str, &'static str, Vec<u8>)> {
    use agent_message::Body as Agent;
    use coordinator_message::Body as Coordinator;
    let chunk = |records| pb::RecordChunk { attempt: attempt(), sequence: 0, records };
    let found = pb::ProbeResult {
        url: "http://h:1".to_owned(),
        mode: pb::Mode::Http.into(),
        last_word: true,
        problem: "refused".to_owned(),
        addresses: vec!["127.0.0.1:1".to_owned()],
        ..Default::default()
    };
    let progress = pb::Progress { attempt: attempt(), launched: 3, open: 2, succeeded: 1, failed: 0 };
    let both = vec![record(pb::OutcomeKind::Succeeded), record(pb::OutcomeKind::Failed)];
    let unlived = pb::Record { started_us: None, ..record(pb::OutcomeKind::Succeeded) };
    let welcome = pb::Welcome { run: vec![7; 16], plan_hash: vec![1; 32], name: "a".to_owned(), lease_us: 10_000_000 };
    let outside = pb::Prepare { first_session: 11, ..prepare() };
    let endless = pb::Bounds { low_us: 1, high_us: u64::MAX, significant_digits: 5 };
    let survey = pb::Survey { number: 4, addresses: vec!["127.0.0.1:1".to_owned()], sessions: 9 };
    let resend = pb::Resend { attempt: attempt(), report: true, sequences: vec![0, 7], from: Some(9) };
    let too_many = pb::Resend { sequences: vec![0; proto::limits::RESEND_MAX + 1], ..resend.clone() };
    let no_chunk = pb::Resend { from: Some(u64::MAX), ..resend.clone() };
    let heartbeat = pb::Heartbeat { instance: vec![9; 16], sequence: u64::MAX };
    let holding = pb::Hello { plan_hash: Some(vec![1; 32]), holding: attempt(), ..hello() };
    let no_run = Some(pb::Attempt { run: vec![7; 15], batch: 3, attempt: 1 });
    let leaving = |reason: String| from_agent(Agent::Leaving(pb::Leaving { reason }));
    let narrow = Bounds { high_us: 1_000_000, ..Bounds::STANDARD };
    let mut all = vec![
        ("hello", "good-plain", hello().encode_to_vec()),
        ("hello", "good-again", pb::Hello { plan_hash: Some(vec![1; 32]), ..hello() }.encode_to_vec()),
        ("hello", "good-holding", holding.encode_to_vec()),
        ("hello", "bad-holding", pb::Hello { holding: no_run, ..hello() }.encode_to_vec()),
        ("heartbeat", "good-plain", heartbeat.encode_to_vec()),
        ("heartbeat", "good-first", pb::Heartbeat { sequence: 0, ..heartbeat.clone() }.encode_to_vec()),
        ("heartbeat", "bad-instance", pb::Heartbeat { instance: vec![9; 15], ..heartbeat }.encode_to_vec()),
        ("heartbeat", "bad-empty", Vec::new()),
        ("hello", "bad-name", pb::Hello { name: "../x\u{1b}[2J".to_owned(), ..hello() }.encode_to_vec()),
        ("hello", "bad-no-capacity", pb::Hello { capacity: None, ..hello() }.encode_to_vec()),
        ("hello", "bad-empty", Vec::new()),
        ("agent_message", "good-hello", from_agent(Agent::Hello(hello()))),
        ("agent_message", "good-hello-holding", from_agent(Agent::Hello(holding))),
        ("agent_message", "good-leaving", leaving("told to end".to_owned())),
        ("agent_message", "bad-leaving", leaving("x".repeat(proto::limits::TEXT_BYTES_MAX + 1))),
        ("agent_message", "good-probed", from_agent(Agent::Probed(pb::Probed { results: vec![found] }))),
        ("agent_message", "good-progress", from_agent(Agent::Progress(progress))),
        ("agent_message", "good-report", from_agent(Agent::Report(report(3)))),
        ("agent_message", "good-records", from_agent(Agent::Records(chunk(both)))),
        (
            "agent_message",
            "good-surveyed",
            from_agent(Agent::Surveyed(pb::Surveyed { number: 1, capacity: capacity() })),
        ),
        ("agent_message", "good-pong", from_agent(Agent::Pong(pb::Pong { sequence: 1, agent_us: 5 }))),
        ("agent_message", "bad-ledger", from_agent(Agent::Report(report(4)))),
        ("agent_message", "bad-record", from_agent(Agent::Records(chunk(vec![unlived])))),
        ("coordinator_message", "good-welcome", from_coordinator(Coordinator::Welcome(welcome))),
        ("coordinator_message", "good-prepare", from_coordinator(Coordinator::Prepare(prepare()))),
        ("coordinator_message", "good-survey", from_coordinator(Coordinator::Survey(survey))),
        (
            "coordinator_message",
            "good-go",
            from_coordinator(Coordinator::Go(pb::Go { attempt: attempt(), start_at_us: 9 })),
        ),
        ("coordinator_message", "good-resend", from_coordinator(Coordinator::Resend(resend))),
        ("coordinator_message", "bad-resend-too-many", from_coordinator(Coordinator::Resend(too_many))),
        ("coordinator_message", "bad-resend-no-chunk", from_coordinator(Coordinator::Resend(no_chunk))),
        ("coordinator_message", "bad-share", from_coordinator(Coordinator::Prepare(outside))),
        (
            "coordinator_message",
            "bad-bounds",
            from_coordinator(Coordinator::Prepare(pb::Prepare { bounds: Some(endless), ..prepare() })),
        ),
        ("histograms", "good-empty", histogram(&[], Bounds::STANDARD)),
        ("histograms", "good-values", histogram(&[0, 1, 2_000, 150_000, 3_600_000_000], Bounds::STANDARD)),
        ("histograms", "good-large-count", encoded(9, &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f])),
        ("histograms", "bad-other-bounds", histogram(&[5], narrow)),
        ("histograms", "bad-claim", encoded(u32::MAX, &[2])),
        ("histograms", "bad-beyond-the-end", encoded(4, &[0xff, 0xff, 0x7f, 2])),
        ("histograms", "bad-least-number", encoded(9, &[0xff; 9])),
        ("histograms", "bad-no-header", vec![0x1c, 0x84, 0x93, 0x13]),
    ];
    all.extend(hlogs().into_iter().map(|(name, data)| ("hlog", name, data)));
    all
}

#[test]
fn seeds_are_there() {
    let write = std::env::var("FUZZ_SEEDS").is_ok_and(|value| value == "write");
    assert_eq!(Metric::ALL.len(), 13, "a report's seed has every metric by its number");
    for (target, name, data) in all() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target).join(name);
        if write {
            std::fs::write(&path, &data).expect("written");
        }
        assert!(path.is_file(), "{} is missing; FUZZ_SEEDS=write makes it", path.display());
    }
}
