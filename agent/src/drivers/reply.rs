//! Reads the replies of an OpenEnv server.
//!
//! A reply is an observation if it says so; its content belongs to the environment. Other environments may use the
//! field names of the benchmark environment with other meanings and types. Such fields are ignored; the reply is good.

use std::borrow::Cow;

use proto::FailureKind;
use proto::units::micros_of;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::fault::{Fault, without_controls};

/// The part of an observation that is used: who served it, how long it waited, and whether the episode is over.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reply {
    /// How long the server says that it waited.
    pub waited_us: Option<u64>,
    pub pid: Option<u64>,
    pub session_hash: Option<String>,
    pub host_url: Option<String>,
    pub done: bool,
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

/// A field that is not of the expected type counts as missing.
#[derive(Deserialize)]
struct ErrorData<'a> {
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    code: Option<&'a RawValue>,
    #[serde(borrow)]
    errors: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Step<'a> {
    #[serde(borrow)]
    observation: &'a RawValue,
    #[serde(borrow)]
    done: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Observation<'a> {
    #[serde(borrow)]
    waited_seconds: Option<&'a RawValue>,
    #[serde(borrow)]
    pid: Option<&'a RawValue>,
    #[serde(borrow)]
    session_hash: Option<&'a RawValue>,
    #[serde(borrow)]
    host_url: Option<&'a RawValue>,
}

/// The longest session hash or host that is kept, in bytes. A longer one, or one with control characters, is ignored.
const IDENTITY_BYTES_MAX: usize = 256;
/// How many faults of a refused action a message lists.
const ISSUES_MAX: usize = 5;

impl From<Step<'_>> for Reply {
    fn from(step: Step<'_>) -> Self {
        let done = step.done.is_some_and(|done| done.get() == "true");
        let Ok(seen) = serde_json::from_str::<Observation<'_>>(step.observation.get()) else {
            // The observation is no object: a list or a text, say.
            return Self { done, ..Self::default() };
        };
        let short = |value: Option<&RawValue>| {
            read::<String>(value).filter(|text| text.len() <= IDENTITY_BYTES_MAX && !text.chars().any(char::is_control))
        };
        Self {
            waited_us: read::<f64>(seen.waited_seconds).and_then(microseconds),
            pid: read(seen.pid),
            session_hash: short(seen.session_hash),
            host_url: short(seen.host_url),
            done,
        }
    }
}

/// The value as `T`; `None` if it is missing or of another type.
fn read<'a, T: Deserialize<'a>>(value: Option<&'a RawValue>) -> Option<T> {
    value.and_then(|value| serde_json::from_str(value.get()).ok())
}

fn microseconds(seconds: f64) -> Option<u64> {
    (0.0..=1e9).contains(&seconds).then(|| micros_of(seconds))
}

/// Reads a WebSocket reply to reset or step.
///
/// # Errors
/// An error frame gives the kind of its code; anything else that is no observation is `bad_reply`.
pub fn ws_observation(text: &str) -> Result<Reply, Fault> {
    strict_observation(text).or_else(|error| match without_bare_numbers(text) {
        Some(mended) => strict_observation(&mended),
        None => Err(error),
    })
}

fn strict_observation(text: &str) -> Result<Reply, Fault> {
    let bad = |what: &str| Fault::new(FailureKind::BadReply, format!("{what}: {}", excerpt(text)));
    let frame: Frame<'_> = serde_json::from_str(text).map_err(|error| bad(&format!("no reply frame ({error})")))?;
    let data = frame.data.ok_or_else(|| bad("a frame without data"))?.get();
    match frame.kind.as_ref() {
        "observation" => {
            let step: Step<'_> =
                serde_json::from_str(data).map_err(|error| bad(&format!("no observation ({error})")))?;
            Ok(step.into())
        }
        "error" => {
            let error: ErrorData<'_> =
                serde_json::from_str(data).map_err(|error| bad(&format!("no error frame ({error})")))?;
            Err(error_fault(&error))
        }
        other => Err(bad(&format!("a {other:?} frame where an observation was due"))),
    }
}

/// The fault that an error frame reports.
fn error_fault(error: &ErrorData<'_>) -> Fault {
    let text = |value: Option<&RawValue>| match read::<String>(value) {
        Some(text) => text,
        None => value.filter(|value| value.get() != "null").map_or_else(String::new, |value| excerpt(value.get())),
    };
    let kind = match text(error.code).as_str() {
        "CAPACITY_REACHED" => FailureKind::CapacityReached,
        code => FailureKind::ServerError(without_controls(code.chars().take(64).collect())),
    };
    let mut message = text(error.message);
    if let Some(issues) = error.errors.and_then(|errors| issues(errors.get())) {
        message = if message.is_empty() { issues } else { format!("{message}: {issues}") };
    }
    Fault::new(kind, message)
}

/// Formats a list of validation errors field by field, as in `tool_name: Field required`; `None` if it is no such list.
#[must_use]
pub fn issues(list: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issue<'a> {
        #[serde(default)]
        loc: Vec<serde_json::Value>,
        #[serde(borrow)]
        msg: Cow<'a, str>,
    }
    let issues: Vec<Issue<'_>> = serde_json::from_str(list).ok()?;
    let lines: Vec<String> = issues
        .iter()
        .take(ISSUES_MAX)
        .map(|issue| {
            let place: Vec<String> = issue
                .loc
                .iter()
                .map(|part| part.as_str().map_or_else(|| part.to_string(), ToOwned::to_owned))
                .collect();
            if place.is_empty() { issue.msg.to_string() } else { format!("{}: {}", place.join("."), issue.msg) }
        })
        .collect();
    let more = issues.len().saturating_sub(ISSUES_MAX);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    (!lines.is_empty()).then(|| format!("{}{more}", lines.join("; ")))
}

/// The fault that an unexpected frame reports, if it is an error frame.
#[must_use]
pub fn ws_error(text: &str) -> Option<Fault> {
    ws_observation(text)
        .err()
        .filter(|fault| matches!(fault.kind(), Some(FailureKind::CapacityReached | FailureKind::ServerError(_))))
}

/// Reads the body of a successful HTTP reset or step.
///
/// # Errors
/// `bad_reply` for anything that is no observation.
pub fn http_observation(body: &[u8]) -> Result<Reply, Fault> {
    let bad = |error: &dyn std::fmt::Display| {
        let text = String::from_utf8_lossy(body);
        Fault::new(FailureKind::BadReply, format!("no observation ({error}): {}", excerpt(&text)))
    };
    let text = std::str::from_utf8(body).map_err(|error| bad(&error))?;
    match serde_json::from_str::<Step<'_>>(text) {
        Ok(step) => Ok(step.into()),
        Err(error) => {
            let mended = without_bare_numbers(text).ok_or_else(|| bad(&error))?;
            serde_json::from_str::<Step<'_>>(&mended).map(Into::into).map_err(|_| bad(&error))
        }
    }
}

/// Replaces each NaN, Infinity and -Infinity outside of strings by `null`: Python writes them, JSON does not know them.
/// `None` if there is none.
fn without_bare_numbers(text: &str) -> Option<String> {
    const BARE: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    if !text.contains("Infinity") && !text.contains("NaN") {
        return None;
    }
    let mut mended = String::with_capacity(text.len());
    let (mut in_string, mut escaped, mut changed) = (false, false, false);
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        if !in_string && let Some(bare) = BARE.iter().find(|bare| rest.starts_with(**bare)) {
            mended.push_str("null");
            changed = true;
            rest = &rest[bare.len()..];
            continue;
        }
        match next {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            _ => {}
        }
        mended.push(next);
        rest = &rest[next.len_utf8()..];
    }
    changed.then_some(mended)
}

/// The first 120 characters of a text.
pub(super) fn excerpt(text: &str) -> String {
    let mut short: String = text.chars().take(120).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn observations_are_read() {
        let text = r#"{"type":"observation","data":{"observation":{"waited_seconds":0.05,"pid":8978,
            "session_hash":"0bdd8732ecc4","host_url":"vm:18000","step_count":1},"reward":null,"done":false}}"#;
        let reply = ws_observation(text).expect("observation");
        assert_eq!(reply.waited_us, Some(50_000));
        assert_eq!((reply.pid, reply.session_hash.as_deref()), (Some(8_978), Some("0bdd8732ecc4")));
        let other = r#"{"type":"observation","data":{"observation":{"board":[1,2]},"reward":1.0,"done":true}}"#;
        let over = Reply { done: true, ..Reply::default() };
        assert_eq!(ws_observation(other), Ok(over), "an environment that is not the benchmark one");
    }

    #[test]
    fn names_of_other_environments_are_no_identity_and_no_fault() {
        let long = format!(r#"{{"host_url":"{}"}}"#, "h".repeat(300));
        for observation in [
            r#"{"pid":"worker-3","session_hash":12345,"host_url":null,"waited_seconds":"long"}"#,
            r#"{"pid":-1,"session_hash":["a"],"waited_seconds":{}}"#,
            r#"{"pid":1e99,"pid":2}"#,
            r#"{"session_hash":"a\u001b[2J"}"#,
            &long,
            "[1,2,3]",
            r#""a board""#,
            "null",
            "7",
            r#"{"score":NaN,"best":Infinity,"worst":-Infinity,"said":"NaN, \"Infinity\""}"#,
        ] {
            let body = format!(r#"{{"observation":{observation},"reward":NaN,"done":"maybe"}}"#);
            assert_eq!(http_observation(body.as_bytes()), Ok(Reply::default()), "{body}");
            let text = format!(r#"{{"type":"observation","data":{body}}}"#);
            assert_eq!(ws_observation(&text), Ok(Reply::default()), "{text}");
        }
        let said = "NaN \\\" Infinity";
        assert_eq!(without_bare_numbers(&format!("{{\"a\":\"{said}\"}}")), None, "what is text stays");
    }

    #[test]
    fn error_frames_go_by_their_code() {
        let frame = |code: &str| format!(r#"{{"type":"error","data":{{"message":"m","code":"{code}","max":1}}}}"#);
        let kind = |text: &str| ws_observation(text).expect_err("a fault").kind().cloned();
        assert_eq!(kind(&frame("CAPACITY_REACHED")), Some(FailureKind::CapacityReached));
        assert_eq!(kind(&frame("FACTORY_ERROR")), Some(FailureKind::ServerError("FACTORY_ERROR".to_owned())));
        assert!(ws_error(&frame("X")).is_some());
        for bad in ["", "{}", "[]", r#"{"type":"state","data":{}}"#, r#"{"type":"observation"}"#, "<html>"] {
            assert_eq!(kind(bad), Some(FailureKind::BadReply), "{bad}");
            assert!(ws_error(bad).is_none());
        }
    }

    #[test]
    fn odd_members_of_error_frames_change_nothing() {
        let fault = |data: &str| ws_observation(&format!(r#"{{"type":"error","data":{data}}}"#)).expect_err("a fault");
        let full = fault(r#"{"message":null,"code":"CAPACITY_REACHED","active_sessions":null,"max_sessions":"8"}"#);
        assert_eq!((full.kind(), full.message.as_str()), (Some(&FailureKind::CapacityReached), ""));
        let numeric = fault(r#"{"message":["a"],"code":17}"#);
        assert_eq!(numeric.kind(), Some(&FailureKind::ServerError("17".to_owned())));
        assert_eq!(numeric.message, r#"["a"]"#);
        assert_eq!(fault("{}").kind(), Some(&FailureKind::ServerError(String::new())));
    }

    #[test]
    fn the_fields_that_a_server_names_are_told() {
        let text = r#"{"type":"error","data":{"message":"Invalid message","code":"VALIDATION_ERROR","errors":[
            {"type":"missing","loc":["data","tool_name"],"msg":"Field required","input":{}},
            {"type":"extra_forbidden","loc":["wait_seconds",0],"msg":"Extra inputs are not permitted","input":1.0}]}}"#;
        let fault = ws_observation(text).expect_err("a fault");
        assert_eq!(
            fault.message,
            "Invalid message: data.tool_name: Field required; wait_seconds.0: Extra inputs are not permitted"
        );
        assert_eq!(issues("{}"), None);
        let many: Vec<String> = (0..7).map(|n| format!(r#"{{"loc":["f{n}"],"msg":"no"}}"#)).collect();
        assert!(issues(&format!("[{}]", many.join(","))).expect("a list").ends_with("f4: no; and 2 more"));
    }

    #[test]
    fn waits_out_of_range_are_no_waits() {
        assert_eq!(microseconds(-1.0), None);
        assert_eq!(microseconds(f64::NAN), None);
        assert_eq!(microseconds(1.000_000_4), Some(1_000_000));
    }
}
