//! The protocols a session can speak, one file each, and what they share.
//!
//! In this room: the trait [`Driver`], one implementation a protocol ([`ws`], [`http`]), the one list that says which
//! mode has which driver ([`with_driver`]), how a connection is opened ([`dialer`]), how a failure is described
//! ([`fault`]), and how OpenEnv's replies are read ([`reply`]). Not in this room: schedules, clocks and counters. A
//! driver speaks its protocol; the room `load` decides when, and measures around it.
//!
//! To add a protocol: a file here that implements [`Driver`], a [`proto::Mode`], and a line in [`with_driver`].

use std::time::Duration;

use proto::Mode;

pub mod dialer;
pub mod driver;
#[cfg(any(test, feature = "sim"))]
pub mod fake;
pub mod fault;
pub mod frames;
pub mod http;
pub mod read_budget;
pub mod reply;
pub mod upgrade;
pub mod ws;

pub use dialer::{Dialer, Route};
pub use driver::{Closed, Driver};
pub use fault::{Ending, Fault, Refusal};
pub use reply::Reply;

/// Work that can be done with any driver. A closure can't be generic over the driver's type, so this is a trait.
pub trait DriverTask {
    type Output;

    fn run<D: Driver>(self, driver: D) -> impl Future<Output = Self::Output>;
}

/// Makes the driver of `mode` and runs `task` with it. `wait` is what most steps will ask the server to wait.
pub async fn with_driver<T: DriverTask>(mode: Mode, dialer: Dialer, wait: Duration, task: T) -> T::Output {
    match mode {
        Mode::Ws => task.run(ws::WsDriver::new(dialer, wait)).await,
        Mode::Http => task.run(http::HttpDriver::new(dialer)).await,
    }
}
