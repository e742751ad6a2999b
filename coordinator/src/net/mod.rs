//! The network side of the coordinator: its identity, its listener, and its gRPC service.
//!
//! What belongs here: sockets, TLS, gRPC and the identity. What does not: decisions about the run.

pub mod identity;
pub mod listener;
pub mod rpc;

/// The number of an agent's stream of orders, in the order in which the streams were opened.
pub type ConnectionId = u64;
