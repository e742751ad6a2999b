//! The decisions of the earlier processes of a resumed run.

use std::collections::BTreeMap;

use crate::results::batch::Summary;

/// The decisions of the earlier processes of a resumed run, by the batch's index in the grid.
#[derive(Debug, Clone, Default)]
pub struct History {
    pub decided: BTreeMap<u32, Summary>,
    /// The number of the last refused attempt at each batch.
    pub refused: BTreeMap<u32, u32>,
    /// Why attempts were refused, by batch.
    pub told: BTreeMap<u32, Vec<String>>,
}
