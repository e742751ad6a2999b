//! A driver without a network, for tests on paused time: a function of (session, phase) says what each phase does.

use std::rc::Rc;
use std::time::Duration;

use proto::{FailureKind, Phase};
use tokio::time::{Instant, sleep_until};

use super::driver::{Closed, Driver};
use super::fault::Fault;
use super::reply::Reply;
use crate::net::timestamps::Timestamps;

/// What a phase of a session does.
#[derive(Debug, Clone)]
pub enum Act {
    /// Succeeds after this long.
    Take(Duration),
    /// Fails after this long.
    Fail(Duration, FailureKind),
}

/// See the module.
#[derive(Debug)]
pub struct FakeDriver<F> {
    script: F,
    closing: Duration,
}

impl<F: Fn(u64, Phase) -> Act> FakeDriver<F> {
    pub fn new(script: F) -> Self {
        Self { script, closing: Duration::ZERO }
    }

    /// The server closes each connection this long after the end of its session.
    #[must_use]
    pub fn closing_after(self, closing: Duration) -> Self {
        Self { closing, ..self }
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
    type Closing = ();
    const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

    async fn connect(&self, session: u64, _times: Option<Rc<Timestamps>>) -> Result<u64, Fault> {
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
        let waited_us = Some(proto::units::micros(wait));
        Ok(Reply { waited_us, pid: Some(1), ..Reply::default() })
    }

    async fn idle(&self, _session: &mut u64, until: Instant) -> Result<(), Fault> {
        sleep_until(until).await;
        Ok(())
    }

    async fn close(&self, session: u64) -> Closed<()> {
        Closed { connection: Some(()), untidy: self.act(session, Phase::Close).await.err() }
    }

    fn close_after_failure(&self, _session: u64) {}

    async fn wait_closed(&self, (): ()) {
        tokio::time::sleep(self.closing).await;
    }
}
