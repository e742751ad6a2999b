//! PURE: records into summaries, summaries into text. Bytes out, no files.

pub mod cells;
pub mod facts;
pub mod format;
pub mod overview;
pub mod published;
pub mod remarks;
pub mod summary;
pub mod tables;
