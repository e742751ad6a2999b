//! Which mode has which driver. This is the only place that knows: everything else runs a [`DriverTask`].

use std::time::Duration;

use proto::Mode;

use super::dialer::Dialer;
use super::driver::Driver;
use super::http::HttpDriver;
use super::ws::WsDriver;

/// Work that can be done with any driver. A closure can't be generic over the driver's type, so this is a trait.
pub trait DriverTask {
    type Output;

    fn run<D: Driver>(self, driver: D) -> impl Future<Output = Self::Output>;
}

/// Makes the driver of `mode` and runs `task` with it. `wait` is what most steps will ask the server to wait.
pub async fn with_driver<T: DriverTask>(mode: Mode, dialer: Dialer, wait: Duration, task: T) -> T::Output {
    match mode {
        Mode::Ws => task.run(WsDriver::new(dialer, wait)).await,
        Mode::Http => task.run(HttpDriver::new(dialer)).await,
    }
}
