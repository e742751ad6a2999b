//! The text of a plan: either every fault with its place, or a plan that can be run.

use std::time::Duration;

use coordinator::plan::Plan;
use coordinator::plan::check::check;
use coordinator::plan::layers::{Fault, Layer, Shape};
use proto::message::Probe;
use proto::{FromCoordinator, PlanHash, Target, limits, pb};

use crate::memory;

const FILE: &str = "plan.toml";
/// Asserts what the checker promises.
const BATCHES_MAX: usize = 100_000;

pub fn body(data: &[u8]) {
    let _ = accepts(data);
}

#[must_use]
pub fn accepts(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    match memory::bounded(|| read(text)) {
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a reason");
            faults.iter().for_each(|fault| assert_placed(fault, text));
            false
        }
        Ok(plan) => {
            assert_eq!(read(text).map(|again| again.hash()), Ok(plan.hash()), "the same text is the same plan");
            memory::bounded(|| assert_runnable(&plan));
            true
        }
    }
}

fn read(text: &str) -> Result<Plan, Vec<Fault>> {
    let (layer, faults) = Layer::file(FILE, text, Shape::Plan);
    check(&[layer], faults)
}

/// Asserts that a fault reads `plan.toml:LINE:COLUMN: what`, with a place inside the text. A missing key has no place.
fn assert_placed(fault: &Fault, text: &str) {
    let said = fault.to_string();
    assert!(!said.contains('\n'), "more than one line: {said:?}");
    let rest = said.strip_prefix(FILE).and_then(|rest| rest.strip_prefix(':')).expect("the file is named");
    if fault.is(coordinator::plan::layers::FaultKind::Missing) {
        assert!(rest.contains("missing; "), "{said:?}");
        return;
    }
    let mut parts = rest.splitn(3, ':');
    let mut number = || parts.next().and_then(|part| part.parse::<usize>().ok());
    let (line, column) = (number().expect("a line"), number().expect("a column"));
    assert!((1..=text.matches('\n').count() + 1).contains(&line), "line {line}: {said:?}");
    assert!((1..=text.chars().count() + 1).contains(&column), "column {column}: {said:?}");
    assert!(parts.next().is_some_and(|what| !what.trim().is_empty()), "nothing is said: {said:?}");
}

/// Asserts that a plan can be expanded, and that agents accept the messages that are made of it.
fn assert_runnable(plan: &Plan) {
    let json = serde_json::to_vec(plan).expect("a plan is plain data");
    assert_eq!(serde_json::from_slice::<Plan>(&json).ok().as_ref(), Some(plan), "what is stored reads back");
    let batches = plan.batches();
    assert!((1..=BATCHES_MAX).contains(&batches.len()), "{} batches", batches.len());
    assert!(plan.expected_us(&batches) >= batches.len() as u64, "no time at all");
    for (place, batch) in batches.iter().enumerate() {
        assert_eq!(batch.index as usize, place);
        assert!((1..=limits::SESSIONS_MAX).contains(&batch.batch_size));
        assert!(plan.latency_limit_us(batch.wait_us) >= plan.session_floor_us(batch.wait_us));
    }
    for mode in plan.target.mode.list() {
        assert!(plan.warmup_batch(*mode).batch_size >= 1);
    }
    assert_ne!(plan.hash(), PlanHash([0; 32]));
    assert!(plan.bounds().valid(), "agents refuse these bounds");
    for wait_us in &plan.grid.waits_us {
        let urls = if plan.target.embedded { vec!["http://127.0.0.1:1".to_owned()] } else { plan.target.urls.clone() };
        let probe = Probe {
            plan_hash: plan.hash(),
            target: Target { urls, ca_pem: Vec::new() },
            modes: plan.target.mode.list().to_vec(),
            deadline: Duration::from_micros(plan.target.ready_timeout_us),
            script: plan.script(*wait_us),
            sessions: 1,
        };
        let sent = FromCoordinator::Probe(Box::new(probe));
        let taken = FromCoordinator::try_from(pb::CoordinatorMessage::from(sent.clone()));
        assert_eq!(taken, Ok(sent), "agents refuse what the plan asks for");
    }
}
