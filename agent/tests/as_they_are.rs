//! Servers as they really are: slow to hang up, with pings, large replies, episodes that end, observations of their own. What
//! they do within the protocol makes no session fail, and what is ours is not called theirs.

use std::time::Duration;

use agent::drivers::Driver as _;
use agent::drivers::ws::WsDriver;
use proto::{FailureKind, Mode, Outcome, Phase};
use refserver::{CloseAnswer, Faults, ObservationKind, Options};

#[expect(dead_code, reason = "each test file needs a part of it")]
mod support;

use support::peer::{CAPACITY_REACHED, HASH, TEXT, close, frame, ws_observation};
use support::{bounded, dialer, failed, faulty, outcome, raw, reference, run, script};

/// Official clients read replies of 100 MB; ours has a limit of its own, which is not the server's fault.
#[test]
fn a_reply_beyond_the_limit_is_the_clients_and_one_below_it_is_read() {
    bounded(async {
        let bytes_max = script().message_bytes_max as u64;
        for mode in [Mode::Ws, Mode::Http] {
            let (url, _server) = reference(faulty(Faults { reply_bytes: bytes_max, ..Faults::default() }));
            let record = run(mode, &url, &script()).await;
            assert_eq!(outcome(&record), &failed(FailureKind::ClientLimit, Phase::Reset), "{mode}");
            assert!(record.error_message.contains("session.message_bytes_max"), "{}", record.error_message);

            let (url, _server) = reference(faulty(Faults { reply_bytes: bytes_max, ..Faults::default() }));
            let larger = proto::Script { message_bytes_max: 2 << 20, ..script() };
            let record = run(mode, &url, &larger).await;
            assert_eq!(outcome(&record), &Outcome::Succeeded, "{mode}: {}", record.error_message);

            // Hundreds of headers, tens of kilobytes of them.
            let (url, _server) = reference(faulty(Faults { upgrade_headers: 300, ..Faults::default() }));
            let record = run(mode, &url, &script()).await;
            assert_eq!(outcome(&record), &Outcome::Succeeded, "{mode}: {}", record.error_message);
        }
    });
}

/// Pings of the server come every second, and are to be answered within one; the client thinks for longer.
#[test]
fn pings_are_answered_while_a_session_thinks() {
    bounded(async {
        let ping = Duration::from_millis(300);
        let options = Options { ping_interval: ping, ping_timeout: ping, ..Options::default() };
        let (url, _server) = reference(options);
        let thinking = proto::Script { steps: 2, think: Duration::from_millis(1_500), ..script() };
        let record = run(Mode::Ws, &url, &thinking).await;
        assert_eq!(outcome(&record), &Outcome::Succeeded, "{}", record.error_message);
    });
}

/// What comes while nobody waits ends the session when it comes, and not when the pause is over.
#[test]
fn what_comes_in_a_pause_is_known_at_once() {
    bounded(async {
        let full = frame(TEXT, CAPACITY_REACHED);
        let observation = frame(TEXT, ws_observation(HASH));
        for (words, kind) in [
            (full, FailureKind::CapacityReached),
            (close(Some(1001)), FailureKind::Closed(1001)),
            (observation, FailureKind::BadReply),
            (Vec::new(), FailureKind::Closed(1006)),
        ] {
            let url = raw(move |mut peer| {
                let words = words.clone();
                async move {
                    peer.ws_until(Phase::Step).await;
                    peer.send(frame(TEXT, ws_observation(HASH))).await;
                    peer.send(&words).await;
                    if words.is_empty() {
                        return drop(peer);
                    }
                    peer.silent().await;
                }
            })
            .await;
            let thinking = proto::Script { steps: 2, think: Duration::from_millis(1_500), ..script() };
            // The first pause is before the first step; the words come in the second.
            let record = run(Mode::Ws, &url, &thinking).await;
            assert_eq!(outcome(&record), &failed(kind, Phase::Step), "{}", record.error_message);
            assert_eq!(record.step_us.len(), 1);
            assert!(record.total_us < Some(2_900_000), "at once, not after the pause: {record:?}");
        }
    });
}

#[test]
fn an_episode_that_is_over_ends_its_steps() {
    bounded(async {
        for (until_done, expected) in [
            (true, Outcome::Succeeded),
            (false, failed(FailureKind::ServerError("EXECUTION_ERROR".to_owned()), Phase::Step)),
        ] {
            let (url, _server) = reference(faulty(Faults { done_after: 3, ..Faults::default() }));
            let record = run(Mode::Ws, &url, &proto::Script { steps: 5, until_done, ..script() }).await;
            assert_eq!((outcome(&record), record.step_us.len(), record.done), (&expected, 3, until_done));
        }
        // Over HTTP each call has an environment of its own.
        let (url, _server) = reference(faulty(Faults { done_after: 1, ..Faults::default() }));
        let record = run(Mode::Http, &url, &proto::Script { steps: 5, ..script() }).await;
        assert_eq!((outcome(&record), record.step_us.len(), record.done), (&Outcome::Succeeded, 1, true));
    });
}

#[test]
fn what_follows_the_last_answer_makes_no_session_fail() {
    bounded(async {
        for (answer, untidy) in [
            (CloseAnswer::Normal, None),
            (CloseAnswer::GoingAway, Some(FailureKind::Closed(1001))),
            (CloseAnswer::Cut, Some(FailureKind::Closed(1006))),
            (CloseAnswer::Reset, Some(FailureKind::Reset)),
            (CloseAnswer::Reply, Some(FailureKind::BadReply)),
            (CloseAnswer::LateFrame, Some(FailureKind::BadReply)),
        ] {
            let (url, _server) = reference(faulty(Faults { close_answer: answer, ..Faults::default() }));
            let record = run(Mode::Ws, &url, &script()).await;
            assert_eq!((outcome(&record), &record.untidy), (&Outcome::Succeeded, &untidy), "{answer:?}");
            assert!(record.close_us.is_some());
        }
        let (url, _server) = reference(faulty(Faults { close_answer: CloseAnswer::Never, ..Faults::default() }));
        let short = proto::Script { close_timeout: Duration::from_millis(300), ..script() };
        let record = run(Mode::Ws, &url, &short).await;
        assert_eq!(outcome(&record), &Outcome::TimedOut(Phase::Close), "the close frame is due");
    });
}

/// A server that leaves the end of the connection to the client for a second is no slower for it.
#[test]
fn the_end_of_the_connection_is_no_part_of_the_session() {
    bounded(async {
        for mode in [Mode::Ws, Mode::Http] {
            let lingering = || faulty(Faults { linger_ms: 700, ..Faults::default() });
            let (url, _server) = reference(lingering());
            let begun = tokio::time::Instant::now();
            let record = run(mode, &url, &script()).await;
            assert_eq!(outcome(&record), &Outcome::Succeeded, "{mode}");
            let lasted = u64::try_from(begun.elapsed().as_micros()).expect("short");
            assert!(lasted >= 700_000, "{mode}: the connection is waited for");
            assert!(
                record.total_us.is_some_and(|total| total + 600_000 < lasted),
                "{mode}: and not measured: {record:?}"
            );
        }
    });
}

#[test]
fn environments_of_others_have_no_identity_and_no_fault() {
    bounded(async {
        for mode in [Mode::Ws, Mode::Http] {
            for observation in [
                ObservationKind::Foreign,
                ObservationKind::Nan,
                ObservationKind::List,
                ObservationKind::Text,
                ObservationKind::Anonymous,
            ] {
                let (url, _server) = reference(faulty(Faults { observation, ..Faults::default() }));
                let record = run(mode, &url, &proto::Script { steps: 2, ..script() }).await;
                assert_eq!(outcome(&record), &Outcome::Succeeded, "{mode} {observation:?}: {}", record.error_message);
                let known = observation == ObservationKind::Nan;
                assert_eq!(record.pid.is_some(), known, "{observation:?}");
                assert_eq!(record.host_url.is_some(), known, "{observation:?}");
            }
        }
        let options = Options { max_concurrent_envs: 1, ..faulty(Faults { odd_errors: true, ..Faults::default() }) };
        let (url, _server) = reference(options);
        let driver = WsDriver::new(dialer(&url, "").await, Duration::ZERO);
        let mut first = driver.connect(0, None).await.expect("connected");
        driver.reset(&mut first).await.expect("reset");
        let record = run(Mode::Ws, &url, &script()).await;
        assert_eq!(outcome(&record), &failed(FailureKind::CapacityReached, Phase::Reset));
    });
}
