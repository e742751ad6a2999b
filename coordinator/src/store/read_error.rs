//! Why a results folder can't be reported, and what its name says.

use std::path::{Path, PathBuf};

use super::schema::format::FORMAT;
use super::{RUN, SUMMARY};

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(
        "{dir}: there is neither a {RUN} nor a {SUMMARY}: it is no results folder; give the one that the run printed \
         (its last line), or one with a {SUMMARY} of the Python script{}", inside(.below)
    )]
    NoRun { dir: PathBuf, below: Vec<PathBuf> },
    #[error("{0} does not exist; a run prints its results folder first and last")]
    Missing(PathBuf),
    #[error("{0} is a file; give the results folder that it lies in")]
    File(PathBuf),
    #[error("{path}: {problem}")]
    Unreadable { path: PathBuf, problem: String },
    #[error(
        "{path} is of format {format}, written by version {version}; this is version {own} and reads up to format {FORMAT}: report \
         it with version {version}, or keep its {SUMMARY} alone in a folder and give that",
        own = proto::VERSION
    )]
    Format { path: PathBuf, format: u32, version: String },
}

/// Results folders that may have been meant.
fn inside(below: &[PathBuf]) -> String {
    if below.is_empty() {
        return String::new();
    }
    let list: Vec<String> = below.iter().map(|path| path.display().to_string()).collect();
    format!("; in it are {}", list.join(", "))
}

/// What tells a folder from others of its day: `-2` of `2026-11-27-2`.
pub(super) fn again(dir: &Path) -> String {
    let name = dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let rest = name.get(10..).unwrap_or_default();
    let is_date = name.bytes().take(10).all(|c| c.is_ascii_digit() || c == b'-')
        && name.starts_with(|c: char| c.is_ascii_digit());
    let number = rest.strip_prefix('-').is_some_and(|n| !n.is_empty() && n.bytes().all(|c| c.is_ascii_digit()));
    if is_date && number { rest.to_owned() } else { String::new() }
}
