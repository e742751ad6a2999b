//! The experiment log: a Markdown file with one entry per run, which people may edit too.

pub mod entry;
pub mod logbook;
