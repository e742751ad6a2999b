//! The reasons for which a run stops before all batches are decided.

use crate::results::end::{End, Failure};

/// Reasons by increasing severity. Only a more severe reason replaces an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StopReason {
    /// An agent was lost with `on_loss = "abort"`, or the server was restarted with `on_restart = "abort"`.
    Aborted,
    /// SIGINT or SIGTERM.
    Interrupted,
    /// The target stopped answering. The text describes the failed checks.
    TargetGone(String),
    /// A second Ctrl-C. The run waits for nothing.
    AtOnce,
}

/// The most severe reason so far. `None` while the run continues normally.
#[derive(Debug, Default)]
pub(super) struct Stop(Option<StopReason>);

impl Stop {
    /// Sets the reason. `false` if the present one is at least as severe.
    pub(super) fn escalate(&mut self, reason: StopReason) -> bool {
        let heavier = self.0.as_ref().is_none_or(|known| *known < reason);
        if heavier {
            self.0 = Some(reason);
        }
        heavier
    }

    /// Whether the run may start more batches.
    pub(super) fn goes_on(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn is_at_once(&self) -> bool {
        self.0 == Some(StopReason::AtOnce)
    }

    /// The failure that ends the run after the present attempt is stored.
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
