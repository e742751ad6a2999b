//! A run while it goes on: how it came about, and what has been decided so far.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use proto::message::Hello;
use serde_json::{Map, Value};

use crate::plan::Plan;
use crate::results::cells::Done;
use crate::results::end::End;

/// What run.json says of the run besides its results.
#[derive(Debug, Clone, Default)]
pub struct RunMetadata {
    pub command: Vec<String>,
    pub started: Timestamp,
    /// When it was taken up again.
    pub resumed: Vec<String>,
    /// Agents of earlier lives of the run.
    pub earlier_agents: Map<String, Value>,
    /// Where relative paths of the plan begin.
    pub plan_folder: String,
    /// Where each agent, by its instance, dialled from last.
    pub addresses: BTreeMap<[u8; 16], IpAddr>,
}

/// What the document is made of.
#[derive(Debug)]
pub struct RunState<'a> {
    pub run: proto::RunId,
    pub plan: &'a Plan,
    pub urls: &'a [String],
    pub metadata: &'a RunMetadata,
    pub output: String,
    pub ended: Option<Timestamp>,
    pub end: Option<(&'a End, u8)>,
    pub agents: &'a BTreeMap<String, Hello>,
    pub results: &'a [Done],
}
