//! PURE: judges an attempt at a batch: its validity and its bottleneck.
//!
//! The question is whether the *conclusion* would differ without the delays of the generator: a burst of thousands
//! takes time to launch, and that alone is no fault. The conclusion is whether the batch met its success criteria (in a
//! ramp or with arrivals also from the intended starts), and in a burst whether all sessions were open at once.
//! [`generator`] decides whether a generator without delay would have led to another conclusion, and [`limit`] what the
//! bottleneck was. How often they are right is measured, see docs/truth.md.

mod evidence;
mod generator;
mod limit;
mod reason;
mod words;

use self::evidence::Criteria;
pub use self::evidence::{Evidence, Fate, Treated};
pub use self::reason::Reason;

use crate::plan::Plan;
use crate::results::batch::Summary;
use crate::results::verdict::{Bottleneck, Validity, Verdict};
use crate::run::side::sides;

/// Judges one attempt; the reasons are in words.
#[must_use]
pub fn judge(evidence: &Evidence<'_>) -> Verdict {
    let (verdict, reasons) = judge_with_reasons(evidence);
    Verdict { reasons: reasons.iter().map(ToString::to_string).collect(), ..verdict }
}

/// Judges one attempt; the verdict's own reasons are left empty.
#[must_use]
pub fn judge_with_reasons(evidence: &Evidence<'_>) -> (Verdict, Vec<Reason>) {
    let Evidence { plan, summary, faults, lost, .. } = *evidence;
    let mut judge = Judge { validity: Validity::Valid, reasons: Vec::new() };
    if !summary.ledger.balances() {
        judge.say(Validity::Invalid, Reason::LedgerUnbalanced(summary.ledger));
    }
    for fault in faults {
        judge.say(Validity::Invalid, Reason::Upload(fault.clone()));
    }
    for who in lost {
        judge.say(Validity::Degraded, Reason::AgentLost(who.clone()));
    }
    judge.clocks(plan, summary);
    let crashes = judge.fate(evidence.fate);
    let otherwise = judge.validity;
    let hosts_missing = judge.hosts(plan, summary);
    let sides = sides(evidence.rows, &summary.by_agent);
    let criteria = Criteria::of(evidence);
    if !crashes {
        for reason in generator::why(evidence, &criteria, &sides) {
            judge.say(Validity::GeneratorLimited, reason);
        }
    }
    let (limit, reasons) = match judge.validity {
        Validity::GeneratorLimited => (Bottleneck::Generator, Vec::new()),
        Validity::Valid if crashes => (Bottleneck::Server, Vec::new()),
        Validity::Valid if criteria.met() => (Bottleneck::None, Vec::new()),
        Validity::Valid => limit::of(evidence, &criteria, &sides),
        Validity::Degraded | Validity::Invalid => (Bottleneck::Unknown, Vec::new()),
    };
    judge.reasons.extend(reasons);
    judge.reasons.extend(without_steps(evidence));
    judge.reasons.extend(over_range(summary));
    let verdict = Verdict {
        validity: judge.validity,
        limit,
        reasons: Vec::new(),
        hosts_missing,
        only_hosts_missing: hosts_missing && otherwise < Validity::Degraded,
        outage: evidence.fate.outage.as_ref().map(|(outage, _)| outage.clone()),
    };
    (verdict, judge.reasons)
}

/// Values above the histograms' range affect percentiles only: criteria use the sessions themselves.
fn over_range(summary: &Summary) -> Option<Reason> {
    (summary.over_range > 0).then_some(Reason::OverRange { values: summary.over_range, range_us: summary.range_us })
}

/// A note on sessions whose episode ended before their first step: their planned steps were not measured.
fn without_steps(evidence: &Evidence<'_>) -> Option<Reason> {
    let over = |r: &&proto::SessionRecord| r.outcome == proto::Outcome::Succeeded && r.done && r.step_us.is_empty();
    let n = evidence.rows.iter().map(|row| &row.record).filter(over).count() as u64;
    (n > 0).then_some(Reason::DoneAtReset { sessions: n, succeeded: evidence.summary.ledger.succeeded })
}

struct Judge {
    validity: Validity,
    reasons: Vec<Reason>,
}

impl Judge {
    fn say(&mut self, validity: Validity, reason: Reason) {
        self.validity = self.validity.max(validity);
        self.reasons.push(reason);
    }

    /// Adds the reasons that are not in the sessions; `true` if the server went away in every attempt.
    fn fate(&mut self, fate: &Fate) -> bool {
        let crashes = matches!(fate.outage, Some((_, Treated::EveryTime { .. })));
        if let Some((outage, treated)) = &fate.outage {
            let evidence = outage.evidence.join("; ");
            match *treated {
                Treated::EveryTime { attempts } => self.reasons.push(Reason::ServerCrashes { attempts, evidence }),
                Treated::Kept => self.say(Validity::Degraded, Reason::ServerRestarted { kept: true, evidence }),
                Treated::Refused => self.say(Validity::Degraded, Reason::ServerRestarted { kept: false, evidence }),
            }
        } else {
            self.reasons.extend(fate.afterwards.iter().cloned().map(Reason::TargetSlowAfter));
        }
        if let Some(why) = &fate.given_up {
            self.say(Validity::Degraded, Reason::GivenUp(why.clone()));
        }
        crashes
    }

    /// A common start is only as exact as the clocks are known; one agent has no other to compare with.
    fn clocks(&mut self, plan: &Plan, summary: &Summary) {
        let shares = || summary.by_agent.iter().filter(|agent| agent.sessions > 0);
        let worst = shares().filter_map(|agent| Some((agent.clock_error_us?, agent))).max_by_key(|(error, _)| *error);
        let limit_us = plan.measure.max_clock_error_us;
        if let Some((error_us, agent)) = worst.filter(|(error_us, _)| shares().count() > 1 && *error_us > limit_us) {
            let agent = agent.name.clone();
            self.say(Validity::Invalid, Reason::ClockUnknown { agent, error_us, limit_us });
        }
        for agent in shares().filter(|agent| agent.wire() == Some(proto::WireState::Void)) {
            let step_us = agent.vitals.as_ref().map_or(0, |vitals| vitals.realtime_step_us.unsigned_abs());
            self.reasons.push(Reason::TimeOfDaySet { agent: agent.name.clone(), step_us });
        }
    }

    /// Judges the hosts; `true` if required hosts did not answer.
    fn hosts(&mut self, plan: &Plan, summary: &Summary) -> bool {
        let mut missing = false;
        let seen = summary.unique_hosts();
        // If no session succeeded, no host was named.
        if let Some(expected) = plan.target.expected_hosts.filter(|n| seen < *n && summary.ledger.succeeded > 0) {
            let reason = Reason::HostsMissing { expected, seen: summary.hosts.keys().cloned().collect() };
            if plan.target.require_hosts {
                missing = true;
                self.say(Validity::Invalid, reason);
            } else {
                self.reasons.push(reason);
            }
        }
        if let Some((host, has)) = overloaded(summary) {
            self.reasons.push(Reason::HostOverloaded {
                host: host.to_owned(),
                sessions: has,
                succeeded: summary.ledger.succeeded,
                hosts: summary.hosts.len() as u64,
            });
        }
        missing
    }
}

/// The host with clearly more than its share: a fifth more, and more than chance explains (four standard deviations of
/// a fair draw).
#[expect(clippy::cast_precision_loss, reason = "a test of proportions")]
fn overloaded(summary: &Summary) -> Option<(&str, u64)> {
    let hosts = summary.hosts.len() as f64;
    let all = summary.hosts.values().sum::<u64>() as f64;
    let (host, has) = summary.hosts.iter().max_by_key(|(_, has)| **has)?;
    let (share, deviation) = (all / hosts, (all * (1.0 / hosts) * (1.0 - 1.0 / hosts)).sqrt());
    let most = *has as f64;
    (hosts > 1.0 && most > share * 1.2 && most > share + 4.0 * deviation).then_some((host, *has))
}

#[cfg(test)]
mod tests;
