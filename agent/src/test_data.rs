//! What unit tests of several modules need.

use std::time::Duration;

use proto::{Assignment, AttemptId, Bounds, Launch, Mode, PlanHash, Script, Target};

/// One session, one step, all limits a second.
pub(crate) fn assignment(attempt: AttemptId, plan_hash: PlanHash) -> Assignment {
    let second = Duration::from_secs(1);
    Assignment {
        attempt,
        plan_hash,
        target: Target { urls: vec!["http://127.0.0.1:1".to_owned()], ca_pem: Vec::new() },
        mode: Mode::Ws,
        script: Script {
            steps: 1,
            wait: second,
            think: Duration::ZERO,
            connect_timeout: second,
            reset_timeout: second,
            step_timeout: second,
            close_timeout: second,
            total_timeout: None,
            until_done: true,
            message_bytes_max: 1 << 20,
        },
        launch: Launch::Burst,
        first_session: 0,
        sessions: 1,
        batch_size: 1,
        seed: 1,
        agent_index: 0,
        agent_count: 1,
        bounds: Bounds::STANDARD,
        kernel_timestamps: true,
        clock_step_us_max: 2_000,
        in_flight_max: 1,
    }
}
