//! One session of an attempt.

use std::sync::Arc;

use proto::SessionRecord;

/// A record and whose it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub agent: Arc<str>,
    pub record: SessionRecord,
}
