//! Conversions of durations and seconds to microseconds, the unit of all records and messages.

use std::time::Duration;

/// Microseconds of a duration; saturates (584,942 years).
#[must_use]
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Microseconds of seconds, rounded; 0 for what is negative or no number, and saturates.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
pub fn micros_of(seconds: f64) -> u64 {
    (seconds * 1e6).round() as u64
}
