//! The benchmark environment: it has an identity, counts steps, and reports both. The caller does the waiting.

use std::io::Write as _;

use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::faults::{AtObservation, ObservationKind};

/// What every observation of one worker process has in common.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) pid: u32,
    /// `NAME:PORT`, already a JSON string with its quotes.
    pub(crate) host_url_json: String,
}

impl Identity {
    pub(crate) fn new(host_name: &str, port: u16) -> Self {
        let host_url_json = serde_json::Value::from(format!("{host_name}:{port}")).to_string();
        Self { pid: std::process::id(), host_url_json }
    }
}

/// One environment instance. Its identity survives resets.
#[derive(Debug)]
pub(crate) struct Environment {
    episode_id: Uuid,
    /// First 12 hex digits of the SHA-256 of `episode_id` as text.
    session_hash: [u8; 12],
    step_count: u64,
}

impl Environment {
    pub(crate) fn new() -> Self {
        Self::with_episode(Uuid::new_v4())
    }

    fn with_episode(episode_id: Uuid) -> Self {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let mut text = Uuid::encode_buffer();
        let digest = Sha256::digest(episode_id.hyphenated().encode_lower(&mut text).as_bytes());
        let mut session_hash = [0; 12];
        for (pair, byte) in session_hash.chunks_exact_mut(2).zip(digest) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 0xF)];
        }
        Self { episode_id, session_hash, step_count: 0 }
    }

    pub(crate) fn session_hash(&self) -> &str {
        // Hex digits are ASCII.
        std::str::from_utf8(&self.session_hash).unwrap_or_default()
    }

    /// Steps since the last reset.
    pub(crate) fn step_count(&self) -> u64 {
        self.step_count
    }

    pub(crate) fn reset(&mut self) {
        self.step_count = 0;
    }

    /// Counts a step. The caller waits afterwards, and then takes the observation.
    pub(crate) fn step(&mut self) {
        self.step_count += 1;
    }

    /// Appends `{"observation":{...},"reward":null,"done":false}`.
    pub(crate) fn write_observation(
        &self,
        identity: &Identity,
        waited_seconds: f64,
        look: AtObservation,
        out: &mut Vec<u8>,
    ) {
        out.extend_from_slice(br#"{"observation":"#);
        match look.kind {
            ObservationKind::List => out.extend_from_slice(b"[1,2,3]"),
            ObservationKind::Text => out.extend_from_slice(br#""a board""#),
            _ => self.write_object(identity, waited_seconds, look, out),
        }
        // Writing to a Vec cannot fail.
        let _ = write!(out, r#","reward":null,"done":{}}}"#, look.done);
    }

    fn write_object(&self, identity: &Identity, waited_seconds: f64, look: AtObservation, out: &mut Vec<u8>) {
        out.push(b'{');
        if look.kind != ObservationKind::Anonymous {
            // `{:?}` of a finite float is valid JSON and keeps the ".0" that Python writes.
            let _ = write!(out, r#""waited_seconds":{waited_seconds:?},"#);
            if look.kind == ObservationKind::Foreign {
                let host_url = "h".repeat(1000);
                let _ = write!(out, r#""pid":"worker-3","session_hash":12345,"host_url":"{host_url}","#);
            } else {
                let Identity { pid, host_url_json } = identity;
                let _ = write!(out, r#""pid":{pid},"session_hash":""#);
                out.extend_from_slice(&self.session_hash);
                let _ = write!(out, r#"","host_url":{host_url_json},"#);
            }
        }
        let _ = write!(out, r#""step_count":{}"#, self.step_count);
        if look.kind == ObservationKind::Nan {
            out.extend_from_slice(br#","score":NaN,"best":Infinity,"worst":-Infinity"#);
        }
        if let Some(bytes) = look.text_bytes {
            write_text(bytes, out);
        }
        out.push(b'}');
    }

    /// Appends `{"episode_id":"<uuid4>","step_count":7}`.
    pub(crate) fn write_state(&self, out: &mut Vec<u8>) {
        let _ = write!(out, r#"{{"episode_id":"{}","step_count":{}}}"#, self.episode_id, self.step_count);
    }
}

/// Appends the field "text" with a text of this length.
fn write_text(bytes: usize, out: &mut Vec<u8>) {
    const PIECE: [u8; 4096] = [b'x'; 4096];
    // Reserved at once, so that a large text is not moved as it grows.
    out.reserve(bytes + PIECE.len());
    out.extend_from_slice(br#","text":""#);
    let mut missing = bytes;
    while missing > 0 {
        let piece = &PIECE[..missing.min(PIECE.len())];
        out.extend_from_slice(piece);
        missing -= piece.len();
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_hash_is_the_start_of_the_sha256_of_the_episode() {
        // printf %s 67e55044-10b1-426f-9247-bb680e5fe0c8 | sha256sum
        let episode = Uuid::parse_str("67e55044-10b1-426f-9247-bb680e5fe0c8").unwrap();
        assert_eq!(Environment::with_episode(episode).session_hash, *HASH);
    }

    const HASH: &[u8; 12] = b"002031b96bd3";

    #[test]
    fn an_observation_echoes_the_requested_wait_and_the_steps_since_reset() {
        let identity = Identity { pid: 7, host_url_json: "\"vm:18000\"".into() };
        let mut environment = Environment::new();
        environment.step();
        environment.step();
        let mut out = Vec::new();
        environment.write_observation(&identity, 1.0, AtObservation::default(), &mut out);
        let hash = String::from_utf8(environment.session_hash.to_vec()).unwrap();
        let expected = json!({
            "observation": {
                "waited_seconds": 1.0, "pid": 7, "session_hash": hash, "host_url": "vm:18000", "step_count": 2
            },
            "reward": null,
            "done": false
        });
        assert_eq!(serde_json::from_slice::<Value>(&out).unwrap(), expected);

        let before = environment.episode_id;
        environment.reset();
        assert_eq!(environment.step_count, 0);
        assert_eq!(environment.episode_id, before);
        assert_eq!(environment.episode_id.get_version_num(), 4);
    }

    fn observed(look: AtObservation) -> String {
        let identity = Identity { pid: 7, host_url_json: "\"vm:18000\"".into() };
        let mut environment = Environment::new();
        environment.step();
        let mut out = Vec::new();
        environment.write_observation(&identity, 0.5, look, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn observations_of_other_kinds_are_what_they_are_called() {
        let kind = |kind| observed(AtObservation { kind, ..AtObservation::default() });
        let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap()["observation"].take();
        let foreign = json!({
            "waited_seconds": 0.5, "pid": "worker-3", "session_hash": 12345, "host_url": "h".repeat(1000), "step_count": 1
        });
        assert_eq!(parsed(&kind(ObservationKind::Foreign)), foreign);
        assert_eq!(parsed(&kind(ObservationKind::List)), json!([1, 2, 3]));
        assert_eq!(parsed(&kind(ObservationKind::Text)), json!("a board"));
        assert_eq!(parsed(&kind(ObservationKind::Anonymous)), json!({"step_count": 1}));
        let nan = kind(ObservationKind::Nan);
        assert!(nan.contains(r#","step_count":1,"score":NaN,"best":Infinity,"worst":-Infinity},"#), "{nan}");
        assert!(serde_json::from_str::<Value>(&nan).is_err(), "that is no JSON");
    }

    #[test]
    fn a_text_has_the_length_asked_for() {
        for bytes in [0, 1, 4096, 10_000] {
            let look = AtObservation { text_bytes: Some(bytes), done: true, ..AtObservation::default() };
            let value: Value = serde_json::from_str(&observed(look)).unwrap();
            assert_eq!(value["observation"]["text"].as_str(), Some(&*"x".repeat(bytes)));
            assert_eq!(value["done"], true);
        }
    }
}
