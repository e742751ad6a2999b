//! Tests whether the numbers are true: real runs against a server that logs what it did, and against agents and targets
//! that are held back on purpose. docs/truth.md has the meaning of each number, and how exact it was.

#[path = "../e2e/support.rs"]
#[expect(dead_code, reason = "shared with the other test binary, which uses all of it")]
mod support;

mod held_back;
mod known;
