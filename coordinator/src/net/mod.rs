//! The network side of the coordinator: who may connect, and messages in and out.
//!
//! What belongs here: sockets, TLS, gRPC and the identity. What does not: any decision about the run.

pub mod identity;
pub mod listener;
pub mod rpc;

/// An agent's stream of orders, numbered in the order in which the streams were opened.
pub type ConnectionId = u64;
