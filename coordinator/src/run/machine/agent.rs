//! An agent, as the machine knows it.

use std::time::Duration;

use proto::message::Hello;

use crate::run::clock::Rounds;

/// An agent that is connected and welcome.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) name: String,
    pub(super) hello: Hello,
    pub(super) last_seen: Duration,
    pub(super) standing: Standing,
    /// Pings of the last comparison with its clock.
    pub(super) rounds: Rounds,
}

/// How far an agent is on its way to a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It has greeted.
    New,
    /// It was asked whether the target answers it.
    Asked,
    /// The same, and a batch has waited for the answer. No further one does.
    WaitedFor,
    /// The target answered it: it gets a share.
    Ready,
    /// It was told to end: it gets no share any more.
    Leaving,
}

impl Agent {
    pub(super) fn is_ready(&self) -> bool {
        self.standing == Standing::Ready
    }

    /// The target answered it.
    pub(super) fn admit(&mut self) {
        if self.standing != Standing::Leaving {
            self.standing = Standing::Ready;
        }
    }
}
