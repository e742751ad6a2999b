//! The experiment log: one entry a run, put into a file that people edit too.

pub mod entry;
pub mod logbook;
