//! The format version of the folder's files.

use std::ops::RangeInclusive;

use serde::Deserialize;

/// The current format. It is raised whenever a file of the folder changes its meaning.
pub const FORMAT: u32 = 2;

/// The formats that can be reported. A session is open from its connection on in format 1, from its first answer in 2.
pub const READ: RangeInclusive<u32> = 1..=FORMAT;

/// The version fields that every document has, in any format.
#[derive(Debug, Deserialize)]
pub struct Head {
    pub format: u32,
    #[serde(default)]
    pub version: String,
}

impl Head {
    /// Reads only the version fields of a document.
    ///
    /// # Errors
    /// If the text is no JSON object with a format.
    pub fn of(text: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(text)
    }

    #[must_use]
    pub fn is_readable(&self) -> bool {
        READ.contains(&self.format)
    }

    /// Whether this version wrote it. Only then may a run be resumed, so that all of it is measured in the same way.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.format == FORMAT && self.version == proto::VERSION
    }
}
