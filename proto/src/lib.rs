//! The contract between coordinator and agents.
//!
//! [`pb`] is what protobuf generates; everything else is the domain: plain types that can only hold valid values.
//! [`convert`] is the one place where a message from the network is validated. The rest of the program never sees a
//! `pb` type, except to send it.

pub mod base_url;
pub mod convert;
pub mod histograms;
pub mod ids;
pub mod limits;
pub mod message;
pub mod outcome;
pub mod record;
pub mod spec;
pub mod vitals;

/// Generated from `muster/v1/control.proto`.
#[expect(clippy::allow_attributes, reason = "generated")]
pub mod pb {
    tonic::include_proto!("muster.v1");
}

/// Raised whenever a message changes its meaning; a peer with another number is refused.
pub const PROTOCOL: u32 = 4;

/// Version of this build; coordinator and agents must be the same, so that one ruler measures everything.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub use convert::Invalid;
pub use histograms::{Bounds, HistogramSet, Metric};
pub use ids::{AttemptId, PlanHash, RunId};
pub use message::{FromAgent, FromCoordinator};
pub use outcome::{FailureKind, Ledger, Outcome, Phase};
pub use record::{SessionRecord, Silence, Split, WireRecord};
pub use spec::{Assignment, Capacity, Launch, Mode, Process, Script, Target};
pub use vitals::{Vitals, WireState};
