//! The contract between coordinator and agents.
//!
//! [`pb`] is what protobuf generates. Everything else is the domain: plain types, which [`convert`] validates when they
//! come from the network. The rest of the program sees a `pb` type only to send it.

pub mod base_url;
pub mod convert;
pub mod histograms;
pub mod ids;
pub mod limits;
pub mod message;
mod named;
pub mod outcome;
pub mod record;
pub mod spec;
pub mod units;
pub mod vitals;

/// Generated from `muster/v1/control.proto`.
#[expect(clippy::allow_attributes, reason = "generated")]
pub mod pb {
    tonic::include_proto!("muster.v1");
}

/// The number of the protocol, raised whenever a message changes. A peer with another number is refused.
pub const PROTOCOL: u32 = 5;

/// Version of this build. Coordinator and agents must have the same, so that all measure in the same way.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub use convert::Invalid;
pub use histograms::{Bounds, HistogramSet, Metric};
pub use ids::{AttemptId, PlanHash, RunId};
pub use message::{FromAgent, FromCoordinator};
pub use outcome::{FailureKind, Ledger, Outcome, Phase};
pub use record::{SessionRecord, Silence, Split, WireRecord};
pub use spec::{Assignment, Capacity, Launch, Mode, Process, Script, Target};
pub use vitals::{Vitals, WireState};
