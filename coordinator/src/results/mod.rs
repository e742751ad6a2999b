//! Measured results as plain data: of an agent, an attempt, a batch, a cell of the grid, and a run.
//!
//! What belongs here: the types that `run` fills, `store` writes and reads, and `report` presents, and their
//! arithmetic. What does not: measuring, files, and the text and figures of reports.

pub mod agent;
pub mod attempt;
pub mod batch;
pub mod cells;
pub mod end;
pub mod failure;
pub mod history;
pub mod metadata;
pub mod row;
pub mod run;
#[cfg(test)]
pub(crate) mod samples;
mod tally;
pub mod timeline;
pub mod verdict;
