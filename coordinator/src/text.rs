//! Formats numbers and times as text, and makes foreign text safe to print. Knows no domain types.

use jiff::Timestamp;

/// Formats microseconds as seconds, exactly, with six decimals: `1.234567`.
#[must_use]
pub fn seconds6(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

/// Formats microseconds as seconds with one to six decimals, no trailing zeros: `1.0`, `0.25`. Never an exponent.
#[must_use]
pub fn seconds_short(us: u64) -> String {
    let text = seconds6(us);
    let trimmed = text.trim_end_matches('0');
    if trimmed.ends_with('.') { format!("{trimmed}0") } else { trimmed.to_owned() }
}

/// Formats a whole number with thousands separators: `16,384`.
#[must_use]
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats microseconds as seconds for people, with at most three significant digits: `12.5s`, `1.08s`, `0.013s`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub fn latency(us: u64) -> String {
    let seconds = us as f64 / 1e6;
    match us {
        100_000_000.. => format!("{seconds:.0}s"),
        10_000_000.. => format!("{seconds:.1}s"),
        100_000.. => format!("{seconds:.2}s"),
        _ => format!("{seconds:.3}s"),
    }
}

/// Formats a short latency given in microseconds with a fitting unit: `2.3 ms`, `330 ms`, `12.5 s`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub fn milliseconds(us: u64) -> String {
    match us {
        10_000_000.. => format!("{:.1} s", us as f64 / 1e6),
        10_000.. => format!("{} ms", count(us.saturating_add(500) / 1_000)),
        _ => format!("{:.1} ms", us as f64 / 1e3),
    }
}

/// Formats a fraction as a percentage: `100%`, `96.6%`. Only an exact 1 or 0 shows as `100%` or `0%`; `-` of nothing.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    if part == whole || part == 0 {
        return format!("{}%", 100 * part / whole);
    }
    let value = (part as f64 * 100.0 / whole as f64).clamp(0.1, 99.9);
    format!("{value:.1}%")
}

/// Formats a rate for people: `932`, `47.7`, `0.78`.
#[must_use]
pub fn rate(value: f64) -> String {
    match value {
        100.0.. => format!("{value:.0}"),
        1.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Formats a duration given in microseconds for people, rounded up: `42 s`, `21 min`, `3 h 5 min`.
#[must_use]
pub fn duration(us: u64) -> String {
    let seconds = us.div_ceil(1_000_000);
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}

/// Formats a time as RFC 3339 in UTC with microseconds.
#[must_use]
pub fn rfc3339(timestamp: Timestamp) -> String {
    format!("{timestamp:.6}")
}

/// Foreign text is cut after this many characters.
const SHOWN_CHARS_MAX: usize = 500;

/// Makes foreign text safe to print: control characters are escaped, and long text is cut.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(SHOWN_CHARS_MAX)
        .map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() })
        .collect();
    if text.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!([0, 999, 1_000, 16_384, 1_234_567].map(count), ["0", "999", "1,000", "16,384", "1,234,567"]);
        assert_eq!([13_000, 1_084_000, 12_500_000, 124_000_000].map(latency), ["0.013s", "1.08s", "12.5s", "124s"]);
        assert_eq!([340, 22_400, 1_440_000, 12_500_000].map(milliseconds), ["0.3 ms", "22 ms", "1,440 ms", "12.5 s"]);
        assert_eq!(percent(9_999_999, 10_000_000), "99.9%", "not quite all is not 100%");
        assert_eq!(percent(1, 10_000_000), "0.1%", "a little is not nothing");
        assert_eq!([percent(5, 5), percent(0, 5), percent(966, 1_000), percent(0, 0)], ["100%", "0%", "96.6%", "-"]);
        assert_eq!([932.4, 47.68, 0.777].map(rate), ["932", "47.7", "0.78"]);
        assert_eq!(
            [0, 41_500_000, 1_260_000_000, 11_100_000_000].map(duration),
            ["0 s", "42 s", "21 min", "3 h 5 min"]
        );
    }

    proptest! {
        #[test]
        fn seconds_read_back_exactly_and_have_no_exponent(us in any::<u64>()) {
            for text in [seconds6(us), seconds_short(us)] {
                let (whole, part) = text.split_once('.').expect("a decimal point");
                prop_assert!(text.chars().all(|c| c.is_ascii_digit() || c == '.'));
                let micros = format!("{part:0<6}").parse::<u64>().expect("digits");
                prop_assert_eq!(whole.parse::<u128>().expect("digits") * 1_000_000 + u128::from(micros), u128::from(us));
            }
        }
    }
}
