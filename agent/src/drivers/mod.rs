//! The protocols a session can speak, one file each, and what they share.
//!
//! In this room: the trait [`Driver`], one implementation a protocol ([`ws`], [`http`]), the one list that says which
//! mode has which driver ([`registry`]), how a connection is opened ([`dialer`]), how a failure is described
//! ([`fault`]), and how OpenEnv's replies are read ([`reply`]). Not in this room: schedules, clocks and counters. A
//! driver speaks its protocol; the room `load` decides when, and measures around it.
//!
//! To add a protocol: a file here that implements [`Driver`], a [`proto::Mode`], and a line in [`registry`].

pub mod dialer;
pub mod driver;
#[cfg(any(test, feature = "sim"))]
pub mod fake;
pub mod fault;
pub mod frames;
pub mod http;
pub mod read_budget;
pub mod registry;
pub mod reply;
pub mod upgrade;
pub mod ws;

pub use dialer::{Dialer, Route};
pub use driver::{Closed, Driver};
pub use fault::{Ending, Fault, Refusal};
pub use reply::Reply;
