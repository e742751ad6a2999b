//! Every row of the protocol page's HTTP table.

use serde_json::json;

use crate::support::{Client, HANDSHAKE, Server, options};

fn server() -> Server {
    Server::start(options(|options| options.max_concurrent_envs = 1))
}

#[test]
fn calls_are_answered_over_one_connection() {
    let server = server();
    // The session limit does not apply to HTTP.
    let _session = Client::open(server.address);
    let mut client = Client::connect(server.address);
    for body in ["", "{}"] {
        let reply = client.request("POST", "/reset", body);
        assert_eq!(reply.status, 200);
        let reply = reply.json();
        assert_eq!((&reply["reward"], &reply["done"]), (&json!(null), &json!(false)));
        assert_eq!(reply.as_object().unwrap().len(), 3);
        let observation = reply["observation"].as_object().unwrap();
        assert_eq!(observation.len(), 5);
        assert_eq!((&observation["step_count"], &observation["waited_seconds"]), (&json!(0), &json!(0.0)));
    }
    let reply = client.request("POST", "/step", r#"{"action":{"wait_seconds":0.01}}"#);
    assert_eq!(reply.status, 200);
    let observation = reply.json()["observation"].clone();
    assert_eq!((&observation["step_count"], &observation["waited_seconds"]), (&json!(1), &json!(0.01)));
    // Each call has an environment of its own.
    let again = client.request("POST", "/step", r#"{"action":{"wait_seconds":0}}"#).json()["observation"].clone();
    assert_eq!(again["step_count"], 1);
    assert_ne!(again["session_hash"], observation["session_hash"]);

    assert_eq!(client.request("GET", "/health", "").json(), json!({"status": "healthy"}));
    assert_eq!(client.request("GET", "/state", "").json()["step_count"], 0);
    assert_eq!(client.request("GET", "/metadata", "").json()["name"], "benchmark");
    let schema = client.request("GET", "/schema?x=y", "").json();
    for part in ["action", "observation", "state"] {
        assert_eq!(schema[part]["type"], "object");
    }
}

#[test]
fn bad_bodies_get_422_with_detail() {
    let server = server();
    let mut client = Client::connect(server.address);
    for (path, body, kind) in [
        ("/reset", "[]", "model_attributes_type"),
        ("/reset", "nope", "json_invalid"),
        ("/step", "", "missing"),
        ("/step", "nope", "json_invalid"),
        ("/step", r#"{"wait_seconds":0}"#, "missing"),
        ("/step", r#"{"action":3}"#, "dict_type"),
        ("/step", r#"{"action":{"wait_seconds":"x"}}"#, "float_parsing"),
        ("/step", r#"{"action":{"wait_seconds":-1}}"#, "greater_than_equal"),
        ("/step", r#"{"action":{"wait_seconds":0,"x":1}}"#, "extra_forbidden"),
    ] {
        let reply = client.request("POST", path, body);
        assert_eq!(reply.status, 422, "{path} {body}");
        assert_eq!(reply.json()["detail"][0]["type"], kind, "{path} {body}");
    }
}

#[test]
fn other_requests_are_refused_as_fastapi_does() {
    let server = server();
    let mut client = Client::connect(server.address);
    for (method, path, status, detail) in [
        ("GET", "/step", 405, "Method Not Allowed"),
        ("GET", "/reset", 405, "Method Not Allowed"),
        ("POST", "/health", 405, "Method Not Allowed"),
        ("GET", "/nope", 404, "Not Found"),
        ("GET", "/ws", 404, "Not Found"),
    ] {
        let reply = client.request(method, path, "");
        assert_eq!(reply.status, status, "{method} {path}");
        assert_eq!(reply.json(), json!({"detail": detail}));
        assert_eq!(reply.head.contains("\r\nallow: "), status == 405);
    }
    let reply = client.request("POST", "/step", r#"{"action":{"wait_seconds":1e300}}"#);
    assert_eq!((reply.status, &reply.body[..]), (500, &b"Internal Server Error"[..]));
}

#[test]
fn what_is_not_http_ends_the_connection() {
    let server = server();
    for (bytes, status) in [
        ("\x01\r\n\r\n".into(), 400),
        (format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(20_000)), 431),
        ("POST /step HTTP/1.1\r\nContent-Length: 2000000\r\n\r\n".into(), 413),
        ("POST /step HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), 411),
    ] {
        let mut client = Client::connect(server.address);
        client.write(bytes.as_bytes());
        let reply = client.response();
        assert_eq!(reply.status, status);
        assert!(reply.head.contains("\r\nconnection: close\r\n"), "{}", reply.head);
        client.expect_end();
    }
}

#[test]
fn handshakes_against_the_rfc_are_refused() {
    let server = server();
    for (change, to, status) in
        [("/ws", "/other", 403), (": 13", ": 12", 426), ("dGhl", "xGhlIHNh", 400), ("Host: a\r\n", "", 400)]
    {
        let mut client = Client::connect(server.address);
        client.write(HANDSHAKE.replace(change, to).as_bytes());
        assert_eq!(client.response().status, status, "{change} {to}");
        // It is still an HTTP connection.
        assert_eq!(client.request("GET", "/health", "").status, 200);
    }
}

#[test]
fn a_connection_closes_when_asked_to_or_idle() {
    let server = server();
    let mut client = Client::connect(server.address);
    client.write(b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n");
    assert_eq!(client.response().status, 200);
    client.expect_end();

    let mut client = Client::connect(server.address);
    assert_eq!(client.request("GET", "/health", "").status, 200);
    client.expect_end();
}

#[test]
fn a_request_may_come_in_pieces_and_in_crowds() {
    let server = server();
    let mut client = Client::connect(server.address);
    for byte in b"POST /step HTTP/1.1\r\ncontent-length: 29\r\n\r\n{\"action\":{\"wait_seconds\": 0}}" {
        client.write(&[*byte]);
    }
    // One byte more than announced begins the next request, which is then no HTTP.
    assert_eq!(client.response().status, 422);
    assert_eq!(client.response().status, 400);

    let mut client = Client::connect(server.address);
    client.write(&b"GET /health HTTP/1.1\r\n\r\n".repeat(3));
    for _ in 0..3 {
        assert_eq!(client.response().status, 200);
    }
}
