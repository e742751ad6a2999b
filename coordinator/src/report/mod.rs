//! PURE: results into tables, text and pictures. Bytes out, no files.

pub mod caveats;
pub mod charts;
pub mod commands;
pub mod comparison;
pub mod document;
pub mod figures;
pub mod findings;
pub mod html;
pub mod markdown;
pub mod overview;
pub mod published;
pub mod scaling_notes;
pub mod table;
pub mod tables;
pub mod vitals;
pub mod wording;
