//! Are the numbers true? Real runs against a server that logs what it really did, and against agents and targets that
//! are held back on purpose. What each number means and how well it was met is in docs/truth.md.

#[path = "../e2e/support.rs"]
#[expect(dead_code, reason = "shared with the other test binary, which uses all of it")]
mod support;

mod held_back;
mod known;
