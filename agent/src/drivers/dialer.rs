//! Opens the connection of a session: address, source address, TCP and TLS.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use nix::errno::Errno;
use proto::FailureKind;

use super::fault::{Ending, Fault};
use super::read_budget::ReadBudget;
use crate::net::family;
use crate::net::socket::{self, Socket, Transport};
use crate::net::target::{Endpoint, Endpoints};
use crate::net::timestamps::Timestamps;

/// Where sessions go, and from where.
#[derive(Debug, Clone)]
pub struct Route {
    pub endpoints: Endpoints,
    /// Source addresses. Those of the destination's family are used in turn, by session number; with an empty list the
    /// kernel chooses.
    pub source_ips: Vec<IpAddr>,
}

/// What every driver needs to open connections. One a load thread.
#[derive(Debug)]
pub struct Dialer {
    pub endpoints: Endpoints,
    source_ips: Vec<IpAddr>,
    /// The largest reply that is read, in bytes.
    pub message_bytes_max: usize,
    /// Bounds the memory of replies that are being read, over all sessions of this dialer.
    pub read_budget: Rc<ReadBudget>,
}

impl Dialer {
    #[must_use]
    pub fn new(route: Route, message_bytes_max: usize, read_budget: Rc<ReadBudget>) -> Self {
        Self { endpoints: route.endpoints, source_ips: route.source_ips, message_bytes_max, read_budget }
    }

    /// A dialer for one session at a time, which needs no bound.
    #[must_use]
    pub fn for_single_sessions(route: Route, message_bytes_max: usize) -> Self {
        Self::new(route, message_bytes_max, ReadBudget::unbounded())
    }

    /// Connects TCP and, for https and wss, TLS.
    ///
    /// # Errors
    /// A [`Fault`] that says which of the two failed, and why.
    pub(super) async fn dial(
        &self,
        session: u64,
        times: Option<Rc<Timestamps>>,
    ) -> Result<(&Endpoint, Transport), Fault> {
        let (endpoint, address) = self.endpoints.of_session(session);
        // The source changes once all destinations had their turn: every source meets every destination of its family.
        let destinations = (self.endpoints.list.len() * endpoint.addresses.len()) as u64;
        let source = source_of(&self.source_ips, address, session / destinations);
        let socket = Socket::connect(address, source, times)
            .await
            .map_err(|error| dial_fault(&error, address, || socket::route_to(address)))?;
        let transport = match (&self.endpoints.tls, endpoint.url.tls) {
            (Some(config), true) => {
                Transport::tls(socket, &endpoint.url.host, config.clone()).await.map_err(tls_fault)?
            }
            (None, true) => return Err(Fault::new(FailureKind::Tls, "no TLS configuration")),
            (_, false) => Transport::Plain(socket),
        };
        Ok((endpoint, transport))
    }
}

/// The source address for the `turn`-th session of one destination; `None` lets the kernel choose. The destination was
/// checked before the batch to have a source of its family, if there are sources at all.
fn source_of(sources: &[IpAddr], address: SocketAddr, turn: u64) -> Option<IpAddr> {
    let fitting = || sources.iter().copied().filter(|source| family::fits(*source, address));
    let turn = turn.checked_rem(fitting().count() as u64)?;
    fitting().nth(usize::try_from(turn).ok()?)
}

/// Describes a failed connect. connect(2) reports EADDRNOTAVAIL both where no port is free and where this machine has
/// no address of the family. `route`, which needs no TCP port, reports it in the second case only.
fn dial_fault(error: &io::Error, address: SocketAddr, route: impl FnOnce() -> io::Result<()>) -> Fault {
    let errno = |error: &io::Error| error.raw_os_error().map(Errno::from_raw);
    let without_family = match errno(error) {
        Some(Errno::EAFNOSUPPORT) => true,
        Some(Errno::EADDRNOTAVAIL) => route().is_err_and(|error| errno(&error) == Some(Errno::EADDRNOTAVAIL)),
        _ => false,
    };
    if !without_family {
        return error.into();
    }
    let (theirs, other) = if address.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
    let message = format!(
        "this machine has no {theirs} address from which to reach {address}; give it one, or a target with an {other} \
         address ({error})"
    );
    Fault { errno: error.raw_os_error(), ..Fault::new(FailureKind::Unreachable, message) }
}

/// Describes a failed TLS handshake. A cut connection is a network failure; whatever TLS itself reports is not.
fn tls_fault(error: io::Error) -> Fault {
    match Fault::from(error) {
        Fault { ending: Ending::Failed(FailureKind::Io | FailureKind::Closed(_)), message, .. } => {
            Fault::new(FailureKind::Tls, message)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_the_family_is_told_from_one_without_a_port() {
        let told = |errno: Errno, way: Result<(), Errno>| {
            let os = |errno: Errno| io::Error::from_raw_os_error(errno as i32);
            let address = "[2001:db8::1]:80".parse().expect("an address");
            let fault = dial_fault(&os(errno), address, || way.map_err(os));
            assert_eq!(fault.errno, Some(errno as i32));
            (fault.kind().cloned(), fault.message)
        };
        for (errno, way) in
            [(Errno::EADDRNOTAVAIL, Err(Errno::EADDRNOTAVAIL)), (Errno::EAFNOSUPPORT, Err(Errno::EAFNOSUPPORT))]
        {
            let (kind, message) = told(errno, way);
            assert_eq!(kind, Some(FailureKind::Unreachable), "{errno}");
            assert!(message.contains("no IPv6 address") && message.contains("[2001:db8::1]:80"), "{message}");
        }
        // UDP has no port left either, or no descriptor: nothing is known of the family.
        for way in [Ok(()), Err(Errno::EAGAIN), Err(Errno::EMFILE)] {
            assert_eq!(told(Errno::EADDRNOTAVAIL, way).0, Some(FailureKind::PortExhausted), "{way:?}");
        }
        assert_eq!(told(Errno::EADDRINUSE, Err(Errno::EADDRNOTAVAIL)).0, Some(FailureKind::PortExhausted));
        assert_eq!(told(Errno::ECONNREFUSED, Err(Errno::EADDRNOTAVAIL)).0, Some(FailureKind::Refused));
    }

    #[test]
    fn sources_of_the_destinations_family_take_turns() {
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("an ip")).collect::<Vec<IpAddr>>();
        let sources = ips(&["10.0.0.1", "fd00::1", "10.0.0.2", "fd00::2", "10.0.0.3"]);
        let turns = |sources: &[IpAddr], address: &str| {
            let address = address.parse().expect("an address");
            (0..4).filter_map(|turn| source_of(sources, address, turn)).collect::<Vec<_>>()
        };
        assert_eq!(turns(&sources, "10.9.9.9:1"), ips(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.1"]));
        assert_eq!(turns(&sources, "[fd00::9]:1"), ips(&["fd00::1", "fd00::2", "fd00::1", "fd00::2"]));
        assert_eq!(turns(&[], "10.9.9.9:1"), ips(&[]));
    }
}
