//! Fault options that change how connections, sessions and processes end.

use std::io::Read as _;
use std::net::Shutdown;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant};

use refserver::{CloseAnswer, Faults, Options};

use crate::process::Running;
use crate::support::{CLOSE, Client, Got, RESET, STATE, Server, eventually, frame, options};

/// A server with room for one session.
fn server(faults: Faults) -> Server {
    with_options(faults, |_| {})
}

fn with_options(faults: Faults, change: impl FnOnce(&mut Options)) -> Server {
    Server::start(options(|options| {
        (options.faults, options.max_concurrent_envs) = (faults, 1);
        change(options);
    }))
}

/// True when a session can be opened.
fn has_room(server: &Server) -> bool {
    let mut client = Client::open(server.address);
    client.send(STATE);
    matches!(client.receive(), Got::Json(message) if message["type"] == "state")
}

fn expect_room(server: &Server) {
    eventually("the place is free", || has_room(server).then_some(()));
}

fn close_frame() -> Vec<u8> {
    frame(0x88, &1000_u16.to_be_bytes())
}

#[test]
fn an_idle_session_is_cut_although_it_is_pinged() {
    let limit = Duration::from_millis(300);
    let faults = Faults { idle_cut: Some(limit), ..Faults::default() };
    let server = with_options(faults, |options| options.ping_interval = Duration::from_millis(20));
    let mut client = Client::open(server.address);
    let start = Instant::now();
    client.send(RESET);
    loop {
        match client.receive() {
            Got::Json(_) => break,
            Got::Ping(_) => {}
            other => panic!("{other:?}"),
        }
    }
    client.expect_pings_and_end();
    assert!(start.elapsed() >= limit);
    expect_room(&server);
}

#[test]
fn a_close_message_is_answered_in_other_ways() {
    let answered = |close_answer| {
        let server = server(Faults { close_answer, ..Faults::default() });
        let mut client = Client::open(server.address);
        client.ask(RESET, "observation");
        client.send(CLOSE);
        (server, client)
    };
    for (close_answer, code, frame) in [
        (CloseAnswer::Normal, 1000, None),
        (CloseAnswer::GoingAway, 1001, None),
        (CloseAnswer::Reply, 1000, Some("state")),
        (CloseAnswer::LateFrame, 1000, Some("observation")),
    ] {
        let (server, mut client) = answered(close_answer);
        if let Some(kind) = frame {
            client.expect(kind);
        }
        assert_eq!(client.expect_close(), code, "{close_answer:?}");
        assert!(has_room(&server), "{close_answer:?}");
        client.write(&close_frame());
        client.expect_end();
    }
    let (server, mut client) = answered(CloseAnswer::Cut);
    client.expect_end();
    expect_room(&server);
    let (server, mut client) = answered(CloseAnswer::Reset);
    client.expect_reset();
    expect_room(&server);

    let (server, mut client) = answered(CloseAnswer::Never);
    client.ask(STATE, "state");
    assert!(!has_room(&server));
    drop(client);
    expect_room(&server);
}

/// Closes a session in order, as far as the WebSocket is concerned.
fn closed(server: &Server) -> Client {
    let mut client = Client::open(server.address);
    client.send(CLOSE);
    assert_eq!(client.expect_close(), 1000);
    client.write(&close_frame());
    client
}

#[test]
fn the_last_close_is_left_to_the_client_for_a_while() {
    const LINGER: Duration = Duration::from_millis(150);
    let server = server(Faults { linger_ms: 150, ..Faults::default() });
    let start = Instant::now();
    closed(&server).expect_end();
    assert!(start.elapsed() >= LINGER);

    let start = Instant::now();
    let mut client = Client::connect(server.address);
    client.write(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert_eq!(client.response().status, 200);
    client.expect_end();
    assert!(start.elapsed() >= LINGER);

    let start = Instant::now();
    let mut client = Client::connect(server.address);
    client.write(b"\x01\r\n\r\n");
    assert_eq!(client.response().status, 400);
    client.expect_end();
    assert!(start.elapsed() >= LINGER);
}

#[test]
fn a_lingering_connection_ends_with_its_client_and_holds_no_place() {
    let server = server(Faults { linger_ms: 3_600_000, ..Faults::default() });
    let mut by_message = closed(&server);
    let mut by_frame = Client::open(server.address);
    by_frame.write(&close_frame());
    assert_eq!(by_frame.expect_close(), 1000);
    let mut by_http = Client::connect(server.address);
    by_http.write(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert_eq!(by_http.response().status, 200);
    assert!(has_room(&server));
    for client in [&mut by_message, &mut by_frame, &mut by_http] {
        assert!(client.is_silent());
        client.stream.shutdown(Shutdown::Write).unwrap();
        client.expect_end();
    }
}

#[test]
fn a_slow_head_is_answered_with_408() {
    let limit = Duration::from_millis(200);
    let server = server(Faults { header_timeout: Some(limit), ..Faults::default() });
    let mut session = Client::open(server.address);
    for sent in [&b""[..], b"GET /ws HTTP/1.1\r\nHost: a\r\n"] {
        let start = Instant::now();
        let mut client = Client::connect(server.address);
        client.write(sent);
        let reply = client.response();
        assert_eq!(reply.status, 408);
        assert!(reply.head.starts_with("http/1.1 408 request timeout\r\n"), "{}", reply.head);
        client.expect_end();
        assert!(start.elapsed() >= limit);
    }
    session.ask(RESET, "observation");
}

/// Reads until the connection has died, however it did.
fn expect_death(client: &mut Client) {
    let mut rest = Vec::new();
    let read = client.stream.read_to_end(&mut rest);
    assert!(rest.is_empty(), "no close frame: {rest:?}");
    assert!(read.is_ok() || read.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
}

#[test]
fn a_worker_dies_with_its_sessions() {
    let mut server = Running::start(&["--exit-after", "0.2"]);
    assert_eq!(Client::connect(server.address).request("POST", "/reset", "").status, 200);
    let start = Instant::now();
    let mut client = Client::open(server.address);
    client.ask(RESET, "observation");
    expect_death(&mut client);
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert_eq!(server.ended().signal(), Some(nix::libc::SIGKILL));
}

#[test]
fn a_worker_that_has_died_is_replaced() {
    let server = Running::start(&["--workers", "2", "--exit-after", "0.1"]);
    let before = server.workers();
    let mut client = Client::open(server.address);
    let pid = client.ask(RESET, "observation")["observation"]["pid"].as_u64().expect("a pid");
    assert!(before.contains(&pid));
    expect_death(&mut client);
    eventually("a new worker", || {
        let now = server.workers();
        (now.len() == 2 && !now.contains(&pid)).then_some(())
    });
}

#[test]
fn a_deaf_server_gives_up_clients_that_answer() {
    let quick = |options: &mut Options| {
        options.ping_interval = Duration::from_millis(20);
        options.ping_timeout = Duration::from_millis(200);
    };
    let server = with_options(Faults { pong_deaf: true, ..Faults::default() }, quick);
    let start = Instant::now();
    let mut client = Client::open(server.address);
    let Got::Ping(payload) = client.receive() else { panic!("a ping comes") };
    client.write(&frame(0x8A, &payload));
    assert_eq!(client.receive(), Got::Close(1011, "keepalive ping timeout".into()));
    assert!(start.elapsed() >= Duration::from_millis(220));
    client.expect_end();
}
