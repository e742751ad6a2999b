//! What was measured, as plain data: an agent's part, a batch, a cell of the grid, a run and how it ended.
//!
//! What belongs here: the types that `run` fills, `store` writes and reads, and `report` presents, and the arithmetic on them.
//! What does not: where the numbers come from, files, and the words and pictures in which they are shown.

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
mod tally;
pub mod timeline;
pub mod verdict;
