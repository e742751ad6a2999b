//! HTTP/1.1 requests and responses without IO: parses heads, finds routes, formats responses.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::Write as _;

use base64::Engine as _;
use serde_json::{Map, Value, json};
use sha1::{Digest as _, Sha1};

use crate::faults::Rejection;
use crate::protocol::{issue, parse_action};

pub(crate) const HEAD_BYTES_MAX: usize = 16 * 1024;
pub(crate) const BODY_BYTES_MAX: usize = 1024 * 1024;
const HEADERS_MAX: usize = 100;

/// A request without its body.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) route: Route,
    pub(crate) keep_alive: bool,
    pub(crate) body_bytes: usize,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Reset,
    Step,
    State,
    Health,
    Metadata,
    Schema,
    /// A valid handshake for `/ws`, with the value of `Sec-WebSocket-Accept`.
    WebSocket(String),
    /// A handshake for any other path.
    ForeignWebSocket,
    /// A handshake against RFC 6455 section 4.2.1, with the status that answers it.
    BadWebSocket(u16),
    NotFound,
    /// With the method that is allowed.
    WrongMethod(&'static str),
}

/// Reads a request head. Returns it with its length in bytes; `None` if it is incomplete.
///
/// # Errors
/// The status that answers a head that can't be served. The connection can't be used any more.
pub(crate) fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, u16> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let head_bytes = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= HEAD_BYTES_MAX => length,
        Ok(httparse::Status::Partial) if bytes.len() <= HEAD_BYTES_MAX => return Ok(None),
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Err(431),
        Err(_) => return Err(400),
    };
    let has_token = |name: &str, token: &str| {
        values(&request, name).any(|value| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token)))
    };
    if values(&request, "transfer-encoding").next().is_some() {
        return Err(411);
    }
    let mut body_bytes = 0;
    let mut lengths = values(&request, "content-length");
    if let Some(length) = lengths.next() {
        if lengths.next().is_some() || length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(400);
        }
        body_bytes = length.parse().unwrap_or(usize::MAX);
    }
    if body_bytes > BODY_BYTES_MAX {
        return Err(413);
    }
    // From HTTP/1.1 on a connection is persistent unless a header says otherwise (RFC 9112 section 9.3).
    let is_1_1 = request.version == Some(1);
    let keep_alive = if is_1_1 { !has_token("connection", "close") } else { has_token("connection", "keep-alive") };
    let is_handshake = is_1_1 && has_token("connection", "upgrade") && has_token("upgrade", "websocket");
    let path = request.path.unwrap_or_default().split('?').next().unwrap_or_default();
    let method = request.method.unwrap_or_default();
    let route = if is_handshake { handshake_route(&request, method, path) } else { http_route(method, path) };
    Ok(Some((Head { route, keep_alive, body_bytes }, head_bytes)))
}

/// The values of header `name`. A value that is not UTF-8 counts as empty.
fn values<'a>(request: &'a httparse::Request<'_, '_>, name: &'a str) -> impl Iterator<Item = &'a str> {
    request
        .headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name))
        .map(|header| std::str::from_utf8(header.value).unwrap_or_default().trim())
}

fn http_route(method: &str, path: &str) -> Route {
    let (allowed, route) = match path {
        "/reset" => ("POST", Route::Reset),
        "/step" => ("POST", Route::Step),
        "/state" => ("GET", Route::State),
        "/health" => ("GET", Route::Health),
        "/metadata" => ("GET", Route::Metadata),
        "/schema" => ("GET", Route::Schema),
        _ => return Route::NotFound,
    };
    if method == allowed { route } else { Route::WrongMethod(allowed) }
}

fn handshake_route(request: &httparse::Request<'_, '_>, method: &str, path: &str) -> Route {
    let mut keys = values(request, "sec-websocket-key");
    let key = match (keys.next(), keys.next()) {
        (Some(key), None) => key,
        _ => return Route::BadWebSocket(400),
    };
    let is_nonce = base64::engine::general_purpose::STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16);
    if method != "GET" || !is_nonce || values(request, "host").count() != 1 {
        Route::BadWebSocket(400)
    } else if values(request, "sec-websocket-version").next() != Some("13") {
        Route::BadWebSocket(426)
    } else if path == "/ws" {
        Route::WebSocket(accept_key(key))
    } else {
        Route::ForeignWebSocket
    }
}

/// The value of `Sec-WebSocket-Accept` (RFC 6455 section 4.2.2, item 5.4).
fn accept_key(key: &str) -> String {
    let mut sha1 = Sha1::new();
    sha1.update(key.as_bytes());
    sha1.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    base64::engine::general_purpose::STANDARD.encode(sha1.finalize())
}

/// The response that turns the connection into a WebSocket, with additional header lines.
pub(crate) fn upgrade_response(accept: &str, more_headers: u16) -> Vec<u8> {
    let more = header_lines(more_headers);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n{more}\r\n"
    )
    .into_bytes()
}

/// Header lines without a meaning.
fn header_lines(count: u16) -> String {
    let value = "x".repeat(if count == 0 { 0 } else { 200 });
    (1..=count).fold(String::new(), |mut lines, index| {
        // Writing to a String cannot fail.
        let _ = write!(lines, "x-extra-{index}: {value}\r\n");
        lines
    })
}

/// A response to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    content_type: &'static str,
    body: Vec<u8>,
    /// Complete header lines.
    extra: Cow<'static, str>,
}

impl Response {
    /// 200 with a body that is already JSON.
    pub(crate) fn json(body: Vec<u8>) -> Self {
        Self { status: 200, content_type: "application/json", body, extra: "".into() }
    }

    /// 200 with an HTML page, like a server that does not know OpenEnv.
    pub(crate) fn html() -> Self {
        let body = b"<!doctype html><title>It works</title><h1>It works</h1>\n".to_vec();
        Self { status: 200, content_type: "text/html; charset=utf-8", body, extra: "".into() }
    }

    /// A status with the body `{"detail":"reason"}`, like FastAPI; for 500 with a text, like uvicorn.
    pub(crate) fn status(status: u16) -> Self {
        if status == 500 {
            let body = b"Internal Server Error".to_vec();
            return Self { status, content_type: "text/plain; charset=utf-8", body, extra: "".into() };
        }
        let extra = if status == 426 { "sec-websocket-version: 13\r\n" } else { "" };
        Self { status, extra: extra.into(), ..Self::json(json!({"detail": reason(status)}).to_string().into_bytes()) }
    }

    /// A status with the headers that a rejection has.
    pub(crate) fn rejection(rejection: Rejection<'_>) -> Self {
        let mut response = Self::status(rejection.status);
        if (300..400).contains(&rejection.status) {
            response.extra.to_mut().push_str("location: /elsewhere\r\n");
        }
        if let Some(value) = rejection.retry_after {
            let _ = write!(response.extra.to_mut(), "retry-after: {value}\r\n");
        }
        response
    }

    /// Adds header lines without a meaning.
    pub(crate) fn add_headers(&mut self, count: u16) {
        if count > 0 {
            self.extra.to_mut().push_str(&header_lines(count));
        }
    }

    pub(crate) fn wrong_method(allowed: &'static str) -> Self {
        let extra = if allowed == "GET" { "allow: GET\r\n" } else { "allow: POST\r\n" };
        Self { extra: extra.into(), ..Self::status(405) }
    }

    /// 422 with the issues found.
    pub(crate) fn unprocessable(detail: &[Value]) -> Self {
        Self { status: 422, ..Self::json(json!({"detail": detail}).to_string().into_bytes()) }
    }

    /// Appends the response as it is sent.
    pub(crate) fn put(&self, keep_alive: bool, out: &mut Vec<u8>) {
        let connection = if keep_alive { "" } else { "connection: close\r\n" };
        // Writing to a Vec cannot fail.
        let _ = write!(
            out,
            "HTTP/1.1 {} {}\r\nserver: refserver\r\ncontent-type: {}\r\n",
            self.status,
            reason(self.status),
            self.content_type
        );
        // These two have no body and no length (RFC 9110 sections 8.6 and 15.3.5).
        if matches!(self.status, 204 | 304) {
            let _ = write!(out, "{}{connection}\r\n", self.extra);
        } else {
            let _ = write!(out, "content-length: {}\r\n{}{connection}\r\n", self.body.len(), self.extra);
            out.extend_from_slice(&self.body);
        }
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        301 => "Moved Permanently",
        302 => "Found",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}

/// Checks the body of POST /reset: empty or an object.
///
/// # Errors
/// The issues found.
pub(crate) fn parse_reset(body: &[u8]) -> Result<(), Vec<Value>> {
    if body.is_empty() { Ok(()) } else { parse_object(body).map(|_| ()) }
}

/// Reads the body of POST /step, an action wrapped in `action`, and returns its `wait_seconds`.
///
/// # Errors
/// The issues found.
pub(crate) fn parse_step(body: &[u8]) -> Result<f64, Vec<Value>> {
    if body.is_empty() {
        return Err(vec![issue("missing", json!(["body"]), "Field required", Value::Null)]);
    }
    let mut request = parse_object(body)?;
    let loc = || json!(["body", "action"]);
    match request.remove("action") {
        Some(Value::Object(action)) => parse_action(action),
        Some(other) => Err(vec![issue("dict_type", loc(), "Input should be a valid dictionary", other)]),
        None => Err(vec![issue("missing", loc(), "Field required", Value::Object(request))]),
    }
}

fn parse_object(body: &[u8]) -> Result<Map<String, Value>, Vec<Value>> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => {
            let message = "Input should be a valid dictionary or object to extract fields from";
            Err(vec![issue("model_attributes_type", json!(["body"]), message, other)])
        }
        Err(error) => {
            let mut found = issue("json_invalid", json!(["body", error.column()]), "JSON decode error", json!({}));
            found["ctx"] = json!({"error": error.to_string()});
            Err(vec![found])
        }
    }
}

pub(crate) const HEALTH: &str = r#"{"status":"healthy"}"#;

/// The reply to GET /metadata.
pub(crate) fn metadata() -> Value {
    json!({
        "name": "benchmark",
        "description": "Waits as long as a step says and tells who served it",
        "readme_content": null,
        "version": env!("CARGO_PKG_VERSION"),
        "author": null,
        "documentation_url": null
    })
}

/// The reply to GET /schema: a JSON schema each for action, observation and state.
pub(crate) fn schema() -> Value {
    let metadata = json!({"additionalProperties": true, "title": "Metadata", "type": "object"});
    json!({
        "action": {
            "additionalProperties": false,
            "properties": {
                "metadata": metadata,
                "wait_seconds": {"default": 0.0, "minimum": 0, "title": "Wait Seconds", "type": "number"}
            },
            "title": "BenchmarkAction",
            "type": "object"
        },
        "observation": {
            "additionalProperties": false,
            "properties": {
                "done": {"default": false, "title": "Done", "type": "boolean"},
                "reward": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": null, "title": "Reward"},
                "metadata": metadata,
                "waited_seconds": {"default": 0.0, "title": "Waited Seconds", "type": "number"},
                "pid": {"default": 0, "title": "Pid", "type": "integer"},
                "session_hash": {"default": "", "title": "Session Hash", "type": "string"},
                "host_url": {"default": "", "title": "Host Url", "type": "string"},
                "step_count": {"default": 0, "title": "Step Count", "type": "integer"}
            },
            "title": "BenchmarkObservation",
            "type": "object"
        },
        "state": {
            "additionalProperties": true,
            "properties": {
                "episode_id": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": null, "title": "Episode Id"},
                "step_count": {"default": 0, "minimum": 0, "title": "Step Count", "type": "integer"}
            },
            "title": "State",
            "type": "object"
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HANDSHAKE: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

    fn route(text: &str) -> Route {
        parse_head(text.as_bytes()).unwrap().unwrap().0.route
    }

    #[test]
    fn the_accept_key_is_that_of_the_rfc() {
        // RFC 6455 section 1.3.
        assert_eq!(route(HANDSHAKE), Route::WebSocket("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".into()));
    }

    #[test]
    fn a_bad_handshake_is_told_apart() {
        assert_eq!(route(&HANDSHAKE.replace("/ws", "/mcp")), Route::ForeignWebSocket);
        assert_eq!(route(&HANDSHAKE.replace("/ws", "/ws?a=b")), route(HANDSHAKE));
        assert_eq!(route(&HANDSHAKE.replace("13\r", "8\r")), Route::BadWebSocket(426));
        assert_eq!(route(&HANDSHAKE.replace("dGhl", "")), Route::BadWebSocket(400));
        assert_eq!(route(&HANDSHAKE.replace("GET", "POST")), Route::BadWebSocket(400));
        assert_eq!(route(&HANDSHAKE.replace("Upgrade: WebSocket\r\n", "")), Route::NotFound);
    }

    #[test]
    fn a_head_is_whole_or_nothing() {
        for end in 0..HANDSHAKE.len() {
            assert_eq!(parse_head(&HANDSHAKE.as_bytes()[..end]), Ok(None), "{end}");
        }
        let with_body = "POST /step HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello";
        let expected = Head { route: Route::Step, keep_alive: true, body_bytes: 5 };
        assert_eq!(parse_head(with_body.as_bytes()), Ok(Some((expected, with_body.len() - 5))));
    }

    #[test]
    fn heads_beyond_the_limits_are_refused() {
        let head = |line: &str| parse_head(format!("POST /step HTTP/1.1\r\n{line}\r\n").as_bytes()).map(|_| ());
        assert_eq!(head("Transfer-Encoding: chunked\r\n"), Err(411));
        assert_eq!(head("Content-Length: -1\r\n"), Err(400));
        assert_eq!(head("Content-Length: 1\r\nContent-Length: 1\r\n"), Err(400));
        assert_eq!(head(&format!("Content-Length: {}\r\n", BODY_BYTES_MAX + 1)), Err(413));
        assert_eq!(head("Content-Length: 99999999999999999999999\r\n"), Err(413));
        assert_eq!(head(&format!("A: {}\r\n", "x".repeat(HEAD_BYTES_MAX))), Err(431));
        assert_eq!(head(&"A: x\r\n".repeat(HEADERS_MAX + 1)), Err(431));
        assert_eq!(parse_head(&[b'x'; HEAD_BYTES_MAX + 1]), Err(431));
        assert_eq!(parse_head(b"\x00\r\n\r\n"), Err(400));
    }

    #[test]
    fn persistence_follows_version_and_header() {
        let keeps = |text: &str| parse_head(text.as_bytes()).unwrap().unwrap().0.keep_alive;
        assert!(keeps("GET /health HTTP/1.1\r\n\r\n"));
        assert!(!keeps("GET /health HTTP/1.1\r\nConnection: Close\r\n\r\n"));
        assert!(!keeps("GET /health HTTP/1.0\r\n\r\n"));
        assert!(keeps("GET /health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"));
    }
}
