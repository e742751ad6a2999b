//! The program's exit codes, and which one the end of a run has.

use std::process::ExitCode;

use crate::results::end::{End, Failure};

/// The command has done everything asked for.
pub const DONE: u8 = 0;
/// The program or the disk failed.
pub const INTERNAL: u8 = 1;
/// The flags are wrong.
pub const USAGE: u8 = 2;
/// The plan is invalid.
pub const PLAN_INVALID: u8 = 3;
/// The target did not complete a session for every agent.
pub const TARGET_NOT_READY: u8 = 4;
/// Too few agents connected, or they can't carry a batch.
pub const TOO_FEW_AGENTS: u8 = 5;
/// `target.require_hosts` was not met.
pub const HOSTS_NOT_MET: u8 = 6;
/// `--enforce` was given, and the success criteria were not met.
pub const CRITERIA_NOT_MET: u8 = 7;
/// A batch is degraded or invalid, or `--enforce` was given and a batch is generator-limited.
pub const NOT_SOUND: u8 = 8;
/// The run was ended by SIGINT or SIGTERM.
pub const INTERRUPTED: u8 = 130;

impl End {
    /// The first that applies: the failure's own code, 130, 8, 6, 7, 0.
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

/// Converts an exit code to a process's exit status.
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
