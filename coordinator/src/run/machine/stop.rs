//! Why a run stops before all of its batches are decided.

use crate::results::end::{End, Failure};

/// In the order of weight: a reason is only ever replaced by a heavier one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StopReason {
    /// An agent was lost with `on_loss = "abort"`, or the server was restarted with `on_restart = "abort"`.
    Aborted,
    /// SIGINT or SIGTERM.
    Interrupted,
    /// The target did not answer any more after a batch; the text says what was tried.
    TargetGone(String),
    /// Ctrl-C a second time: nothing is waited for.
    AtOnce,
}

/// What is known of the end of a run that goes on.
#[derive(Debug, Default)]
pub(super) struct Stop(Option<StopReason>);

impl Stop {
    /// `false` if a reason that weighs as much is there already.
    pub(super) fn escalate(&mut self, reason: StopReason) -> bool {
        let heavier = self.0.as_ref().is_none_or(|known| *known < reason);
        if heavier {
            self.0 = Some(reason);
        }
        heavier
    }

    /// Batches are still to be run.
    pub(super) fn goes_on(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn is_at_once(&self) -> bool {
        self.0 == Some(StopReason::AtOnce)
    }

    /// The failure that ends the run as soon as what is being written is written.
    pub(super) fn failure(&self) -> Option<End> {
        match &self.0 {
            Some(StopReason::TargetGone(text)) => Some(End::failed(Failure::TargetNotReady(text.clone()))),
            _ => None,
        }
    }

    pub(super) fn is_interrupted(&self) -> bool {
        matches!(self.0, Some(StopReason::Interrupted | StopReason::AtOnce))
    }

    pub(super) fn is_aborted(&self) -> bool {
        self.0 == Some(StopReason::Aborted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_only_escalate() {
        let mut stop = Stop::default();
        assert!(stop.goes_on() && stop.escalate(StopReason::Interrupted));
        assert!(!stop.escalate(StopReason::Aborted) && !stop.escalate(StopReason::Interrupted));
        assert!(stop.is_interrupted() && !stop.is_aborted() && stop.failure().is_none());
        assert!(stop.escalate(StopReason::TargetGone("gone".to_owned())));
        assert_eq!(stop.failure(), Some(End::failed(Failure::TargetNotReady("gone".to_owned()))));
        assert!(stop.escalate(StopReason::AtOnce) && stop.is_at_once());
    }
}
