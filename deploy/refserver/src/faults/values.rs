//! Values of fault options, read from the command line.

use std::str::FromStr;
use std::time::Duration;

/// What observations look like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ObservationKind {
    /// The benchmark environment's
    #[default]
    Benchmark,
    /// The same names with foreign types: pid is a text, session_hash a number, host_url a text of 1000 characters
    Foreign,
    /// The benchmark's and NaN, Infinity and -Infinity, bare as Python writes them
    Nan,
    /// A list of numbers
    List,
    /// A text
    Text,
    /// An object with nothing but step_count
    Anonymous,
}

/// How a session's close message is answered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum CloseAnswer {
    /// Close frame 1000
    #[default]
    Normal,
    /// Close frame 1001
    GoingAway,
    /// The connection ends in order (FIN) without a close frame
    Cut,
    /// The connection is reset (RST)
    Reset,
    /// A state message, then close frame 1000
    Reply,
    /// One more observation, then close frame 1000
    LateFrame,
    /// Nothing happens: the session stays open until the client goes
    Never,
}

/// How long a worker is not ready after its start, and what it says then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unready {
    /// HTTP status, 200 to 599.
    pub status: u16,
    pub duration: Duration,
    /// Value of the header retry-after.
    pub retry_after: Option<String>,
}

impl FromStr for Unready {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.splitn(3, ':');
        let status = parts.next().and_then(|status| status.parse().ok()).filter(|status| (200..=599).contains(status));
        let status =
            status.ok_or("expected STATUS:SECONDS or STATUS:SECONDS:RETRY_AFTER, the status from 200 to 599")?;
        let duration = seconds(parts.next().ok_or("expected SECONDS behind the status, as in 503:2")?)?;
        let retry_after = parts.next().map(str::to_owned);
        // Dates have spaces; anything beyond ASCII, or a line end, is no header.
        let is_header = |value: &String| !value.is_empty() && value.bytes().all(|byte| matches!(byte, b' '..=b'~'));
        if retry_after.as_ref().is_some_and(|value| !is_header(value)) {
            return Err("RETRY_AFTER cannot be sent as a header".into());
        }
        Ok(Self { status, duration, retry_after })
    }
}

pub(super) fn probability(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a share from 0 to 1".into()),
    }
}

/// A year bounds instants far below where adding them could overflow.
const SECONDS_MAX: f64 = 366.0 * 86_400.0;

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if (0.0..=SECONDS_MAX).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("expected seconds, 0 or more".into()),
    }
}

pub(super) fn positive_seconds(text: &str) -> Result<Duration, String> {
    seconds(text).ok().filter(|seconds| !seconds.is_zero()).ok_or_else(|| "expected seconds, more than 0".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_outside_zero_to_one_are_refused() {
        for text in ["-0.1", "1.1", "nan", "x"] {
            assert!(probability(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_time_to_be_ready_is_read() {
        let unready = |status, milliseconds, retry_after: Option<&str>| {
            let duration = Duration::from_millis(milliseconds);
            Ok(Unready { status, duration, retry_after: retry_after.map(str::to_owned) })
        };
        assert_eq!("503:2.5".parse(), unready(503, 2500, None));
        assert_eq!("429:1:30".parse(), unready(429, 1000, Some("30")));
        // A date has colons itself.
        let date = "Wed, 21 Oct 2026 07:28:00 GMT";
        assert_eq!(format!("503:0:{date}").parse(), unready(503, 0, Some(date)));
        for text in ["", "503", "503:", "x:1", "199:1", "600:1", "503:-1", "503:1:", "503:1:a\r\nb: c", "503:1:\u{e4}"]
        {
            assert!(text.parse::<Unready>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_limit_of_no_time_is_refused() {
        assert_eq!(positive_seconds("0.25"), Ok(Duration::from_millis(250)));
        for text in ["0", "0.0", "1e-12", "-1", "nan", "x"] {
            assert!(positive_seconds(text).is_err(), "{text}");
        }
    }
}
