//! How single values travel, and [`mirror!`], which converts a whole message by the list of its fields.

use std::time::Duration;

use super::invalid::{Checked, Invalid, invalid};
use crate::histograms::{Bounds, Metric};
use crate::ids::{AttemptId, PlanHash, RunId};
use crate::limits as max;
use crate::outcome::{FailureKind, Phase};
use crate::pb;
use crate::spec::Mode;
use crate::units::micros;
use crate::vitals::WireState;

/// A domain value and its form in a message.
pub(super) trait Value: Sized {
    /// The type of the generated field.
    type Wire;

    fn encode(self) -> Self::Wire;

    /// Checks and converts what came from the network. An error names `field`.
    fn decode(field: &'static str, wire: Self::Wire) -> Checked<Self>;
}

/// Values that travel as they are and need no check of their own.
macro_rules! plain {
    ($($type:ty),+) => {$(
        impl Value for $type {
            type Wire = Self;

            fn encode(self) -> Self {
                self
            }

            fn decode(_field: &'static str, wire: Self) -> Checked<Self> {
                Ok(wire)
            }
        }
    )+};
}

plain!(bool, u32, u64, i64, Vec<u8>);

/// Enums that travel by number.
macro_rules! numbered {
    ($($name:ident),+) => {$(
        impl Value for $name {
            type Wire = i32;

            fn encode(self) -> i32 {
                pb::$name::from(self).into()
            }

            fn decode(field: &'static str, wire: i32) -> Checked<Self> {
                let known = pb::$name::try_from(wire).ok().and_then(|known| known.try_into().ok());
                known.map_or_else(|| invalid(field, format!("unknown value {wire}")), Ok)
            }
        }
    )+};
}

numbered!(Mode, Phase, Metric, WireState);

impl Value for String {
    type Wire = Self;

    fn encode(self) -> Self {
        self
    }

    fn decode(field: &'static str, wire: Self) -> Checked<Self> {
        let (bytes, most) = (wire.len(), max::TEXT_BYTES_MAX);
        if bytes > most { invalid(field, format!("{bytes} bytes, at most {most}")) } else { Ok(wire) }
    }
}

impl Value for usize {
    type Wire = u64;

    fn encode(self) -> u64 {
        self as u64
    }

    fn decode(field: &'static str, wire: u64) -> Checked<Self> {
        Self::try_from(wire).or_else(|_| invalid(field, "more than this machine can address"))
    }
}

impl Value for Duration {
    type Wire = u64;

    fn encode(self) -> u64 {
        micros(self)
    }

    fn decode(field: &'static str, wire: u64) -> Checked<Self> {
        at_most(field, wire, max::DURATION_US_MAX)?;
        Ok(Self::from_micros(wire))
    }
}

impl<const N: usize> Value for [u8; N] {
    type Wire = Vec<u8>;

    fn encode(self) -> Vec<u8> {
        self.to_vec()
    }

    fn decode(field: &'static str, wire: Vec<u8>) -> Checked<Self> {
        Self::try_from(wire).or_else(|wire| invalid(field, format!("{} bytes instead of {N}", wire.len())))
    }
}

impl Value for RunId {
    type Wire = Vec<u8>;

    fn encode(self) -> Vec<u8> {
        self.0.into_bytes().encode()
    }

    fn decode(field: &'static str, wire: Vec<u8>) -> Checked<Self> {
        Ok(Self(uuid::Uuid::from_bytes(Value::decode(field, wire)?)))
    }
}

impl Value for PlanHash {
    type Wire = Vec<u8>;

    fn encode(self) -> Vec<u8> {
        self.0.encode()
    }

    fn decode(field: &'static str, wire: Vec<u8>) -> Checked<Self> {
        Ok(Self(Value::decode(field, wire)?))
    }
}

impl Value for FailureKind {
    type Wire = String;

    fn encode(self) -> String {
        self.to_string()
    }

    fn decode(field: &'static str, wire: String) -> Checked<Self> {
        String::decode(field, wire)?.parse().or_else(|()| invalid(field, "unknown kind"))
    }
}

impl Value for Bounds {
    type Wire = pb::Bounds;

    fn encode(self) -> pb::Bounds {
        pb::Bounds { low_us: self.low_us, high_us: self.high_us, significant_digits: self.significant_digits.into() }
    }

    fn decode(field: &'static str, wire: pb::Bounds) -> Checked<Self> {
        let pb::Bounds { low_us, high_us, significant_digits } = wire;
        let significant_digits = u8::try_from(significant_digits).or_else(|_| invalid(field, "digits above 255"))?;
        let bounds = Self { low_us, high_us, significant_digits };
        if bounds.valid() { Ok(bounds) } else { invalid(field, format!("{bounds:?} is no histogram")) }
    }
}

impl<T: Value> Value for Option<T> {
    type Wire = Option<T::Wire>;

    fn encode(self) -> Self::Wire {
        self.map(T::encode)
    }

    fn decode(field: &'static str, wire: Self::Wire) -> Checked<Self> {
        wire.map(|wire| T::decode(field, wire)).transpose()
    }
}

impl<T: Value> Value for Vec<T> {
    type Wire = Vec<T::Wire>;

    fn encode(self) -> Self::Wire {
        self.into_iter().map(T::encode).collect()
    }

    fn decode(field: &'static str, wire: Self::Wire) -> Checked<Self> {
        wire.into_iter().map(|wire| T::decode(field, wire)).collect()
    }
}

impl<T: Value> Value for Box<T> {
    type Wire = T::Wire;

    fn encode(self) -> Self::Wire {
        T::encode(*self)
    }

    fn decode(field: &'static str, wire: Self::Wire) -> Checked<Self> {
        T::decode(field, wire).map(Self::new)
    }
}

/// Converts between a domain type and its message. `messages` are the fields that are messages themselves and must be
/// there, `values` all others; `name = other` is a field with another name in the message. `check` sees the converted
/// value. Both types are taken apart completely, so that a field that is missing here does not compile.
macro_rules! mirror {
    ($domain:ident = $message:ident in $path:literal {
        $(messages { $($inner:ident),+ })?
        $(values { $($field:ident),+ })?
        $(renamed { $($here:ident = $there:ident),+ })?
        $(check $check:expr)?
    }) => {
        impl From<$domain> for pb::$message {
            fn from(value: $domain) -> Self {
                let $domain { $($($inner,)+)? $($($field,)+)? $($($here,)+)? } = value;
                Self {
                    $($($inner: Some(Value::encode($inner)),)+)?
                    $($($field: Value::encode($field),)+)?
                    $($($there: Value::encode($here),)+)?
                }
            }
        }

        impl TryFrom<pb::$message> for $domain {
            type Error = Invalid;

            fn try_from(message: pb::$message) -> Checked<Self> {
                let pb::$message { $($($inner,)+)? $($($field,)+)? $($($there,)+)? } = message;
                let value = Self {
                    $($($inner: {
                        let field = concat!($path, stringify!($inner));
                        Value::decode(field, need(field, $inner)?)?
                    },)+)?
                    $($($field: Value::decode(concat!($path, stringify!($field)), $field)?,)+)?
                    $($($here: Value::decode(concat!($path, stringify!($there)), $there)?,)+)?
                };
                $(
                    let check: fn(&Self) -> Checked<()> = $check;
                    check(&value)?;
                )?
                Ok(value)
            }
        }

        impl Value for $domain {
            type Wire = pb::$message;

            fn encode(self) -> Self::Wire {
                self.into()
            }

            fn decode(_field: &'static str, wire: Self::Wire) -> Checked<Self> {
                wire.try_into()
            }
        }
    };
}

pub(super) use mirror;

/// Refuses a number above `limit`.
pub(super) fn at_most(field: &'static str, value: u64, limit: u64) -> Checked<()> {
    if value > limit { invalid(field, format!("{value} is above {limit}")) } else { Ok(()) }
}

mirror!(AttemptId = Attempt in "attempt." {
    values { run, batch, attempt }
    check |id| if id.attempt == 0 { invalid("attempt.attempt", "0, they count from 1") } else { Ok(()) }
});
