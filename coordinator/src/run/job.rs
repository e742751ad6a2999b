//! Work on the records of an attempt. Its time grows with their number, so the event loop hands it to another thread
//! and keeps serving the agents.

use std::sync::Arc;

use super::collect::{Collected, Uploads, collect};
use super::outage::{self, After};
use super::verdict::{self, Evidence, Fate};
use crate::plan::Plan;
use crate::results::attempt::FinishedAttempt;
use crate::results::verdict::Outage;

#[derive(Debug)]
pub enum Job {
    /// Merges the uploads of all agents.
    Collect(Box<Uploads>),
    /// Looks for an outage. `urls` is the number of the target's urls; `after` is what it answered after the batch.
    SeekOutage { collected: Box<Collected>, urls: usize, after: After },
    /// Makes the verdict.
    Judge { collected: Box<Collected>, plan: Arc<Plan>, fate: Fate },
}

/// The result of a job.
#[derive(Debug)]
pub enum JobDone {
    Collected(Box<Collected>),
    OutageSought { collected: Box<Collected>, outage: Option<Outage>, after: After },
    Judged(Box<FinishedAttempt>),
}

impl Job {
    #[must_use]
    pub fn run(self) -> JobDone {
        match self {
            Self::Collect(uploads) => JobDone::Collected(Box::new(collect(*uploads))),
            Self::SeekOutage { collected, urls, after } => {
                let outage = outage::judge(&collected.attempt.rows, urls, &after);
                JobDone::OutageSought { collected, outage, after }
            }
            Self::Judge { collected, plan, fate } => JobDone::Judged(Box::new(judged(*collected, &plan, &fate))),
        }
    }
}

/// The attempt with its verdict.
#[must_use]
pub fn judged(collected: Collected, plan: &Plan, fate: &Fate) -> FinishedAttempt {
    let mut attempt = collected.attempt;
    let FinishedAttempt { summary, rows, faults, lost, .. } = &attempt;
    attempt.summary.verdict = verdict::judge(&Evidence { plan, summary, rows, faults, lost, fate });
    attempt
}
