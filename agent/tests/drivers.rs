//! Whole sessions over real sockets: what a server says decides the outcome, and nothing else does.

use std::cell::Cell;
use std::time::Duration;

use agent::drivers::Driver as _;
use agent::drivers::ws::WsDriver;
use proto::{FailureKind, Mode, Outcome, Phase};
use refserver::{Faults, Options};
use tokio::sync::oneshot;

#[expect(dead_code, reason = "each test file needs a part of it")]
mod support;

use support::peer::{BINARY, CAPACITY_REACHED, HASH, TEXT, close, frame, http, switching, ws_observation};
use support::{bounded, dialer, failed, faulty, nobody, outcome, raw, reference, run, script, url};

const BOTH: [Mode; 2] = [Mode::Ws, Mode::Http];

#[test]
fn a_session_that_succeeds_tells_all_of_its_life() {
    bounded(async {
        let options = Options { host_name: Some("server".to_owned()), ..Options::default() };
        let (url, _server) = reference(options);
        let script =
            proto::Script { steps: 3, wait: Duration::from_millis(20), think: Duration::from_millis(10), ..script() };
        for mode in BOTH {
            let record = run(mode, &url, &script).await;
            assert_eq!(outcome(&record), &Outcome::Succeeded, "{mode}");
            assert_eq!(record.error_message, "");
            assert!(record.connect_us.is_some() && record.reset_us.is_some() && record.close_us.is_some());
            assert_eq!(record.step_us.len(), 3, "one value a step");
            assert!(record.step_us.iter().all(|us| *us >= 20_000), "a step takes its wait: {:?}", record.step_us);
            // Thinking is part of the session and of no step.
            let steps: u64 = record.step_us.iter().sum();
            assert!(record.total_us >= Some(steps + 30_000), "{record:?}");
            assert_eq!(record.waited_us, Some(60_000));
            assert_eq!(record.pid, Some(u64::from(std::process::id())), "the server is in this process");
            let hash = record.session_hash.expect("a session hash");
            assert!(hash.len() == 12 && hash.chars().all(|c| c.is_ascii_hexdigit()), "{hash}");
            let port = url.rsplit(':').next().expect("a port");
            assert_eq!(record.host_url, Some(format!("server:{port}")));
        }
    });
}

#[test]
fn a_session_without_steps_succeeds() {
    bounded(async {
        let (url, _server) = reference(Options::default());
        for mode in BOTH {
            let record = run(mode, &url, &proto::Script { steps: 0, ..script() }).await;
            assert_eq!(outcome(&record), &Outcome::Succeeded);
            assert_eq!((record.step_us.len(), record.waited_us), (0, None));
        }
    });
}

#[test]
fn nobody_listens() {
    bounded(async {
        let (address, _held) = nobody();
        let url = url(address);
        for mode in BOTH {
            let record = run(mode, &url, &script()).await;
            assert_eq!(outcome(&record), &failed(FailureKind::Refused, Phase::Connect));
            assert_eq!((record.connect_us, record.reset_us, record.close_us), (None, None, None));
        }
    });
}

#[test]
fn errors_of_the_server_go_by_their_code() {
    bounded(async {
        let error = |code: &str| FailureKind::ServerError(code.to_owned());
        let fail_step = Faults { fail_step_rate: 1.0, ..Faults::default() };
        let factory = Faults { factory_error_rate: 1.0, ..Faults::default() };
        let drop = Faults { drop_rate: 1.0, ..Faults::default() };
        let no_http = Faults { no_http: true, ..Faults::default() };
        let page = Faults { not_openenv: true, ..Faults::default() };
        for (faults, mode, expected) in [
            (&fail_step, Mode::Ws, failed(error("EXECUTION_ERROR"), Phase::Step)),
            (&fail_step, Mode::Http, failed(FailureKind::HttpStatus(500), Phase::Step)),
            (&factory, Mode::Ws, failed(error("FACTORY_ERROR"), Phase::Reset)),
            (&factory, Mode::Http, failed(FailureKind::HttpStatus(500), Phase::Reset)),
            (&drop, Mode::Ws, failed(FailureKind::Reset, Phase::Step)),
            (&drop, Mode::Http, failed(FailureKind::Reset, Phase::Step)),
            (&no_http, Mode::Ws, Outcome::Succeeded),
            (&no_http, Mode::Http, failed(FailureKind::HttpStatus(404), Phase::Reset)),
            (&page, Mode::Ws, failed(FailureKind::UpgradeRefused(200), Phase::Connect)),
            (&page, Mode::Http, failed(FailureKind::BadReply, Phase::Reset)),
        ] {
            let (url, _server) = reference(faulty(faults.clone()));
            let record = run(mode, &url, &script()).await;
            assert_eq!(outcome(&record), &expected, "{mode} {faults:?}");
        }
    });
}

#[test]
fn http_statuses_are_kept() {
    bounded(async {
        for status in [404, 422, 500, 503, 204, 301] {
            let detail = if status == 204 { "" } else { r#"{"detail":[]}"# };
            let url = raw(move |mut peer| async move {
                peer.http_until(Phase::Step).await;
                peer.send(http(status, detail)).await;
                peer.silent().await;
            })
            .await;
            let record = run(Mode::Http, &url, &script()).await;
            assert_eq!(outcome(&record), &failed(FailureKind::HttpStatus(status), Phase::Step));
        }
    });
}

#[test]
fn a_refused_upgrade_keeps_its_status() {
    bounded(async {
        for status in [503, 404] {
            let (url, _server) = reference(faulty(Faults { refuse_upgrade: Some(status), ..Faults::default() }));
            let record = run(Mode::Ws, &url, &script()).await;
            assert_eq!(outcome(&record), &failed(FailureKind::UpgradeRefused(status), Phase::Connect));
        }
    });
}

#[test]
fn a_full_server_is_told_from_a_broken_one() {
    bounded(async {
        let (url, _server) = reference(Options { max_concurrent_envs: 1, ..Options::default() });
        let driver = WsDriver::new(dialer(&url, "").await, Duration::ZERO);
        let mut first = driver.connect(0, None).await.expect("connected");
        driver.reset(&mut first).await.expect("reset");
        let record = run(Mode::Ws, &url, &script()).await;
        assert_eq!(outcome(&record), &failed(FailureKind::CapacityReached, Phase::Reset));
        let closed = driver.close(first).await;
        assert_eq!(closed.untidy, None);
        driver.wait_closed(closed.connection.expect("a connection")).await;
        assert_eq!(outcome(&run(Mode::Ws, &url, &script()).await), &Outcome::Succeeded, "the place is free again");
    });
}

/// How a server hangs up.
#[derive(Debug, Clone, Copy, PartialEq)]
enum HangUp {
    Stay,
    Fin,
    Rst,
}

/// The session's fault when the server has sent `words` and hung up, all of it before the session's first request.
async fn told_before_the_first_send(words: Vec<u8>, how: HangUp) -> Option<FailureKind> {
    let (connected, is_connected) = oneshot::channel::<()>();
    let (said, has_said) = oneshot::channel();
    let channels = Cell::new(Some((is_connected, said, words)));
    let url = raw(move |mut peer| {
        let (is_connected, said, words) = channels.take().expect("one connection");
        async move {
            let head = peer.head().await;
            peer.send(switching(&head)).await;
            is_connected.await.expect("the client connects");
            peer.send(&words).await;
            match how {
                HangUp::Stay => {
                    said.send(()).expect("the client waits");
                    return peer.silent().await;
                }
                HangUp::Fin => drop(peer),
                HangUp::Rst => peer.cut(),
            }
            said.send(()).expect("the client waits");
        }
    })
    .await;
    let driver = WsDriver::new(dialer(&url, "").await, Duration::ZERO);
    let mut session = driver.connect(0, None).await.expect("connected");
    connected.send(()).expect("the server waits");
    has_said.await.expect("the server speaks");
    let fault = driver.reset(&mut session).await.expect_err("a fault");
    fault.kind().cloned()
}

#[test]
fn last_words_decide_even_when_the_send_fails() {
    bounded(async {
        let full = frame(TEXT, CAPACITY_REACHED);
        let full_and_close = [full.clone(), close(Some(1000))].concat();
        let factory = frame(TEXT, r#"{"type":"error","data":{"message":"m","code":"FACTORY_ERROR"}}"#);
        let pinged = [frame(support::peer::PING, "p"), full_and_close.clone()].concat();
        for how in [HangUp::Stay, HangUp::Fin, HangUp::Rst] {
            for (words, kind) in [
                (&full, FailureKind::CapacityReached),
                (&full_and_close, FailureKind::CapacityReached),
                (&pinged, FailureKind::CapacityReached),
                (&factory, FailureKind::ServerError("FACTORY_ERROR".to_owned())),
                (&close(Some(1000)), FailureKind::Closed(1000)),
                (&close(Some(1013)), FailureKind::Closed(1013)),
                (&close(None), FailureKind::Closed(1005)),
            ] {
                let seen = told_before_the_first_send(words.clone(), how).await;
                assert_eq!(seen, Some(kind), "{how:?} {:?}", String::from_utf8_lossy(words));
            }
        }
        // Nothing said: it is the cut alone that is known.
        assert_eq!(told_before_the_first_send(Vec::new(), HangUp::Rst).await, Some(FailureKind::Reset));
    });
}

#[test]
fn words_that_come_with_the_101_are_not_lost() {
    bounded(async {
        for piece in [1, 7, 1_000] {
            let url = raw(move |mut peer| async move {
                let head = peer.head().await;
                let words = [switching(&head).into_bytes(), frame(TEXT, CAPACITY_REACHED), close(Some(1000))].concat();
                for piece in words.chunks(piece) {
                    peer.send(piece).await;
                    // The client's turn, so that it sees the pieces one by one.
                    tokio::task::yield_now().await;
                }
                // Hanging up could overtake what still waits to be sent, and that would be lost on the way.
                peer.silent().await;
            })
            .await;
            let record = run(Mode::Ws, &url, &script()).await;
            assert_eq!(outcome(&record), &failed(FailureKind::CapacityReached, Phase::Reset), "pieces of {piece}");
        }
    });
}

#[test]
fn close_codes_are_kept() {
    bounded(async {
        for code in [1000, 1001, 1008, 1009, 1011, 1012, 4000] {
            for phase in [Phase::Reset, Phase::Step] {
                let url = raw(move |mut peer| async move {
                    peer.ws_until(phase).await;
                    peer.send(close(Some(code))).await;
                    peer.silent().await;
                })
                .await;
                let record = run(Mode::Ws, &url, &script()).await;
                assert_eq!(outcome(&record), &failed(FailureKind::Closed(code), phase));
            }
        }
        // At close, 1000 or no code at all is the end that was asked for. Any other is untidy, and no failure.
        for (code, untidy) in [(Some(1000), None), (Some(1011), Some(FailureKind::Closed(1011))), (None, None)] {
            let url = raw(move |mut peer| async move {
                peer.ws_until(Phase::Close).await;
                peer.send(close(code)).await;
            })
            .await;
            let record = run(Mode::Ws, &url, &script()).await;
            assert_eq!((outcome(&record), record.untidy.clone()), (&Outcome::Succeeded, untidy));
        }
        let (url, _server) = reference(faulty(Faults { close_code: Some(1012), ..Faults::default() }));
        let record = run(Mode::Ws, &url, &script()).await;
        assert_eq!(outcome(&record), &failed(FailureKind::Closed(1012), Phase::Step));
    });
}

#[test]
fn a_server_that_stops_during_a_step_closes_with_1012() {
    bounded(async {
        let (url, server) = reference(Options::default());
        let driver = WsDriver::new(dialer(&url, "").await, Duration::ZERO);
        let mut session = driver.connect(0, None).await.expect("connected");
        driver.reset(&mut session).await.expect("reset");
        let step = driver.step(&mut session, support::DEADLINE, true);
        let (fault, ()) = tokio::join!(step, async move { drop(server) });
        assert_eq!(fault.expect_err("a fault").kind(), Some(&FailureKind::Closed(1012)));
    });
}

#[test]
fn a_reply_that_is_none_is_a_bad_reply() {
    bounded(async {
        let replies: Vec<(&str, Vec<u8>)> = vec![
            ("garbage", frame(TEXT, "Hello!")),
            ("empty", frame(TEXT, "")),
            ("no text", frame(TEXT, [0xff, 0xfe])),
            ("no object", frame(TEXT, "[1,2]")),
            ("binary", frame(BINARY, ws_observation(HASH))),
            ("state", frame(TEXT, r#"{"type":"state","data":{"episode_id":"x","step_count":1}}"#)),
            ("no frame", "HTTP/1.1 400 Bad Request\r\n\r\n".repeat(8).into_bytes()),
            ("masked by a server", vec![0x81, 0x81, 0, 0, 0, 0, b'x']),
            ("reserved opcode", vec![0x83, 0]),
        ];
        for (what, reply) in replies {
            for phase in [Phase::Reset, Phase::Step] {
                let reply = reply.clone();
                let url = raw(move |mut peer| {
                    let reply = reply.clone();
                    async move {
                        peer.ws_until(phase).await;
                        peer.send(reply).await;
                        peer.silent().await;
                    }
                })
                .await;
                let record = run(Mode::Ws, &url, &script()).await;
                assert_eq!(outcome(&record), &failed(FailureKind::BadReply, phase), "{what}");
                assert!(!record.error_message.is_empty(), "{what}");
            }
        }
    });
}

#[test]
fn a_step_answered_by_another_session_is_a_bad_reply() {
    bounded(async {
        let url = raw(|mut peer| async move {
            peer.ws_until(Phase::Step).await;
            peer.send(frame(TEXT, ws_observation("ba9876543210"))).await;
            peer.silent().await;
        })
        .await;
        let record = run(Mode::Ws, &url, &script()).await;
        assert_eq!(outcome(&record), &failed(FailureKind::BadReply, Phase::Step));
        for hash in [HASH, "ba9876543210"] {
            assert!(record.error_message.contains(hash), "{}", record.error_message);
        }
    });
}

#[test]
fn an_http_reply_that_is_none_is_a_bad_reply() {
    bounded(async {
        for (what, reply) in [
            ("a page", http(200, "<html>welcome</html>")),
            ("empty", http(200, "")),
            ("no HTTP", "SSH-2.0-OpenSSH_9.6\r\n".to_owned()),
            ("no chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n".to_owned()),
            ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx".to_owned()),
        ] {
            let url = raw(move |mut peer| {
                let reply = reply.clone();
                async move {
                    peer.http_until(Phase::Step).await;
                    peer.send(reply).await;
                    peer.silent().await;
                }
            })
            .await;
            let record = run(Mode::Http, &url, &script()).await;
            assert_eq!(outcome(&record), &failed(FailureKind::BadReply, Phase::Step), "{what}");
        }
    });
}
