//! PURE: records into summaries, summaries into text and pictures. Bytes out, no files.

pub mod cells;
pub mod charts;
pub mod comparison;
pub mod document;
pub mod entry;
pub mod facts;
pub mod figures;
pub mod format;
pub mod html;
pub mod logbook;
pub mod markdown;
pub mod notes;
pub mod observations;
pub mod overview;
pub mod published;
pub mod remarks;
pub mod run;
pub mod sheet;
pub mod summary;
pub mod tables;
mod tally;
pub mod timeline;
pub mod vitals;
