//! What an OpenEnv server answers, read.

use std::borrow::Cow;

use proto::FailureKind;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Fault, plain};

/// Of an observation, what tells who served it. Environments other than the benchmark one may leave all of it out.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Reply {
    pub waited_us: Option<u64>,
    pub pid: Option<u64>,
    pub session_hash: Option<String>,
    pub host_url: Option<String>,
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ErrorData<'a> {
    #[serde(borrow, default)]
    message: Cow<'a, str>,
    #[serde(borrow, default)]
    code: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Step<'a> {
    #[serde(borrow)]
    observation: Observation<'a>,
}

#[derive(Deserialize)]
struct Observation<'a> {
    waited_seconds: Option<f64>,
    pid: Option<u64>,
    #[serde(borrow)]
    session_hash: Option<Cow<'a, str>>,
    #[serde(borrow)]
    host_url: Option<Cow<'a, str>>,
}

/// The longest identity kept from a reply, in bytes; a longer one is no identity, nor is one that is not plain text.
const IDENTITY_BYTES_MAX: usize = 256;

impl TryFrom<Observation<'_>> for Reply {
    type Error = Fault;

    fn try_from(seen: Observation<'_>) -> Result<Self, Fault> {
        let short = |what: &str, value: Option<Cow<'_, str>>| match value {
            Some(text) if text.len() > IDENTITY_BYTES_MAX => {
                Err(Fault::new(FailureKind::BadReply, format!("{what} of {} bytes", text.len())))
            }
            Some(text) if text.chars().any(char::is_control) => {
                Err(Fault::new(FailureKind::BadReply, format!("{what} with control characters: {text}")))
            }
            other => Ok(other.map(Cow::into_owned)),
        };
        Ok(Self {
            waited_us: seen.waited_seconds.and_then(microseconds),
            pid: seen.pid,
            session_hash: short("session_hash", seen.session_hash)?,
            host_url: short("host_url", seen.host_url)?,
        })
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked first")]
fn microseconds(seconds: f64) -> Option<u64> {
    (0.0..=1e9).contains(&seconds).then(|| (seconds * 1e6).round() as u64)
}

/// Reads a WebSocket reply to reset or step.
///
/// # Errors
/// An error frame by its code; anything that is no observation is a bad reply.
pub fn ws_observation(text: &str) -> Result<Reply, Fault> {
    let bad = |what: &str| Fault::new(FailureKind::BadReply, format!("{what}: {}", excerpt(text)));
    let frame: Frame<'_> = serde_json::from_str(text).map_err(|error| bad(&format!("no reply frame ({error})")))?;
    let data = frame.data.ok_or_else(|| bad("a frame without data"))?.get();
    match frame.kind.as_ref() {
        "observation" => {
            let step: Step<'_> =
                serde_json::from_str(data).map_err(|error| bad(&format!("no observation ({error})")))?;
            step.observation.try_into()
        }
        "error" => {
            let error: ErrorData<'_> =
                serde_json::from_str(data).map_err(|error| bad(&format!("no error frame ({error})")))?;
            let kind = match error.code.as_ref() {
                "CAPACITY_REACHED" => FailureKind::CapacityReached,
                code => FailureKind::ServerError(plain(code.chars().take(64).collect())),
            };
            Err(Fault::new(kind, error.message))
        }
        other => Err(bad(&format!("a {other:?} frame where an observation was due"))),
    }
}

/// Whether a frame that came unasked is an error frame, and which.
#[must_use]
pub fn ws_error(text: &str) -> Option<Fault> {
    ws_observation(text)
        .err()
        .filter(|fault| matches!(fault.kind(), Some(FailureKind::CapacityReached | FailureKind::ServerError(_))))
}

/// Reads the body of a successful HTTP reset or step.
///
/// # Errors
/// A bad reply.
pub fn http_observation(body: &[u8]) -> Result<Reply, Fault> {
    let step: Step<'_> = serde_json::from_slice(body).map_err(|error| {
        let text = String::from_utf8_lossy(body);
        Fault::new(FailureKind::BadReply, format!("no observation ({error}): {}", excerpt(&text)))
    })?;
    step.observation.try_into()
}

fn excerpt(text: &str) -> String {
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
        assert_eq!(ws_observation(other), Ok(Reply::default()), "an environment that is not the benchmark one");
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
    fn waits_out_of_range_are_no_waits() {
        assert_eq!(microseconds(-1.0), None);
        assert_eq!(microseconds(f64::NAN), None);
        assert_eq!(microseconds(1.000_000_4), Some(1_000_000));
    }
}
