//! Tests that need network namespaces (root, iproute2) or the real openenv-core server (Python, PyPI).
//!
//! `scripts/test` provides both and fails if they are missing; a plain `cargo test` leaves this binary out, see
//! `required-features` in Cargo.toml.

#[path = "../e2e/support.rs"]
#[expect(dead_code, reason = "shared with the other test binary, which uses all of it")]
mod support;

mod balancer;
mod clocks;
mod cuts;
mod disk;
mod docker;
mod hf_spaces;
mod namespaces;
mod network;
mod openenv;
mod pages;
mod ports;
