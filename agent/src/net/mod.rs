//! Reaching a target over the network, and what the kernel says of it.
//!
//! In this room: sockets ([`socket`]) with the kernel's timestamps ([`timestamps`], [`late_pings`]), and everything
//! that happens before a connection is made: looking names up ([`target`]), choosing an address family ([`family`]),
//! checking that the target may be loaded ([`allow`]), trusting its certificate ([`trust`]), all of it together in
//! [`resolver`]. Not in this room: protocols above TLS (see `drivers`), and the connection to the coordinator (see
//! `control`).

pub mod allow;
pub mod family;
pub mod late_pings;
pub mod resolver;
pub mod socket;
pub mod target;
pub mod timestamps;
pub mod trust;
