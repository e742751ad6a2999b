//! Chooses the address family in which a host's server is dialled (RFC 8305).

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use futures_util::future::select_ok;
use tokio::net::TcpSocket;
use tokio::time::timeout;

use super::socket::new_socket;
use super::target::TargetError;

/// How long one family is tried before the other one is tried too (RFC 8305 section 5).
const HEAD_START: Duration = Duration::from_millis(250);
/// How long both may take together. A lost SYN is sent again after one second, so this leaves time for it.
const RACE_TIMEOUT: Duration = Duration::from_secs(3);

/// Whether a socket bound to `source` can be connected to `address`.
#[must_use]
pub fn fits(source: IpAddr, address: SocketAddr) -> bool {
    source.is_ipv4() == address.is_ipv4()
}

/// The family of an address, for messages.
#[must_use]
pub fn name(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// Chooses which of a host's addresses sessions are sent to: all those of one family.
///
/// Several addresses of one family are taken for several servers. Two families are most often two ways to the same
/// server, which may listen on one of them only, so the family that answers first is chosen. If none answers, it is the
/// family that the resolver put first, and its error is the one that sessions will report. With `sources`, a family
/// without a source address is left out before.
///
/// # Errors
/// [`TargetError::SourceFamily`] if no source fits any of the addresses.
pub async fn choose(
    host: &str,
    addresses: Vec<SocketAddr>,
    sources: &[IpAddr],
) -> Result<Vec<SocketAddr>, TargetError> {
    let reachable = with_sources(host, addresses, sources)?;
    Ok(first_to_answer(reachable, |address| connect(address, sources)).await)
}

fn with_sources(host: &str, addresses: Vec<SocketAddr>, sources: &[IpAddr]) -> Result<Vec<SocketAddr>, TargetError> {
    let (Some(first), Some(source)) = (addresses.first(), sources.first()) else { return Ok(addresses) };
    let (theirs, ours) = (name(first.ip()), name(*source));
    let reachable: Vec<SocketAddr> =
        addresses.iter().copied().filter(|address| sources.iter().any(|source| fits(*source, *address))).collect();
    if !reachable.is_empty() {
        return Ok(reachable);
    }
    // Both lists are of one family here: with two families one address would have found a source.
    Err(TargetError::SourceFamily {
        host: host.to_owned(),
        theirs,
        addresses: list(addresses.iter().map(SocketAddr::ip)),
        ours,
        sources: list(sources.iter().copied()),
    })
}

fn list(ips: impl Iterator<Item = IpAddr>) -> String {
    ips.map(|ip| ip.to_string()).collect::<Vec<_>>().join(", ")
}

/// The addresses of one family: the family of the first address, unless the other family answers before it.
async fn first_to_answer<F: Future<Output = io::Result<()>>>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> Vec<SocketAddr> {
    let first_is_ipv4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (first, other): (Vec<SocketAddr>, Vec<SocketAddr>) =
        addresses.into_iter().partition(|address| address.is_ipv4() == first_is_ipv4);
    if other.is_empty() {
        return first;
    }
    // A family answers when any of its addresses does.
    let any = async |family: &[SocketAddr]| select_ok(family.iter().map(|at| Box::pin(connect(*at)))).await.is_ok();
    let race = async {
        let (mut earlier, mut later) = (pin!(any(&first)), pin!(any(&other)));
        match timeout(HEAD_START, &mut earlier).await {
            Ok(answered) => !answered && later.await,
            Err(_) => tokio::select! {
                biased;
                answered = &mut earlier => !answered && later.await,
                // If the other family has failed, the first family is chosen whether or not it answers.
                answered = &mut later => answered,
            },
        }
    };
    if timeout(RACE_TIMEOUT, race).await.unwrap_or(false) { other } else { first }
}

/// Connects as a session would, and closes the connection.
async fn connect(address: SocketAddr, sources: &[IpAddr]) -> io::Result<()> {
    let source = sources.iter().copied().find(|source| fits(*source, address));
    let socket = TcpSocket::from_std_stream(new_socket(address, source)?.into());
    socket.connect(address).await.map(drop)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::net::{Ipv4Addr, Ipv6Addr};

    use tokio::time::{Instant, sleep};

    use super::*;

    const REFUSED: io::ErrorKind = io::ErrorKind::ConnectionRefused;

    fn v6(last: u16) -> SocketAddr {
        (Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last), 80).into()
    }

    fn v4(last: u8) -> SocketAddr {
        (Ipv4Addr::new(10, 0, 0, last), 80).into()
    }

    /// What an address does after so many milliseconds of virtual time; `None`: never anything.
    type Plays = fn(SocketAddr) -> Option<(u64, io::Result<()>)>;

    /// What was chosen, and which addresses were tried when, in milliseconds.
    async fn race(addresses: &[SocketAddr], plays: Plays) -> (Vec<SocketAddr>, Vec<(SocketAddr, u128)>, u128) {
        let (begun, tried) = (Instant::now(), RefCell::new(Vec::new()));
        let chosen = first_to_answer(addresses.to_vec(), async |address| {
            tried.borrow_mut().push((address, begun.elapsed().as_millis()));
            let Some((after_ms, result)) = plays(address) else { return std::future::pending().await };
            sleep(Duration::from_millis(after_ms)).await;
            result
        })
        .await;
        (chosen, tried.into_inner(), begun.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_of_one_family_are_several_servers_and_are_not_asked() {
        for addresses in [vec![v4(1), v4(2), v4(3)], vec![v6(1), v6(2)], vec![v4(1)]] {
            let (chosen, tried, _) = race(&addresses, |_| Some((0, Err(REFUSED.into())))).await;
            assert_eq!((chosen, tried), (addresses, Vec::new()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_second_family_is_tried_at_once_when_the_first_has_failed() {
        let (chosen, tried, took_ms) =
            race(&[v6(1), v4(1)], |address| Some((5, if address.is_ipv4() { Ok(()) } else { Err(REFUSED.into()) })))
                .await;
        assert_eq!(chosen, [v4(1)]);
        assert_eq!((tried, took_ms), (vec![(v6(1), 0), (v4(1), 5)], 10));
        let (chosen, tried, _) =
            race(&[v4(1), v6(1)], |address| Some((5, if address.is_ipv6() { Ok(()) } else { Err(REFUSED.into()) })))
                .await;
        assert_eq!((chosen, tried), (vec![v6(1)], vec![(v4(1), 0), (v6(1), 5)]), "the resolver's order");
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_family_has_a_head_start() {
        let quick: Plays = |_| Some((249, Ok(())));
        assert_eq!(race(&[v6(1), v4(1)], quick).await, (vec![v6(1)], vec![(v6(1), 0)], 249));
        let slow: Plays = |address| Some(if address.is_ipv6() { (900, Ok(())) } else { (5, Ok(())) });
        assert_eq!(race(&[v6(1), v4(1)], slow).await, (vec![v4(1)], vec![(v6(1), 0), (v4(1), 250)], 255));
        let hangs: Plays = |address| address.is_ipv4().then_some((5, Ok(())));
        assert_eq!(race(&[v6(1), v4(1)], hangs).await.0, [v4(1)]);
        // The second one is under way when the first fails: it is waited for, not begun again.
        let fails_late: Plays =
            |address| Some(if address.is_ipv6() { (300, Err(REFUSED.into())) } else { (100, Ok(())) });
        assert_eq!(race(&[v6(1), v4(1)], fails_late).await, (vec![v4(1)], vec![(v6(1), 0), (v4(1), 250)], 350));
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_answer_the_resolvers_first_family_stays() {
        let refused: Plays = |_| Some((1, Err(REFUSED.into())));
        assert_eq!(race(&[v6(1), v4(1)], refused).await.0, [v6(1)]);
        let (chosen, _, took_ms) = race(&[v4(1), v6(1)], |_| None).await;
        assert_eq!((chosen, took_ms), (vec![v4(1)], RACE_TIMEOUT.as_millis()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_family_answers_with_any_of_its_addresses_and_all_of_them_are_kept() {
        let second: Plays = |address| Some((5, if address == v4(2) { Ok(()) } else { Err(REFUSED.into()) }));
        let (chosen, tried, _) = race(&[v6(1), v4(1), v6(2), v4(2)], second).await;
        assert_eq!(chosen, [v4(1), v4(2)]);
        assert_eq!(tried.len(), 4);
    }

    #[test]
    fn families_without_a_source_are_left_out() {
        let both = vec![v6(1), v4(1), v4(2)];
        let left = |sources: &[IpAddr]| with_sources("h.example", both.clone(), sources).expect("some are left");
        assert_eq!(left(&[]), both);
        assert_eq!(left(&[v4(9).ip()]), [v4(1), v4(2)]);
        assert_eq!(left(&[v6(9).ip()]), [v6(1)]);
        assert_eq!(left(&[v4(9).ip(), v6(9).ip()]), both);
    }

    #[test]
    fn sources_of_another_family_than_every_address_are_refused() {
        let told = with_sources("h.example", vec![v4(1), v4(2)], &[v6(9).ip()]).expect_err("refused").to_string();
        for part in ["h.example", "IPv4", "10.0.0.1, 10.0.0.2", "IPv6", "fd00::9", "--source-ip"] {
            assert!(told.contains(part), "{part}: {told}");
        }
    }
}
