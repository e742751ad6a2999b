//! How a session failed, as tables and summaries count it.

use std::cmp::Ordering;
use std::fmt;

use proto::{Outcome, Phase};
use serde::{Deserialize, Serialize};

/// What went wrong, and in which phase. As text, and in the files: `capacity_reached at reset`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct FailedAs {
    /// The `error_type` of raw.jsonl; in folders of the historical script, its own words.
    pub kind: String,
    pub phase: Option<Phase>,
}

impl FailedAs {
    /// `None` for a session that succeeded.
    #[must_use]
    pub fn of(outcome: &Outcome) -> Option<Self> {
        Some(Self { kind: outcome.error_type()?, phase: outcome.phase() })
    }
}

impl fmt::Display for FailedAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.phase {
            Some(phase) => write!(f, "{} at {phase}", self.kind),
            None => f.write_str(&self.kind),
        }
    }
}

impl From<String> for FailedAs {
    fn from(text: String) -> Self {
        let parts = text.rsplit_once(" at ").and_then(|(kind, name)| {
            let phase = Phase::ALL.into_iter().find(|phase| phase.as_str() == name)?;
            Some((kind.to_owned(), phase))
        });
        match parts {
            Some((kind, phase)) => Self { kind, phase: Some(phase) },
            None => Self { kind: text, phase: None },
        }
    }
}

impl From<FailedAs> for String {
    fn from(failed: FailedAs) -> Self {
        failed.to_string()
    }
}

/// In the order of their texts.
impl Ord for FailedAs {
    fn cmp(&self, other: &Self) -> Ordering {
        let phase = |failed: &Self| failed.phase.map_or("", Phase::as_str);
        self.kind.cmp(&other.kind).then_with(|| phase(self).cmp(phase(other)))
    }
}

impl PartialOrd for FailedAs {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_text_reads_back() {
        for text in ["capacity_reached at reset", "lost", "Cannot connect at all", "closed(1006) at close", " at step"]
        {
            let failed = FailedAs::from(text.to_owned());
            assert_eq!(failed.to_string(), text);
            assert_eq!(serde_json::to_string(&failed).expect("text"), format!("{text:?}"));
        }
        assert_eq!(FailedAs::from("x at y at step".to_owned()).phase, Some(Phase::Step));
        assert_eq!(FailedAs::from("x at noon".to_owned()).phase, None);
    }
}
