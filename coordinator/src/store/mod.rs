//! The results folder. It is written during the run: a finished batch is on disk before the next one starts.
//!
//! An attempt is first appended to raw.jsonl, histograms.hlog and summary.csv, which are synced. Then its line, with
//! their lengths, is appended to the journal: bytes beyond the last line's lengths belong to an unfinished batch. A
//! failed write is cut back to those lengths at once; after a crash, `resume` does the same.
//!
//! What belongs here: when and where files are written and read. `schema` has what stands in them. What does not: what
//! the numbers mean (`results`) and how they are presented (`report`).

pub mod fault;
pub mod folder;
pub mod hlog;
pub mod legacy;
pub mod read;
mod read_error;
pub mod resume;
pub mod schema;
mod session_intervals;

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use jiff::Timestamp;
use proto::Metric;

use self::fault::{Faults, Sink};
use self::schema::journal::{Entry, Lengths};
use self::schema::run_json::RunJson;
use self::schema::{columns, raw};
use crate::plan::Raw;
use crate::results::attempt::FinishedAttempt;
use crate::results::batch::Summary;
use crate::results::metadata::RunState;
use crate::run::sink::ResultSink;
use crate::text::{count, seconds_short};

pub use self::schema::format::FORMAT;

pub(crate) const SUMMARY: &str = "summary.csv";
const HISTOGRAMS: &str = "histograms.hlog";
const JOURNAL: &str = "journal.jsonl";
const RUN: &str = "run.json";
const ATTEMPTS: &str = "attempts";

/// An open results folder.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    raw: Raw,
    raw_file: Option<File>,
    summary: File,
    histograms: File,
    /// Locked until this is dropped.
    journal: File,
    started: Timestamp,
    faults: Faults,
}

/// Adds the path to an error.
pub(crate) fn named(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The name of the file of session records, if the run keeps one.
fn raw_name(raw: Raw) -> Option<&'static str> {
    match raw {
        Raw::None => None,
        Raw::Jsonl => Some("raw.jsonl"),
        Raw::JsonlZst => Some("raw.jsonl.zst"),
    }
}

/// Locks the folder for one coordinator.
fn lock(journal: &File, dir: &Path) -> io::Result<()> {
    match journal.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(io::Error::new(
            io::ErrorKind::WouldBlock,
            format!("another coordinator is writing to {}; wait for it, or end it", dir.display()),
        )),
        // Some file systems have no locks; measuring is still possible.
        Err(TryLockError::Error(error)) => {
            tracing::warn!(
                "{} can't be locked ({error}): see to it that no other coordinator writes there",
                dir.display()
            );
            Ok(())
        }
    }
}

impl Store {
    /// Creates the files in a new folder.
    ///
    /// # Errors
    /// The error names the path that could not be written.
    pub fn create(dir: PathBuf, raw: Raw, started: Timestamp, faults: Faults) -> io::Result<Self> {
        let open = |name: &str| {
            let path = dir.join(name);
            OpenOptions::new().append(true).create_new(true).open(&path).map_err(named(&path))
        };
        let store = Self {
            raw,
            raw_file: raw_name(raw).map(open).transpose()?,
            summary: open(SUMMARY)?,
            histograms: open(HISTOGRAMS)?,
            journal: open(JOURNAL)?,
            started,
            faults,
            dir,
        };
        lock(&store.journal, &store.dir)?;
        store.write_headers()?;
        Ok(store)
    }

    /// Writes the headers of empty files.
    fn write_headers(&self) -> io::Result<()> {
        self.write(&self.summary, SUMMARY, &columns::header()?)?;
        let mut header = Vec::new();
        IntervalLogWriterBuilder::new()
            .add_comment("[Histogram log format version 1.3]")
            .add_comment("[values in microseconds; tags are mode-batch-wait-repetition-metric]")
            .with_start_time(SystemTime::UNIX_EPOCH + since_epoch(self.started))
            .begin_log_with(&mut header, &mut V2DeflateSerializer::new())?;
        header.extend_from_slice(
            b"\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n",
        );
        self.write(&self.histograms, HISTOGRAMS, &header)?;
        // The folder's entries must survive a crash too.
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(named(&self.dir))
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes and syncs.
    fn write(&self, file: &File, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.dir.join(name);
        let mut sink = Sink::new(file, &path, &self.faults);
        sink.write_all(bytes)?;
        sink.finish()
    }

    fn append(&self, finished: &FinishedAttempt) -> io::Result<()> {
        let summary = &finished.summary;
        if summary.accepted {
            if let (Some(file), Some(name)) = (&self.raw_file, raw_name(self.raw)) {
                let path = self.dir.join(name);
                let mut sink = Sink::new(file, &path, &self.faults);
                if self.raw == Raw::JsonlZst {
                    packed(finished, &mut sink)?;
                } else {
                    raw::write(finished, &mut sink)?;
                }
                sink.finish()?;
            }
            self.write(&self.histograms, HISTOGRAMS, &self.intervals(finished)?)?;
        } else {
            self.put_refused(finished)?;
        }
        if finished.stands {
            self.write(&self.summary, SUMMARY, &columns::line(summary)?)?;
        }
        let mut line = serde_json::to_vec(&Entry::of(finished, self.lengths()?))?;
        line.push(b'\n');
        self.write(&self.journal, JOURNAL, &line)
    }

    /// Writes the records of a refused attempt, for diagnosis.
    fn put_refused(&self, finished: &FinishedAttempt) -> io::Result<()> {
        let dir = self.dir.join(ATTEMPTS);
        fs::create_dir_all(&dir).map_err(named(&dir))?;
        let path = dir.join(attempt_name(&finished.summary));
        let file = File::create(&path).map_err(named(&path))?;
        let mut sink = Sink::new(&file, &path, &self.faults);
        raw::write(finished, &mut sink)?;
        sink.finish()?;
        File::open(&dir).and_then(|dir| dir.sync_all()).map_err(named(&dir))
    }

    /// One interval per metric, in the format of HdrHistogram's interval log.
    fn intervals(&self, finished: &FinishedAttempt) -> io::Result<Vec<u8>> {
        let summary = &finished.summary;
        let start = since_epoch(summary.timestamp).saturating_sub(since_epoch(self.started));
        let length = Duration::from_micros(summary.total_wall_us);
        let mut bytes = Vec::new();
        let mut serializer = V2DeflateSerializer::new();
        let mut log = IntervalLogWriterBuilder::new().begin_log_with(&mut bytes, &mut serializer)?;
        for metric in Metric::ALL {
            let tag = tag(summary, metric);
            log.write_histogram(finished.histograms.get(metric), start, length, Tag::new(&tag))
                .map_err(|error| io::Error::other(format!("{tag}: {error:?}")))?;
        }
        Ok(bytes)
    }

    fn lengths(&self) -> io::Result<Lengths> {
        Ok(Lengths {
            raw: self.raw_file.as_ref().map(|file| file.metadata().map(|m| m.len())).transpose()?,
            summary: self.summary.metadata()?.len(),
            histograms: self.histograms.metadata()?.len(),
        })
    }

    /// Cuts the files back to whole attempts. This needs no space, so it works on a full disk too.
    fn cut_back(&self, to: Lengths, journal: u64) -> io::Result<()> {
        let cut = |file: &File, name: &str, length| file.set_len(length).map_err(named(&self.dir.join(name)));
        if let (Some(file), Some(name), Some(length)) = (&self.raw_file, raw_name(self.raw), to.raw) {
            cut(file, name, length)?;
        }
        cut(&self.summary, SUMMARY, to.summary)?;
        cut(&self.histograms, HISTOGRAMS, to.histograms)?;
        cut(&self.journal, JOURNAL, journal)
    }

    /// About how many bytes an attempt takes on disk, for error messages.
    fn bytes_of(&self, finished: &FinishedAttempt) -> u64 {
        let mut counted = Counted(0);
        // The counter accepts everything.
        let _ = match self.raw {
            Raw::None if finished.summary.accepted => Ok(()),
            Raw::JsonlZst if finished.summary.accepted => packed(finished, &mut counted),
            _ => raw::write(finished, &mut counted),
        };
        let rest = self.intervals(finished).map_or(0, |bytes| bytes.len());
        let line = self.lengths().ok().and_then(|bytes| serde_json::to_vec(&Entry::of(finished, bytes)).ok());
        counted.0 + (rest + line.map_or(0, |line| line.len())) as u64
    }
}

/// Writes the records as one Zstandard frame.
fn packed(finished: &FinishedAttempt, out: &mut impl Write) -> io::Result<()> {
    let mut packer = zstd::Encoder::new(out, 3)?;
    raw::write(finished, &mut packer)?;
    packer.finish().map(drop)
}

/// Counts the bytes written to it.
struct Counted(u64);

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ResultSink for Store {
    const BLOCKS: bool = true;

    fn put(&mut self, finished: &FinishedAttempt) -> io::Result<()> {
        let (before, journal) = (self.lengths()?, self.journal.metadata()?.len());
        self.append(finished).map_err(|error| {
            let cut = match self.cut_back(before, journal) {
                Ok(()) => String::new(),
                Err(error) => format!(" (and the half-written batch could not be taken back: {error})"),
            };
            if !finished.summary.accepted {
                // A part of a refused attempt's records is of no use. The file may not exist.
                let _ = fs::remove_file(self.dir.join(ATTEMPTS).join(attempt_name(&finished.summary)));
            }
            let bytes = count(self.bytes_of(finished));
            io::Error::new(
                error.kind(),
                format!("{error}; the batch needs {bytes} bytes in {}{cut}", self.dir.display()),
            )
        })
    }

    fn put_run(&self, run: &RunState<'_>) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(&RunJson::of(run))?;
        text.push(b'\n');
        let temporary = format!("{RUN}.tmp");
        let (from, to) = (self.dir.join(&temporary), self.dir.join(RUN));
        let file = File::create(&from).map_err(named(&from))?;
        self.write(&file, &temporary, &text).map_err(|error| {
            // The old document stays.
            let _ = fs::remove_file(&from);
            io::Error::new(error.kind(), format!("{error}; it needs {} bytes", text.len()))
        })?;
        fs::rename(&from, &to).map_err(named(&to))?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(named(&self.dir))
    }

    fn place(&self) -> String {
        self.dir.display().to_string()
    }
}

/// The name of a repetition in files: `mode-batch-wait-repetition`.
fn cell_name(summary: &Summary) -> String {
    let b = &summary.batch;
    format!("{}-{}-{}-{}", b.mode, b.batch_size, seconds_short(b.wait_us), b.repetition)
}

/// The tag of an interval in histograms.hlog.
fn tag(summary: &Summary, metric: Metric) -> String {
    format!("{}-{metric}", cell_name(summary))
}

/// The name of a file in attempts/.
fn attempt_name(summary: &Summary) -> String {
    format!("{}-attempt-{}.jsonl", cell_name(summary), summary.attempt)
}

fn since_epoch(timestamp: Timestamp) -> Duration {
    Duration::from_micros(u64::try_from(timestamp.as_microsecond()).unwrap_or(0))
}

#[cfg(test)]
mod tests;
