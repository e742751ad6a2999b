//! What is known of a batch before anything is worked out of it: its rows, and what it was judged to be worth.

use std::fmt;
use std::sync::Arc;

use proto::SessionRecord;
use serde::Serialize;

/// A record and whose it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub agent: Arc<str>,
    pub record: SessionRecord,
}

/// The first that holds, from the worst.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Worth {
    #[default]
    Valid,
    GeneratorLimited,
    /// Agents were lost.
    Degraded,
    /// The ledger, the hosts or the uploads are wrong.
    Invalid,
}

impl fmt::Display for Worth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "valid",
            Self::GeneratorLimited => "generator-limited",
            Self::Degraded => "degraded",
            Self::Invalid => "invalid",
        })
    }
}

/// Who kept the batch from doing better.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    Server,
    Generator,
    None,
    #[default]
    Unknown,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Generator => "generator",
            Self::None => "none",
            Self::Unknown => "unknown",
        })
    }
}

/// With every reason in words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub worth: Worth,
    pub limit: Limit,
    pub reasons: Vec<String>,
    /// `target.require_hosts` was not met.
    pub hosts_missing: bool,
    /// And nothing else is wrong that would make it degraded or invalid.
    pub only_hosts_missing: bool,
}
