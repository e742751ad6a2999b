//! Many sessions at once, as an agent carries them.

use agent::load::armed::ArmedLoad as _;
use agent::load::armed::Measured;
use agent::load::workers::Workers;
use proto::{Assignment, AttemptId, Bounds, Launch, Mode, PlanHash, RunId, Script, Target};
use tokio::time::Instant;

use crate::support::route_of;

/// A burst of `sessions` over `urls` in turn, on one load thread with kernel stamps; its ledger balances.
pub(crate) async fn run(mode: Mode, urls: &[String], ca_pem: &str, sessions: u64, script: &Script) -> Measured {
    let assignment = Assignment {
        attempt: AttemptId { run: RunId::random(), batch: 0, attempt: 1 },
        plan_hash: PlanHash([0; 32]),
        target: Target { urls: urls.to_vec(), ca_pem: ca_pem.as_bytes().to_vec() },
        mode,
        script: script.clone(),
        launch: Launch::Burst,
        first_session: 0,
        sessions,
        batch_size: sessions,
        seed: 1,
        agent_index: 0,
        agent_count: 1,
        bounds: Bounds::STANDARD,
        kernel_timestamps: true,
        clock_step_us_max: u64::MAX,
        in_flight_max: sessions,
    };
    let workers = Workers::arm(assignment, route_of(urls, ca_pem).await, 1).await.expect("armed");
    let measured = Box::new(workers).finish(Instant::now()).await.expect("measured");
    assert!(measured.ledger.balances() && measured.ledger.planned == sessions, "{}", measured.ledger);
    assert_eq!(measured.ledger.never_started + measured.ledger.lost, 0, "{}", measured.ledger);
    measured
}
