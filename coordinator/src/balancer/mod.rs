//! PURE: how many proxies N sessions need, and on which addresses. [`haproxy`] and [`envoy`] format the layout.
//!
//! A proxied session needs two descriptors in its proxy (towards the client and towards the backend) and one source
//! port towards its backend. Descriptors are per process; source ports are per address and backend.

pub mod envoy;
pub mod haproxy;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;

use crate::text::count;

/// Descriptors of one process for listeners, pollers, health checks and standard streams.
const DESCRIPTORS_RESERVED: u64 = 256;
const DESCRIPTORS_PER_SESSION: u64 = 2;
/// More processes than this must be a mistake in the numbers.
const PROXIES_MAX: u64 = 1_024;

/// Longer than any session: a balancer's timeout would look like a fault of the server.
pub const IDLE_SECONDS_MAX: u32 = 3_600;
/// Interval of health checks. A busy server must not be taken out: that needs five failed checks of ten seconds each.
pub const CHECK_SECONDS: u32 = 2;
pub const CHECK_SECONDS_MAX: u32 = 10;
pub const CHECK_FALL: u32 = 5;
pub const CONNECT_SECONDS_MAX: u32 = 10;
/// The kernel's own limit (`net.core.somaxconn`) applies as well.
pub const BACKLOG: u32 = 65_535;

/// A server behind the balancer, `HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    pub host: String,
    pub port: u16,
}

/// A machine that runs proxies, `NAME` or `NAME=ADDRESS,ADDRESS`. Each address has source ports of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub addresses: Vec<IpAddr>,
}

#[derive(Debug, Clone)]
pub struct Wanted {
    pub sessions: u64,
    pub backends: Vec<Backend>,
    pub nodes: Vec<Node>,
    /// Port of the first process on a node; the next ones count up.
    pub port: u16,
    /// Limit of open files of one process.
    pub descriptors: u64,
    /// Ephemeral ports of one address towards one backend.
    pub ports: u64,
    /// Threads of each process; `None` leaves the number to the proxy.
    pub threads: Option<u32>,
}

/// One proxy process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    pub number: usize,
    pub node: String,
    /// The address on which it listens and from which it connects; `None` means any.
    pub address: Option<IpAddr>,
    pub port: u16,
}

impl Proxy {
    #[must_use]
    pub fn url(&self) -> String {
        match self.address {
            Some(IpAddr::V6(address)) => format!("http://[{address}]:{}", self.port),
            Some(address) => format!("http://{address}:{}", self.port),
            None => format!("http://{}:{}", self.node, self.port),
        }
    }
}

/// All processes, and how many sessions each carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    pub proxies: Vec<Proxy>,
    /// Each process's share of the wanted sessions.
    pub sessions_each: u64,
    /// Most sessions that one process's descriptors and its share of the source ports allow.
    pub sessions_max: u64,
    /// Source ports that the busiest address needs; below it, those that it has.
    pub ports_used: u64,
    pub ports_had: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LayoutError {
    #[error("{0} open files are too few for a proxy: {DESCRIPTORS_RESERVED} are its own; raise the limit (ulimit -n)")]
    Descriptors(u64),
    #[error(
        "{} sessions need as many source ports, {addresses} {} {} ({} towards each of {backends} {}): give {wanted} more addresses \
         (--node NAME=ADDRESS,ADDRESS), more nodes, or more backends",
        count(*.sessions),
        if *.addresses == 1 { "address has" } else { "addresses have" },
        count(*.had),
        count(*.ports),
        if *.backends == 1 { "backend" } else { "backends" }
    )]
    Ports { sessions: u64, addresses: u64, had: u64, ports: u64, backends: u64, wanted: u64 },
    #[error("{0} processes would be needed; raise the limit of open files (ulimit -n) or ask for fewer sessions")]
    Many(u64),
    #[error("port {port} + {processes} processes on {node} is beyond 65535; give a lower --port")]
    PortRange { port: u16, processes: usize, node: String },
}

/// The smallest layout that descriptors and ports allow, with the same number of processes on every address.
///
/// # Errors
/// If the nodes have too few source ports, or the numbers make no sense.
pub fn layout(wanted: &Wanted) -> Result<Layout, LayoutError> {
    let sessions_max = wanted.descriptors.saturating_sub(DESCRIPTORS_RESERVED) / DESCRIPTORS_PER_SESSION;
    if sessions_max == 0 {
        return Err(LayoutError::Descriptors(wanted.descriptors));
    }
    let places: Vec<(&Node, Option<IpAddr>)> = wanted
        .nodes
        .iter()
        .flat_map(|node| {
            let given = node.addresses.iter().map(|address| Some(*address));
            let any = node.addresses.is_empty().then_some(None);
            given.chain(any).map(move |address| (node, address))
        })
        .collect();
    let addresses = (places.len() as u64).max(1);
    let backends = wanted.backends.len() as u64;
    let per_place = wanted.sessions.div_ceil(addresses);
    let ports_had = wanted.ports.saturating_mul(backends);
    if per_place > ports_had {
        return Err(LayoutError::Ports {
            sessions: wanted.sessions,
            addresses,
            had: ports_had.saturating_mul(addresses),
            ports: wanted.ports,
            backends,
            wanted: wanted.sessions.div_ceil(ports_had.max(1)).saturating_sub(addresses),
        });
    }
    let processes_per_place = per_place.div_ceil(sessions_max).max(1);
    let processes = processes_per_place.saturating_mul(addresses);
    // Processes on one address share its source ports.
    let sessions_max = sessions_max.min(ports_had.div_ceil(processes_per_place));
    if processes > PROXIES_MAX {
        return Err(LayoutError::Many(processes));
    }
    let mut proxies: Vec<Proxy> = Vec::new();
    for _ in 0..processes_per_place {
        for (node, address) in &places {
            let before = proxies.iter().filter(|proxy| proxy.node == node.name).count();
            let port = u16::try_from(before).ok().and_then(|before| wanted.port.checked_add(before));
            let Some(port) = port else {
                return Err(LayoutError::PortRange {
                    port: wanted.port,
                    processes: before + 1,
                    node: node.name.clone(),
                });
            };
            proxies.push(Proxy { number: proxies.len() + 1, node: node.name.clone(), address: *address, port });
        }
    }
    Ok(Layout {
        sessions_each: wanted.sessions.div_ceil(processes),
        proxies,
        sessions_max,
        ports_used: per_place,
        ports_had,
    })
}

/// Accepts a host name or an address that can't break a configuration file.
fn host(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    if text.is_empty() || !text.chars().all(plain) {
        return Err(format!("{text:?} is no host name or address"));
    }
    Ok(text.to_owned())
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, port) = text.rsplit_once(':').ok_or_else(|| format!("{text}: give HOST:PORT"))?;
        let port = port.parse().ok().filter(|port| *port > 0);
        let port = port.ok_or_else(|| format!("{text}: give HOST:PORT, with a port of 1 to 65535"))?;
        let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        Ok(Self { host: host(name)?, port })
    }
}

impl FromStr for Node {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, addresses) = text.split_once('=').map_or((text, None), |(name, rest)| (name, Some(rest)));
        let address = |text: &str| text.parse().map_err(|_| format!("{text:?} is no IP address"));
        let addresses = addresses.map_or_else(|| Ok(Vec::new()), |list| list.split(',').map(address).collect());
        Ok(Self { name: host(name)?, addresses: addresses? })
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn wanted(sessions: u64, nodes: &[&str], backends: &[&str]) -> Wanted {
        Wanted {
            sessions,
            backends: backends.iter().map(|text| text.parse().expect("backend")).collect(),
            nodes: nodes.iter().map(|text| text.parse().expect("node")).collect(),
            port: 8_000,
            descriptors: 20_000,
            ports: 28_232,
            threads: None,
        }
    }

    #[test]
    fn sixteen_thousand_sessions_take_two_processes() {
        let layout = layout(&wanted(16_384, &["n1", "n2"], &["n1:9000", "n2:9000"])).expect("layout");
        let urls: Vec<String> = layout.proxies.iter().map(Proxy::url).collect();
        assert_eq!(urls, ["http://n1:8000", "http://n2:8000"]);
        assert_eq!((layout.sessions_each, layout.sessions_max), (8_192, 9_872));
        let one = super::layout(&wanted(16_384, &["n1"], &["n1:9000", "n2:9000"])).expect("layout");
        let urls: Vec<String> = one.proxies.iter().map(Proxy::url).collect();
        assert_eq!(urls, ["http://n1:8000", "http://n1:8001"], "two processes on one node");
    }

    #[test]
    fn source_ports_that_are_missing_are_named() {
        let error = layout(&wanted(100_000, &["n1"], &["b:1"])).expect_err("28,232 ports");
        insta::assert_snapshot!(error, @"100,000 sessions need as many source ports, 1 address has 28,232 (28,232 towards each of 1 backend): give 3 more addresses (--node NAME=ADDRESS,ADDRESS), more nodes, or more backends");
        let four =
            layout(&wanted(100_000, &["n1=10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4"], &["b:1"])).expect("four addresses");
        assert_eq!(four.proxies.len(), 12);
        assert_eq!(four.proxies[0].url(), "http://10.0.0.1:8000");
        assert_eq!(
            layout(&Wanted { descriptors: 200, ..wanted(1, &["n"], &["b:1"]) }),
            Err(LayoutError::Descriptors(200))
        );
    }

    #[test]
    fn a_process_carries_no_more_than_its_part_of_the_ports() {
        let few = layout(&Wanted { ports: 3_000, ..wanted(2_000, &["n1"], &["b:1"]) }).expect("layout");
        assert_eq!((few.proxies.len(), few.sessions_max), (1, 3_000));
        let two =
            layout(&Wanted { ports: 5_000, descriptors: 4_256, ..wanted(4_000, &["n1"], &["b:1"]) }).expect("layout");
        assert_eq!((two.proxies.len(), two.sessions_max), (2, 2_000), "by descriptors");
        let tight =
            layout(&Wanted { ports: 4_001, descriptors: 4_257, ..wanted(4_000, &["n1"], &["b:1"]) }).expect("layout");
        assert_eq!((tight.proxies.len(), tight.sessions_max), (2, 2_000));
    }

    #[test]
    fn what_would_break_a_file_is_no_name() {
        for bad in ["a b:1", "a\nb:1", "a", "a:0", "a:x", ":1", "a#:1"] {
            assert!(bad.parse::<Backend>().is_err(), "{bad:?}");
        }
        for bad in ["", "n=", "n=x", "n 1", "n=10.0.0.1;"] {
            assert!(bad.parse::<Node>().is_err(), "{bad:?}");
        }
        let v6: Backend = "[::1]:80".parse().expect("v6");
        assert_eq!((v6.host.as_str(), v6.to_string().as_str()), ("::1", "[::1]:80"));
    }

    proptest! {
        #[test]
        fn every_session_has_its_descriptors_and_ports(
            sessions in 1_u64..400_000, nodes in 1_usize..6, backends in 1_usize..6, descriptors in 300_u64..70_000, ports in 100_u64..65_000
        ) {
            let nodes: Vec<String> = (0..nodes).map(|n| format!("n{n}")).collect();
            let backends: Vec<String> = (0..backends).map(|n| format!("b{n}:1")).collect();
            let names = |list: &[String]| -> Vec<String> { list.to_vec() };
            let (nodes, backends) = (names(&nodes), names(&backends));
            let wanted = Wanted {
                descriptors,
                ports,
                ..wanted(
                    sessions,
                    &nodes.iter().map(String::as_str).collect::<Vec<_>>(),
                    &backends.iter().map(String::as_str).collect::<Vec<_>>(),
                )
            };
            if let Ok(layout) = layout(&wanted) {
                let count = layout.proxies.len() as u64;
                prop_assert!(layout.sessions_each * count >= sessions);
                prop_assert!(layout.sessions_each <= layout.sessions_max);
                prop_assert!(layout.sessions_each * 2 + DESCRIPTORS_RESERVED <= descriptors);
                for node in &nodes {
                    let here = layout.proxies.iter().filter(|proxy| proxy.node == *node).count() as u64;
                    prop_assert!(sessions.div_ceil(count) * here <= ports * backends.len() as u64 + here, "{layout:?}");
                }
                let mut listens: Vec<_> = layout.proxies.iter().map(|proxy| (&proxy.node, proxy.port)).collect();
                listens.sort();
                listens.dedup();
                prop_assert_eq!(listens.len(), layout.proxies.len(), "no two processes share a port");
                // One process fewer on each address would not carry the sessions.
                if layout.proxies.len() > nodes.len() {
                    prop_assert!((count - nodes.len() as u64) * layout.sessions_max < sessions + nodes.len() as u64 * layout.sessions_max);
                }
            }
        }
    }
}
