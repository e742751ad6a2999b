//! The histograms.hlog of a run that is resumed: it is refused, or its histograms are the same after another encoding
//! and need no more memory than their bounds.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use coordinator::store::hlog;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::memory;

type Found = BTreeMap<String, Histogram<u64>>;

pub fn body(data: &[u8]) {
    let _ = accepts(data);
}

/// Whether it holds a histogram.
#[must_use]
pub fn accepts(data: &[u8]) -> bool {
    let (all, mut asked) = asked_for(data, true);
    let (none, tags) = asked_for(data, false);
    match all {
        Err(problem) => {
            assert!(!problem.is_empty(), "refused without a reason");
            if let Ok(none) = none {
                assert!(none.is_empty(), "nothing is wanted");
                // The last histogram that was asked for is broken, so those after it are not known.
                let rest = tags.get(asked.len() - 1..).expect("one is broken");
                asked.retain(|tag| !rest.contains(tag));
                assert_wanted(data, &asked.into_iter().collect());
            }
            false
        }
        Ok(found) => {
            let tags: BTreeSet<String> = asked.into_iter().collect();
            assert!(tags.iter().eq(found.keys()), "what is wanted is found: {tags:?}");
            assert_eq!(none, Ok(Found::new()), "nothing is wanted");
            let half: BTreeSet<String> = tags.into_iter().step_by(2).collect();
            let chosen = assert_wanted(data, &half);
            assert!(chosen.iter().all(|(tag, histogram)| found.get(tag) == Some(histogram)), "wanting less changes it");
            assert_reads_back(found.values());
            !found.is_empty()
        }
    }
}

/// Reads all histograms, or none, and returns them with the tags that the reader asked about, in order.
fn asked_for(data: &[u8], wanted: bool) -> (Result<Found, String>, Vec<String>) {
    let asked = RefCell::new(Vec::new());
    let found = memory::bounded(|| {
        hlog::read(data, |tag| {
            asked.borrow_mut().push(tag.to_owned());
            wanted
        })
    });
    (found, asked.into_inner())
}

/// Asserts that exactly the wanted histograms are read.
fn assert_wanted(data: &[u8], wanted: &BTreeSet<String>) -> Found {
    let found = hlog::read(data, |tag| wanted.contains(tag)).unwrap_or_else(|problem| panic!("{problem}: {wanted:?}"));
    assert!(found.keys().eq(wanted), "{wanted:?} is wanted");
    found
}

fn assert_reads_back<'a>(found: impl Iterator<Item = &'a Histogram<u64>>) {
    // With new tags, because those that were read may not be valid in a log.
    let found: Found = found.zip(0..).map(|(histogram, number)| (format!("tag-{number}"), histogram.clone())).collect();
    let written = written(&found);
    let again = hlog::read(&written, |_| true).unwrap_or_else(|problem| panic!("what was written here: {problem}"));
    assert_eq!(again, found, "another encoding changes it");
    assert_eq!(self::written(&again), written);
}

/// Writes a log as the coordinator does.
fn written(found: &Found) -> Vec<u8> {
    let (mut bytes, mut serializer) = (Vec::new(), V2DeflateSerializer::new());
    let mut log =
        IntervalLogWriterBuilder::new().begin_log_with(&mut bytes, &mut serializer).expect("writing to memory");
    for (tag, histogram) in found {
        let (start, length) = (Duration::from_millis(1), Duration::from_micros(5));
        log.write_histogram(histogram, start, length, Tag::new(tag)).expect("writing to memory");
    }
    bytes
}
