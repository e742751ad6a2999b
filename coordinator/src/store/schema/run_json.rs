//! run.json: the plan of a run, the agents that took part, and the outcome.

use std::borrow::Cow;
use std::net::IpAddr;

use jiff::Timestamp;
use proto::{Capacity, RunId};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::format::FORMAT;
use super::number::{rfc3339_text, rfc3339_text_option};
use crate::plan::Plan;
use crate::plan::expand::Batch;
use crate::results::batch::Summary;
use crate::results::cells::Done;
use crate::results::metadata::RunState;
use crate::results::run::Status;

/// The document, as it is written and read; `--json` prints it too.
///
/// Early versions lack the keys with a default. Fields that are not deserialized are for other programs.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunJson<'a> {
    pub format: u32,
    pub run: RunId,
    pub version: Cow<'a, str>,
    #[serde(skip_deserializing)]
    pub protocol: u32,
    pub status: Status,
    #[serde(skip_deserializing)]
    pub exit_code: Option<u8>,
    pub failure: Option<String>,
    #[serde(serialize_with = "rfc3339_text")]
    pub started: Timestamp,
    /// The times at which the run was resumed.
    #[serde(default)]
    pub resumed: Cow<'a, [String]>,
    #[serde(serialize_with = "rfc3339_text_option")]
    pub ended: Option<Timestamp>,
    #[serde(default)]
    pub command: Cow<'a, [String]>,
    #[serde(default)]
    pub plan_folder: Cow<'a, str>,
    #[serde(default)]
    pub output: String,
    #[serde(default)]
    pub urls: Cow<'a, [String]>,
    pub plan: Cow<'a, Plan>,
    #[serde(default)]
    pub plan_hash: String,
    /// The agents by name; those of earlier processes are kept as they were written.
    #[serde(default)]
    pub agents: Map<String, Value>,
    #[serde(default)]
    pub batches: Vec<BatchJson<'a>>,
}

/// An agent that took part.
#[derive(Debug, Serialize)]
struct AgentJson<'a> {
    /// The address that it connected from.
    address: Option<IpAddr>,
    host: &'a str,
    pid: u32,
    version: &'a str,
    capacity: &'a Capacity,
}

/// A decided batch of the grid. Summaries are read from the journal, which also has the refused attempts.
#[derive(Debug, Serialize, Deserialize)]
pub struct BatchJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none", skip_deserializing)]
    pub summary: Option<&'a Summary>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skipped: Option<SkippedJson>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct SkippedJson {
    pub batch: Batch,
    pub why: String,
}

impl<'a> RunJson<'a> {
    #[must_use]
    pub fn of(state: &RunState<'a>) -> Self {
        let end = state.end.map(|(end, _)| end);
        Self {
            format: FORMAT,
            run: state.run,
            version: proto::VERSION.into(),
            protocol: proto::PROTOCOL,
            status: Status::of(end),
            exit_code: state.end.map(|(_, code)| code),
            failure: end.and_then(|end| end.failure.as_ref().map(ToString::to_string)),
            started: state.metadata.started,
            resumed: state.metadata.resumed.as_slice().into(),
            ended: state.ended,
            command: state.metadata.command.as_slice().into(),
            plan_folder: state.metadata.plan_folder.as_str().into(),
            output: state.output.clone(),
            urls: state.urls.into(),
            plan: Cow::Borrowed(state.plan),
            plan_hash: state.plan.hash().to_string(),
            agents: agents(state),
            batches: state.results.iter().map(batch).collect(),
        }
    }
}

fn batch(done: &Done) -> BatchJson<'_> {
    match done {
        Done::Ran(summary) => BatchJson { summary: Some(summary), skipped: None },
        Done::Skipped { batch, why } => {
            BatchJson { summary: None, skipped: Some(SkippedJson { batch: *batch, why: why.clone() }) }
        }
    }
}

fn agents(state: &RunState<'_>) -> Map<String, Value> {
    let mut agents = state.metadata.earlier_agents.clone();
    agents.extend(state.agents.iter().map(|(name, hello)| {
        let agent = AgentJson {
            address: state.metadata.addresses.get(&hello.instance).copied(),
            host: &hello.host,
            pid: hello.pid,
            version: &hello.version,
            capacity: &hello.capacity,
        };
        (name.clone(), serde_json::to_value(agent).unwrap_or_default())
    }));
    agents
}
