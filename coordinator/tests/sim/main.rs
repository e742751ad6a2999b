//! Coordinator and agents in a simulated network with virtual time: the real service, event loop, machines, links,
//! heartbeats and load loop, with a driver that needs no server. Links are cut, held or slowed down, and agents die and
//! return. In every case the run must have the results of an undisturbed one.
//! `MUSTER_SIM_SEEDS` is the number of seeds per trouble (10), `MUSTER_SIM_SEED` the first; a failure names its seed.

mod files;
mod troubles;
mod world;
