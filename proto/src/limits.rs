//! Limits of everything that comes over the network. Whatever exceeds them is refused, not truncated.

use std::time::Duration;

/// Bytes of one protobuf message, both ways. A report whose histograms use every bucket has about 2 MiB.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// About how many bytes a sender puts into one chunk of records.
pub const CHUNK_BYTES_TARGET: usize = 256 << 10;
/// Chunks of records of one report.
pub const CHUNKS_MAX: u64 = 1 << 20;
/// Chunks that are asked for again in one message.
pub const RESEND_MAX: usize = 4_096;
/// Records in one chunk.
pub const CHUNK_RECORDS_MAX: usize = 1 << 16;
/// Sessions of one batch, all agents together.
pub const SESSIONS_MAX: u64 = 16 << 20;
/// Steps of one session.
pub const STEPS_MAX: u32 = 10_000;
/// URLs of one target.
pub const URLS_MAX: usize = 1_024;
/// Characters of an agent's name.
pub const NAME_CHARS_MAX: usize = 64;
/// Bytes of any other short text: URL, error type, host.
pub const TEXT_BYTES_MAX: usize = 2_048;
/// Bytes of a recorded error message. The agent truncates longer ones.
pub const ERROR_BYTES_MAX: usize = 512;
/// Bytes of an encoded histogram.
pub const HISTOGRAM_BYTES_MAX: usize = 1 << 20;
/// Bytes of a target's reply: the largest limit that a plan may set.
pub const REPLY_BYTES_MAX: u64 = 1 << 30;
/// Sessions of one readiness check to one address.
pub const PROBE_SESSIONS_MAX: u32 = 64;
/// Different errnos in one report.
pub const ERRNOS_MAX: usize = 256;
/// Bytes of an extra trust root.
pub const CA_BYTES_MAX: usize = 1 << 20;
/// Any duration in a message, in microseconds: a year.
pub const DURATION_US_MAX: u64 = 366 * 86_400 * 1_000_000;
/// Any reading of a monotonic clock, in microseconds: a century.
pub const CLOCK_US_MAX: u64 = 100 * DURATION_US_MAX;
/// The shortest lease: heartbeats can't be sent much more often.
pub const LEASE_MIN: Duration = Duration::from_millis(100);
/// Agents of one run.
pub const AGENTS_MAX: usize = 4_096;
/// The most messages that wait in one direction of a stream.
pub const QUEUE_MESSAGES: usize = 64;
