//! Every fault option as a client sees it. Delays are shown in `session`'s own tests, where time is a value, and held
//! against what the server says of itself in `truth`.

use refserver::Faults;

use crate::support::{Client, Got, HANDSHAKE, RESET, STATE, Server, eventually, frame, options, step};

fn server(faults: Faults) -> Server {
    Server::start(options(|options| options.faults = faults))
}

#[test]
fn a_dropped_step_is_a_reset() {
    let server = server(Faults { drop_rate: 1.0, ..Faults::default() });
    let mut client = Client::open(server.address);
    client.ask(RESET, "observation");
    client.send(&step(0.0));
    client.expect_reset();

    let mut client = Client::connect(server.address);
    client.write(b"POST /step HTTP/1.1\r\nContent-Length: 13\r\n\r\n{\"action\":{}}");
    client.expect_reset();
}

#[test]
fn a_stalled_step_is_never_answered_and_keeps_its_place() {
    let faults = Faults { stall_rate: 1.0, ..Faults::default() };
    let server = Server::start(options(|options| (options.faults, options.max_concurrent_envs) = (faults, 1)));
    let mut client = Client::open(server.address);
    client.ask(RESET, "observation");
    client.send(&step(0.0));
    client.send(STATE);
    client.write(&frame(0x89, b"there?"));
    // The state waits behind the step and would have come first.
    assert_eq!(client.receive(), Got::Pong(b"there?".to_vec()));
    assert_eq!(Client::open(server.address).expect("error")["code"], "CAPACITY_REACHED");
    drop(client);
    eventually("the place is free", || {
        let mut client = Client::open(server.address);
        client.send(STATE);
        matches!(client.receive(), Got::Json(message) if message["type"] == "state").then_some(())
    });

    let mut client = Client::connect(server.address);
    client.write(b"POST /step HTTP/1.1\r\nContent-Length: 13\r\n\r\n{\"action\":{}}");
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    client.expect_end();
}

#[test]
fn a_failed_step_is_an_execution_error() {
    let server = server(Faults { fail_step_rate: 1.0, ..Faults::default() });
    let mut client = Client::open(server.address);
    assert_eq!(client.ask(&step(0.0), "error")["code"], "EXECUTION_ERROR");
    assert_eq!(client.ask(STATE, "state")["step_count"], 1);
    let reply = Client::connect(server.address).request("POST", "/step", r#"{"action":{}}"#);
    assert_eq!(reply.status, 500);
}

#[test]
fn a_failed_factory_closes_the_session() {
    let server = server(Faults { factory_error_rate: 1.0, ..Faults::default() });
    let mut client = Client::open(server.address);
    assert_eq!(client.expect("error")["code"], "FACTORY_ERROR");
    assert_eq!(client.expect_close(), 1000);
    assert_eq!(Client::connect(server.address).request("POST", "/reset", "").status, 500);
}

#[test]
fn a_refused_upgrade_has_the_status_asked_for() {
    let server = server(Faults { refuse_upgrade: Some(503), ..Faults::default() });
    let mut client = Client::connect(server.address);
    client.write(HANDSHAKE.as_bytes());
    assert_eq!(client.response().status, 503);
    assert_eq!(client.request("GET", "/health", "").status, 200);
}

#[test]
fn another_web_server_knows_no_openenv() {
    let server = server(Faults { not_openenv: true, ..Faults::default() });
    let mut client = Client::connect(server.address);
    for path in ["/", "/health", "/ws", "/reset"] {
        let reply = client.request("GET", path, "");
        assert_eq!(reply.status, 200);
        assert!(reply.head.contains("content-type: text/html"), "{}", reply.head);
    }
    client.write(HANDSHAKE.as_bytes());
    assert_eq!(client.response().status, 200);
}

#[test]
fn a_hosted_space_has_sessions_only() {
    let server = server(Faults { no_http: true, ..Faults::default() });
    let mut client = Client::connect(server.address);
    for path in ["/reset", "/step"] {
        assert_eq!(client.request("POST", path, "{}").status, 404);
    }
    assert_eq!(client.request("GET", "/health", "").status, 200);
    Client::open(server.address).ask(RESET, "observation");
}

#[test]
fn a_session_is_closed_behind_its_reset() {
    let server = server(Faults { close_code: Some(1013), ..Faults::default() });
    let mut client = Client::open(server.address);
    client.ask(RESET, "observation");
    assert_eq!(client.expect_close(), 1013);
}
