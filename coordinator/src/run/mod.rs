//! Running a plan: who carries what ([`share`]), what comes back ([`collect`]), what it is worth ([`verdict`]), and the
//! machine that decides the next step ([`machine`]). All of that is pure; [`event_loop`] is where time and the network
//! come in.

pub mod clock;
pub mod collect;
pub mod event_loop;
pub mod events;
pub mod job;
pub mod machine;
pub mod outage;
pub mod placement;
pub mod side;
pub mod sink;
pub mod upload;
pub mod verdict;
