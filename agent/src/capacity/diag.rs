//! How many sockets there are towards a place, asked of the kernel itself (sock_diag(7)): it passes over the others, which
//! on a machine that also serves can be tens of thousands, in a tenth of the time that printing them all takes.

use std::io;
use std::net::SocketAddr;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

/// What the kernel puts into one answer at most, and then some.
const ANSWER_BYTES: usize = 64 << 10;

/// TCP sockets whose peer is `place`, whatever their state.
///
/// # Errors
/// Where the kernel does not answer: without its inet_diag module, or in a sandbox.
pub fn sockets_towards(place: &SocketAddr) -> io::Result<u64> {
    towards(place, StateFlags::all() - StateFlags::LISTEN)
}

fn towards(place: &SocketAddr, states: StateFlags) -> io::Result<u64> {
    let mut id = if place.is_ipv4() { SocketId::new_v4() } else { SocketId::new_v6() };
    id.destination_port = place.port();
    let ours = |found: &SocketId| found.destination_address == place.ip() && found.destination_port == place.port();
    count(place.is_ipv4(), states, id, ours)
}

/// Open TCP connections to `place`.
///
/// # Errors
/// As [`sockets_towards`].
pub fn established_towards(place: &SocketAddr) -> io::Result<u64> {
    towards(place, StateFlags::ESTABLISHED)
}

/// Listening TCP sockets of one family.
///
/// # Errors
/// As [`sockets_towards`].
pub fn listening(v4: bool) -> io::Result<u64> {
    let id = if v4 { SocketId::new_v4() } else { SocketId::new_v6() };
    count(v4, StateFlags::LISTEN, id, |_| true)
}

/// Listening TCP sockets of one family on `port`.
///
/// # Errors
/// As [`sockets_towards`].
pub fn listening_on(v4: bool, port: u16) -> io::Result<u64> {
    let id = if v4 { SocketId::new_v4() } else { SocketId::new_v6() };
    count(v4, StateFlags::LISTEN, id, |found| found.source_port == port)
}

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

/// No more ports than this can be taken towards any of `places`, from one source; `None` where the kernel does not say.
#[must_use]
pub fn taken_at_most(places: &[SocketAddr]) -> Option<u64> {
    let towards = places.iter().map(sockets_towards);
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
            let place = listener.local_addr().expect("address");
            // Accepted sockets go the other way: towards the clients.
            let open: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(place).expect("connected")).collect();
            let accepted: Vec<TcpStream> = (0..5).map(|_| listener.accept().expect("accepted").0).collect();
            assert_eq!(sockets_towards(&place).expect("an answer"), open.len() as u64);
            assert!(listening(place.is_ipv4()).expect("an answer") >= 1);
            assert!(taken_at_most(&[place]).expect("an answer") >= 6);
            drop((open, accepted));
        }
    }
}
