//! The verdict on a batch: its validity, its bottleneck, and the reasons.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whether a batch may be used. The worst that applies is chosen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Validity {
    #[default]
    Valid,
    GeneratorLimited,
    /// Agents were lost.
    Degraded,
    /// The ledger, the hosts or the uploads are wrong.
    Invalid,
}

impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Valid => "valid",
            Self::GeneratorLimited => "generator-limited",
            Self::Degraded => "degraded",
            Self::Invalid => "invalid",
        })
    }
}

/// What kept the batch from doing better.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bottleneck {
    Server,
    Generator,
    None,
    #[default]
    Unknown,
}

impl fmt::Display for Bottleneck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "server",
            Self::Generator => "generator",
            Self::None => "none",
            Self::Unknown => "unknown",
        })
    }
}

/// A verdict with its reasons in words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    #[serde(rename = "worth")]
    pub validity: Validity,
    pub limit: Bottleneck,
    pub reasons: Vec<String>,
    /// `target.require_hosts` was not met.
    pub hosts_missing: bool,
    /// No other reason makes the batch degraded or invalid.
    pub only_hosts_missing: bool,
    /// The server was restarted, or its connections were cut, while sessions ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage: Option<Outage>,
}

/// An outage of the server: the sessions it cut, and the evidence for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// Time of the first cut since the start of the batch.
    pub at_us: u64,
    pub cut: u64,
    /// Connections that were not accepted meanwhile, during the batch and after it.
    pub refused_connects: u64,
    /// The evidence in words.
    pub evidence: Vec<String>,
}
