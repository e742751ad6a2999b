//! PURE: maps values to pixels, and chooses ticks and their labels.

use crate::text::count;

/// A range of values over a range of pixels.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scale {
    from: f64,
    to: f64,
    start_px: f64,
    end_px: f64,
    log: bool,
}

impl Scale {
    /// A scale from 0 to a round number that is not below `max`, with at most `steps` steps of `ticks`.
    pub(super) fn linear(max: f64, steps: f64, start_px: f64, end_px: f64) -> Self {
        let max = if max.is_finite() && max > 0.0 { max } else { 1.0 };
        let step = round_step(max / steps);
        Self { from: 0.0, to: (max / step).ceil() * step, start_px, end_px, log: false }
    }

    /// A linear scale from one value to another, without rounding.
    pub(super) fn between(from: f64, to: f64, start_px: f64, end_px: f64) -> Self {
        let from = if from.is_finite() { from } else { 0.0 };
        let to = if to.is_finite() && to > from { to } else { from + 1.0 };
        Self { from, to, start_px, end_px, log: false }
    }

    /// A logarithmic scale; both ends are above 0. If they are equal, it covers half a decade around them.
    pub(super) fn log(from: f64, to: f64, start_px: f64, end_px: f64) -> Self {
        let usable = |value: f64| if value.is_finite() { value.max(1e-9) } else { 1.0 };
        let (from, to) = (usable(from), usable(to));
        let (from, to) = if to > from * 1.001 { (from, to) } else { (from / 1.8, from * 1.8) };
        Self { from, to, start_px, end_px, log: true }
    }

    /// The pixel of a value; values outside of the range are at its edge.
    pub(super) fn at(&self, value: f64) -> f64 {
        let value = if value.is_nan() { self.from } else { value.clamp(self.from, self.to) };
        let share = if self.log {
            (value / self.from).ln() / (self.to / self.from).ln()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        self.start_px + share * (self.end_px - self.start_px)
    }

    /// Round values at a distance that gives at most about `at_most` of them.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few ticks")]
    pub(super) fn ticks(&self, at_most: f64) -> Vec<f64> {
        if self.log {
            return self.decades(at_most);
        }
        let step = round_step((self.to - self.from) / at_most.max(1.0));
        let first = (self.from / step).ceil();
        let steps = ((self.to / step) - first + 1e-9).floor().clamp(0.0, 100.0) as u32;
        // Division is exact where 3 * 0.2 would be 0.6000000000000001. Adding 0.0 turns -0 into 0.
        let per_one = (1.0 / step).round();
        let at = |n: f64| if step < 1.0 { n / per_one } else { n * step };
        (0..=steps).map(|n| at(first + f64::from(n)) + 0.0).collect()
    }

    /// Powers of ten, with 2 and 5 in between if there is room.
    #[expect(clippy::cast_possible_truncation, reason = "exponents")]
    fn decades(&self, at_most: f64) -> Vec<f64> {
        let (low, high) = (self.from.log10().floor() as i32, self.to.log10().ceil() as i32);
        let inside = |value: &f64| *value >= self.from * 0.999 && *value <= self.to * 1.001;
        let fine: Vec<f64> = (low..=high)
            .flat_map(|exponent| [1.0, 2.0, 5.0].map(|digit| digit * 10_f64.powi(exponent)))
            .filter(inside)
            .collect();
        if count_of(fine.len()) <= at_most {
            return fine;
        }
        let mut every = 1;
        while f64::from(high - low) / f64::from(every) > at_most {
            every += 1;
        }
        (low..=high).filter(|n| n % every == 0).map(|n| 10_f64.powi(n)).filter(inside).collect()
    }
}

/// Converts a count to a float.
#[expect(clippy::cast_precision_loss, reason = "for a picture")]
pub(super) fn count_of(n: usize) -> f64 {
    n as f64
}

/// The next of 1, 2 or 5 times a power of ten that is not below `step`.
fn round_step(step: f64) -> f64 {
    if !step.is_finite() || step <= 0.0 {
        return 1.0;
    }
    let power = 10_f64.powf(step.log10().floor());
    let digit = step / power;
    power
        * match digit {
            ..=1.0001 => 1.0,
            ..=2.0001 => 2.0,
            ..=5.0001 => 5.0,
            _ => 10.0,
        }
}

/// Formats a number with as many decimals as `step` has, six at most: `16,384`, `0.25`, `1,234.5`.
pub(super) fn number(value: f64, step: f64) -> String {
    let decimals = (0..6).find(|n| {
        let scaled = step.abs() * 10_f64.powi(*n);
        scaled > 0.5 && (scaled - scaled.round()).abs() < 1e-6 * scaled
    });
    let decimals = decimals.unwrap_or(if step == 0.0 { 0 } else { 6 });
    large(value, 1e7).unwrap_or_else(|| grouped(value, usize::try_from(decimals).unwrap_or(0)))
}

/// Formats with three significant digits, or all digits of a large number: `0.013`, `1.08`, `12.5`, `1,240`. A small
/// value is `<0.001`, NaN a dash.
pub(super) fn three(value: f64) -> String {
    match value.abs() {
        size if size.is_nan() => "–".to_owned(),
        1e6.. => large(value, 0.0).unwrap_or_default(),
        99.95.. => grouped(value, 0),
        9.995.. => grouped(value, 1),
        0.0995.. => grouped(value, 2),
        0.0 => "0".to_owned(),
        ..0.000_5 => "<0.001".to_owned(),
        _ => grouped(value, 3),
    }
}

/// Formats a number of sessions: `16,384`, from ten million on `12.3 M`.
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(super) fn sessions(n: u64) -> String {
    large(n as f64, 1e7).unwrap_or_else(|| count(n))
}

/// Formats a number from `from` on like `12.3 M`, since labels have no room for all digits.
fn large(value: f64, from: f64) -> Option<String> {
    const UNITS: [(&str, f64); 5] = [("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)];
    let size = value.abs();
    if size < from || size.is_nan() {
        return None;
    }
    let sign = if value < 0.0 { "-" } else { "" };
    if size >= 1e21 {
        return Some(format!("{sign}>1 Z"));
    }
    let (unit, of) = UNITS.into_iter().find(|(_, of)| size >= *of)?;
    let text = three(size / of);
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    Some(format!("{sign}{text} {unit}"))
}

/// Formats a number with thousands separators.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a cast stays in range, and NaN is 0")]
fn grouped(value: f64, decimals: usize) -> String {
    let text = format!("{:.decimals$}", value.abs());
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let whole = whole.parse::<u64>().map_or_else(|_| count(value.abs() as u64), count);
    let sign = if value < 0.0 && text.chars().any(|c| ('1'..='9').contains(&c)) { "-" } else { "" };
    format!("{sign}{whole}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(Scale::linear(0.83, 6.0, 0.0, 1.0).ticks(6.0), [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]);
        assert_eq!(Scale::linear(0.0, 5.0, 0.0, 1.0).ticks(5.0).len(), 6);
        assert_eq!(Scale::log(1.0, 16_384.0, 0.0, 1.0).ticks(6.0), [1.0, 10.0, 100.0, 1_000.0, 10_000.0]);
        assert_eq!(Scale::log(1.0, 1e6, 0.0, 1.0).ticks(4.0), [1.0, 100.0, 10_000.0, 1e6]);
        assert_eq!(Scale::between(-3.2, 4.0, 0.0, 1.0).ticks(8.0), [-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0]);
    }

    #[test]
    fn values_that_no_axis_has_are_at_its_edge() {
        for scale in [Scale::linear(10.0, 5.0, 0.0, 100.0), Scale::log(1.0, 1_000.0, 0.0, 100.0)] {
            for value in [f64::NAN, f64::NEG_INFINITY, -1.0, 0.0, f64::INFINITY, 1e300] {
                assert!((0.0..=100.0).contains(&scale.at(value)), "{scale:?} {value}");
            }
        }
        for odd in [f64::NAN, f64::INFINITY, 0.0, -5.0] {
            assert!(Scale::linear(odd, 5.0, 0.0, 1.0).at(1.0).is_finite());
            assert!(Scale::log(odd, odd, 0.0, 1.0).at(1.0).is_finite());
            assert!(Scale::between(odd, odd, 0.0, 1.0).at(1.0).is_finite());
        }
        assert!((Scale::log(5.0, 5.0, 0.0, 100.0).at(5.0) - 50.0).abs() < 1e-6, "one value is in the middle");
    }

    #[test]
    fn numbers_have_the_decimals_of_their_step() {
        assert_eq!([number(16_384.0, 1.0), number(0.25, 0.05), number(-2.0, 0.5)], ["16,384", "0.25", "-2.0"]);
        assert_eq!([number(1_500_000.0, 500_000.0), number(0.0, 0.2)], ["1,500,000", "0.0"]);
        assert_eq!([0.0, 0.013, 1.084, 12.46, 1_239.6].map(three), ["0", "0.013", "1.08", "12.5", "1,240"]);
        assert_eq!([three(f64::NAN), three(0.000_04), three(f64::MAX)], ["–", "<0.001", ">1 Z"]);
        assert_eq!([number(1.5e9, 5e8), number(-2e7, 1e7), sessions(u64::MAX)], ["1.5 G", "-20 M", "18.4 E"]);
        assert_eq!([sessions(1_048_576), sessions(16_384)], ["1,048,576", "16,384"]);
    }
}
