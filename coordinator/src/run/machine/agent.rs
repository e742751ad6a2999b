//! The machine's view of one agent.

use std::time::Duration;

use proto::message::Hello;

use crate::run::clock::Rounds;

/// An agent that is connected and accepted.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) name: String,
    pub(super) hello: Hello,
    pub(super) last_seen: Duration,
    pub(super) standing: Standing,
    /// Pings of the last comparison with the agent's clock.
    pub(super) rounds: Rounds,
}

/// Progress of an agent towards its first share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// The agent has sent its greeting.
    New,
    /// The agent was asked to run the readiness check.
    Asked,
    /// A batch has waited for the agent's answer. Later batches do not wait.
    WaitedFor,
    /// The target has answered the agent, so it gets shares.
    Ready,
    /// The agent is shutting down and gets no more shares.
    Leaving,
}

impl Agent {
    pub(super) fn is_ready(&self) -> bool {
        self.standing == Standing::Ready
    }

    /// Marks the agent as ready, unless it is shutting down.
    pub(super) fn admit(&mut self) {
        if self.standing != Standing::Leaving {
            self.standing = Standing::Ready;
        }
    }
}
