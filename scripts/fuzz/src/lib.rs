//! What must hold for any bytes that come from others: a plan, messages of the control plane, a server's answers, the files
//! of a run that is taken up again.
//!
//! Each target is a module with `accepts`, which asserts what must hold and tells whether the bytes were taken, and
//! `body`, the same for a fuzzer. `tests/corpus` runs every target over its seeds in `corpus/NAME/` and over mutations of
//! them; `cargo-fuzz/` does it for as long as one likes. A new target is a module, a line in [`TARGETS`], a folder of
//! seeds and a file in `cargo-fuzz/fuzz_targets/`; a test says what was forgotten.

pub mod histograms;
pub mod hlog;
pub mod journal;
mod memory;
pub mod messages;
pub mod plan;
pub mod replies;

pub use messages::{agent_message, beat, coordinator_message, hello};
pub use replies::{http_reply, upgrade_answer, ws_reply};

/// Whether the bytes are taken; panics if something does not hold.
pub type Accepts = fn(&[u8]) -> bool;

/// Every target, by the name of its folder.
pub const TARGETS: &[(&str, Accepts)] = &[
    ("plan", plan::accepts),
    ("agent_message", agent_message::accepts),
    ("coordinator_message", coordinator_message::accepts),
    ("hello", hello::accepts),
    ("beat", beat::accepts),
    ("histograms", histograms::accepts),
    ("upgrade_answer", upgrade_answer::accepts),
    ("ws_reply", ws_reply::accepts),
    ("http_reply", http_reply::accepts),
    ("journal", journal::accepts),
    ("hlog", hlog::accepts),
];

/// Every text that others may have written a part of: short, and one that a terminal can be shown.
fn assert_plain(text: &str, bytes_max: usize) {
    assert!(text.len() <= bytes_max, "{} bytes, at most {bytes_max}", text.len());
    assert!(!text.chars().any(char::is_control), "control characters: {text:?}");
}
