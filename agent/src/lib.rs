//! Muster's load generator.
//!
//! An agent connects to the coordinator and obeys its orders ([`control`]), runs its share of each batch ([`load`])
//! with the driver of the session's protocol ([`drivers`]) over the network ([`net`]), and knows its machine ([`host`])
//! and its certificates ([`identity`]). Imports point one way: `cli -> control -> load -> drivers -> net`. `host` is
//! used by `load`, `control` and `cli`, and `identity` by `control` and `cli`; both use nothing but `net`.

pub mod cli;
pub mod control;
pub mod drivers;
pub mod host;
pub mod identity;
pub mod load;
pub mod net;
#[cfg(test)]
mod test_data;
