//! Messages of the control plane: an accepted message is in range and survives another encoding.

use prost::Message;
use proto::{Bounds, FromAgent, FromCoordinator, HistogramSet, SessionRecord, limits, pb};

/// How many bytes another encoding may add: a value that was left out may be written now.
const SLACK_BYTES: usize = 64;

/// An agent's message, as the coordinator reads it.
pub mod agent_message {
    use super::*;

    pub fn body(data: &[u8]) {
        let _ = accepts(data);
    }

    #[must_use]
    pub fn accepts(data: &[u8]) -> bool {
        let Some(taken) = taken::<pb::AgentMessage, FromAgent>(data) else { return false };
        match &taken {
            FromAgent::Hello(hello) => super::hello::assert_in_range(hello),
            FromAgent::Report(report) => {
                assert!(report.ledger.balances() && report.ledger.planned <= limits::SESSIONS_MAX);
                for histogram in &report.histograms {
                    assert!(histogram.data.len() <= limits::HISTOGRAM_BYTES_MAX);
                }
                // Decoding may refuse them, but must not need more memory than their size.
                let _ = crate::memory::bounded(|| HistogramSet::decode(Bounds::STANDARD, &report.histograms));
            }
            FromAgent::Records(chunk) => {
                assert!(chunk.records.len() <= limits::CHUNK_RECORDS_MAX);
                let mut set = HistogramSet::new(Bounds::STANDARD);
                chunk.records.iter().for_each(|record| assert_recordable(record, &mut set));
            }
            FromAgent::Leaving(reason) => assert!(reason.len() <= limits::TEXT_BYTES_MAX),
            _ => {}
        }
        true
    }
}

/// A coordinator's message, as an agent reads it.
pub mod coordinator_message {
    use super::*;

    pub fn body(data: &[u8]) {
        let _ = accepts(data);
    }

    #[must_use]
    pub fn accepts(data: &[u8]) -> bool {
        let Some(taken) = taken::<pb::CoordinatorMessage, FromCoordinator>(data) else { return false };
        if let FromCoordinator::Resend(wanted) = &taken {
            assert!(wanted.sequences.len() <= limits::RESEND_MAX);
            assert!(wanted.sequences.iter().chain(&wanted.from).all(|sequence| *sequence <= limits::CHUNKS_MAX));
        }
        if let FromCoordinator::Prepare(share) = &taken {
            assert!(share.first_session + share.sessions <= share.batch_size);
            assert!(share.batch_size <= limits::SESSIONS_MAX && share.in_flight_max >= 1);
            assert!(share.agent_index < share.agent_count);
            assert!(share.script.steps <= limits::STEPS_MAX);
            assert!((1..=limits::URLS_MAX).contains(&share.target.urls.len()));
            // Load threads allocate by these bounds.
            crate::memory::bounded(|| drop(HistogramSet::new(share.bounds)));
        }
        true
    }
}

/// How an agent presents itself.
pub mod hello {
    use super::*;
    use proto::message::Hello;

    pub fn body(data: &[u8]) {
        let _ = accepts(data);
    }

    #[must_use]
    pub fn accepts(data: &[u8]) -> bool {
        taken::<pb::Hello, Hello>(data).inspect(assert_in_range).is_some()
    }

    pub(super) fn assert_in_range(hello: &Hello) {
        // The name becomes part of file names and tables.
        assert!((1..=limits::NAME_CHARS_MAX).contains(&hello.name.len()), "{:?}", hello.name);
        assert!(hello.name.chars().all(|c| c.is_ascii_graphic() && c != '/'), "{:?}", hello.name);
        assert!(hello.version.len() <= limits::NAME_CHARS_MAX && hello.host.len() <= limits::TEXT_BYTES_MAX);
        assert!((1..=4_096).contains(&hello.capacity.threads));
        assert!(hello.capacity.ports_waiting <= hello.capacity.ports_taken);
        assert!(hello.capacity.ports_taken <= hello.capacity.ports);
        assert!(hello.capacity.port_pool.len() <= limits::TEXT_BYTES_MAX);
    }
}

/// An agent's heartbeat.
pub mod heartbeat {
    use super::*;
    use proto::message::Heartbeat;

    pub fn body(data: &[u8]) {
        let _ = accepts(data);
    }

    #[must_use]
    pub fn accepts(data: &[u8]) -> bool {
        taken::<pb::Heartbeat, Heartbeat>(data).is_some()
    }
}

/// Asserts that a record is in range, and that figures and histograms can be made of it.
fn assert_recordable(record: &SessionRecord, set: &mut HistogramSet) {
    assert!(
        record.error_message.len() <= limits::ERROR_BYTES_MAX && record.step_us.len() <= limits::STEPS_MAX as usize
    );
    assert_eq!(record.started_us.is_some(), record.total_us.is_some());
    if let (Some(lag), Some(started)) = (record.launch_lag_us(), record.started_us) {
        assert!(lag <= started);
    }
    let _ = (record.response_us(), record.ended_us(), record.opened_us(), record.step_sum_us());
    let _ = (record.total_without_own_delay_us(), record.wire.steps_wire_us(), record.wire.steps_lag_us());
    set.record(record);
}

/// Decodes a message, and asserts that it is the same after another encoding, and no larger.
fn taken<W, D>(data: &[u8]) -> Option<D>
where
    W: Message + Default + From<D>,
    D: TryFrom<W> + Clone + PartialEq + std::fmt::Debug,
    D::Error: std::fmt::Display,
{
    if data.len() > limits::MESSAGE_BYTES_MAX {
        return None;
    }
    let taken = match D::try_from(W::decode(data).ok()?) {
        Ok(taken) => taken,
        Err(refused) => {
            // It goes into a log.
            let said = refused.to_string();
            assert!(!said.is_empty() && said.len() <= 2 * limits::TEXT_BYTES_MAX, "{said:?}");
            return None;
        }
    };
    let sent = W::from(taken.clone()).encode_to_vec();
    assert!(sent.len() <= data.len() + SLACK_BYTES, "{} bytes have become {}", data.len(), sent.len());
    let again = W::decode(sent.as_slice()).ok().and_then(|message| D::try_from(message).ok());
    assert_eq!(again.as_ref(), Some(&taken), "another way over the wire changes it");
    Some(taken)
}
