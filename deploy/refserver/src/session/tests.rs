use serde_json::{Value, json};

use super::*;
use crate::{Faults, Options};

fn worker(options: Options) -> Arc<Worker> {
    Worker::new(Options { host_name: Some("vm".into()), ..options }, 18_000).unwrap()
}

fn arrived(at: Instant) -> Arrival {
    Arrival { at, stamp: None }
}

fn upgrade(now: Instant) -> Upgrade {
    Upgrade { response: Vec::new(), arrival: arrived(now), delay: Duration::ZERO }
}

fn open(worker: &Arc<Worker>, now: Instant) -> Session {
    Session::open(Arc::clone(worker), upgrade(now), None, now)
}

fn say(session: &mut Session, text: &str, now: Instant) {
    let _ = session.on_frame(Incoming::Text(text), arrived(now));
}

/// One frame the session wants to send.
#[derive(Debug, PartialEq)]
enum Sent {
    Json(Value),
    Close(Option<u16>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

/// Takes what the session wants to send.
fn sent(session: &mut Session) -> Vec<Sent> {
    let out = std::mem::take(&mut session.out);
    let mut rest = &out[..];
    let mut frames = Vec::new();
    while let [first, length, ..] = *rest {
        let (start, length) = match length {
            126 => (4, usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
            short => (2, usize::from(short)),
        };
        let payload = &rest[start..start + length];
        frames.push(match first {
            0x81 => Sent::Json(serde_json::from_slice(payload).unwrap()),
            0x88 => Sent::Close(payload.first_chunk().map(|code| u16::from_be_bytes(*code))),
            0x89 => Sent::Ping(payload.into()),
            0x8A => Sent::Pong(payload.into()),
            other => panic!("opcode {other:x}"),
        });
        rest = &rest[start + length..];
    }
    frames
}

/// `step_count` of each observation, -1 for another JSON message.
fn step_counts(session: &mut Session) -> Vec<i64> {
    sent(session)
        .iter()
        .map(|sent| match sent {
            Sent::Json(value) => value["data"]["observation"]["step_count"].as_i64().unwrap_or(-1),
            other => panic!("{other:?}"),
        })
        .collect()
}

const STEP_1_S: &str = r#"{"type":"step","data":{"wait_seconds":1.0}}"#;
const STEP_NOW: &str = r#"{"type":"step","data":{"wait_seconds":0.0}}"#;
const RESET: &str = r#"{"type":"reset","data":{}}"#;
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn pipelined_messages_are_answered_in_order_when_their_time_comes() {
    let now = Instant::now();
    let mut session = open(&worker(Options::default()), now);
    for text in [RESET, STEP_1_S, STEP_NOW, STEP_1_S, r#"{"type":"state"}"#] {
        say(&mut session, text, now);
    }
    assert_eq!(step_counts(&mut session), [0]);
    assert_eq!(session.deadline(), Some(now + SECOND));
    session.advance(now + SECOND / 2);
    assert_eq!(step_counts(&mut session), [0; 0]);
    session.advance(now + SECOND);
    assert_eq!(step_counts(&mut session), [1, 2]);
    session.advance(now + 2 * SECOND);
    assert_eq!(step_counts(&mut session), [3, -1]);
    assert_eq!((session.out.capacity(), session.pending.capacity()), (0, 0), "idle sessions hold no buffer");
}

#[test]
fn pings_are_answered_behind_a_running_step() {
    let now = Instant::now();
    let mut session = open(&worker(Options::default()), now);
    say(&mut session, STEP_1_S, now);
    let _ = session.on_frame(Incoming::Ping(b"x"), arrived(now));
    assert_eq!(sent(&mut session), [Sent::Pong(b"x".to_vec())]);
}

#[test]
fn reading_stops_while_too_much_waits() {
    let now = Instant::now();
    let mut session = open(&worker(Options::default()), now);
    say(&mut session, STEP_1_S, now);
    for _ in 0..PENDING_MESSAGES_MAX {
        assert!(session.wants_input());
        say(&mut session, STEP_NOW, now);
    }
    assert!(!session.wants_input());
    session.advance(now + SECOND);
    assert!(session.wants_input());
    assert_eq!(step_counts(&mut session).len(), PENDING_MESSAGES_MAX + 1);
}

#[test]
fn a_session_beyond_the_capacity_is_told_and_closed() {
    let now = Instant::now();
    let worker = worker(Options { max_concurrent_envs: 1, ..Options::default() });
    let mut first = open(&worker, now);
    let mut second = open(&worker, now);
    let frames = sent(&mut second);
    let [Sent::Json(error), Sent::Close(Some(1000))] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!(error["data"]["code"], "CAPACITY_REACHED");
    assert_eq!((&error["data"]["active_sessions"], &error["data"]["max_sessions"]), (&json!(1), &json!(1)));
    // What was on its way already is not answered, and the peer's close ends it.
    say(&mut second, RESET, now);
    assert_eq!(sent(&mut second), []);
    assert!(second.on_frame(Incoming::Close(Some(1000)), arrived(now)).is_break());
    assert_eq!((second.phase(), sent(&mut second)), (Phase::Finished, vec![]));

    say(&mut first, r#"{"type":"close"}"#, now);
    assert_eq!(sent(&mut first), [Sent::Close(Some(1000))]);
    assert_eq!(sent(&mut open(&worker, now)), [], "the place is free before the first peer knows");
}

#[test]
fn a_client_gone_mid_step_keeps_its_place_until_the_step_ends() {
    let now = Instant::now();
    let worker = worker(Options { max_concurrent_envs: 1, ..Options::default() });
    for leave in [(|session, now| session.on_end_of_stream(now)) as fn(&mut Session, Instant), |session, now| {
        assert!(session.on_frame(Incoming::Close(None), arrived(now)).is_break());
    }] {
        let mut session = open(&worker, now);
        say(&mut session, STEP_1_S, now);
        leave(&mut session, now);
        assert_eq!(session.phase(), Phase::Finished);
        assert_eq!(session.running_until(), Some(now + SECOND));
        assert!(matches!(sent(&mut session)[..], [] | [Sent::Close(None)]));
        assert!(Slot::take(&worker).is_err());
        session.advance(now + SECOND);
        assert_eq!(sent(&mut session), []);
        assert!(Slot::take(&worker).is_ok());
    }
}

#[test]
fn a_close_is_echoed_and_frees_the_place() {
    let now = Instant::now();
    let worker = worker(Options { max_concurrent_envs: 1, ..Options::default() });
    let mut session = open(&worker, now);
    let _ = session.on_frame(Incoming::Close(Some(3001)), arrived(now));
    assert_eq!((sent(&mut session), session.phase()), (vec![Sent::Close(Some(3001))], Phase::Finished));
    assert!(Slot::take(&worker).is_ok());
}

#[test]
fn fatal_messages_are_answered_and_end_the_session() {
    for fatal in [Incoming::Text("[]"), Incoming::Binary(b"{}")] {
        let now = Instant::now();
        let mut session = open(&worker(Options::default()), now);
        let _ = session.on_frame(fatal, arrived(now));
        let frames = sent(&mut session);
        let [Sent::Json(error), Sent::Close(Some(1000))] = &frames[..] else { panic!("{frames:?}") };
        assert_eq!(error["data"]["code"], "SESSION_ERROR");
        assert_eq!(session.phase(), Phase::Closing);
        session.advance(now + CLOSE_TIMEOUT);
        assert_eq!(session.phase(), Phase::Finished, "a peer that does not answer the close is left");
    }
}

#[test]
fn a_silent_client_is_pinged_and_given_up() {
    let now = Instant::now();
    let mut session = open(&worker(Options::default()), now);
    assert_eq!(session.deadline(), Some(now + 20 * SECOND));
    session.advance(now + 20 * SECOND);
    let frames = sent(&mut session);
    let [Sent::Ping(payload)] = &frames[..] else { panic!("{frames:?}") };
    let _ = session.on_frame(Incoming::Pong(b"not that"), arrived(now + 21 * SECOND));
    let _ = session.on_frame(Incoming::Pong(payload), arrived(now + 21 * SECOND));
    session.advance(now + 41 * SECOND);
    assert!(matches!(sent(&mut session)[..], [Sent::Ping(_)]));
    session.advance(now + 60 * SECOND);
    assert_eq!(session.phase(), Phase::Open);
    session.advance(now + 61 * SECOND);
    assert_eq!((sent(&mut session), session.phase()), (vec![Sent::Close(Some(1011))], Phase::Failing));
}

#[test]
fn pings_can_be_switched_off() {
    let options = Options { ping_interval: Duration::ZERO, ..Options::default() };
    assert_eq!(open(&worker(options), Instant::now()).deadline(), None);
}

#[test]
fn a_stopping_server_says_so_even_behind_a_running_step() {
    let now = Instant::now();
    let mut session = open(&worker(Options::default()), now);
    say(&mut session, STEP_1_S, now);
    session.on_shutdown(now);
    assert_eq!(sent(&mut session), [Sent::Close(Some(1012))]);
    assert_eq!(session.deadline(), Some(now + SHUTDOWN_TIMEOUT));
    session.advance(now + SECOND);
    assert_eq!((sent(&mut session), session.phase()), (vec![], Phase::Finished));
}

#[test]
fn a_step_too_long_to_wait_for_fails_in_the_environment() {
    let now = Instant::now();
    let mut session = open(&worker(Options::default()), now);
    say(&mut session, r#"{"type":"step","data":{"wait_seconds":1e300}}"#, now);
    let frames = sent(&mut session);
    let [Sent::Json(error)] = &frames[..] else { panic!("{frames:?}") };
    assert_eq!(error["data"]["code"], "EXECUTION_ERROR");
}

#[test]
fn faults_show_at_their_points() {
    let now = Instant::now();
    let with = |faults| worker(Options { faults, ..Options::default() });

    let delay = Faults { reset_delay: SECOND.into(), step_delay: (2 * SECOND).into(), ..Faults::default() };
    let mut session = open(&with(delay), now);
    say(&mut session, RESET, now);
    assert_eq!((session.deadline(), sent(&mut session).len()), (Some(now + SECOND), 0));
    session.advance(now + SECOND);
    assert_eq!(step_counts(&mut session), [0]);
    say(&mut session, STEP_1_S, now);
    assert_eq!(session.deadline(), Some(now + 3 * SECOND));

    let mut session = open(&with(Faults { drop_rate: 1.0, ..Faults::default() }), now);
    say(&mut session, STEP_1_S, now);
    assert_eq!((session.phase(), sent(&mut session)), (Phase::Aborted, vec![]));

    let mut session = open(&with(Faults { fail_step_rate: 1.0, ..Faults::default() }), now);
    say(&mut session, STEP_NOW, now);
    assert!(matches!(&sent(&mut session)[..], [Sent::Json(error)] if error["data"]["code"] == "EXECUTION_ERROR"));
    assert_eq!(session.phase(), Phase::Open);

    let mut session = open(&with(Faults { factory_error_rate: 1.0, ..Faults::default() }), now);
    assert!(matches!(
        &sent(&mut session)[..],
        [Sent::Json(error), Sent::Close(Some(1000))] if error["data"]["code"] == "FACTORY_ERROR"
    ));

    let mut session = open(&with(Faults { close_code: Some(4000), ..Faults::default() }), now);
    say(&mut session, RESET, now);
    assert!(matches!(&sent(&mut session)[..], [Sent::Json(_), Sent::Close(Some(4000))]));
}

#[test]
fn a_stalled_step_keeps_its_place_as_long_as_there_is_a_client() {
    let now = Instant::now();
    let stalling = Faults { stall_rate: 1.0, ..Faults::default() };
    let worker = worker(Options { faults: stalling, max_concurrent_envs: 1, ..Options::default() });
    for leave in [(|session, now| session.on_end_of_stream(now)) as fn(&mut Session, Instant), |session, now| {
        assert!(session.on_frame(Incoming::Close(None), arrived(now)).is_break());
    }] {
        let mut session = open(&worker, now);
        say(&mut session, STEP_1_S, now);
        say(&mut session, RESET, now);
        let _ = session.on_frame(Incoming::Ping(b"x"), arrived(now));
        session.advance(now + 10 * SECOND);
        assert_eq!(sent(&mut session), [Sent::Pong(b"x".to_vec())], "it lives, but answers nothing else");
        assert!(Slot::take(&worker).is_err());
        leave(&mut session, now + 10 * SECOND);
        assert_eq!((session.phase(), session.running_until()), (Phase::Finished, None));
        assert!(Slot::take(&worker).is_ok());
    }
    let mut session = open(&worker, now);
    say(&mut session, STEP_1_S, now);
    session.on_shutdown(now);
    assert_eq!(sent(&mut session), [Sent::Close(Some(1012))]);
}

#[test]
fn the_log_has_what_was_answered_and_written() {
    let now = Instant::now();
    let wall_clock = 1000 * SECOND;
    let faults = Faults { reset_delay: SECOND.into(), step_delay: (2 * SECOND).into(), ..Faults::default() };
    let worker = worker(Options { faults, ..Options::default() });
    let log = Some(Box::new(Log::new(wall_clock)));
    let upgrade = Upgrade { delay: SECOND, ..upgrade(now) };
    let mut session = Session::open(Arc::clone(&worker), upgrade, log, now + SECOND);
    // As the connection does before it writes.
    let write = |session: &mut Session, at: Instant| {
        if let Some(log) = session.unwritten() {
            log.write(at, wall_clock + (at - now));
        }
        sent(session).len()
    };
    write(&mut session, now + SECOND);
    for text in [RESET, "nope", STEP_1_S, STEP_NOW] {
        let stamp = Some(wall_clock + 2 * SECOND);
        let _ = session.on_frame(Incoming::Text(text), Arrival { at: now + 3 * SECOND, stamp });
    }
    assert_eq!(write(&mut session, now + 3 * SECOND), 0, "everything waits for the reset");
    for (at, count) in [(4, 2), (7, 1)] {
        session.advance(now + at * SECOND);
        assert_eq!(write(&mut session, now + at * SECOND), count);
    }
    // The last step is running.
    session.on_end_of_stream(now + 8 * SECOND);
    let line = session.take_log(wall_clock + 9 * SECOND).unwrap().line().unwrap();
    let line: Value = serde_json::from_slice(&line).unwrap();
    let reply = |phase, intended: u32, achieved: u32, held: Option<u32>| {
        json!({
            "phase": phase,
            "intended_us": intended * 1_000_000,
            "achieved_us": achieved * 1_000_000,
            "held_us": held.map(|held| held * 1_000_000)
        })
    };
    let replies = [reply("connect", 1, 1, None), reply("reset", 1, 1, Some(2)), reply("step", 3, 4, Some(5))];
    assert_eq!(line["replies"], json!(replies));
    assert_eq!(line["upgraded_us"], json!(1_001_000_000));
    assert_eq!(line["closed_us"], json!(1_009_000_000));
    assert_eq!(line["session_hash"].as_str().map(str::len), Some(12));
}

#[test]
fn an_episode_that_is_over_runs_no_step() {
    let now = Instant::now();
    let faults = Faults { done_after: 1, step_delay: SECOND.into(), ..Faults::default() };
    let mut session = open(&worker(Options { faults, ..Options::default() }), now);
    say(&mut session, STEP_NOW, now);
    session.advance(now + SECOND);
    assert!(matches!(&sent(&mut session)[..], [Sent::Json(reply)] if reply["data"]["done"] == true));
    say(&mut session, STEP_NOW, now + SECOND);
    let frames = sent(&mut session);
    assert!(
        matches!(&frames[..], [Sent::Json(reply)] if reply["data"]["message"] == "the episode is over"),
        "{frames:?}"
    );
    say(&mut session, RESET, now + SECOND);
    say(&mut session, STEP_NOW, now + SECOND);
    assert_eq!((step_counts(&mut session), session.running_until()), (vec![0], Some(now + 2 * SECOND)));
}

#[test]
fn no_reply_is_made_before_there_is_room_for_it() {
    let now = Instant::now();
    let faults = Faults { reply_bytes: OUT_BYTES_MAX as u64, ..Faults::default() };
    let mut session = open(&worker(Options { faults, ..Options::default() }), now);
    for _ in 0..3 {
        say(&mut session, STEP_NOW, now);
    }
    let one_reply = session.unsent().len();
    assert!(one_reply > OUT_BYTES_MAX && one_reply < 2 * OUT_BYTES_MAX, "{one_reply}");
    session.advance(now);
    assert_eq!(session.unsent().len(), one_reply);
    assert!(!session.wants_input() && !session.has_next());

    let second_half = session.unsent()[one_reply / 2 + 1..].to_vec();
    session.on_sent(one_reply / 2 + 1, now);
    assert_eq!(session.unsent(), second_half);
    assert!(session.out.len() < one_reply, "what has been sent is not kept");
    assert!(session.has_next());
    session.advance(now);
    assert!(session.unsent().starts_with(&second_half));
    assert_eq!(session.unsent().len(), second_half.len() + one_reply);
    for _ in 0..2 {
        session.on_sent(session.unsent().len(), now);
        assert_eq!(session.out.capacity(), 0);
        session.advance(now);
    }
    assert_eq!((session.environment.step_count(), session.unsent().len()), (3, 0));
}

#[test]
fn a_session_is_idle_while_no_data_goes_either_way() {
    let now = Instant::now();
    let faults = Faults { idle_cut: Some(3 * SECOND), ..Faults::default() };
    let options = Options { faults, max_concurrent_envs: 1, ping_interval: SECOND, ..Options::default() };
    let worker = worker(options);
    let mut session = open(&worker, now);
    let idle_until = |session: &Session| session.idle_until.map(|until| until - now);
    assert_eq!(idle_until(&session), Some(3 * SECOND));
    // What comes counts, and what goes counts when it goes, be it piece by piece.
    say(&mut session, STEP_1_S, now + SECOND);
    assert_eq!(idle_until(&session), Some(4 * SECOND));
    session.advance(now + 2 * SECOND);
    for (at, bytes) in [(3, 10), (4, session.unsent().len() - 10)] {
        session.on_sent(bytes, now + at * SECOND);
        assert_eq!(idle_until(&session), Some((at + 3) * SECOND));
    }
    // Pings and pongs do not.
    session.advance(now + 5 * SECOND);
    session.on_sent(session.unsent().len(), now + 5 * SECOND);
    let _ = session.on_frame(Incoming::Ping(b"x"), arrived(now + 5 * SECOND));
    session.on_sent(session.unsent().len(), now + 5 * SECOND);
    assert_eq!(session.deadline(), Some(now + 7 * SECOND));
    session.advance(now + 7 * SECOND);
    assert_eq!((session.phase(), sent(&mut session), session.lingers()), (Phase::Finished, vec![], None));
    assert!(Slot::take(&worker).is_ok());

    // A step that runs keeps the place, as when a client goes.
    let mut session = open(&worker, now);
    say(&mut session, r#"{"type":"step","data":{"wait_seconds":9.0}}"#, now);
    session.advance(now + 3 * SECOND);
    assert_eq!(session.phase(), Phase::Finished);
    assert!(Slot::take(&worker).is_err());
    let (until, slot) = session.take_step().unwrap();
    assert_eq!((until, slot.is_some()), (now + 9 * SECOND, true));
    drop(slot);
    assert!(Slot::take(&worker).is_ok());
}

#[test]
fn only_a_whole_closing_handshake_is_lingered_behind() {
    let now = Instant::now();
    let faults = Faults { linger_ms: 1000, ..Faults::default() };
    let worker = worker(Options { faults, ..Options::default() });
    let close = Incoming::Close(Some(1000));

    let mut session = open(&worker, now);
    say(&mut session, r#"{"type":"close"}"#, now);
    assert_eq!(session.lingers(), None);
    assert!(session.on_frame(close, arrived(now)).is_break());
    assert_eq!((session.phase(), session.lingers()), (Phase::Finished, Some(SECOND)));

    let mut session = open(&worker, now);
    say(&mut session, r#"{"type":"close"}"#, now);
    session.advance(now + CLOSE_TIMEOUT);
    assert_eq!((session.phase(), session.lingers()), (Phase::Finished, None));

    let mut session = open(&worker, now);
    session.on_end_of_stream(now);
    assert_eq!((session.phase(), session.lingers()), (Phase::Finished, None));
}
