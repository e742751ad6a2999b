//! What earlier processes have decided of a run that is resumed.

use std::collections::BTreeMap;

use crate::results::batch::Summary;

/// What an earlier life of this run has decided, by place in the grid.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub decided: BTreeMap<u32, Summary>,
    /// The last attempt at each batch that was refused.
    pub refused: BTreeMap<u32, u32>,
    /// Why its attempts were refused, by batch.
    pub told: BTreeMap<u32, Vec<String>>,
}
