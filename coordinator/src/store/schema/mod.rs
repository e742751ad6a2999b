//! What stands in the files of a results folder: one type for each kind of line or document.
//!
//! What belongs here: keys, columns, their order and their units. What does not: when a file is written, and what a report makes of it.

pub mod columns;
pub mod format;
pub mod journal;
pub mod number;
pub mod raw;
pub mod run_json;
