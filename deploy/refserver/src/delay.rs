//! Distributions of delays, sampled by inverse transform. Pure: the caller has the random numbers.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Longest delay that can be asked for, in milliseconds: a day. Nanoseconds up to here are exact in an f64.
const MS_MAX: f64 = 86_400_000.0;

/// The forms of a delay, for messages.
const FORMS: &str = "MS, constant:MS, uniform:LOW,HIGH, bimodal:LOW,HIGH,SHARE, pareto:SCALE,SHAPE,MAX or \
    exponential:MEAN,MAX";

/// A distribution of delays; the default is always zero. Parsed from text in milliseconds, fractions allowed, and
/// written as such:
///
/// ```text
/// 20  constant:20             always 20 ms
/// uniform:LOW,HIGH            evenly between LOW and HIGH
/// bimodal:LOW,HIGH,SHARE      LOW, but HIGH with probability SHARE
/// pareto:SCALE,SHAPE,MAX      Pareto (type I) of at least SCALE and tail index SHAPE, truncated at MAX
/// exponential:MEAN,MAX        exponential whose mean is MEAN before it is truncated at MAX
/// ```
///
/// Truncated means conditioned on being at most MAX: nothing piles up there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Delay(Shape);

/// Checked by [`Shape::check`]; all but a constant in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Shape {
    Constant(Duration),
    Uniform { low: f64, high: f64 },
    Bimodal { low: f64, high: f64, share: f64 },
    Pareto { scale: f64, shape: f64, max: f64 },
    Exponential { mean: f64, max: f64 },
}

impl Delay {
    /// The quantile of `unit`, which is in [0, 1): a uniform draw gives a draw of this distribution.
    pub fn sample(&self, unit: f64) -> Duration {
        let ms = match self.0 {
            Shape::Constant(delay) => return delay,
            Shape::Uniform { low, high } => (low + unit * (high - low)).clamp(low, high),
            Shape::Bimodal { low, high, share } => {
                if unit < 1.0 - share {
                    low
                } else {
                    high
                }
            }
            Shape::Pareto { scale, shape, max } => {
                // F(x) = 1 - (scale / x)^shape, and `unit` of F(max) is where the truncated one reaches `unit`.
                let below_max = 1.0 - (scale / max).powf(shape);
                (scale * (1.0 - unit * below_max).powf(-1.0 / shape)).clamp(scale, max)
            }
            Shape::Exponential { mean, max } => {
                let below_max = -(-max / mean).exp_m1();
                (-mean * (-unit * below_max).ln_1p()).clamp(0.0, max)
            }
        };
        Duration::from_secs_f64(ms / 1e3)
    }

    /// Whether every sample is the same, so that no random number is needed.
    pub fn is_constant(&self) -> bool {
        matches!(self.0, Shape::Constant(_))
    }
}

impl Default for Delay {
    fn default() -> Self {
        Self::from(Duration::ZERO)
    }
}

impl From<Duration> for Delay {
    fn from(constant: Duration) -> Self {
        Self(Shape::Constant(constant))
    }
}

impl FromStr for Delay {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, numbers) = text.split_once(':').unwrap_or(("constant", text));
        let shape = match (name, &numbers_of(numbers)?[..]) {
            ("constant", &[ms]) => Shape::Constant(Duration::from_secs_f64(in_range("MS", ms)? / 1e3)),
            ("uniform", &[low, high]) => Shape::Uniform { low, high },
            ("bimodal", &[low, high, share]) => Shape::Bimodal { low, high, share },
            ("pareto", &[scale, shape, max]) => Shape::Pareto { scale, shape, max },
            ("exponential", &[mean, max]) => Shape::Exponential { mean, max },
            ("constant" | "uniform" | "bimodal" | "pareto" | "exponential", given) => {
                return Err(format!("{name} does not take {} numbers; expected {FORMS}", given.len()));
            }
            _ => return Err(format!("no distribution is called {name:?}; expected {FORMS}")),
        };
        shape.check()?;
        Ok(Self(shape))
    }
}

/// Comma-separated numbers, all of them finite.
fn numbers_of(text: &str) -> Result<Vec<f64>, String> {
    let number = |part: &str| match part.trim().parse() {
        Ok(number) if f64::is_finite(number) => Ok(number),
        _ => Err(format!("{part:?} is not a number of milliseconds such as 20 or 0.5; expected {FORMS}")),
    };
    text.split(',').map(number).collect()
}

fn in_range(name: &str, ms: f64) -> Result<f64, String> {
    if (0.0..=MS_MAX).contains(&ms) {
        Ok(ms)
    } else {
        Err(format!("{name} is {ms} ms; a delay is from 0 to {MS_MAX} (a day)"))
    }
}

/// Refuses a `low` above `high`, which would be a negative spread.
fn in_order(low_name: &str, low: f64, high_name: &str, high: f64) -> Result<(), String> {
    if in_range(low_name, low)? <= in_range(high_name, high)? {
        Ok(())
    } else {
        Err(format!("{low_name} ({low}) is above {high_name} ({high}); swap them"))
    }
}

fn above_zero(name: &str, number: f64) -> Result<(), String> {
    if number > 0.0 { Ok(()) } else { Err(format!("{name} is {number}; it must be above 0")) }
}

impl Shape {
    /// Checks the numbers.
    ///
    /// # Errors
    /// What is wrong with them, and what they must be.
    fn check(self) -> Result<(), String> {
        match self {
            Self::Constant(_) => Ok(()),
            Self::Uniform { low, high } => in_order("LOW", low, "HIGH", high),
            Self::Bimodal { low, high, share } => {
                in_order("LOW", low, "HIGH", high)?;
                if (0.0..=1.0).contains(&share) {
                    Ok(())
                } else {
                    Err(format!("SHARE is {share}; it is the probability of HIGH, from 0 to 1"))
                }
            }
            Self::Pareto { scale, shape, max } => {
                above_zero("SCALE", scale)?;
                above_zero("SHAPE", shape)?;
                in_order("SCALE", scale, "MAX", max)
            }
            Self::Exponential { mean, max } => {
                above_zero("MEAN", mean)?;
                in_range("MEAN", mean)?;
                in_range("MAX", max).map(drop)
            }
        }
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Shape::Constant(delay) => write!(f, "{}", delay.as_secs_f64() * 1e3),
            Shape::Uniform { low, high } => write!(f, "uniform:{low},{high}"),
            Shape::Bimodal { low, high, share } => write!(f, "bimodal:{low},{high},{share}"),
            Shape::Pareto { scale, shape, max } => write!(f, "pareto:{scale},{shape},{max}"),
            Shape::Exponential { mean, max } => write!(f, "exponential:{mean},{max}"),
        }
    }
}

#[cfg(test)]
mod tests;
