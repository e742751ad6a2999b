//! Properties that must hold for any bytes from outside: a plan, messages of the control plane, a server's replies, the
//! files of a run that is resumed.
//!
//! Each target is a module with `accepts`, which asserts its properties and returns whether the bytes were accepted,
//! and `body`, the same for a fuzzer. `tests/corpus` runs every target over its seeds in `corpus/NAME/` and over
//! mutations of them; `cargo-fuzz/` runs them without an end. A new target needs a module, a line in [`TARGETS`], a
//! folder of seeds and a file in `cargo-fuzz/fuzz_targets/`; a test reports what is missing.

pub mod histograms;
pub mod hlog;
pub mod journal;
mod memory;
pub mod messages;
pub mod plan;
pub mod replies;

pub use messages::{agent_message, coordinator_message, heartbeat, hello};
pub use replies::{http_reply, upgrade_answer, ws_reply};

/// Whether the bytes are accepted. Panics if a property does not hold.
pub type Accepts = fn(&[u8]) -> bool;

/// Every target, by the name of its folder.
pub const TARGETS: &[(&str, Accepts)] = &[
    ("plan", plan::accepts),
    ("agent_message", agent_message::accepts),
    ("coordinator_message", coordinator_message::accepts),
    ("hello", hello::accepts),
    ("heartbeat", heartbeat::accepts),
    ("histograms", histograms::accepts),
    ("upgrade_answer", upgrade_answer::accepts),
    ("ws_reply", ws_reply::accepts),
    ("http_reply", http_reply::accepts),
    ("journal", journal::accepts),
    ("hlog", hlog::accepts),
];

/// Asserts that a text from outside is short and safe to print on a terminal.
fn assert_plain(text: &str, bytes_max: usize) {
    assert!(text.len() <= bytes_max, "{} bytes, at most {bytes_max}", text.len());
    assert!(!text.chars().any(char::is_control), "control characters: {text:?}");
}
