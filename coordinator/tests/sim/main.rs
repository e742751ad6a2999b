//! Coordinator and agents in a simulated network on virtual time: the real service, event loop, machines, links, heartbeats
//! and load loop, with a driver that needs no server. Links are cut and healed, held and let go, slow; agents die and come
//! back. Whatever happens, the run comes to what an undisturbed one comes to.
//!
//! `MUSTER_SIM_SEEDS` says how many (10 of each trouble), `MUSTER_SIM_SEED` where to begin: a failure names its own.

mod files;
mod troubles;
mod world;
