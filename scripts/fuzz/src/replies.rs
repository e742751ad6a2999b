//! A server's replies: accepted with values in range, or refused with a reason in one plain line.

use agent::drivers::{Fault, Reply};
use proto::limits;
use proto::{FailureKind, Phase, SessionRecord, pb};

/// The longest identity that a reply may have, in bytes.
const IDENTITY_BYTES_MAX: usize = 256;

/// The answer to an upgrade with [`upgrade_answer::KEY`].
pub mod upgrade_answer {
    use super::*;
    use agent::drivers::upgrade::judge;

    /// The example of RFC 6455 section 1.3.
    pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &[u8] = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    pub fn body(data: &[u8]) {
        let _ = accepts(data);
    }

    #[must_use]
    pub fn accepts(data: &[u8]) -> bool {
        let judged = judge(data, KEY);
        // A judgement of a part holds for the whole, but the text of a refusal may grow.
        for cut in [data.len() / 2, data.len().saturating_sub(1)] {
            match judge(&data[..cut], KEY) {
                Ok(None) => {}
                Err(early) if matches!(early.kind(), Some(FailureKind::UpgradeRefused(_))) => {
                    let whole = judged.as_ref().expect_err("a refusal stays one");
                    assert_eq!(early.kind(), whole.kind(), "after {cut} bytes of {}", data.len());
                    assert_eq!(early.refusal, whole.refusal, "after {cut} bytes of {}", data.len());
                }
                early => assert_eq!(early, judged, "after {cut} bytes of {}", data.len()),
            }
        }
        match judged {
            Ok(None) => false,
            Ok(Some(head_bytes)) => {
                let head = &data[..head_bytes];
                assert!(head.ends_with(b"\n"), "a head ends with a line");
                assert!(head.windows(ACCEPT.len()).any(|part| part == ACCEPT), "it proves nothing");
                assert_eq!(judge(head, KEY), Ok(Some(head_bytes)));
                assert_eq!(judge(&head[..head_bytes - 1], KEY), Ok(None), "complete before its end");
                true
            }
            Err(fault) => {
                assert_told(&fault);
                match fault.kind() {
                    Some(FailureKind::BadReply) => {}
                    Some(FailureKind::UpgradeRefused(status)) => assert_ne!(*status, 101),
                    other => panic!("{other:?} is no fault of an answer"),
                }
                false
            }
        }
    }
}

/// A text message of a WebSocket server.
pub mod ws_reply {
    use super::*;
    use agent::drivers::reply::{ws_error, ws_observation};

    pub fn body(data: &[u8]) {
        let _ = accepts(data);
    }

    #[must_use]
    pub fn accepts(data: &[u8]) -> bool {
        let Ok(text) = std::str::from_utf8(data) else { return false };
        match ws_observation(text) {
            Ok(reply) => {
                assert_in_range(&reply);
                assert_eq!(ws_error(text), None);
                true
            }
            Err(fault) => {
                assert_told(&fault);
                let of_server = match fault.kind() {
                    Some(FailureKind::CapacityReached | FailureKind::ServerError(_)) => true,
                    Some(FailureKind::BadReply) => false,
                    other => panic!("{other:?} is no fault of a reply"),
                };
                assert_eq!(ws_error(text), of_server.then_some(fault));
                false
            }
        }
    }
}

/// The body of an HTTP answer.
pub mod http_reply {
    use super::*;
    use agent::drivers::reply::{http_observation, ws_observation};

    pub fn body(data: &[u8]) {
        let _ = accepts(data);
    }

    #[must_use]
    pub fn accepts(data: &[u8]) -> bool {
        match http_observation(data) {
            Ok(reply) => {
                assert_in_range(&reply);
                // Over a WebSocket the same comes in a frame.
                if let Ok(text) = std::str::from_utf8(data) {
                    let frame = format!(r#"{{"type":"observation","data":{text}}}"#);
                    assert_eq!(ws_observation(&frame), Ok(reply), "the two protocols differ");
                }
                true
            }
            Err(fault) => {
                assert_told(&fault);
                assert_eq!(fault.kind(), Some(&FailureKind::BadReply));
                false
            }
        }
    }
}

fn assert_in_range(reply: &Reply) {
    for identity in [&reply.session_hash, &reply.host_url].into_iter().flatten() {
        crate::assert_plain(identity, IDENTITY_BYTES_MAX);
    }
    assert!(reply.waited_us.is_none_or(|waited_us| waited_us <= limits::CLOCK_US_MAX));
}

/// The fault is one that a record can carry to the coordinator.
fn assert_told(fault: &Fault) {
    crate::assert_plain(&fault.message, limits::ERROR_BYTES_MAX);
    let Some(kind) = fault.kind() else { panic!("bytes are no time-out") };
    crate::assert_plain(&kind.to_string(), limits::TEXT_BYTES_MAX);
    let outcome = proto::Outcome::Failed(kind.clone(), Phase::Step);
    let mut record = SessionRecord::without_life(0, outcome, fault.message.clone());
    (record.started_us, record.total_us) = (Some(0), Some(1));
    let taken = SessionRecord::try_from(pb::Record::from(record.clone()));
    assert_eq!(taken, Ok(record), "the coordinator refuses it");
}
