//! Muster's load generator.
//!
//! An agent dials the coordinator ([`link`]), obeys its orders through a pure state machine ([`machine`]), and carries
//! its share of each batch ([`load`]) with one of the drivers ([`driver`]). What the network did is told apart from
//! what this process did in [`wire`].

pub mod allow;
pub mod attention;
pub mod capacity;
pub mod cli;
pub mod clock;
pub mod driver;
pub mod family;
mod health;
pub mod identity;
pub mod intake;
pub mod link;
pub mod load;
pub mod machine;
pub mod probe;
pub mod pulse;
pub mod service;
pub mod slurm;
pub mod stamps;
pub mod target;
pub mod trust;
pub mod vitals;
pub mod wire;
