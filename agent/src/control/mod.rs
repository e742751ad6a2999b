//! The agent's side of the conversation with the coordinator.
//!
//! In this room: what an order leads to ([`machine`], pure) and the loop that carries it out ([`agent_loop`]), the
//! connection ([`link`]), signs of life ([`heartbeat`]), what is sent back after a batch (`upload`), the readiness
//! check ([`probe`]), and the clock ([`clock`]). Not in this room: how sessions are run (see `load`).

pub mod agent_loop;
pub mod clock;
pub mod heartbeat;
pub mod link;
pub mod machine;
pub mod probe;
pub(crate) mod upload;
