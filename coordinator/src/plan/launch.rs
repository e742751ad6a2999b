//! Reads `session.launch`, the schedule of session starts, and describes it in words.

use proto::{Launch, Process, limits};

use super::check::reader::{Found, Reader, nearest};
use super::layers::Value;
use super::schema::session;
use crate::text::seconds_short;

const KEYS: &[&str] = &["kind", "over_seconds", "per_second", "for_seconds", "process"];

/// A launch. `arrivals` is the number of sessions if the launch is an arrival rate.
pub(in crate::plan) struct Launching {
    pub(in crate::plan) launch: Launch,
    pub(in crate::plan) arrivals: Option<u64>,
}

/// The stand-in for an invalid launch, so that the rest of the plan can still be checked.
const NONE: Launching = Launching { launch: Launch::Burst, arrivals: None };

/// Describes how sessions will start.
#[must_use]
pub fn in_advance(launch: Launch) -> String {
    match launch {
        Launch::Burst => "all at once".to_owned(),
        Launch::Ramp { over_us } => format!("over {} s", seconds_short(over_us)),
        Launch::Arrivals { over_us, process } => {
            let how = match process {
                Process::Uniform => "evenly spaced",
                Process::Poisson => "Poisson",
            };
            let over = seconds_short(over_us);
            format!("as {how} arrivals over {over} s, whether or not earlier ones have ended")
        }
    }
}

/// Describes how sessions started. `None` if all of them started at once.
#[must_use]
pub fn afterwards(launch: Launch) -> Option<String> {
    match launch {
        Launch::Burst => None,
        Launch::Ramp { over_us } => Some(format!("over {} s", seconds_short(over_us))),
        Launch::Arrivals { over_us, .. } => {
            Some(format!("as they arrived, over {} s, whether or not earlier ones had ended", seconds_short(over_us)))
        }
    }
}

/// The remedy for a generator that was too slow for this launch.
#[must_use]
pub fn cure(launch: Launch) -> &'static str {
    match launch {
        Launch::Burst => "add agents, give them more CPU, or ramp",
        Launch::Ramp { .. } => "add agents, give them more CPU, or a longer ramp",
        Launch::Arrivals { .. } => "add agents, or give them more CPU and more places",
    }
}

impl Reader<'_> {
    pub(in crate::plan) fn launch(&self) -> Launching {
        let Some(found) = self.key(&session::LAUNCH) else { return NONE };
        let table = match &found.node.value {
            table @ Value::Table(_) => table,
            other => {
                self.wrong(
                    &found,
                    format!("a table such as {{ kind = \"burst\" }} is expected, this is {}", other.kind()),
                );
                return NONE;
            }
        };
        self.unknown_in(found.layer, "session.launch", table, KEYS);
        let part = |key: &str| {
            table.get(key).map(|node| Found { layer: found.layer, node, name: format!("session.launch.{key}") })
        };
        let stray = |kind: &str, allowed: &[&str]| {
            for key in KEYS.iter().filter(|key| **key != "kind" && !allowed.contains(key)) {
                if let Some(stray) = part(key) {
                    self.wrong(&stray, format!("has no meaning with kind = {kind:?}; leave it out"));
                }
            }
        };
        let Some(kind) = part("kind") else {
            self.wrong(&found, "no kind; give kind = \"burst\", \"ramp\" or \"arrivals\"");
            return NONE;
        };
        match self.text(&kind).as_deref() {
            Some("burst") => {
                stray("burst", &[]);
                NONE
            }
            Some("ramp") => {
                stray("ramp", &["over_seconds"]);
                self.ramp(&found, part("over_seconds"))
            }
            Some("arrivals") => {
                stray("arrivals", &["per_second", "for_seconds", "process"]);
                self.arrivals(&found, [part("per_second"), part("for_seconds"), part("process")])
            }
            Some(other) => {
                let hint = nearest(other, ["burst", "ramp", "arrivals"].into_iter());
                self.wrong(&kind, format!("{other:?} is not known{hint}; give \"burst\", \"ramp\" or \"arrivals\""));
                NONE
            }
            None => NONE,
        }
    }

    fn ramp(&self, launch: &Found<'_>, over: Option<Found<'_>>) -> Launching {
        let Some(over) = over else {
            self.wrong(launch, "a ramp needs over_seconds, for example over_seconds = 5.0");
            return NONE;
        };
        self.seconds(&over, 0.001)
            .map_or(NONE, |over_us| Launching { launch: Launch::Ramp { over_us }, arrivals: None })
    }

    fn arrivals(&self, launch: &Found<'_>, [rate, time, process]: [Option<Found<'_>>; 3]) -> Launching {
        let process = process.map_or(Some(Process::Uniform), |process| {
            self.choice(&process, &[("uniform", Process::Uniform), ("poisson", Process::Poisson)])
        });
        let (Some(rate), Some(time)) = (rate, time) else {
            self.wrong(
                launch,
                "arrivals need per_second and for_seconds, for example per_second = 500, for_seconds = 60",
            );
            return NONE;
        };
        let per_second = self.number(&rate, 0.001..=10_000_000.0, "per second");
        let over_us = self.seconds(&time, 0.001);
        match (per_second, over_us, process) {
            (Some(per_second), Some(over_us), Some(process)) => {
                let arrivals = self.count(launch, per_second, over_us);
                Launching { launch: Launch::Arrivals { over_us, process }, arrivals }
            }
            _ => NONE,
        }
    }

    /// `per_second x for_seconds`, rounded to a whole session.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "in range: a rate of 1e7 for a year is 3e14"
    )]
    fn count(&self, found: &Found<'_>, per_second: f64, over_us: u64) -> Option<u64> {
        let sessions = (per_second * (over_us as f64 / 1e6)).round() as u64;
        if sessions == 0 || sessions > limits::SESSIONS_MAX {
            self.wrong(
                found,
                format!("per_second x for_seconds is {sessions} sessions; give 1 to {}", limits::SESSIONS_MAX),
            );
            // A number in range avoids a second fault about the batch sizes.
            return Some(sessions.clamp(1, limits::SESSIONS_MAX));
        }
        Some(sessions)
    }
}
