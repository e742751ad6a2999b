//! Sessions leave from the source addresses they were given, in turn: each address brings its own ports.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use agent::drivers::{Dialer, Route};
use proto::{Mode, Outcome, Phase};
use tokio_util::sync::CancellationToken;

#[expect(dead_code, reason = "each test file needs a part of it")]
mod support;

use support::peer::{HASH, close, http, observation};
use support::{bounded, live, raw, route_of, script};

#[test]
fn sessions_leave_from_the_addresses_given_in_turn() {
    bounded(async {
        let sources: Vec<IpAddr> = [2, 3].map(|last| Ipv4Addr::new(127, 0, 0, last).into()).to_vec();
        // No session can leave from this one: the server is of the other family.
        let given = [&sources[..1], &[Ipv6Addr::LOCALHOST.into()], &sources[1..]].concat();
        for mode in [Mode::Ws, Mode::Http] {
            let seen: Rc<RefCell<BTreeMap<IpAddr, u32>>> = Rc::default();
            let log = seen.clone();
            let url = raw(move |mut peer| {
                let from = peer.stream.peer_addr().expect("a peer").ip();
                *log.borrow_mut().entry(from).or_default() += 1;
                async move {
                    match mode {
                        Mode::Ws => {
                            peer.ws_until(Phase::Close).await;
                            peer.send(close(Some(1000))).await;
                        }
                        Mode::Http => {
                            peer.http_until(Phase::Step).await;
                            peer.send(http(200, &observation(HASH))).await;
                            peer.silent().await;
                        }
                    }
                }
            })
            .await;
            for number in 0..5 {
                let way = Route { source_ips: given.clone(), ..route_of(std::slice::from_ref(&url), "").await };
                let dialer = Dialer::for_single_sessions(way, script().message_bytes_max);
                let before = seen.borrow().clone();
                let record = live(mode, dialer, number, &script(), &CancellationToken::new()).await;
                assert_eq!(record.outcome, Outcome::Succeeded, "{}", record.error_message);
                let expected = sources[usize::try_from(number % 2).expect("small")];
                let count = |map: &BTreeMap<IpAddr, u32>| map.get(&expected).copied().unwrap_or(0);
                assert_eq!(count(&seen.borrow()), count(&before) + 1, "{mode} session {number} from {expected}");
            }
            assert_eq!(seen.borrow().values().sum::<u32>(), 5, "{mode}: {seen:?}");
        }
    });
}
