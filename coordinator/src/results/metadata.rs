//! The metadata and the state of a run that is under way.

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
    /// The times at which the run was resumed.
    pub resumed: Vec<String>,
    /// The agents of the run's earlier processes.
    pub earlier_agents: Map<String, Value>,
    /// The folder that relative paths of the plan start from.
    pub plan_folder: String,
    /// The address that each agent last connected from, by its instance.
    pub addresses: BTreeMap<[u8; 16], IpAddr>,
}

/// The inputs of run.json.
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
