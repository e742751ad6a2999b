//! run.json: what was run, by whom, and how it went.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use proto::Capacity;
use proto::message::Hello;
use serde::Serialize;
use serde_json::Value;

use super::FORMAT;
use crate::exit::End;
use crate::plan::Plan;
use crate::plan::expand::Batch;
use crate::report::cells::Done;
use crate::report::summary::{Summary, rfc3339};
use crate::run::event_loop::Papers;

/// The document. Also what `--json` prints.
#[derive(Debug, Serialize)]
pub struct RunJson<'a> {
    pub format: u32,
    pub run: String,
    pub version: &'static str,
    pub protocol: u32,
    /// `running`, `complete`, `interrupted` or `failed`.
    pub status: &'static str,
    pub exit_code: Option<u8>,
    pub failure: Option<String>,
    pub started: String,
    /// When it was taken up again.
    pub resumed: &'a [String],
    pub ended: Option<String>,
    pub command: &'a [String],
    pub plan_folder: &'a str,
    pub output: String,
    pub urls: &'a [String],
    pub plan: &'a Plan,
    pub plan_hash: String,
    /// Those of earlier lives of the run as they were written down then.
    pub agents: BTreeMap<&'a str, Value>,
    pub batches: Vec<BatchJson<'a>>,
}

#[derive(Debug, Serialize)]
pub struct AgentJson<'a> {
    /// Where it dialled from.
    pub address: Option<IpAddr>,
    pub host: &'a str,
    pub pid: u32,
    pub version: &'a str,
    pub capacity: &'a Capacity,
}

/// One batch of the grid that has been decided.
#[derive(Debug, Serialize)]
pub struct BatchJson<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<&'a Summary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skipped: Option<SkippedJson<'a>>,
}

#[derive(Debug, Serialize)]
pub struct SkippedJson<'a> {
    pub batch: &'a Batch,
    pub why: &'a str,
}

/// What the document is made of.
#[derive(Debug)]
pub struct Facts<'a> {
    pub run: proto::RunId,
    pub plan: &'a Plan,
    pub urls: &'a [String],
    pub papers: &'a Papers,
    pub output: String,
    pub ended: Option<Timestamp>,
    pub end: Option<(&'a End, u8)>,
    pub agents: &'a BTreeMap<String, Hello>,
    pub results: &'a [Done],
}

impl<'a> RunJson<'a> {
    #[must_use]
    pub fn of(facts: &Facts<'a>) -> Self {
        let status = match facts.end {
            None => "running",
            Some((End { failure: Some(_), .. }, _)) => "failed",
            Some((End { interrupted: true, .. }, _)) => "interrupted",
            Some(_) => "complete",
        };
        Self {
            format: FORMAT,
            run: facts.run.to_string(),
            version: proto::VERSION,
            protocol: proto::PROTOCOL,
            status,
            exit_code: facts.end.map(|(_, code)| code),
            failure: facts.end.and_then(|(end, _)| end.failure.as_ref().map(ToString::to_string)),
            started: rfc3339(facts.papers.started),
            resumed: &facts.papers.resumed,
            ended: facts.ended.map(rfc3339),
            command: &facts.papers.command,
            plan_folder: &facts.papers.plan_folder,
            output: facts.output.clone(),
            urls: facts.urls,
            plan: facts.plan,
            plan_hash: facts.plan.hash().to_string(),
            agents: facts
                .papers
                .earlier_agents
                .iter()
                .map(|(name, agent)| (name.as_str(), agent.clone()))
                .chain(facts.agents.iter().map(|(name, hello)| {
                    let agent = AgentJson {
                        address: facts.papers.addresses.get(&hello.instance).copied(),
                        host: &hello.host,
                        pid: hello.pid,
                        version: &hello.version,
                        capacity: &hello.capacity,
                    };
                    (name.as_str(), serde_json::to_value(agent).unwrap_or_default())
                }))
                .collect(),
            batches: facts
                .results
                .iter()
                .map(|done| match done {
                    Done::Ran(summary) => BatchJson { summary: Some(summary), skipped: None },
                    Done::Skipped { batch, why } => {
                        BatchJson { summary: None, skipped: Some(SkippedJson { batch, why }) }
                    }
                })
                .collect(),
        }
    }
}
