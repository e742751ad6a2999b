//! Every row of the protocol page's WebSocket tables.

use std::io::Write as _;
use std::net::Shutdown;
use std::time::Duration;

use refserver::Options;
use serde_json::{Value, json};

use crate::support::{CLOSE, Client, Got, HANDSHAKE, RESET, STATE, Server, eventually, frame, options, step};

fn server() -> Server {
    Server::start(options(|_| {}))
}

fn limited(max_concurrent_envs: usize) -> Server {
    Server::start(options(|options| options.max_concurrent_envs = max_concurrent_envs))
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[test]
fn a_session_from_reset_to_close() {
    let server = server();
    let mut client = Client::open(server.address);
    let reset = client.ask(RESET, "observation");
    let hash = reset["observation"]["session_hash"].clone();
    let hash_text = hash.as_str().unwrap();
    assert!(hash_text.len() == 12 && is_hex(hash_text), "{hash}");
    let observation = |waited: f64, step_count: u32| {
        json!({
            "observation": {
                "waited_seconds": waited,
                "pid": std::process::id(),
                "session_hash": hash,
                "host_url": format!("vm:{}", server.address.port()),
                "step_count": step_count
            },
            "reward": null,
            "done": false
        })
    };
    assert_eq!(reset, observation(0.0, 0));
    assert_eq!(client.ask(&step(0.0), "observation"), observation(0.0, 1));
    assert_eq!(client.ask(&step(0.003), "observation"), observation(0.003, 2));

    let state = client.ask(STATE, "state");
    let episode = state["episode_id"].as_str().unwrap().to_owned();
    assert_eq!(state, json!({"episode_id": episode, "step_count": 2}));
    let parts: Vec<&str> = episode.split('-').collect();
    assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
    assert!(parts.iter().all(|part| is_hex(part)) && parts[2].starts_with('4'), "{episode}");

    // Identity survives a reset, the count does not.
    assert_eq!(client.ask(RESET, "observation"), observation(0.0, 0));
    assert_eq!(client.ask(STATE, "state"), json!({"episode_id": episode, "step_count": 0}));

    client.send(CLOSE);
    assert_eq!(client.expect_close(), 1000);
    client.write(&frame(0x88, &1000_u16.to_be_bytes()));
    client.expect_end();
}

#[test]
fn every_session_is_another_episode() {
    let server = server();
    let mut clients: Vec<Client> = (0..8).map(|_| Client::open(server.address)).collect();
    let mut seen: Vec<String> =
        clients.iter_mut().map(|client| client.ask(STATE, "state")["episode_id"].to_string()).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 8);
}

#[test]
fn pipelined_messages_are_answered_in_order() {
    let server = server();
    let mut client = Client::open(server.address);
    let mut sent = Vec::new();
    for text in [RESET, &step(0.02), &step(0.0), "nope", &step(0.01), STATE] {
        sent.extend(frame(0x81, text.as_bytes()));
    }
    client.write(&sent);
    for (kind, count) in [("observation", 0), ("observation", 1), ("observation", 2)] {
        assert_eq!(client.expect(kind)["observation"]["step_count"], count);
    }
    assert_eq!(client.expect("error")["code"], "INVALID_JSON");
    assert_eq!(client.expect("observation")["observation"]["step_count"], 3);
    assert_eq!(client.expect("state")["step_count"], 3);
}

#[test]
fn more_than_may_wait_is_answered_all_the_same() {
    const COUNT: usize = 20_000;
    let server = server();
    let mut client = Client::open(server.address);
    let mut sent = frame(0x81, step(0.05).as_bytes());
    for _ in 1..COUNT {
        sent.extend(frame(0x81, step(0.0).as_bytes()));
    }
    // Written from another thread: neither side may wait for the other for ever.
    let mut stream = client.stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || stream.write_all(&sent).unwrap());
    for count in 1..=COUNT {
        assert_eq!(client.expect("observation")["observation"]["step_count"], count);
    }
    writer.join().unwrap();
}

#[test]
fn recoverable_errors_leave_the_session_open() {
    let server = server();
    let mut client = Client::open(server.address);
    for (text, code) in [
        ("nope", "INVALID_JSON"),
        (r#"{"type":"fly"}"#, "UNKNOWN_TYPE"),
        ("{}", "UNKNOWN_TYPE"),
        (r#"{"type":"step","data":{"wait_seconds":0,"x":1}}"#, "VALIDATION_ERROR"),
        (r#"{"type":"step","data":{"wait_seconds":"long"}}"#, "VALIDATION_ERROR"),
        (r#"{"type":"step","data":{"wait_seconds":-1}}"#, "VALIDATION_ERROR"),
        (r#"{"type":"step"}"#, "VALIDATION_ERROR"),
        (r#"{"type":"state","data":{}}"#, "VALIDATION_ERROR"),
    ] {
        let error = client.ask(text, "error");
        assert_eq!(error["code"], code, "{text}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{text}");
        if code == "VALIDATION_ERROR" {
            assert!(!error["errors"].as_array().unwrap().is_empty(), "{text}");
        }
    }
    assert_eq!(client.ask(STATE, "state")["step_count"], 0, "a refused step is not counted");
}

#[test]
fn fatal_errors_close_with_1000() {
    let server = server();
    for bytes in [frame(0x81, b"[1]"), frame(0x81, b"null"), frame(0x82, RESET.as_bytes())] {
        let mut client = Client::open(server.address);
        client.write(&bytes);
        assert_eq!(client.expect("error")["code"], "SESSION_ERROR");
        assert_eq!(client.expect_close(), 1000);
        client.write(&frame(0x88, &1000_u16.to_be_bytes()));
        client.expect_end();
    }
}

#[test]
fn mcp_lists_no_tools() {
    let server = server();
    let mut client = Client::open(server.address);
    let listed = client.ask(r#"{"type":"mcp","data":{"jsonrpc":"2.0","id":1,"method":"tools/list"}}"#, "mcp");
    assert_eq!(listed, json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": []}}));
    let other = client.ask(r#"{"type":"mcp","data":{"jsonrpc":"2.0","id":2,"method":"tools/call"}}"#, "mcp");
    assert_eq!((&other["id"], &other["error"]["code"]), (&json!(2), &json!(-32601)));
}

/// A 101 is not a session: the error and the close come before the client has said anything.
#[test]
fn a_full_server_accepts_then_refuses_unasked() {
    let server = limited(2);
    let mut first = Client::open(server.address);
    let mut second = Client::open(server.address);
    assert_eq!(second.ask(STATE, "state")["step_count"], 0);
    let mut third = Client::open(server.address);
    let error = third.expect("error");
    assert_eq!(error["code"], "CAPACITY_REACHED");
    assert_eq!((&error["active_sessions"], &error["max_sessions"]), (&json!(2), &json!(2)));
    assert_eq!(third.expect_close(), 1000);
    // A message already on its way is neither answered nor the cause of a reset.
    third.send(RESET);
    third.write(&frame(0x88, &1000_u16.to_be_bytes()));
    third.expect_end();

    first.send(CLOSE);
    assert_eq!(first.expect_close(), 1000);
    assert_eq!(Client::open(server.address).ask(STATE, "state")["step_count"], 0, "a place is free again");
}

#[test]
fn no_limit_is_no_limit() {
    let server = limited(0);
    let mut clients: Vec<Client> = (0..150).map(|_| Client::open(server.address)).collect();
    assert!(clients.iter_mut().all(|client| client.ask(STATE, "state")["step_count"] == 0));
}

/// How many sessions of `server` are active, as it tells a client too many.
fn active(server: &Server) -> u64 {
    let mut client = Client::open(server.address);
    client.send(STATE);
    match client.receive() {
        Got::Json(message) => message["data"]["active_sessions"].as_u64().unwrap_or(0),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_that_aborts_keeps_its_place_while_its_step_runs() {
    let server = limited(1);
    let mut client = Client::open(server.address);
    // The step is known to have arrived: the message before it is answered, and they came in one segment.
    client.write(&[frame(0x81, STATE.as_bytes()), frame(0x81, step(3600.0).as_bytes())].concat());
    client.expect("state");
    // The server is known to have noticed: it ends the connection.
    client.stream.shutdown(Shutdown::Write).unwrap();
    client.expect_end();
    assert_eq!(active(&server), 1, "the step still runs");
}

#[test]
fn a_client_that_aborts_frees_its_place_when_its_step_ends() {
    let server = limited(1);
    let mut client = Client::open(server.address);
    client.send(&step(0.05));
    drop(client);
    eventually("the place is free", || (active(&server) == 0).then_some(()));
}

#[test]
fn a_client_that_aborts_between_steps_frees_its_place() {
    let server = limited(1);
    let mut client = Client::open(server.address);
    client.ask(RESET, "observation");
    socket2::SockRef::from(&client.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    eventually("the place is free", || (active(&server) == 0).then_some(()));
}

#[test]
fn the_server_answers_a_close_and_ends_the_connection_first() {
    let server = server();
    for (payload, code) in [(1000_u16.to_be_bytes().to_vec(), 1000), (vec![], 0), (b"\x0f\xa0bye".to_vec(), 4000)] {
        let mut client = Client::open(server.address);
        client.ask(RESET, "observation");
        client.write(&frame(0x88, &payload));
        assert_eq!(client.expect_close(), code);
        client.expect_end();
    }
}

#[test]
fn a_close_behind_a_running_step_is_answered_at_once() {
    let server = server();
    let mut client = Client::open(server.address);
    client.send(&step(3600.0));
    client.write(&frame(0x88, &1001_u16.to_be_bytes()));
    assert_eq!(client.expect_close(), 1001);
    client.expect_end();
}

#[test]
fn violations_have_their_close_codes() {
    let server = server();
    let announced = [&[0x81, 0xFF][..], &(16 * 1024 * 1024 + 1_u64).to_be_bytes()].concat();
    for (bytes, code) in [
        (vec![0x81, 2, b'{', b'}'], 1002),
        (frame(0xC1, b"{}"), 1002),
        (frame(0x83, b""), 1002),
        (frame(0x80, b"{}"), 1002),
        (frame(0x81, b"\xff\xfe"), 1007),
        (announced, 1009),
    ] {
        let mut client = Client::open(server.address);
        client.write(&bytes);
        assert_eq!(client.expect_close(), code, "{bytes:?}");
        client.expect_end();
    }
}

/// A client still sending when it is refused must read the close, not a reset.
#[test]
fn a_message_too_big_is_refused_in_order() {
    let server = server();
    let mut client = Client::open(server.address);
    let mut bytes = [&[0x81, 0xFF][..], &(17 * 1024 * 1024_u64).to_be_bytes()].concat();
    bytes.resize(2 * 1024 * 1024, 0);
    client.write(&bytes);
    assert_eq!(client.expect_close(), 1009);
    client.expect_end();
}

#[test]
fn large_and_fragmented_messages_are_put_together() {
    let server = server();
    let mut client = Client::open(server.address);
    let large = format!(r#"{{"type":"reset","data":{{"x":"{}"}}}}"#, "y".repeat(3 * 1024 * 1024));
    assert_eq!(client.ask(&large, "observation")["observation"]["step_count"], 0);
    client.write(&frame(0x01, br#"{"type":"st"#));
    client.write(&frame(0x89, b"are you there?"));
    assert_eq!(client.receive(), Got::Pong(b"are you there?".to_vec()));
    client.write(&frame(0x80, br#"ate"}"#));
    assert_eq!(client.expect("state")["step_count"], 0);
}

#[test]
fn frames_behind_the_handshake_are_not_lost() {
    let server = server();
    let mut client = Client::connect(server.address);
    client.write(&[HANDSHAKE.as_bytes(), &frame(0x81, STATE.as_bytes())].concat());
    let head = client.head();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert_eq!(client.expect("state")["step_count"], 0);
}

#[test]
fn clients_are_pinged_and_given_up() {
    let quick = |options: &mut Options| {
        options.ping_interval = Duration::from_millis(20);
        options.ping_timeout = Duration::from_millis(500);
    };
    let server = Server::start(options(quick));
    let mut client = Client::open(server.address);
    for _ in 0..2 {
        let Got::Ping(payload) = client.receive() else { panic!("a ping comes") };
        client.write(&frame(0x8A, &payload));
    }
    assert!(matches!(client.receive(), Got::Ping(_)));
    assert_eq!(client.receive(), Got::Close(1011, "keepalive ping timeout".into()));
    client.expect_end();
}

#[test]
fn a_stopping_server_closes_every_session_with_1012() {
    let mut server = server();
    let mut idle = Client::open(server.address);
    idle.ask(RESET, "observation");
    let mut busy = Client::open(server.address);
    busy.write(&[frame(0x81, STATE.as_bytes()), frame(0x81, step(3600.0).as_bytes())].concat());
    let _: Value = busy.expect("state");
    // Neither answers the close, and the server ends all the same.
    server.stop();
    assert_eq!(idle.receive(), Got::Close(1012, "service restart".into()));
    assert_eq!(busy.expect_close(), 1012);
    server.join().unwrap();
    idle.expect_end();
    busy.expect_end();
}
