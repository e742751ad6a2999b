//! The phases of a run and the allowed transitions between them.

use std::time::Duration;

use proto::message::ProbeResult;

use super::attempt::Attempt;
use super::round::Round;
use crate::plan::expand::Batch;
use crate::run::collect::Collected;
use crate::run::outage::After;
use crate::run::placement::Shortfall;

/// A phase with its own data.
#[derive(Debug)]
pub(super) enum Phase {
    /// The run waits for the first agents.
    Gathering {
        deadline: Duration,
    },
    /// Every agent runs the readiness check.
    Probing(Round<Vec<ProbeResult>>),
    /// Late agents run the readiness check before the batch.
    Checking {
        batch: Batch,
        round: Round<()>,
    },
    /// Too few agents are left. The run waits for lost agents to come back.
    Awaiting {
        batch: Batch,
        deadline: Duration,
        short: Box<Shortfall>,
    },
    /// Agents determine their present capacity. `waited` is the time already spent waiting for ports.
    Surveying {
        batch: Batch,
        round: Round<()>,
        waited: Duration,
    },
    /// The run waits for ports in TIME_WAIT to become free.
    PortsWait {
        batch: Batch,
        until: Duration,
        waited: Duration,
    },
    /// Agents prepare their shares.
    Arming(Attempt, Round<()>),
    /// All agents are armed, and their clocks are compared.
    Syncing(Attempt, Round<()>),
    Running(Attempt),
    /// A background job combines the uploads. `refused` is the reason if the attempt does not count.
    Collecting {
        refused: Option<String>,
        agent_lost: bool,
    },
    /// The agents check whether the target still answers.
    Rechecking(TargetCheck),
    /// A background job looks for an outage.
    SeekingOutage,
    /// A background job makes the verdict. If `given_up`, `refused` is a better reason than the verdict's.
    Judging {
        refused: Option<String>,
        given_up: bool,
    },
    Storing {
        refused: bool,
        again: bool,
    },
    /// The pause after a batch.
    Cooling {
        until: Duration,
    },
    Over,
    /// The data of this step has been taken out, and the next phase is not entered yet.
    Left(Step),
}

#[derive(Debug)]
pub(super) struct TargetCheck {
    pub(super) collected: Box<Collected>,
    pub(super) round: Round<Vec<ProbeResult>>,
    pub(super) after: After,
}

/// A phase without its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Gathering,
    Probing,
    Checking,
    Awaiting,
    Surveying,
    PortsWait,
    Arming,
    Syncing,
    Running,
    Collecting,
    Rechecking,
    SeekingOutage,
    Judging,
    Storing,
    Cooling,
    Over,
}

/// The allowed transitions. A batch begins with Checking, Surveying or Awaiting. Every phase may also end the run.
const NEXT: &[(Step, &[Step])] = &[
    (Step::Gathering, &[Step::Probing]),
    (Step::Probing, &[Step::Gathering, Step::Checking, Step::Surveying, Step::Awaiting]),
    (Step::Checking, &[Step::Checking, Step::Surveying, Step::Awaiting]),
    (Step::Awaiting, &[Step::Checking, Step::Surveying, Step::Awaiting]),
    (Step::Surveying, &[Step::Arming, Step::PortsWait, Step::Checking, Step::Surveying, Step::Awaiting]),
    (Step::PortsWait, &[Step::Checking, Step::Surveying, Step::Awaiting]),
    // The next batch follows a warm-up directly, because its results are discarded.
    (Step::Arming, &[Step::Syncing, Step::Collecting, Step::Checking, Step::Surveying, Step::Awaiting]),
    (Step::Syncing, &[Step::Running, Step::Collecting, Step::Checking, Step::Surveying, Step::Awaiting]),
    (Step::Running, &[Step::Collecting, Step::Checking, Step::Surveying, Step::Awaiting]),
    (Step::Collecting, &[Step::Rechecking, Step::SeekingOutage, Step::Judging]),
    (Step::Rechecking, &[Step::SeekingOutage, Step::Judging]),
    (Step::SeekingOutage, &[Step::Judging]),
    (Step::Judging, &[Step::Storing]),
    (Step::Storing, &[Step::Cooling]),
    (Step::Cooling, &[Step::Checking, Step::Surveying, Step::Awaiting]),
    (Step::Over, &[]),
];

impl Step {
    /// Whether this phase may follow `self`.
    pub(super) fn may_become(self, next: Self) -> bool {
        if next == Self::Over {
            return self != Self::Over;
        }
        NEXT.iter().any(|(from, to)| *from == self && to.contains(&next))
    }
}

impl Phase {
    pub(super) fn step(&self) -> Step {
        match self {
            Self::Gathering { .. } => Step::Gathering,
            Self::Probing(_) => Step::Probing,
            Self::Checking { .. } => Step::Checking,
            Self::Awaiting { .. } => Step::Awaiting,
            Self::Surveying { .. } => Step::Surveying,
            Self::PortsWait { .. } => Step::PortsWait,
            Self::Arming(..) => Step::Arming,
            Self::Syncing(..) => Step::Syncing,
            Self::Running(_) => Step::Running,
            Self::Collecting { .. } => Step::Collecting,
            Self::Rechecking(_) => Step::Rechecking,
            Self::SeekingOutage => Step::SeekingOutage,
            Self::Judging { .. } => Step::Judging,
            Self::Storing { .. } => Step::Storing,
            Self::Cooling { .. } => Step::Cooling,
            Self::Over => Step::Over,
            Self::Left(step) => *step,
        }
    }

    /// The time at which the machine stops waiting in this phase. `None` if the phase has no time limit.
    pub(super) fn deadline(&self) -> Option<Duration> {
        match self {
            Self::Gathering { deadline } | Self::Awaiting { deadline, .. } => Some(*deadline),
            Self::Probing(round) => Some(round.deadline),
            Self::Checking { round, .. } | Self::Surveying { round, .. } => Some(round.deadline),
            Self::Arming(_, round) | Self::Syncing(_, round) => Some(round.deadline),
            Self::Running(attempt) => attempt.deadline(),
            Self::Rechecking(check) => Some(check.round.deadline),
            Self::Cooling { until } | Self::PortsWait { until, .. } => Some(*until),
            Self::Collecting { .. }
            | Self::SeekingOutage
            | Self::Judging { .. }
            | Self::Storing { .. }
            | Self::Over
            | Self::Left(_) => None,
        }
    }

    pub(super) fn attempt(&self) -> Option<&Attempt> {
        match self {
            Self::Arming(attempt, _) | Self::Syncing(attempt, _) | Self::Running(attempt) => Some(attempt),
            _ => None,
        }
    }

    pub(super) fn attempt_mut(&mut self) -> Option<&mut Attempt> {
        match self {
            Self::Arming(attempt, _) | Self::Syncing(attempt, _) | Self::Running(attempt) => Some(attempt),
            _ => None,
        }
    }

    /// Takes the attempt out. The caller must then enter the next phase.
    pub(super) fn take_attempt(&mut self) -> Option<Attempt> {
        let step = self.step();
        match std::mem::replace(self, Self::Left(step)) {
            Self::Arming(attempt, _) | Self::Syncing(attempt, _) | Self::Running(attempt) => Some(attempt),
            other => {
                *self = other;
                None
            }
        }
    }

    /// Takes the check of the target out. The caller must then enter the next phase.
    pub(super) fn take_check(&mut self) -> Option<TargetCheck> {
        match std::mem::replace(self, Self::Left(Step::Rechecking)) {
            Self::Rechecking(check) => Some(check),
            other => {
                *self = other;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_is_in_the_table_once_and_none_follows_the_end() {
        for (n, (step, next)) in NEXT.iter().enumerate() {
            assert!(NEXT[..n].iter().all(|(other, _)| other != step), "{step:?} twice");
            assert!(!next.contains(&Step::Over), "that every phase may end the run is said once");
            assert!(!Step::Over.may_become(*step), "nothing follows the end");
            assert_eq!(step.may_become(Step::Over), *step != Step::Over, "{step:?}");
        }
        assert!(NEXT.iter().all(|(_, next)| next.iter().all(|step| NEXT.iter().any(|(from, _)| from == step))));
        assert!(!Step::Running.may_become(Step::Storing) && !Step::Gathering.may_become(Step::Running));
    }
}
