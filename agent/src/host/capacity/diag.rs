//! Counts sockets by asking the kernel (sock_diag(7)). The kernel skips the other sockets, tens of thousands on a
//! machine that also serves, in a tenth of the time that reading them all from `/proc` takes.

use std::io;
use std::net::SocketAddr;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

/// More than the kernel puts into one answer.
const ANSWER_BYTES: usize = 64 << 10;

/// The number of TCP sockets with this peer, in any state but LISTEN.
///
/// # Errors
/// Where the kernel does not answer: without its inet_diag module, or in a sandbox.
pub fn sockets_towards(peer: &SocketAddr) -> io::Result<u64> {
    towards(peer, StateFlags::all() - StateFlags::LISTEN)
}

fn towards(peer: &SocketAddr, states: StateFlags) -> io::Result<u64> {
    let mut id = if peer.is_ipv4() { SocketId::new_v4() } else { SocketId::new_v6() };
    id.destination_port = peer.port();
    let ours = |found: &SocketId| found.destination_address == peer.ip() && found.destination_port == peer.port();
    count(peer.is_ipv4(), states, id, ours)
}

/// The number of open TCP connections to `peer`.
///
/// # Errors
/// As [`sockets_towards`].
pub fn established_towards(peer: &SocketAddr) -> io::Result<u64> {
    towards(peer, StateFlags::ESTABLISHED)
}

/// The number of listening TCP sockets of one family.
///
/// # Errors
/// As [`sockets_towards`].
pub fn listening(v4: bool) -> io::Result<u64> {
    let id = if v4 { SocketId::new_v4() } else { SocketId::new_v6() };
    count(v4, StateFlags::LISTEN, id, |_| true)
}

/// The number of listening TCP sockets of one family on `port`.
///
/// # Errors
/// As [`sockets_towards`].
pub fn listening_on(v4: bool, port: u16) -> io::Result<u64> {
    let id = if v4 { SocketId::new_v4() } else { SocketId::new_v6() };
    count(v4, StateFlags::LISTEN, id, |found| found.source_port == port)
}

/// Asks for all sockets of a family in `states` and counts those that `ours` accepts.
fn count(v4: bool, states: StateFlags, socket_id: SocketId, ours: impl Fn(&SocketId) -> bool) -> io::Result<u64> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    let request = InetRequest {
        family: if v4 { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id,
    };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut packet = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let mut answer = vec![0; ANSWER_BYTES];
    let mut found = 0;
    loop {
        let size = socket.recv(&mut &mut answer[..], 0)?;
        let mut rest = answer.get(..size).unwrap_or_default();
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    found += u64::from(ours(&response.header.socket_id));
                }
                _ => {}
            }
            // Messages are aligned to four bytes (netlink(7)).
            let length = usize::try_from(message.header.length).unwrap_or(rest.len()).next_multiple_of(4);
            rest = rest.get(length.max(4)..).unwrap_or_default();
        }
    }
}

/// An upper bound of the ports that are taken towards any of `peers`, from one source address; `None` where the kernel
/// does not say.
#[must_use]
pub fn taken_at_most(peers: &[SocketAddr]) -> Option<u64> {
    let towards = peers.iter().map(sockets_towards);
    let most = towards.collect::<io::Result<Vec<u64>>>().ok()?.into_iter().max()?;
    Some(most + listening(true).ok()? + listening(false).ok()?)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn connections_are_counted_by_where_they_go() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(local) else { continue };
            let peer = listener.local_addr().expect("address");
            // Accepted sockets go the other way: towards the clients.
            let open: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(peer).expect("connected")).collect();
            let accepted: Vec<TcpStream> = (0..5).map(|_| listener.accept().expect("accepted").0).collect();
            assert_eq!(sockets_towards(&peer).expect("an answer"), open.len() as u64);
            assert!(listening(peer.is_ipv4()).expect("an answer") >= 1);
            assert!(taken_at_most(&[peer]).expect("an answer") >= 6);
            drop((open, accepted));
        }
    }
}
