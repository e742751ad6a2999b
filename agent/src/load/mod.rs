//! Running an agent's share of a batch.
//!
//! In this room: when sessions start ([`pace`]), what one session does ([`session`]), the loop that launches and
//! collects them ([`engine`], slowed down by [`throttle`]), what is kept of them ([`recorder`], [`overshoot`]), the
//! threads that the loop runs on ([`workers`]), and the interface to all of it ([`armed`]). Not in this room: what a
//! session says to the server (see `drivers`), and orders of the coordinator (see `control`).

pub mod armed;
pub mod engine;
pub mod overshoot;
pub mod pace;
pub mod recorder;
pub mod session;
pub mod throttle;
pub mod workers;
