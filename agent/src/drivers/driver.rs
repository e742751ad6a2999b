//! The trait that every protocol implements.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::fault::Fault;
use super::reply::Reply;
use crate::net::timestamps::Timestamps;

/// How one kind of session speaks. The session loop calls each method in turn and measures around the call.
///
/// A driver must answer what the protocol asks of it (such as pings) at every instant of a session's life: while it
/// waits for a reply, and in [`Driver::idle`] between two requests.
pub trait Driver: 'static {
    /// An open session.
    type Session;

    /// A connection whose session is over and that the server has not closed yet.
    type Closing: 'static;

    /// How long the server may take to close such a connection.
    const CLOSE_TIMEOUT: Duration;

    /// Connects session number `session` until a request could be sent: TCP, TLS, upgrade. With `times`, the kernel's
    /// timestamps of this phase and of every later one are kept there.
    fn connect(
        &self,
        session: u64,
        times: Option<Rc<Timestamps>>,
    ) -> impl Future<Output = Result<Self::Session, Fault>>;

    /// Starts an episode.
    fn reset(&self, session: &mut Self::Session) -> impl Future<Output = Result<Reply, Fault>>;

    /// Makes one step that asks the server to wait for `wait`. `last` says that no other step follows.
    fn step(
        &self,
        session: &mut Self::Session,
        wait: Duration,
        last: bool,
    ) -> impl Future<Output = Result<Reply, Fault>>;

    /// Sends no request until `until`. Pings are answered meanwhile, and an unexpected message ends it at once.
    fn idle(&self, session: &mut Self::Session, until: Instant) -> impl Future<Output = Result<(), Fault>>;

    /// Ends a session that has had all of its replies, up to the last reply that the protocol still owes. The session
    /// has succeeded, however the server ends the connection.
    fn close(&self, session: Self::Session) -> impl Future<Output = Closed<Self::Closing>>;

    /// Says goodbye for a session that has failed while its connection still works. Does not wait for an answer.
    fn close_after_failure(&self, session: Self::Session) -> Self::Closing;

    /// Waits until the server has closed the connection. This time is not part of the session's.
    fn wait_closed(&self, connection: Self::Closing) -> impl Future<Output = ()>;
}

/// A session that has ended after its last reply.
#[derive(Debug)]
pub struct Closed<C> {
    /// `None` if the connection is gone already.
    pub connection: Option<C>,
    /// What the server did instead of an orderly end.
    pub untidy: Option<Fault>,
}
