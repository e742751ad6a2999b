//! Muster's coordinator.
//!
//! `plan.toml -> plan::{parse, check, expand} -> run::machine -> service -> agents -> run::collect -> store ->
//! report`. Everything that decides is pure; time, sockets and files are in [`run::event_loop`], [`service`],
//! [`store`], [`children`] and [`cli`].

pub mod balancer;
pub mod children;
pub mod cli;
pub mod door;
pub mod exit;
pub mod identity;
pub mod plan;
pub mod progress;
pub mod report;
pub mod run;
pub mod service;
pub mod store;
