//! An attempt at a batch while agents work on it.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use proto::AttemptId;

use crate::net::ConnectionId;
use crate::plan::expand::Batch;
use crate::run::events::Counts;
use crate::run::upload::Share;

#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) batch: Batch,
    pub(super) id: AttemptId,
    /// The shares of the agents, in the order of their session numbers.
    pub(super) shares: Vec<(ConnectionId, Share)>,
    pub(super) started: Timestamp,
    pub(super) report_by: Duration,
    /// The reason if the attempt was given up.
    pub(super) given_up: Option<String>,
    pub(super) counts: BTreeMap<ConnectionId, Counts>,
}

impl Attempt {
    pub(super) fn share_mut(&mut self, key: ConnectionId) -> Option<&mut Share> {
        self.shares.iter_mut().find(|(owner, _)| *owner == key).map(|(_, share)| share)
    }

    pub(super) fn owners(&self) -> Vec<ConnectionId> {
        self.shares.iter().map(|(key, _)| *key).collect()
    }

    pub(super) fn has_lost_an_agent(&self) -> bool {
        self.shares.iter().any(|(_, share)| share.is_lost())
    }

    /// The next time at which the machine must check the attempt.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let shares = self.shares.iter().flat_map(|(_, share)| [share.away_until(), share.ask_at()]);
        shares.flatten().chain([self.report_by]).min()
    }

    pub(super) fn total(&self) -> Counts {
        let mut sum = Counts { planned: self.batch.batch_size, ..Counts::default() };
        for counts in self.counts.values() {
            sum.launched += counts.launched;
            sum.open += counts.open;
            sum.succeeded += counts.succeeded;
            sum.failed += counts.failed;
        }
        sum
    }
}
