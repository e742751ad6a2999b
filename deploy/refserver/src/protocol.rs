//! OpenEnv messages: parses a JSON text to a request, or to the error that answers it. Pure: no sockets.

use serde_json::{Map, Value, json};

use crate::frame::put_text;

/// A valid WebSocket message.
#[derive(Debug, PartialEq)]
pub(crate) enum Request {
    Reset,
    Step {
        /// Not negative and finite.
        wait_seconds: f64,
    },
    State,
    Close,
    Mcp(Map<String, Value>),
}

/// A message that is answered with an error.
#[derive(Debug, PartialEq)]
pub(crate) enum Refusal {
    /// The session goes on after this answer, the `data` of an error message.
    Recoverable(Value),
    /// SESSION_ERROR: the session ends after this answer, the `data` of an error message.
    Fatal(Value),
}

/// Reads one text message.
///
/// # Errors
/// The error message to answer with.
pub(crate) fn parse_message(text: &str) -> Result<Request, Refusal> {
    let value: Value = serde_json::from_str(text).map_err(|error| {
        Refusal::Recoverable(json!({"message": format!("Invalid JSON: {error}"), "code": "INVALID_JSON"}))
    })?;
    let Value::Object(mut message) = value else {
        return Err(session_error("the message is not a JSON object"));
    };
    let name = message.remove("type").unwrap_or(Value::from(""));
    let takes_data = match name.as_str() {
        Some("reset" | "step" | "mcp") => true,
        Some("state" | "close") => false,
        _ => {
            let shown = name.as_str().map_or_else(|| name.to_string(), str::to_owned);
            let message = format!("Unknown message type: {shown}");
            return Err(Refusal::Recoverable(json!({"message": message, "code": "UNKNOWN_TYPE"})));
        }
    };
    let data = if takes_data { message.remove("data") } else { None };
    let mut errors = Vec::new();
    let data = match data {
        Some(Value::Object(data)) => data,
        Some(other) => {
            errors.push(issue("dict_type", json!(["data"]), "Input should be a valid dictionary", other));
            Map::new()
        }
        None => {
            if matches!(name.as_str(), Some("step" | "mcp")) {
                errors.push(issue("missing", json!(["data"]), "Field required", json!({"type": name})));
            }
            Map::new()
        }
    };
    forbid_extra(message, &mut errors);
    if !errors.is_empty() {
        return Err(validation_error(errors));
    }
    Ok(match name.as_str() {
        Some("reset") => Request::Reset,
        Some("state") => Request::State,
        Some("close") => Request::Close,
        Some("mcp") => Request::Mcp(data),
        _ => Request::Step { wait_seconds: parse_action(data).map_err(validation_error)? },
    })
}

/// Reads a step's action and returns its `wait_seconds`, 0 if absent. A number may be a string, as in pydantic's lax
/// mode. `metadata` is the only other field that every OpenEnv action has.
///
/// # Errors
/// Every issue found, in pydantic's shape.
pub(crate) fn parse_action(mut action: Map<String, Value>) -> Result<f64, Vec<Value>> {
    let mut errors = Vec::new();
    let mut wait_seconds = 0.0;
    let loc = || json!(["wait_seconds"]);
    if let Some(value) = action.remove("wait_seconds") {
        let parsed = match &value {
            Value::Number(number) => number.as_f64().ok_or(("float_type", "Input should be a valid number")),
            Value::Bool(flag) => Ok(f64::from(u8::from(*flag))),
            Value::String(text) => text
                .trim()
                .parse()
                .map_err(|_| ("float_parsing", "Input should be a valid number, unable to parse string as a number")),
            _ => Err(("float_type", "Input should be a valid number")),
        };
        match parsed {
            Ok(seconds) if !f64::is_finite(seconds) => {
                errors.push(issue("finite_number", loc(), "Input should be a finite number", value));
            }
            Ok(seconds) if seconds < 0.0 => {
                errors.push(issue("greater_than_equal", loc(), "Input should be greater than or equal to 0", value));
            }
            // Adding 0.0 turns a negative zero into zero, so that it is not echoed.
            Ok(seconds) => wait_seconds = seconds + 0.0,
            Err((kind, message)) => errors.push(issue(kind, loc(), message, value)),
        }
    }
    if let Some(metadata) = action.remove("metadata")
        && !metadata.is_object()
    {
        errors.push(issue("dict_type", json!(["metadata"]), "Input should be a valid dictionary", metadata));
    }
    forbid_extra(action, &mut errors);
    if errors.is_empty() { Ok(wait_seconds) } else { Err(errors) }
}

fn forbid_extra(rest: Map<String, Value>, errors: &mut Vec<Value>) {
    errors.extend(
        rest.into_iter()
            .map(|(name, value)| issue("extra_forbidden", json!([name]), "Extra inputs are not permitted", value)),
    );
}

/// One entry of `errors` (WebSocket) or `detail` (HTTP).
pub(crate) fn issue(kind: &str, loc: Value, message: &str, input: Value) -> Value {
    json!({"type": kind, "loc": loc, "msg": message, "input": input})
}

fn validation_error(errors: Vec<Value>) -> Refusal {
    Refusal::Recoverable(json!({"message": "Invalid message", "code": "VALIDATION_ERROR", "errors": errors}))
}

pub(crate) fn session_error(message: &str) -> Refusal {
    Refusal::Fatal(json!({"message": message, "code": "SESSION_ERROR"}))
}

/// The message of the injected failure of a step.
pub(crate) fn execution_error() -> Value {
    json!({"message": "the step failed on purpose", "code": "EXECUTION_ERROR"})
}

/// The message that answers a step after the last of its episode.
pub(crate) fn episode_over() -> Value {
    json!({"message": "the episode is over", "code": "EXECUTION_ERROR"})
}

/// Gives members of an error's data other types.
pub(crate) fn make_odd(data: &mut Value) {
    data["message"] = Value::Null;
    if data["code"] == "CAPACITY_REACHED" {
        data["active_sessions"] = Value::Null;
    } else {
        data["code"] = 17.into();
    }
}

pub(crate) fn factory_error() -> Value {
    json!({
        "message": "Failed to create environment from factory 'Benchmark'",
        "code": "FACTORY_ERROR",
        "factory_name": "Benchmark"
    })
}

pub(crate) fn capacity_reached(active_sessions: usize, max_sessions: usize) -> Value {
    json!({
        "message": format!(
            "Server at capacity: {active_sessions}/{max_sessions} sessions active. Cannot accept new connections."
        ),
        "code": "CAPACITY_REACHED",
        "active_sessions": active_sessions,
        "max_sessions": max_sessions
    })
}

/// The JSON-RPC 2.0 reply of an environment without tools.
pub(crate) fn mcp_reply(request: &Map<String, Value>) -> Value {
    let id = request.get("id").cloned().unwrap_or(Value::Null);
    let error =
        |code: i32, message: String| json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}});
    match (request.get("jsonrpc").and_then(Value::as_str), request.get("method").and_then(Value::as_str)) {
        (Some("2.0"), Some("tools/list")) => json!({"jsonrpc": "2.0", "id": id, "result": {"tools": []}}),
        (Some("2.0"), Some(method)) => error(-32601, format!("Method not found: {method}")),
        _ => error(-32600, "Invalid request".into()),
    }
}

/// Appends the text frame `{"type":kind,"data":...}` where `write_data` appends the data.
pub(crate) fn put_message(out: &mut Vec<u8>, kind: &str, write_data: impl FnOnce(&mut Vec<u8>)) {
    put_text(out, |out| {
        for part in [r#"{"type":""#, kind, r#"","data":"#] {
            out.extend_from_slice(part.as_bytes());
        }
        write_data(out);
        out.push(b'}');
    });
}

/// As [`put_message`], for data that is built as a value.
pub(crate) fn put_value(out: &mut Vec<u8>, kind: &str, data: &Value) {
    put_message(out, kind, |out| out.extend_from_slice(data.to_string().as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(text: &str) -> String {
        match parse_message(text) {
            Err(Refusal::Recoverable(data)) => data["code"].as_str().unwrap().to_owned(),
            Err(Refusal::Fatal(data)) => format!("fatal {}", data["code"].as_str().unwrap()),
            Ok(request) => panic!("{text} is accepted: {request:?}"),
        }
    }

    #[test]
    fn every_message_of_the_table_is_read() {
        assert_eq!(parse_message(r#"{"type":"reset","data":{}}"#), Ok(Request::Reset));
        assert_eq!(parse_message(r#"{"type":"reset"}"#), Ok(Request::Reset));
        assert_eq!(parse_message(r#"{"type":"reset","data":{"seed":1}}"#), Ok(Request::Reset));
        assert_eq!(parse_message(r#"{"type":"state"}"#), Ok(Request::State));
        assert_eq!(parse_message(r#"{"type":"close"}"#), Ok(Request::Close));
        for (data, expected) in [
            (r#"{"wait_seconds":1.5}"#, 1.5),
            (r#"{"wait_seconds":2}"#, 2.0),
            (r#"{"wait_seconds":"0.25"}"#, 0.25),
            (r#"{"wait_seconds":-0.0}"#, 0.0),
            (r#"{"metadata":{"a":1}}"#, 0.0),
            ("{}", 0.0),
        ] {
            let text = format!(r#"{{"type":"step","data":{data}}}"#);
            assert_eq!(parse_message(&text), Ok(Request::Step { wait_seconds: expected }), "{text}");
        }
    }

    #[test]
    fn every_bad_message_gets_its_code() {
        for text in ["nope", "", "{", r#"{"type":"reset"}x"#] {
            assert_eq!(code_of(text), "INVALID_JSON", "{text}");
        }
        for text in ["{}", r#"{"type":"foo"}"#, r#"{"type":5}"#, r#"{"type":null}"#] {
            assert_eq!(code_of(text), "UNKNOWN_TYPE", "{text}");
        }
        for text in ["[]", "5", r#""reset""#, "null"] {
            assert_eq!(code_of(text), "fatal SESSION_ERROR", "{text}");
        }
        for text in [
            r#"{"type":"reset","data":[]}"#,
            r#"{"type":"reset","x":1}"#,
            r#"{"type":"state","data":{}}"#,
            r#"{"type":"close","data":{}}"#,
            r#"{"type":"step"}"#,
            r#"{"type":"step","data":3}"#,
            r#"{"type":"step","data":{"wait_seconds":-1}}"#,
            r#"{"type":"step","data":{"wait_seconds":"x"}}"#,
            r#"{"type":"step","data":{"wait_seconds":"inf"}}"#,
            r#"{"type":"step","data":{"wait_seconds":null}}"#,
            r#"{"type":"step","data":{"wait_seconds":1,"x":1}}"#,
            r#"{"type":"step","data":{"metadata":1}}"#,
            r#"{"type":"mcp"}"#,
        ] {
            assert_eq!(code_of(text), "VALIDATION_ERROR", "{text}");
        }
    }

    #[test]
    fn a_validation_error_lists_every_issue() {
        let Err(Refusal::Recoverable(data)) =
            parse_message(r#"{"type":"step","data":{"wait_seconds":"x","a":1,"b":2}}"#)
        else {
            panic!("it is refused")
        };
        let kinds: Vec<&str> = data["errors"].as_array().unwrap().iter().map(|e| e["type"].as_str().unwrap()).collect();
        assert_eq!(kinds, ["float_parsing", "extra_forbidden", "extra_forbidden"]);
        assert_eq!(data["errors"][1]["loc"], json!(["a"]));
    }

    #[test]
    fn mcp_knows_no_tools() {
        let reply = |text: &str| mcp_reply(serde_json::from_str::<Value>(text).unwrap().as_object().unwrap());
        let listed = reply(r#"{"jsonrpc":"2.0","id":3,"method":"tools/list"}"#);
        assert_eq!(listed, json!({"jsonrpc": "2.0", "id": 3, "result": {"tools": []}}));
        assert_eq!(reply(r#"{"jsonrpc":"2.0","id":"a","method":"x"}"#)["error"]["code"], -32601);
        assert_eq!(reply("{}")["error"]["code"], -32600);
        assert_eq!(reply("{}")["id"], Value::Null);
    }
}
