//! How the program ends: the exit codes, and the one sentence that goes with each.

use std::process::ExitCode;

use crate::results::end::{End, Failure};

/// Everything asked for was done.
pub const DONE: u8 = 0;
/// A fault of the program or of the disk.
pub const INTERNAL: u8 = 1;
/// Flags that make no sense.
pub const USAGE: u8 = 2;
/// The plan is invalid.
pub const PLAN_INVALID: u8 = 3;
/// The target did not give every agent a whole session.
pub const TARGET_NOT_READY: u8 = 4;
/// Too few agents came, or they can't carry a batch.
pub const TOO_FEW_AGENTS: u8 = 5;
/// `target.require_hosts` was not met.
pub const HOSTS_NOT_MET: u8 = 6;
/// With `--enforce`: the success criteria were not met.
pub const CRITERIA_NOT_MET: u8 = 7;
/// A batch is degraded or invalid; with `--enforce` also generator-limited.
pub const NOT_SOUND: u8 = 8;
/// SIGINT or SIGTERM.
pub const INTERRUPTED: u8 = 130;

impl End {
    /// First that holds: the failure's own, 130, 8, 6, 7, 0.
    #[must_use]
    pub fn code(&self, enforce: bool) -> u8 {
        match &self.failure {
            Some(Failure::TargetNotReady(_)) => return TARGET_NOT_READY,
            Some(Failure::TooFewAgents(_)) => return TOO_FEW_AGENTS,
            Some(Failure::Store(_) | Failure::Internal(_)) => return INTERNAL,
            None => {}
        }
        if self.interrupted {
            INTERRUPTED
        } else if self.unsound || enforce && self.generator_limited {
            NOT_SOUND
        } else if self.hosts_missing {
            HOSTS_NOT_MET
        } else if enforce && self.criteria_missed {
            CRITERIA_NOT_MET
        } else {
            DONE
        }
    }
}

/// As a process's exit status.
#[must_use]
pub fn status(code: u8) -> ExitCode {
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_holds_decides() {
        let good = End::of_run_for_tests();
        assert_eq!(good.code(true), DONE);
        let all =
            End { interrupted: true, unsound: true, criteria_missed: true, generator_limited: true, ..good.clone() };
        assert_eq!(all.code(false), INTERRUPTED);
        let unsound = End { interrupted: false, ..all };
        assert_eq!(unsound.code(false), NOT_SOUND);
        let limited = End { unsound: false, ..unsound };
        assert_eq!((limited.code(false), limited.code(true)), (DONE, NOT_SOUND));
        let missed = End { generator_limited: false, ..limited };
        assert_eq!((missed.code(false), missed.code(true)), (DONE, CRITERIA_NOT_MET));
        let hosts = End { hosts_missing: true, criteria_missed: true, ..good };
        assert_eq!(hosts.code(true), HOSTS_NOT_MET);
        assert_eq!(End::failed(Failure::TooFewAgents(String::new())).code(false), TOO_FEW_AGENTS);
    }

    impl End {
        fn of_run_for_tests() -> Self {
            Self { failure: None, ..Self::failed(Failure::Internal(String::new())) }
        }
    }
}
