//! A driver without a network, for tests on paused time: every phase takes what a function of (session, phase) says.

use std::rc::Rc;
use std::time::Duration;

use proto::{FailureKind, Phase};
use tokio::time::{Instant, sleep_until};

use super::{Closed, Driver, Fault, Reply};
use crate::stamps::Times;

/// What a phase of a session does.
#[derive(Debug, Clone)]
pub enum Act {
    Take(Duration),
    Fail(Duration, FailureKind),
}

/// See the module.
#[derive(Debug)]
pub struct FakeDriver<F> {
    script: F,
    settling: Duration,
}

impl<F: Fn(u64, Phase) -> Act> FakeDriver<F> {
    pub fn new(script: F) -> Self {
        Self { script, settling: Duration::ZERO }
    }

    /// The other side lets go of a connection so long after the session.
    #[must_use]
    pub fn settling(self, settling: Duration) -> Self {
        Self { settling, ..self }
    }

    async fn act(&self, session: u64, phase: Phase) -> Result<(), Fault> {
        match (self.script)(session, phase) {
            Act::Take(time) => {
                tokio::time::sleep(time).await;
                Ok(())
            }
            Act::Fail(time, kind) => {
                tokio::time::sleep(time).await;
                Err(Fault::new(kind, "as told"))
            }
        }
    }
}

impl<F: Fn(u64, Phase) -> Act + 'static> Driver for FakeDriver<F> {
    type Session = u64;
    type Rest = ();
    const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

    async fn connect(&self, session: u64, _times: Option<Rc<Times>>) -> Result<u64, Fault> {
        self.act(session, Phase::Connect).await?;
        Ok(session)
    }

    async fn reset(&self, session: &mut u64) -> Result<Reply, Fault> {
        self.act(*session, Phase::Reset).await?;
        Ok(Reply { pid: Some(1), ..Reply::default() })
    }

    async fn step(&self, session: &mut u64, wait: Duration, _last: bool) -> Result<Reply, Fault> {
        tokio::time::sleep(wait).await;
        self.act(*session, Phase::Step).await?;
        let waited_us = u64::try_from(wait.as_micros()).ok();
        Ok(Reply { waited_us, pid: Some(1), ..Reply::default() })
    }

    async fn idle(&self, _session: &mut u64, until: Instant) -> Result<(), Fault> {
        sleep_until(until).await;
        Ok(())
    }

    async fn close(&self, session: u64) -> Closed<()> {
        Closed { rest: Some(()), untidy: self.act(session, Phase::Close).await.err() }
    }

    fn leave(&self, _session: u64) {}

    async fn settle(&self, (): ()) {
        tokio::time::sleep(self.settling).await;
    }
}
