//! Running a plan: how sessions are divided ([`placement`]), what agents upload ([`upload`], [`collect`]), the verdict
//! ([`verdict`]), and the state machine that decides the next step ([`machine`]). Only [`event_loop`] reads the clock
//! and reaches the network and the disk; the rest is pure.
//!
//! What belongs here: what happens during a run, and every decision about it. What does not: sockets and messages
//! (`net`), the form of the files (`store`), and how results are presented (`report`).

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
