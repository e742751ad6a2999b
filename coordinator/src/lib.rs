//! Muster's coordinator.
//!
//! `plan.toml -> plan::{parse, check, expand} -> run::machine -> net::rpc -> agents -> run::collect -> store ->
//! report`. Modules that say PURE open no file or socket and read no clock; time, sockets and files are in
//! [`run::event_loop`], [`net`], [`store`], [`publish`], [`progress`], [`children`] and [`cli`].

pub mod balancer;
pub mod children;
pub mod cli;
pub mod exit;
pub mod log;
pub mod net;
pub mod plan;
pub mod progress;
pub mod publish;
pub mod report;
pub mod results;
pub mod run;
pub mod store;
pub mod text;
