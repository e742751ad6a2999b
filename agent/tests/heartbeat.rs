//! Signs of life come whatever else the process is doing, and a coordinator that answers none is gone.

use std::time::Duration;

use agent::control::heartbeat::{Executor, Heartbeat};
use agent::control::link::{Connector, Security};

#[expect(dead_code, reason = "each test file needs a part of it")]
mod support;

use support::bounded;
use support::coordinator::Coordinator;

const LEASE: Duration = Duration::from_secs(2);

#[test]
fn a_starved_agent_is_alive() {
    bounded(async {
        let mut coordinator = Coordinator::start();
        let connector = Connector::new(coordinator.address.to_string(), Security::Plaintext);
        let pulse = Heartbeat::start(connector, [3; 16], LEASE, Executor::Thread).expect("a thread");
        assert_eq!(coordinator.beat().await, [3; 16]);
        // This runtime, which carries all else that an agent does, gets nowhere for longer than the lease.
        std::thread::park_timeout(LEASE * 3 / 2);
        let mut meanwhile = 0;
        while coordinator.beat_so_far().is_some() {
            meanwhile += 1;
        }
        assert!(meanwhile >= 4, "{meanwhile} beats in one and a half leases");
        drop(pulse);
        // Nothing beats for a stream that is gone: the end of the channel's content is the end of it.
        while tokio::time::timeout(LEASE, coordinator.beat()).await.is_ok() {}
    });
}

#[test]
fn a_coordinator_that_answers_no_heartbeat_is_gone() {
    bounded(async {
        let mut coordinator = Coordinator::start();
        let connector = Connector::new(coordinator.address.to_string(), Security::Plaintext);
        let pulse = Heartbeat::start(connector, [3; 16], LEASE, Executor::Thread).expect("a thread");
        coordinator.beat().await;
        assert!(tokio::time::timeout(LEASE * 2, pulse.lost()).await.is_err(), "it is answered");
        // The connection stays open; it is the answers that end.
        coordinator.mute();
        pulse.lost().await;
        // And so does one that is not there at all.
        let (address, _held) = support::nobody();
        let connector = Connector::new(address.to_string(), Security::Plaintext);
        Heartbeat::start(connector, [3; 16], LEASE, Executor::Thread).expect("a thread").lost().await;
    });
}
