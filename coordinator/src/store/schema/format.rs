//! The versions of the folder's files, told apart in one place.

use std::ops::RangeInclusive;

use serde::Deserialize;

/// Raised when a file of the folder changes its meaning.
pub const FORMAT: u32 = 2;

/// The formats that can be reported. Format 1 counted a session as open from its connection on, format 2 from its first answer.
pub const READ: RangeInclusive<u32> = 1..=FORMAT;

/// What every document says of itself, in any format.
#[derive(Debug, Deserialize)]
pub struct Head {
    pub format: u32,
    #[serde(default)]
    pub version: String,
}

impl Head {
    /// Reads only this much of a document.
    ///
    /// # Errors
    /// If it is no JSON object with a format.
    pub fn of(text: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(text)
    }

    #[must_use]
    pub fn is_readable(&self) -> bool {
        READ.contains(&self.format)
    }

    /// A run is continued only by the version that began it, so that all of it is measured in the same way.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.format == FORMAT && self.version == proto::VERSION
    }
}
