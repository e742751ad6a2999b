//! The machine that the agent runs on.
//!
//! In this room: what the machine can carry before a batch ([`capacity`]), how it did during one ([`vitals`]), its
//! place in a SLURM job ([`slurm`]), and whether an agent on it is connected (`health`). Not in this room: anything
//! about a target or a session.

pub mod capacity;
pub(crate) mod health;
pub mod slurm;
pub mod vitals;
