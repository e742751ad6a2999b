//! One encoded histogram among good ones: it is refused, or it is the same after another encoding and needs no more
//! memory than the bounds of the batch.

use proto::histograms::EncodedHistogram;
use proto::{Bounds, HistogramSet, Metric, limits};

use crate::memory;

pub fn body(data: &[u8]) {
    let _ = accepts(data);
}

#[must_use]
pub fn accepts(data: &[u8]) -> bool {
    if data.len() > limits::HISTOGRAM_BYTES_MAX {
        return false;
    }
    let mut set = HistogramSet::new(Bounds::STANDARD).encode();
    set[0].data = data.to_vec();
    let Ok(decoded) = decoded(&set) else { return false };
    let encoded = decoded.encode();
    assert!(encoded.iter().all(|one| one.data.len() <= limits::HISTOGRAM_BYTES_MAX), "larger than it may be sent");
    let again = decoded_again(&encoded);
    assert_eq!(again, decoded, "another encoding changes it");
    assert_eq!(again.encode(), encoded);
    // The coordinator merges what agents send.
    let mut merged = HistogramSet::new(Bounds::STANDARD);
    for _ in 0..2 {
        assert!(merged.merge(&decoded).is_ok(), "equal bounds");
    }
    let _ = merged.get(Metric::ALL[0]).value_at_quantile(0.99);
    true
}

fn decoded(set: &[EncodedHistogram]) -> Result<HistogramSet, ()> {
    memory::bounded(|| HistogramSet::decode(Bounds::STANDARD, set)).map_err(|error| {
        assert!(!error.to_string().is_empty(), "refused without a reason");
    })
}

fn decoded_again(set: &[EncodedHistogram]) -> HistogramSet {
    decoded(set).unwrap_or_else(|()| panic!("what was encoded here is refused"))
}
