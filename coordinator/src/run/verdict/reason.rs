//! The reasons of a verdict, as data. `Display` gives the text for users.

use std::fmt;

use proto::{Ledger, Phase};

use super::words::{Cure, Doing, exact};
use crate::results::failure::FailedAs;
use crate::run::side::Side;
use crate::text::{count, latency};

/// One reason. Times are in microseconds.
#[derive(Debug, Clone, PartialEq)]
pub enum Reason {
    LedgerUnbalanced(Ledger),
    /// An upload is inconsistent. The text describes the fault.
    Upload(String),
    AgentLost(String),
    /// The server went away in every attempt.
    ServerCrashes {
        attempts: u32,
        evidence: String,
    },
    ServerRestarted {
        kept: bool,
        evidence: String,
    },
    /// The target answered after the batch, but not at once. The text describes a failed probe.
    TargetSlowAfter(String),
    GivenUp(String),
    ClockUnknown {
        agent: String,
        error_us: u64,
        limit_us: u64,
    },
    TimeOfDaySet {
        agent: String,
        step_us: u64,
    },
    HostsMissing {
        expected: u64,
        seen: Vec<String>,
    },
    HostOverloaded {
        host: String,
        sessions: u64,
        succeeded: u64,
        hosts: u64,
    },
    OverRange {
        values: u64,
        range_us: u64,
    },
    DoneAtReset {
        sessions: u64,
        succeeded: u64,
    },
    // Reasons that name the generator as the limit.
    Prolonged {
        agent: Option<Doing>,
        refused: u64,
        open: u64,
        open_without: u64,
        cure: Cure,
    },
    OwnFailures(Vec<OwnFailure>),
    LateReads {
        agent: Option<Doing>,
        own: OwnDelay,
        p99_us: u64,
        limit_us: u64,
        cure: Cure,
    },
    NeverAllOpen {
        together: u64,
        succeeded: u64,
        launch_us: u64,
        last_open_us: u64,
        first_end_us: u64,
    },
    LateStarts {
        agent: String,
        lag_us: u64,
        places: Option<u64>,
        actual_us: u64,
        intended_us: u64,
        cure: Cure,
    },
    // Reasons that name the server or an unknown limit.
    Rejected {
        failed: FailedAs,
        sessions: u64,
        planned: u64,
        side: Side,
    },
    CutAtOneAge {
        connections: u64,
        age_us: u64,
    },
    UnevenWorkers(Vec<u64>),
    SynAgain {
        connections: u64,
        listen_overflows: Option<u64>,
    },
    Slow {
        own: OwnDelay,
        p99_us: u64,
        limit_us: u64,
        phase: &'static str,
        phase_us: u64,
    },
    SlowWithoutStamps,
    TimedOut {
        sessions: u64,
        planned: u64,
        phase: Phase,
        limit: CutBy,
        agent: Option<Doing>,
        by_server: bool,
    },
    NothingTold,
    SharedMachine {
        cpus: u64,
        used_tenths: u64,
    },
}

/// The p99 without the agents' own delay, and how it was determined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnDelay {
    Measured {
        without_us: u64,
    },
    /// The estimate is based on timers that fired late.
    Estimated {
        without_us: u64,
    },
}

impl OwnDelay {
    pub(super) fn without_us(self) -> u64 {
        let (Self::Measured { without_us } | Self::Estimated { without_us }) = self;
        without_us
    }

    fn how(self) -> &'static str {
        match self {
            Self::Measured { .. } => "measured",
            Self::Estimated { .. } => "estimated from late timers",
        }
    }
}

/// The limit that cut most of the sessions that timed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutBy {
    Total { limit_us: u64 },
    OfPhase { limit_us: u64 },
}

/// Sessions that failed because of the generator.
#[derive(Debug, Clone, PartialEq)]
pub enum OwnFailure {
    /// The agent had no free port or file descriptor.
    Starved(u64),
    Unread {
        sessions: u64,
        limit_bytes: u64,
    },
    /// The server closed sessions because an agent was late.
    GivenUpByServer {
        sessions: u64,
        late_us: Option<u64>,
        cure: Cure,
        pings: Option<LatePings>,
    },
    Cut {
        sessions: u64,
        cure: Cure,
    },
}

/// The agent that answered pings with the longest delay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatePings {
    pub agent: String,
    pub late_us_max: u64,
    pub late_p99_us: u64,
}

impl fmt::Display for OwnFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starved(n) => write!(
                f,
                "{} sessions failed for want of ports or descriptors on the agents: add agents, --source-ip, or raise ulimit -Hn",
                count(*n)
            ),
            Self::Unread { sessions, limit_bytes } => write!(
                f,
                "{} sessions had replies of more than {} bytes, which is the client's limit: raise session.message_bytes_max",
                count(*sessions),
                count(*limit_bytes)
            ),
            Self::GivenUpByServer { sessions, late_us, cure, pings } => {
                write!(f, "{} sessions were ended by a server that had not heard from their agent", count(*sessions))?;
                if let Some(us) = late_us {
                    write!(f, ", which was up to {} late", latency(*us))?;
                }
                write!(f, ": {cure}")?;
                let Some(LatePings { agent, late_us_max, late_p99_us }) = pings else { return Ok(()) };
                let (most, p99) = (latency(*late_us_max), latency(*late_p99_us));
                write!(f, "; agent {agent} answered pings up to {most} late (p99 {p99})")
            }
            Self::Cut { sessions, cure } => {
                write!(f, "{} sessions were cut at their time limit by the agents' own delay: {cure}", count(*sessions))
            }
        }
    }
}

/// The most workers whose sessions the text lists.
const SHOWN_MAX: usize = 4;

fn joined<T: ToString>(parts: &[T], between: &str) -> String {
    parts.iter().map(ToString::to_string).collect::<Vec<_>>().join(between)
}

/// The text of an agent and its load, or `nobody` if there is no agent.
fn or(agent: &Option<Doing>, nobody: &str) -> String {
    agent.as_ref().map_or_else(|| nobody.to_owned(), ToString::to_string)
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LedgerUnbalanced(ledger) => write!(f, "the ledger does not balance: {ledger}"),
            Self::Upload(fault) => f.write_str(fault),
            Self::AgentLost(who) => write!(f, "agent {who}"),
            Self::ServerCrashes { attempts, evidence } => {
                write!(f, "by the server: it crashed in {attempts} of {attempts} attempts: {evidence}")
            }
            Self::ServerRestarted { kept, evidence } => {
                let kept = if *kept { ", and the batch is kept (target.on_restart)" } else { "" };
                write!(f, "the server was restarted while sessions ran{kept}: {evidence}")
            }
            Self::TargetSlowAfter(told) => write!(f, "after the batch the target did not answer at once: {told}"),
            Self::GivenUp(why) => write!(f, "given up: {why}"),
            Self::ClockUnknown { agent, error_us, limit_us } => write!(
                f,
                "the clock of agent {agent} is known within {} only, more than measure.max_clock_error_ms allows ({}): when its \
                 sessions started is not known well enough; is the network to it slow or busy? start the coordinator nearer to it, or \
                 raise the limit if that much does not matter here",
                tenths_of_ms(*error_us),
                tenths_of_ms(*limit_us)
            ),
            Self::TimeOfDaySet { agent, step_us } => write!(
                f,
                "the time of day of agent {agent} was set by {} while sessions ran: its wire latencies are void",
                latency(*step_us)
            ),
            Self::HostsMissing { expected, seen } => {
                write!(f, "{} of {expected} expected hosts answered: {}", seen.len(), seen.join(", "))
            }
            Self::HostOverloaded { host, sessions, succeeded, hosts } => write!(
                f,
                "host {host} had {} of {} sessions, {hosts} hosts would have {} each: does the load balancer spread them?",
                count(*sessions),
                count(*succeeded),
                count(succeeded / hosts.max(&1))
            ),
            Self::OverRange { values, range_us } => write!(
                f,
                "{} values are above the range of the histograms ({}): percentiles among them stand at its end",
                count(*values),
                latency(*range_us)
            ),
            Self::DoneAtReset { sessions, succeeded } => write!(
                f,
                "{} of {} succeeded sessions were done at their reset and made no step: the batch says nothing about steps for \
                 them; look at what the environment's reset needs, or set session.until_done = false",
                count(*sessions),
                count(*succeeded)
            ),
            Self::Prolonged { .. }
            | Self::OwnFailures(_)
            | Self::LateReads { .. }
            | Self::NeverAllOpen { .. }
            | Self::LateStarts { .. } => self.of_generator(f),
            _ => self.of_server(f),
        }
    }
}

impl Reason {
    fn of_generator(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prolonged { agent, refused, open, open_without, cure } => write!(
                f,
                "{}: the server refused {} sessions when {} were open at once; with a perfectly fast client {} would have \
                 been; {cure}",
                or(agent, "the agents"),
                count(*refused),
                count(*open),
                count(*open_without)
            ),
            Self::OwnFailures(failures) => f.write_str(&joined(failures, "; ")),
            Self::LateReads { agent, own, p99_us, limit_us, cure } => write!(
                f,
                "{}: the generator was the limit; without its own delay ({}) p99 would be {} instead of {}, within the \
                 criterion of {}; {cure}",
                or(agent, "the agents"),
                own.how(),
                exact(own.without_us()),
                exact(*p99_us),
                exact(*limit_us)
            ),
            Self::NeverAllOpen { together, succeeded, launch_us, last_open_us, first_end_us } => write!(
                f,
                "only {} of {} sessions were open at once: launching took {}, the last was open after {}, the first had ended \
                 after {}; add agents, or give a longer wait",
                count(*together),
                count(*succeeded),
                latency(*launch_us),
                latency(*last_open_us),
                latency(*first_end_us)
            ),
            Self::LateStarts { agent, lag_us, places, actual_us, intended_us, cure } => {
                write!(f, "agent {agent} started sessions up to {} late (launch lag p99)", latency(*lag_us))?;
                if let Some(places) = places {
                    let places = count(*places);
                    write!(f, " because all of its {places} places were taken (--max-sessions, descriptors or ports)")?;
                }
                write!(
                    f,
                    ", and that decides the latency criterion: p99 is {} from the actual starts, {} from the intended ones; {cure}",
                    exact(*actual_us),
                    exact(*intended_us)
                )
            }
            _ => Ok(()),
        }
    }

    fn of_server(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected { failed, sessions, planned, side } => {
                let whose = if *side == Side::Environment { "environment" } else { "server" };
                write!(f, "by the {whose}: {} of {} {failed}", count(*sessions), count(*planned))
            }
            Self::CutAtOneAge { connections, age_us } => write!(
                f,
                "{} connections were cut without an answer at the same age, {} after the last message of the server: does the server, \
                 or a proxy before it, close connections that are idle for that long? such a limit has to be above the longest wait \
                 and pause",
                count(*connections),
                latency(*age_us)
            ),
            Self::UnevenWorkers(sessions) => {
                let shown: Vec<String> = sessions.iter().take(SHOWN_MAX).map(|n| count(*n)).collect();
                let more = if sessions.len() > SHOWN_MAX { ", ..." } else { "" };
                let workers = sessions.len();
                write!(f, "sessions were not spread evenly over {workers} workers: {}{more} each", shown.join(", "))
            }
            Self::SynAgain { connections, listen_overflows } => {
                write!(
                    f,
                    "{} connections took more than one SYN: the queue of connections that wait to be accepted was full, or \
                     segments were lost",
                    count(*connections)
                )?;
                listen_overflows.map_or(Ok(()), |n| {
                    write!(f, " ({} overflows of an accept queue on an agent's own host)", count(n))
                })
            }
            Self::Slow { own, p99_us, limit_us, phase, phase_us } => write!(
                f,
                "by the server: without what the agents added ({}) p99 is still {} of {}, above the criterion of {}; most of it in \
                 {phase}, p99 {}",
                own.how(),
                exact(own.without_us()),
                exact(*p99_us),
                exact(*limit_us),
                latency(*phase_us)
            ),
            Self::SlowWithoutStamps => f.write_str(
                "p99 misses the criterion, and what the agents added to it is not known: without receive stamps a batch must last \
                 a second at least",
            ),
            Self::TimedOut { sessions, planned, phase, limit, agent, by_server } => {
                let limit = match limit {
                    CutBy::Total { limit_us } => format!("at the total time limit of {}", latency(*limit_us)),
                    CutBy::OfPhase { limit_us } => format!("after {}", latency(*limit_us)),
                };
                let (sessions, planned) = (count(*sessions), count(*planned));
                let what = format!("{sessions} of {planned} timed out, mostly at {phase} {limit}");
                let agent = or(agent, "nothing is known of the agents");
                if *by_server {
                    write!(f, "by the server: {what}, while {agent}")
                } else {
                    write!(f, "{what}, but {agent}: it may be either side's doing")
                }
            }
            Self::NothingTold => f.write_str("sessions failed in ways that tell nothing about who was too slow"),
            Self::SharedMachine { cpus, used_tenths } => write!(
                f,
                "load and target shared a machine without a free CPU ({cpus} CPUs, {}.{} of them used by the agents): the server \
                 may do better alone; start the agents on another machine",
                used_tenths / 10,
                used_tenths % 10
            ),
            _ => Ok(()),
        }
    }
}

fn tenths_of_ms(us: u64) -> String {
    format!("{}.{} ms", us / 1_000, us % 1_000 / 100)
}
