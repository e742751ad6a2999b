//! The contents of the files in a results folder: one type per kind of line or document.
//!
//! What belongs here: keys, columns, their order and units. What does not: when files are written, and their
//! evaluation.

pub mod columns;
pub mod format;
pub mod journal;
pub mod number;
pub mod raw;
pub mod run_json;
