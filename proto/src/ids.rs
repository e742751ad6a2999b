//! Identifiers: of a run, of an attempt at a batch, and of a plan.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One run of one plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunId(pub Uuid);

impl RunId {
    /// A fresh random id.
    #[must_use]
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One try at one batch of one run. Uploads are identified by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttemptId {
    pub run: RunId,
    /// The batch's place in the expanded grid, or [`AttemptId::WARMUP`].
    pub batch: u32,
    /// From 1.
    pub attempt: u32,
}

impl AttemptId {
    /// The batch number of the warm-up, which is never recorded.
    pub const WARMUP: u32 = u32::MAX;
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.batch == Self::WARMUP {
            write!(f, "warm-up attempt {}", self.attempt)
        } else {
            write!(f, "batch {} attempt {}", self.batch, self.attempt)
        }
    }
}

/// SHA-256 of the checked plan in its canonical form. Peers with the same hash do the same experiment.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PlanHash(pub [u8; 32]);

impl fmt::Display for PlanHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PlanHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl PlanHash {
    /// The first 12 hex digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}
