//! The results folder: written as the run goes, a finished batch on disk before the next one starts.
//!
//! Of one attempt, raw.jsonl, histograms.hlog and summary.csv are appended and flushed to disk first, then the journal's
//! line, which carries their lengths: what lies beyond the last line's lengths is a batch that was not finished.

pub mod folder;
pub mod raw;
pub mod run_json;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use jiff::Timestamp;
use proto::Metric;
use serde::Serialize;

use crate::plan::Raw;
use crate::report::format::seconds_short;
use crate::report::summary::{COLUMNS, Summary, rfc3339};
use crate::run::collect::Finished;

/// Raised when a file of the folder changes its meaning.
pub const FORMAT: u32 = 1;

/// An open results folder.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    raw: Raw,
    raw_file: Option<File>,
    summary: File,
    histograms: File,
    journal: File,
    started: Timestamp,
}

/// Writes and waits for the disk; an error names the file and how much was to be written.
fn write_synced(mut file: &File, path: &Path, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes).and_then(|()| file.sync_data()).map_err(|error| {
        io::Error::new(error.kind(), format!("{} ({} bytes to write): {error}", path.display(), bytes.len()))
    })
}

fn named(path: &Path) -> impl Fn(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

impl Store {
    /// Starts the files in a folder that is new.
    ///
    /// # Errors
    /// With the path that could not be written.
    pub fn create(dir: PathBuf, raw: Raw, started: Timestamp) -> io::Result<Self> {
        let open = |name: &str| {
            let path = dir.join(name);
            OpenOptions::new().append(true).create_new(true).open(&path).map_err(named(&path))
        };
        let raw_file = match raw {
            Raw::None => None,
            Raw::Jsonl => Some(open("raw.jsonl")?),
            Raw::JsonlZst => Some(open("raw.jsonl.zst")?),
        };
        let store = Self {
            raw,
            raw_file,
            summary: open("summary.csv")?,
            histograms: open("histograms.hlog")?,
            journal: open("journal.jsonl")?,
            started,
            dir,
        };
        let mut header = csv_line(COLUMNS)?;
        write_synced(&store.summary, &store.dir.join("summary.csv"), &header)?;
        header.clear();
        IntervalLogWriterBuilder::new()
            .add_comment("[Histogram log format version 1.3]")
            .add_comment("[values in microseconds; tags are mode-batch-wait-repetition-metric]")
            .with_start_time(SystemTime::UNIX_EPOCH + since_epoch(started))
            .begin_log_with(&mut header, &mut V2DeflateSerializer::new())?;
        header.extend_from_slice(
            b"\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n",
        );
        write_synced(&store.histograms, &store.dir.join("histograms.hlog"), &header)?;
        // The folder's own entries must survive too.
        File::open(&store.dir).and_then(|dir| dir.sync_all()).map_err(named(&store.dir))?;
        Ok(store)
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Puts one attempt on disk. When this returns, it survives a crash.
    ///
    /// # Errors
    /// With the path and how many bytes were to be written.
    pub fn put(&mut self, finished: &Finished) -> io::Result<()> {
        let summary = &finished.summary;
        if summary.accepted {
            if let Some(file) = &self.raw_file {
                let lines = raw::lines(finished)?;
                match self.raw {
                    Raw::JsonlZst => {
                        let packed = zstd::encode_all(lines.as_slice(), 3)?;
                        write_synced(file, &self.dir.join("raw.jsonl.zst"), &packed)?;
                    }
                    Raw::Jsonl | Raw::None => write_synced(file, &self.dir.join("raw.jsonl"), &lines)?,
                }
            }
            let intervals = self.intervals(finished)?;
            write_synced(&self.histograms, &self.dir.join("histograms.hlog"), &intervals)?;
        } else {
            self.put_refused(finished)?;
        }
        if finished.stands {
            let line = csv_line(summary.cells())?;
            write_synced(&self.summary, &self.dir.join("summary.csv"), &line)?;
        }
        let mut line = serde_json::to_vec(&JournalLine::of(finished, self.lengths()?))?;
        line.push(b'\n');
        write_synced(&self.journal, &self.dir.join("journal.jsonl"), &line)
    }

    /// The records of an attempt that does not count, for whoever wants to know why.
    fn put_refused(&self, finished: &Finished) -> io::Result<()> {
        let dir = self.dir.join("attempts");
        fs::create_dir_all(&dir).map_err(named(&dir))?;
        let path = dir.join(format!("{}-attempt-{}.jsonl", cell_name(&finished.summary), finished.id.attempt));
        let file = File::create(&path).map_err(named(&path))?;
        write_synced(&file, &path, &raw::lines(finished)?)?;
        File::open(&dir).and_then(|dir| dir.sync_all()).map_err(named(&dir))
    }

    /// One interval a metric, in HdrHistogram's interval log form.
    fn intervals(&self, finished: &Finished) -> io::Result<Vec<u8>> {
        let summary = &finished.summary;
        let start = since_epoch(summary.timestamp).saturating_sub(since_epoch(self.started));
        let length = Duration::from_micros(summary.total_wall_us);
        let mut bytes = Vec::new();
        let mut serializer = V2DeflateSerializer::new();
        let mut log = IntervalLogWriterBuilder::new().begin_log_with(&mut bytes, &mut serializer)?;
        for metric in Metric::ALL {
            let tag = format!("{}-{metric}", cell_name(summary));
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

    /// Replaces run.json, whole.
    ///
    /// # Errors
    /// With the path that could not be written.
    pub fn put_run(&self, run: &run_json::RunJson<'_>) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(run)?;
        text.push(b'\n');
        let (path, temporary) = (self.dir.join("run.json"), self.dir.join("run.json.tmp"));
        let file = File::create(&temporary).map_err(named(&temporary))?;
        write_synced(&file, &temporary, &text)?;
        fs::rename(&temporary, &path).map_err(named(&path))?;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(named(&self.dir))
    }
}

/// `mode-batch-wait-repetition`.
fn cell_name(summary: &Summary) -> String {
    let b = &summary.batch;
    format!("{}-{}-{}-{}", b.mode, b.batch_size, seconds_short(b.wait_us), b.repetition)
}

fn since_epoch(timestamp: Timestamp) -> Duration {
    Duration::from_micros(u64::try_from(timestamp.as_microsecond()).unwrap_or(0))
}

fn csv_line<T: AsRef<[u8]>>(cells: impl IntoIterator<Item = T>) -> io::Result<Vec<u8>> {
    let mut writer = csv::WriterBuilder::new().from_writer(Vec::new());
    writer.write_record(cells)?;
    writer.into_inner().map_err(|error| io::Error::other(error.to_string()))
}

/// Of the files, right after this attempt was written to them.
#[derive(Debug, Serialize)]
struct Lengths {
    raw: Option<u64>,
    summary: u64,
    histograms: u64,
}

/// One line of journal.jsonl: a finished attempt, refused ones too.
#[derive(Debug, Serialize)]
struct JournalLine<'a> {
    format: u32,
    batch: u32,
    mode: proto::Mode,
    batch_size: u64,
    wait_us: u64,
    repetition: u32,
    attempt: u32,
    timestamp: String,
    accepted: bool,
    in_summary: bool,
    summary: &'a Summary,
    bytes: Lengths,
}

impl<'a> JournalLine<'a> {
    fn of(finished: &'a Finished, bytes: Lengths) -> Self {
        let summary = &finished.summary;
        let b = &summary.batch;
        Self {
            format: FORMAT,
            batch: b.index,
            mode: b.mode,
            batch_size: b.batch_size,
            wait_us: b.wait_us,
            repetition: b.repetition,
            attempt: finished.id.attempt,
            timestamp: rfc3339(summary.timestamp),
            accepted: summary.accepted,
            in_summary: finished.stands,
            summary,
            bytes,
        }
    }
}
