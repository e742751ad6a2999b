//! Reads histograms.hlog: HdrHistogram's interval log with compressed V2 histograms
//! (<https://github.com/HdrHistogram/HdrHistogram>, `HistogramLogReader`).

use std::collections::BTreeMap;
use std::io::Read as _;

use base64::Engine as _;
use flate2::read::ZlibDecoder;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

/// Largest size of one histogram, as packed text and unpacked: far more than the bounds of a run need.
const PACKED_BYTES_MAX: usize = 1 << 20;
const UNPACKED_BYTES_MAX: u64 = 2 << 20;

/// Reads every histogram whose tag is `wanted`, by tag.
///
/// # Errors
/// If an interval can't be read, with its number.
pub fn read(text: &[u8], wanted: impl Fn(&str) -> bool) -> Result<BTreeMap<String, Histogram<u64>>, String> {
    match read_whole(text, wanted) {
        (found, None) => Ok(found),
        (_, Some(problem)) => Err(problem),
    }
}

/// Like [`read`], but an error does not discard the histograms before it.
pub fn read_whole(text: &[u8], wanted: impl Fn(&str) -> bool) -> (BTreeMap<String, Histogram<u64>>, Option<String>) {
    let mut found = BTreeMap::new();
    let mut number = 0;
    for entry in IntervalLogIterator::new(text) {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => return (found, Some(format!("after {number} intervals: {error:?}"))),
        };
        let LogEntry::Interval(interval) = entry else { continue };
        number += 1;
        let tag = interval.tag().map(|tag| tag.as_str().to_owned()).unwrap_or_default();
        if !wanted(&tag) {
            continue;
        }
        match histogram(interval.encoded_histogram()) {
            Ok(values) => found.insert(tag, values),
            Err(problem) => return (found, Some(format!("{tag}: {problem}"))),
        };
    }
    (found, None)
}

fn histogram(packed: &str) -> Result<Histogram<u64>, String> {
    /// The header is the cookie and the compressed length, big endian.
    const HEADER: usize = 8;
    const COOKIE: [u8; 4] = 0x1c84_9314_u32.to_be_bytes();
    if packed.len() > PACKED_BYTES_MAX {
        return Err(format!("{} bytes are no histogram of a run", packed.len()));
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(packed).map_err(|error| error.to_string())?;
    let zipped = bytes.strip_prefix(&COOKIE).and_then(|rest| rest.get(HEADER - COOKIE.len()..));
    let mut plain = Vec::new();
    // The library's own reader allocates whatever size the data claims.
    let mut inflate = ZlibDecoder::new(zipped.ok_or("no compressed V2 header")?).take(UNPACKED_BYTES_MAX);
    inflate.read_to_end(&mut plain).map_err(|error| error.to_string())?;
    proto::histograms::decode_one(&plain)
}
