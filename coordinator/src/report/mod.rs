//! PURE: turns results into tables, text and pictures.
//!
//! What belongs here: the words, tables and figures of reports, as bytes. What does not: the numbers themselves and the
//! arithmetic on them (`results`), files (`store`, `publish`), and the experiment log (`log`).

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
