//! What is wrong with a message from the network.

/// What is wrong with a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Invalid {
    pub field: &'static str,
    pub problem: String,
}

pub(super) type Checked<T> = Result<T, Invalid>;

pub(super) fn invalid<T>(field: &'static str, problem: impl Into<String>) -> Checked<T> {
    Err(Invalid { field, problem: problem.into() })
}

pub(super) fn need<T>(field: &'static str, value: Option<T>) -> Checked<T> {
    value.ok_or(Invalid { field, problem: "missing".to_owned() })
}
