//! Fault options that change what is answered, as a client sees them.

use std::time::{Duration, Instant};

use refserver::{Faults, ObservationKind, Unready};
use serde_json::{Value, json};

use crate::process::Running;
use crate::support::{Client, HANDSHAKE, RESET, STATE, Server, eventually, frame, options, step};

fn server(faults: Faults) -> Server {
    Server::start(options(|options| options.faults = faults))
}

const STEP: &str = r#"{"action":{}}"#;

#[test]
fn an_episode_is_over_behind_its_last_step() {
    let ending = server(Faults { done_after: 2, ..Faults::default() });
    let mut client = Client::open(ending.address);
    for _ in 0..2 {
        assert_eq!(client.ask(RESET, "observation")["done"], false);
        assert_eq!(client.ask(&step(0.0), "observation")["done"], false);
        assert_eq!(client.ask(&step(0.0), "observation")["done"], true);
        for _ in 0..2 {
            let error = client.ask(&step(3600.0), "error");
            assert_eq!(error, json!({"message": "the episode is over", "code": "EXECUTION_ERROR"}));
        }
        assert_eq!(client.ask(STATE, "state")["step_count"], 2);
    }
    let mut client = Client::connect(ending.address);
    assert_eq!(client.request("POST", "/step", STEP).json()["done"], false);

    let ending = server(Faults { done_after: 1, ..Faults::default() });
    let mut client = Client::connect(ending.address);
    for _ in 0..2 {
        assert_eq!(client.request("POST", "/step", STEP).json()["done"], true);
        assert_eq!(client.request("POST", "/reset", "").json()["done"], false);
    }
}

#[test]
fn replies_have_a_text_that_grows() {
    let server = server(Faults { reply_bytes: 1000, reply_growth_bytes: 500, ..Faults::default() });
    let text = |reply: Value| reply["observation"]["text"].as_str().map(str::to_owned);
    let expected = |bytes| Some("x".repeat(bytes));
    let mut client = Client::open(server.address);
    assert_eq!(text(client.ask(RESET, "observation")), expected(1000));
    assert_eq!(text(client.ask(&step(0.0), "observation")), expected(1500));
    assert_eq!(text(client.ask(&step(0.0), "observation")), expected(2000));
    assert_eq!(text(client.ask(RESET, "observation")), expected(1000));
    let mut client = Client::connect(server.address);
    assert_eq!(text(client.request("POST", "/reset", "").json()), expected(1000));
    assert_eq!(text(client.request("POST", "/step", STEP).json()), expected(1500));
}

#[test]
fn large_replies_arrive_and_take_no_memory_for_long() {
    const MIB: usize = 1024 * 1024;
    const REPLIES: usize = 6;
    let server = Running::start(&["--threads", "1", "--reply-bytes", &(64 * MIB).to_string()]);
    let mut client = Client::open(server.address);
    client.write(&frame(0x81, step(0.0).as_bytes()).repeat(REPLIES));
    client.send(STATE);
    for _ in 0..REPLIES {
        let (opcode, payload) = client.receive_raw();
        assert!(opcode == 1 && payload.len() > 64 * MIB && payload.len() < 65 * MIB, "{opcode}, {}", payload.len());
        assert!(
            payload.starts_with(br#"{"type":"observation","#)
                && payload.ends_with(br#"xxx"},"reward":null,"done":false}}"#)
        );
    }
    assert_eq!(client.expect("state")["step_count"], REPLIES);
    let reply = Client::connect(server.address).request("POST", "/reset", "");
    assert!(reply.body.len() > 64 * MIB);
    // Never all at once, though the client asked for all at once.
    assert!(server.memory("VmHWM") < 256 * MIB, "{}", server.memory("VmHWM"));
    eventually("the memory is given back", || (server.memory("VmRSS") < 48 * MIB).then_some(()));
}

#[test]
fn observations_of_another_environment() {
    let foreign = json!({
        "waited_seconds": 0.0, "pid": "worker-3", "session_hash": 12345, "host_url": "h".repeat(1000), "step_count": 0
    });
    for (observation, expected) in [
        (ObservationKind::Foreign, foreign),
        (ObservationKind::List, json!([1, 2, 3])),
        (ObservationKind::Text, json!("a board")),
        (ObservationKind::Anonymous, json!({"step_count": 0})),
    ] {
        let server = server(Faults { observation, ..Faults::default() });
        let expected = json!({"observation": expected, "reward": null, "done": false});
        assert_eq!(Client::open(server.address).ask(RESET, "observation"), expected);
        assert_eq!(Client::connect(server.address).request("POST", "/reset", "").json(), expected);
    }
    let server = server(Faults { observation: ObservationKind::Nan, ..Faults::default() });
    let mut client = Client::open(server.address);
    client.send(RESET);
    let (_, frame) = client.receive_raw();
    let reply = Client::connect(server.address).request("POST", "/reset", "");
    for text in [frame, reply.body] {
        let text = String::from_utf8(text).unwrap();
        assert!(
            text.contains(r#""pid":"#) && text.contains(r#""score":NaN,"best":Infinity,"worst":-Infinity}"#),
            "{text}"
        );
    }
}

#[test]
fn errors_have_odd_members() {
    let faults = Faults { odd_errors: true, ..Faults::default() };
    let server = Server::start(options(|options| (options.faults, options.max_concurrent_envs) = (faults, 1)));
    let mut client = Client::open(server.address);
    assert_eq!(client.ask("nope", "error"), json!({"message": null, "code": 17}));
    let refused = client.ask(r#"{"type":"step","data":{"x":1}}"#, "error");
    assert_eq!((&refused["message"], &refused["code"]), (&Value::Null, &json!(17)));
    let capacity = json!({"message": null, "code": "CAPACITY_REACHED", "active_sessions": null, "max_sessions": 1});
    assert_eq!(Client::open(server.address).expect("error"), capacity);
}

#[test]
fn answers_have_many_headers() {
    let server = server(Faults { upgrade_headers: 300, ..Faults::default() });
    let line = |index| format!("\r\nx-extra-{index}: {}\r\n", "x".repeat(200));
    let has_all = |head: &str| (1..=300).all(|index| head.contains(&line(index))) && !head.contains("x-extra-301");
    let mut client = Client::connect(server.address);
    client.write(HANDSHAKE.as_bytes());
    let head = client.head();
    assert!(head.starts_with("http/1.1 101 ") && has_all(&head), "{head}");
    client.ask(RESET, "observation");
    let mut client = Client::connect(server.address);
    assert!(has_all(&client.request("POST", "/reset", "").head));
    assert!(has_all(&client.request("POST", "/step", STEP).head));
    assert!(!client.request("GET", "/health", "").head.contains("x-extra"));
}

fn unready(text: &str) -> Faults {
    let unready: Unready = text.parse().expect(text);
    Faults { unready: Some(unready), ..Faults::default() }
}

/// The answer to a handshake that is refused.
fn refusal(server: &Server) -> crate::support::Response {
    let mut client = Client::connect(server.address);
    client.write(HANDSHAKE.as_bytes());
    client.response()
}

#[test]
fn an_unready_server_says_so() {
    let busy = server(unready("429:3600:7"));
    let mut client = Client::connect(busy.address);
    for reply in [refusal(&busy), client.request("POST", "/reset", ""), client.request("POST", "/step", STEP)] {
        assert_eq!(reply.status, 429);
        assert!(reply.head.contains("\r\nretry-after: 7\r\n") && !reply.head.contains("location"), "{}", reply.head);
    }
    assert_eq!(client.request("GET", "/health", "").status, 200);

    for faults in [unready("302:3600"), Faults { refuse_upgrade: Some(308), ..Faults::default() }] {
        let reply = refusal(&server(faults));
        assert!(matches!(reply.status, 302 | 308));
        assert!(
            reply.head.contains("\r\nlocation: /elsewhere\r\n") && !reply.head.contains("retry-after"),
            "{}",
            reply.head
        );
    }
}

#[test]
fn an_unready_server_becomes_ready() {
    let start = Instant::now();
    let server = server(unready("503:0.2"));
    eventually("it is ready", || {
        let mut client = Client::connect(server.address);
        client.write(HANDSHAKE.as_bytes());
        client.head().starts_with("http/1.1 101 ").then_some(())
    });
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert_eq!(Client::connect(server.address).request("POST", "/reset", "").status, 200);
}
