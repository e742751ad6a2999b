//! Hosts with addresses of both families, agents with sources of one, machines without the other.
//!
//! What needs another machine than this one runs again inside namespaces of its own; where those are not allowed it
//! passes over.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::process::Command;

use agent::control::probe::Prober;
use agent::drivers::{Dialer, Route};
use agent::net::family;
use agent::net::resolver::TargetResolver;
use agent::net::target::{TargetError, resolve};
use proto::base_url::BaseUrl;
use proto::message::{Probe, ProbeResult};
use proto::{FailureKind, Mode, Outcome, Phase, PlanHash, Target};
use tokio_util::sync::CancellationToken;

#[expect(dead_code, reason = "each test file needs a part of it")]
mod support;

use support::{DEADLINE, bounded, failed, live, reference, run, script};

const BOTH: [Mode; 2] = [Mode::Ws, Mode::Http];
/// Set in a process that is inside.
const INSIDE: &str = "MUSTER_TEST_INSIDE";
/// Has both families in `/etc/hosts` there.
const TWOFOLD: &str = "twofold.example";

/// Runs `body` in namespaces of its own, of the kinds `flags`, after the shell lines `prepare`: this program again, with
/// the test `name` alone.
fn inside(flags: &str, prepare: &str, name: &str, body: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return body();
    }
    let shell = |script: &str| {
        let mut command = Command::new("unshare");
        command.args([flags, "sh", "-ec", script]).arg(std::env::current_exe().expect("this program")).arg(name);
        command.env(INSIDE, "1").output()
    };
    if !shell(prepare).is_ok_and(|tried| tried.status.success()) {
        eprintln!("{name}: passed over, this machine allows no namespaces");
        return;
    }
    let child = shell(&format!(r#"{prepare}; exec "$0" --exact "$1" --nocapture"#)).expect("unshare");
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&child.stderr));
}

/// The last word of a readiness check with a long deadline.
async fn last_word(url: &str, resolver: TargetResolver) -> Vec<ProbeResult> {
    let probe = Probe {
        plan_hash: PlanHash([0; 32]),
        target: Target { urls: vec![url.to_owned()], ca_pem: Vec::new() },
        modes: BOTH.to_vec(),
        deadline: 60 * DEADLINE,
        script: script(),
        sessions: 1,
    };
    let mut told = Prober::default().start(probe, resolver, CancellationToken::new());
    let mut last = Vec::new();
    while let Some(results) = told.recv().await {
        last = results;
    }
    last
}

fn loopback(port: u16) -> Vec<SocketAddr> {
    vec![(Ipv6Addr::LOCALHOST, port).into(), (Ipv4Addr::LOCALHOST, port).into()]
}

#[test]
fn a_name_with_both_families_is_one_server() {
    let hosts = tempfile::NamedTempFile::new().expect("a file");
    let lines = format!("127.0.0.1 localhost {TWOFOLD}\n::1 {TWOFOLD}\n");
    std::fs::write(hosts.path(), lines).expect("written");
    let prepare = format!("mount --bind {} /etc/hosts", hosts.path().display());
    inside("-Urm", &prepare, "a_name_with_both_families_is_one_server", || {
        bounded(async {
            let (at_v4, _server) = reference(refserver::Options::default());
            let url = at_v4.replace("127.0.0.1", TWOFOLD);
            let parsed = BaseUrl::parse(&url).expect("a url");
            let found = resolve(&parsed).await.expect("resolves");
            assert_eq!(found, loopback(parsed.port), "the machine is as it should be");
            for result in last_word(&url, TargetResolver::default()).await {
                assert!(result.ready, "{}: {}", result.mode, result.problem);
                assert_eq!(result.addresses, [found[1].to_string()]);
            }
            for mode in BOTH {
                let record = run(mode, &url, &script()).await;
                assert_eq!(record.outcome, Outcome::Succeeded, "{mode}: {}", record.error_message);
            }
            // The family that is not used is not allowed by that.
            let means =
                TargetResolver { allow: vec!["127.0.0.1".parse().expect("a rule")], ..TargetResolver::default() };
            let target = Target { urls: vec![url], ca_pem: Vec::new() };
            let told = means.endpoints(&target).await.expect_err("::1 is not allowed");
            assert!(matches!(&told, TargetError::NotAllowed { cause } if cause.contains("[::1]")), "{told}");
        });
    });
}

#[test]
fn the_family_with_a_server_is_taken() {
    bounded(async {
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
            // Without IPv6 there is only one half to this.
            let Ok(listener) = TcpListener::bind((ip, 0)) else { continue };
            let at = listener.local_addr().expect("address");
            for addresses in [loopback(at.port()), loopback(at.port()).into_iter().rev().collect()] {
                let chosen = family::choose("h.example", addresses, &[]).await.expect("chosen");
                assert_eq!(chosen, [at]);
            }
        }
    });
}

#[test]
fn without_a_server_the_resolvers_first_family_stays() {
    bounded(async {
        // Nobody listens there, and for as long as the socket lives nobody will.
        let (at, _held) = support::nobody();
        let other = tokio::net::TcpSocket::new_v6().expect("socket");
        let _held_too = other.bind(loopback(at.port())[0]);
        let chosen = family::choose("h.example", loopback(at.port()), &[]).await.expect("chosen");
        assert_eq!(chosen, loopback(at.port())[..1]);
    });
}

#[test]
fn sources_choose_the_family() {
    bounded(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        let port = listener.local_addr().expect("address").port();
        let from = async |source: IpAddr| family::choose("h.example", loopback(port), &[source]).await;
        let v6 = from(Ipv6Addr::LOCALHOST.into()).await.expect("chosen");
        assert_eq!(v6, loopback(port)[..1], "though the server is at the other one");
        let v4 = from(Ipv4Addr::new(127, 0, 0, 2).into()).await.expect("chosen");
        assert_eq!(v4, loopback(port)[1..]);
    });
}

#[test]
fn a_source_of_the_wrong_family_is_refused_at_once() {
    bounded(async {
        for (host, source) in [("127.0.0.1", "::1"), ("[::1]", "127.0.0.2")] {
            let means =
                TargetResolver { source_ips: vec![source.parse().expect("an ip")], ..TargetResolver::default() };
            // The deadline is far beyond that of the test: whoever goes on trying fails it.
            let results = last_word(&format!("http://{host}:9"), means).await;
            assert_eq!(results.len(), BOTH.len());
            for result in results {
                assert!(!result.ready && result.last_word, "{result:?}");
                for part in [host.trim_matches(['[', ']']), source, "IPv4", "IPv6", "--source-ip"] {
                    assert!(result.problem.contains(part), "{part}: {}", result.problem);
                }
            }
        }
    });
}

#[test]
fn a_machine_without_ipv6_has_not_run_out_of_ports() {
    let prepare = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6; ip link set lo up";
    inside("-Urn", prepare, "a_machine_without_ipv6_has_not_run_out_of_ports", || {
        bounded(async {
            for mode in BOTH {
                let record = run(mode, "http://[::1]:9", &script()).await;
                let said = &record.error_message;
                assert_eq!(record.outcome, failed(FailureKind::Unreachable, Phase::Connect), "{mode}: {said}");
                assert!(said.contains("this machine has no IPv6 address") && said.contains("[::1]:9"), "{said}");
            }
        });
    });
}

/// The other cause of the same errno: a range of one port, which is taken.
#[test]
fn a_machine_that_has_run_out_of_ports_says_so() {
    let prepare = "echo 40000 40000 > /proc/sys/net/ipv4/ip_local_port_range; ip link set lo up";
    inside("-Urn", prepare, "a_machine_that_has_run_out_of_ports_says_so", || {
        bounded(async {
            for host in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
                let Ok(listener) = TcpListener::bind((host, 9)) else { continue };
                let at = listener.local_addr().expect("address");
                let _held = std::net::TcpStream::connect(at).expect("the one port");
                let target = Target { urls: vec![format!("http://{at}")], ca_pem: Vec::new() };
                let endpoints = TargetResolver::default().endpoints(&target).await.expect("endpoints");
                let dialer = Dialer::for_single_sessions(
                    Route { endpoints, source_ips: Vec::new() },
                    script().message_bytes_max,
                );
                let record = live(Mode::Ws, dialer, 0, &script(), &CancellationToken::new()).await;
                let said = &record.error_message;
                assert_eq!(record.outcome, failed(FailureKind::PortExhausted, Phase::Connect), "{said}");
            }
        });
    });
}
