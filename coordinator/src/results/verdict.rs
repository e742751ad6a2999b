//! What a batch can be used for, what limited it, and why.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The first that holds, from the worst.
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

/// Who kept the batch from doing better.
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

/// With every reason in words.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    #[serde(rename = "worth")]
    pub validity: Validity,
    pub limit: Bottleneck,
    pub reasons: Vec<String>,
    /// `target.require_hosts` was not met.
    pub hosts_missing: bool,
    /// And nothing else is wrong that would make it degraded or invalid.
    pub only_hosts_missing: bool,
    /// The server was restarted, or cut off, while sessions ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outage: Option<Outage>,
}

/// Sessions that a server cut by going away, and how that is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outage {
    /// Of the first cut, after the start of the batch.
    pub at_us: u64,
    pub cut: u64,
    /// Connections that nobody took meanwhile, in the batch and after it.
    pub refused_connects: u64,
    /// In words.
    pub evidence: Vec<String>,
}
