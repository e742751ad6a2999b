//! The form of numbers in the files: whole microseconds in memory are decimal seconds in the files.

use jiff::Timestamp;
use proto::units::micros_of;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::text::{rfc3339, seconds_short, seconds6};

/// Thirty years: no run has a longer time.
const US_MAX: u64 = 1_000_000_000_000_000;

/// Converts seconds to microseconds. Negative and absurdly large values are clamped, and NaN becomes 0.
#[must_use]
pub fn us(seconds: f64) -> u64 {
    micros_of(seconds).min(US_MAX)
}

fn as_text<S: Serializer>(text: String, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&text)
}

fn as_number<S: Serializer>(text: String, serializer: S) -> Result<S::Ok, S::Error> {
    RawValue::from_string(text).map_err(serde::ser::Error::custom)?.serialize(serializer)
}

/// Writes a time as RFC 3339 in UTC with microseconds.
pub(super) fn rfc3339_text<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*time))
}

#[expect(clippy::ref_option, reason = "the form that serde asks for")]
pub(super) fn rfc3339_text_option<S: Serializer>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(rfc3339).serialize(serializer)
}

/// Defines a number with a fixed text form: `as_text` for CSV, `as_number` for JSON with exactly these digits.
macro_rules! number {
    ($(#[$doc:meta])* $name:ident($held:ty), $write:ident, $text:expr, $read:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub struct $name(pub $held);

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let text: fn($held) -> String = $text;
                $write(text(self.0), serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let read: fn(f64) -> $held = $read;
                f64::deserialize(deserializer).map(|number| Self(read(number)))
            }
        }
    };
}

number!(
    /// Microseconds, written as seconds with six decimals.
    Seconds(u64), as_text, seconds6, us
);
number!(
    /// Microseconds, written to JSON as seconds with six decimals.
    JsonSeconds(u64), as_number, seconds6, us
);
number!(
    /// Microseconds, written as seconds with as few decimals as possible.
    ShortSeconds(u64), as_text, seconds_short, us
);
number!(
    /// Microseconds, written to JSON as seconds with as few decimals as possible.
    ShortJsonSeconds(u64), as_number, seconds_short, us
);
number!(
    /// A mean of microseconds, written as seconds with six decimals.
    Mean(f64), as_text, |us| format!("{:.6}", us / 1e6), |seconds| seconds * 1e6
);
number!(
    /// A number with six decimals.
    Rate(f64), as_text, |rate| format!("{rate:.6}"), |rate| rate
);
number!(
    /// A number from 0 to 1 with six decimals.
    Fraction(f64), as_text, |fraction| format!("{fraction:.6}"), |fraction| fraction
);
