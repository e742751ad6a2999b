//! The histograms of a batch, and how they travel.
//!
//! One rule, [`HistogramSet::values`], says which session enters which histogram. Agents apply it as sessions end, the
//! coordinator adds their sets together, and a reader can apply it again to stored records. The three must agree bucket
//! by bucket.
//!
//! Encoding is HdrHistogram's V2 (uncompressed), <https://github.com/HdrHistogram/HdrHistogram>. All agents use the
//! bounds of their assignment; a set with other bounds is refused before anything is allocated for it.

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Deserializer, Serializer, V2Serializer};
use serde::{Deserialize, Serialize};

use crate::named::named_enum;
use crate::outcome::Outcome;
use crate::record::SessionRecord;

/// The largest upper bound of a histogram, in hours: a year. Its memory grows with the logarithm of the bound.
const HOURS_MAX: u64 = 366 * 24;

/// Range and precision of a histogram, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    pub low_us: u64,
    pub high_us: u64,
    pub significant_digits: u8,
}

impl Bounds {
    /// 1 us to 1 h with 3 significant digits: what a run uses unless its sessions may last longer.
    pub const STANDARD: Self = Self { low_us: 1, high_us: 3_600_000_000, significant_digits: 3 };

    /// The standard bounds, extended to hold values up to `longest_us`. The upper bound is in whole hours, so that
    /// equal plans have equal bounds.
    #[must_use]
    pub fn reaching(longest_us: u64) -> Self {
        let hours = longest_us.div_ceil(Self::STANDARD.high_us).clamp(1, HOURS_MAX);
        Self { high_us: hours * Self::STANDARD.high_us, ..Self::STANDARD }
    }

    fn histogram(self) -> Histogram<u64> {
        // `valid` has checked bounds from outside before, so the fallback is never used.
        Histogram::new_with_bounds(self.low_us, self.high_us, self.significant_digits)
            .or_else(|_| Histogram::new_with_bounds(1, Self::STANDARD.high_us, Self::STANDARD.significant_digits))
            .unwrap_or_else(|_| unreachable!("the standard bounds are valid"))
    }

    /// Whether HdrHistogram accepts these bounds and they need no excessive memory.
    #[must_use]
    pub fn valid(self) -> bool {
        self.significant_digits <= 4
            && self.high_us <= HOURS_MAX * Self::STANDARD.high_us
            && Histogram::<u64>::new_with_bounds(self.low_us, self.high_us, self.significant_digits).is_ok()
    }
}

named_enum! {
    /// What is measured. `Step`, `Wire` and `WireBeyond` hold one value a step, `ReceiveLag` one a reply, all others
    /// one a session.
    pub enum Metric {
        Connect = "connect",
        Reset = "reset",
        Step = "step",
        Close = "close",
        Total = "total",
        /// Response time, from the intended start: of sessions that succeeded, and of those that timed out, for which
        /// it is the time of the cut (a censored value).
        Response = "response",
        /// From the intended start to the failure, of failed sessions.
        Failed = "failed",
        LaunchLag = "launch_lag",
        /// Wire latency of the replies to steps.
        Wire = "wire",
        /// Receive lag of the replies to resets and steps.
        ReceiveLag = "receive_lag",
        /// The kernel's round trip of the TCP handshake.
        HandshakeRtt = "handshake_rtt",
        /// Total beyond the waits and pauses that the session asked for.
        Beyond = "beyond",
        /// Wire latency beyond the wait that the step asked for.
        WireBeyond = "wire_beyond",
    }
}

impl Metric {
    fn index(self) -> usize {
        self as usize
    }
}

/// Why an encoded histogram was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CodecError {
    #[error("the {metric} histogram has other bounds than this batch: {found}, expected {expected}")]
    Bounds { metric: Metric, found: String, expected: String },
    #[error("the {metric} histogram can't be decoded: {cause}")]
    Malformed { metric: Metric, cause: String },
    #[error("the {0} histogram is missing")]
    Missing(Metric),
    #[error("the {0} histogram came twice")]
    Twice(Metric),
}

/// One histogram as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedHistogram {
    pub metric: Metric,
    /// HdrHistogram V2.
    pub data: Vec<u8>,
    /// Values above the upper bound, which are in no histogram.
    pub over_range: u64,
}

/// One histogram a [`Metric`], all of the same bounds.
#[derive(Debug, Clone, PartialEq)]
pub struct HistogramSet {
    bounds: Bounds,
    histograms: Vec<Histogram<u64>>,
    over_range: [u64; Metric::ALL.len()],
}

impl HistogramSet {
    /// An empty set.
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            histograms: Metric::ALL.iter().map(|_| bounds.histogram()).collect(),
            over_range: [0; Metric::ALL.len()],
        }
    }

    #[must_use]
    pub fn get(&self, metric: Metric) -> &Histogram<u64> {
        &self.histograms[metric.index()]
    }

    #[must_use]
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// The number of values of this metric above the upper bound. They are in no histogram.
    #[must_use]
    pub fn over_range_of(&self, metric: Metric) -> u64 {
        self.over_range[metric.index()]
    }

    /// See [`quantile_of`].
    #[must_use]
    pub fn quantile(&self, metric: Metric, quantile: f64) -> Option<u64> {
        quantile_of(Some(self.get(metric)), self.over_range_of(metric), self.bounds.high_us, quantile)
    }

    /// The number of values above the upper bound, of all metrics together. They are in no histogram.
    #[must_use]
    pub fn over_range(&self) -> u64 {
        self.over_range.iter().copied().fold(0, u64::saturating_add)
    }

    /// The rule. Phases and total hold succeeded sessions only. Response also holds sessions that timed out, with the
    /// time of the cut. Failed sessions have a histogram of their own. Launch lag holds every session that was started.
    /// Wire and receive lag hold the replies of succeeded sessions that have a kernel timestamp. Calls `enter` for
    /// every value of a record, in microseconds.
    pub fn values(record: &SessionRecord, mut enter: impl FnMut(Metric, u64)) {
        let mut once = |metric, value: Option<u64>| {
            if let Some(value) = value {
                enter(metric, value);
            }
        };
        once(Metric::LaunchLag, record.launch_lag_us());
        match &record.outcome {
            Outcome::Succeeded => {
                once(Metric::Connect, record.connect_us);
                once(Metric::Reset, record.reset_us);
                once(Metric::Close, record.close_us);
                once(Metric::Total, record.total_us);
                once(Metric::Beyond, record.beyond_us());
                once(Metric::Response, record.response_us());
                for step in &record.step_us {
                    once(Metric::Step, Some(*step));
                }
                once(Metric::HandshakeRtt, record.wire.handshake_rtt_us);
                once(Metric::ReceiveLag, record.wire.reset.map(|split| split.lag_us));
                for split in &record.wire.steps {
                    once(Metric::Wire, Some(split.wire_us));
                    once(Metric::WireBeyond, Some(split.wire_us.saturating_sub(record.step_wait_us)));
                    once(Metric::ReceiveLag, Some(split.lag_us));
                }
            }
            Outcome::TimedOut(_) => once(Metric::Response, record.response_us()),
            Outcome::Failed(..) => once(Metric::Failed, record.response_us()),
            Outcome::Lost | Outcome::NeverStarted => {}
        }
    }

    /// Adds a session by [`HistogramSet::values`].
    pub fn record(&mut self, record: &SessionRecord) {
        Self::values(record, |metric, value_us| self.add_value(metric, value_us));
    }

    fn add_value(&mut self, metric: Metric, value_us: u64) {
        // The histogram's buckets reach beyond the bound, to the next power of two, so the bound is checked here.
        if value_us > self.bounds.high_us || self.histograms[metric.index()].record(value_us).is_err() {
            self.over_range[metric.index()] += 1;
        }
    }

    /// Adds another set of the same bounds, bucket by bucket.
    ///
    /// # Errors
    /// [`CodecError::Bounds`] if the bounds differ.
    pub fn merge(&mut self, other: &Self) -> Result<(), CodecError> {
        for metric in Metric::ALL {
            let refuse =
                |_| CodecError::Bounds { metric, found: describe(other.bounds), expected: describe(self.bounds) };
            if self.bounds != other.bounds {
                return Err(refuse(()));
            }
            self.histograms[metric.index()].add(other.get(metric)).map_err(|_| refuse(()))?;
            let count = &mut self.over_range[metric.index()];
            *count = count.saturating_add(other.over_range[metric.index()]);
        }
        Ok(())
    }

    /// Every histogram in HdrHistogram's V2 encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<EncodedHistogram> {
        let mut serializer = V2Serializer::new();
        Metric::ALL
            .into_iter()
            .map(|metric| {
                let mut data = Vec::new();
                serializer
                    .serialize(self.get(metric), &mut data)
                    .unwrap_or_else(|error| unreachable!("writing to memory failed: {error}"));
                EncodedHistogram { metric, data, over_range: self.over_range[metric.index()] }
            })
            .collect()
    }

    /// Reads what [`HistogramSet::encode`] wrote.
    ///
    /// # Errors
    /// If one is missing, doubled, malformed, or of other bounds than `bounds`.
    pub fn decode(bounds: Bounds, encoded: &[EncodedHistogram]) -> Result<Self, CodecError> {
        let mut set = Self::new(bounds);
        let mut seen = [false; Metric::ALL.len()];
        let mut deserializer = Deserializer::new();
        for EncodedHistogram { metric, data, over_range } in encoded {
            let metric = *metric;
            if std::mem::replace(&mut seen[metric.index()], true) {
                return Err(CodecError::Twice(metric));
            }
            let malformed = |cause: String| CodecError::Malformed { metric, cause };
            let found = header_bounds(data).ok_or_else(|| malformed("no whole V2 header".to_owned()))?;
            if found != bounds {
                return Err(CodecError::Bounds { metric, found: describe(found), expected: describe(bounds) });
            }
            let histogram: Histogram<u64> =
                deserializer.deserialize(&mut data.as_slice()).map_err(|error| malformed(error.to_string()))?;
            set.histograms[metric.index()].add(&histogram).map_err(|error| malformed(error.to_string()))?;
            set.over_range[metric.index()] = *over_range;
        }
        match Metric::ALL.into_iter().find(|metric| !seen[metric.index()]) {
            Some(metric) => Err(CodecError::Missing(metric)),
            None => Ok(set),
        }
    }
}

/// The `quantile` of the values of a histogram and of `above` more values beyond its range, which count as `end_us`,
/// its upper bound. `None` if there are no values.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rank of counts far below 2^52"
)]
pub fn quantile_of(values: Option<&Histogram<u64>>, above: u64, end_us: u64, quantile: f64) -> Option<u64> {
    let within = values.map_or(0, Histogram::len);
    let all = within.saturating_add(above);
    let values = values.filter(|values| !values.is_empty());
    match values {
        _ if all == 0 => None,
        Some(values) if above == 0 => Some(values.value_at_quantile(quantile)),
        values => {
            let rank = ((quantile * all as f64).ceil() as u64).clamp(1, all);
            let inside = values.filter(|_| rank <= within);
            Some(inside.map_or(end_us, |values| values.value_at_quantile(rank as f64 / within as f64)))
        }
    }
}

fn describe(bounds: Bounds) -> String {
    format!("{} to {} us, {} digits", bounds.low_us, bounds.high_us, bounds.significant_digits)
}

/// Decodes one histogram of the standard bounds (HdrHistogram V2).
///
/// # Errors
/// What is wrong with it, for people.
pub fn decode_one(data: &[u8]) -> Result<Histogram<u64>, String> {
    match header_bounds(data) {
        None => Err("no whole V2 header".to_owned()),
        Some(found) if found != Bounds::STANDARD => {
            Err(format!("bounds {} instead of {}", describe(found), describe(Bounds::STANDARD)))
        }
        Some(_) => Deserializer::new().deserialize(&mut &data[..]).map_err(|error| error.to_string()),
    }
}

/// Reads the bounds in a V2 header before the decoder allocates by them. The header has 40 bytes, big endian: cookie,
/// payload length, normalizing offset, significant digits as u32; lowest and highest trackable value as u64; ratio as
/// f64.
fn header_bounds(data: &[u8]) -> Option<Bounds> {
    const V2_COOKIE: u32 = 0x1c84_9303 | 0x10;
    let u32_at = |at: usize| Some(u32::from_be_bytes(data.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_be_bytes(data.get(at..at + 8)?.try_into().ok()?));
    if u32_at(0)? != V2_COOKIE || data.len() < 40 {
        return None;
    }
    // The decoder allocates what this field claims before it reads the payload.
    if usize::try_from(u32_at(4)?) != Ok(data.len() - 40) {
        return None;
    }
    Some(Bounds { significant_digits: u8::try_from(u32_at(12)?).ok()?, low_us: u64_at(16)?, high_us: u64_at(24)? })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::outcome::{FailureKind, Phase};
    use crate::record::{Split, WireRecord};

    /// Fewer than the library's default, each is large; more when asked for.
    fn cases(few: u32) -> u32 {
        std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(few)
    }

    fn duration_us() -> impl Strategy<Value = u64> {
        prop_oneof![0_u64..5_000, 0_u64..100_000_000, 3_599_000_000_u64..3_700_000_000, Just(Bounds::STANDARD.high_us)]
    }

    fn record() -> impl Strategy<Value = SessionRecord> {
        (0_u8..5, proptest::collection::vec(duration_us(), 6), 0_usize..4).prop_map(|(outcome, us, steps)| {
            let outcome = match outcome {
                0 | 1 => Outcome::Succeeded,
                2 => Outcome::Failed(FailureKind::Refused, Phase::Connect),
                3 => Outcome::TimedOut(Phase::Step),
                _ => return SessionRecord::without_life(0, Outcome::NeverStarted, String::new()),
            };
            SessionRecord {
                intended_us: us[0] / 2,
                started_us: Some(us[0]),
                connect_us: Some(us[1]),
                reset_us: Some(us[2]),
                step_us: us[3..].iter().copied().take(steps).collect(),
                close_us: Some(us[4]),
                total_us: Some(us[5]),
                wire: WireRecord {
                    reset: Some(Split { wire_us: us[0], lag_us: us[1] }),
                    handshake_rtt_us: Some(us[2]),
                    steps: us[3..].iter().take(steps).map(|us| Split { wire_us: *us, lag_us: us / 3 }).collect(),
                    ..WireRecord::default()
                },
                ..SessionRecord::without_life(0, outcome, String::new())
            }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: cases(48), ..ProptestConfig::default() })]

        /// The merge of what N agents send is the histogram of all their records, byte for byte, after one decoding.
        #[test]
        fn merged_equals_the_histogram_of_all_records(
            agents in proptest::collection::vec(proptest::collection::vec(record(), 0..20), 1..=64),
        ) {
            let mut all = HistogramSet::new(Bounds::STANDARD);
            let mut merged = HistogramSet::new(Bounds::STANDARD);
            for records in &agents {
                let mut own = HistogramSet::new(Bounds::STANDARD);
                for record in records {
                    own.record(record);
                    all.record(record);
                }
                let arrived = HistogramSet::decode(Bounds::STANDARD, &own.encode());
                merged.merge(&arrived.map_err(|e| TestCaseError::fail(e.to_string()))?)
                    .map_err(|e| TestCaseError::fail(e.to_string()))?;
            }
            let all = HistogramSet::decode(Bounds::STANDARD, &all.encode())
                .map_err(|e| TestCaseError::fail(e.to_string()))?;
            prop_assert_eq!(merged.encode(), all.encode());
            prop_assert_eq!(merged.over_range(), all.over_range());
        }

        #[test]
        fn decoding_garbage_is_an_error_and_nothing_else(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let encoded = vec![EncodedHistogram { metric: Metric::Total, data, over_range: 0 }];
            prop_assert!(HistogramSet::decode(Bounds::STANDARD, &encoded).is_err());
        }
    }

    #[test]
    fn values_beyond_the_bound_are_counted_and_not_clipped() {
        let mut set = HistogramSet::new(Bounds::STANDARD);
        let mut record = SessionRecord::without_life(0, Outcome::Succeeded, String::new());
        record.started_us = Some(0);
        for total in [Bounds::STANDARD.high_us, Bounds::STANDARD.high_us + 1, u64::MAX] {
            record.total_us = Some(total);
            set.record(&record);
        }
        assert_eq!(set.get(Metric::Total).len(), 1);
        assert_eq!(set.over_range(), 6, "two totals, beyond what was asked, and response times");
    }

    #[test]
    fn other_bounds_are_refused_both_ways() {
        let other = Bounds { high_us: 1_000_000, ..Bounds::STANDARD };
        let mut set = HistogramSet::new(Bounds::STANDARD);
        assert!(matches!(set.merge(&HistogramSet::new(other)), Err(CodecError::Bounds { .. })));
        let decoded = HistogramSet::decode(Bounds::STANDARD, &HistogramSet::new(other).encode());
        assert!(matches!(decoded, Err(CodecError::Bounds { .. })));
    }

    #[test]
    fn a_set_with_a_hole_or_a_double_is_refused() {
        let mut encoded = HistogramSet::new(Bounds::STANDARD).encode();
        let first = encoded.remove(0);
        let decode = |set: &[EncodedHistogram]| HistogramSet::decode(Bounds::STANDARD, set);
        assert_eq!(decode(&encoded).err(), Some(CodecError::Missing(Metric::Connect)));
        encoded.extend([first.clone(), first]);
        assert_eq!(decode(&encoded).err(), Some(CodecError::Twice(Metric::Connect)));
    }
}
