//! histograms.hlog, read: HdrHistogram's interval log with compressed V2 histograms
//! (<https://github.com/HdrHistogram/HdrHistogram>, `HistogramLogReader`).

use std::collections::BTreeMap;

use base64::Engine as _;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
use proto::Bounds;

/// What one histogram may have packed: far above what its bounds allow.
const PACKED_BYTES_MAX: usize = 1 << 20;

/// Every histogram whose tag is `wanted`, by tag.
///
/// # Errors
/// What is wrong, and with which interval.
pub fn read(text: &[u8], wanted: impl Fn(&str) -> bool) -> Result<BTreeMap<String, Histogram<u64>>, String> {
    let mut found = BTreeMap::new();
    let mut number = 0;
    for entry in IntervalLogIterator::new(text) {
        let entry = entry.map_err(|error| format!("after {number} intervals: {error:?}"))?;
        let LogEntry::Interval(interval) = entry else { continue };
        number += 1;
        let tag = interval.tag().map(|tag| tag.as_str().to_owned()).unwrap_or_default();
        if !wanted(&tag) {
            continue;
        }
        found.insert(tag.clone(), histogram(interval.encoded_histogram()).map_err(|error| format!("{tag}: {error}"))?);
    }
    Ok(found)
}

fn histogram(packed: &str) -> Result<Histogram<u64>, String> {
    if packed.len() > PACKED_BYTES_MAX {
        return Err(format!("{} bytes are no histogram of a run", packed.len()));
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(packed).map_err(|error| error.to_string())?;
    let read: Histogram<u64> =
        Deserializer::new().deserialize(&mut bytes.as_slice()).map_err(|error| format!("{error:?}"))?;
    let standard = Bounds::STANDARD;
    if read.high() > standard.high_us || read.sigfig() != standard.significant_digits {
        return Err(format!("its bounds ({} us, {} digits) are not those of a run", read.high(), read.sigfig()));
    }
    Ok(read)
}
