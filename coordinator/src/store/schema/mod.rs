//! The contents of the files in a results folder: one type per kind of line or document.
//!
//! What belongs here: keys, columns, their order and units. What does not: writing the files, and reports.

pub mod columns;
pub mod format;
pub mod journal;
pub mod number;
pub mod raw;
pub mod run_json;
