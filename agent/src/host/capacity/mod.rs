//! How many sessions this machine can carry: file descriptors, ephemeral ports, connection tracking, cores, memory.

pub mod diag;
pub mod ports;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use proto::Capacity;

use self::ports::{Reuse, Taken};

/// Descriptors that the agent needs besides its sessions: runtimes, control connections, standard streams.
const DESCRIPTORS_RESERVED: u64 = 64;

/// What the user asked for, by flags.
#[derive(Debug, Clone, Default)]
pub struct CapacityOptions {
    pub threads: Option<u32>,
    pub max_sessions: Option<u64>,
    pub source_ips: Vec<IpAddr>,
}

/// Raises the soft limit of open files to the hard one and measures.
#[must_use]
pub fn measure(options: &CapacityOptions) -> Capacity {
    measure_towards(options, &[], 0)
}

/// Measures with the ports that are taken now towards `addresses` (`ip:port`; a text that is none is left out). Where
/// all existing sockets together would leave room for `sessions`, they are only counted, because reading a table of
/// tens of thousands takes tens of milliseconds.
#[must_use]
pub fn measure_towards(options: &CapacityOptions, addresses: &[String], sessions: u64) -> Capacity {
    let threads = options.threads.unwrap_or_else(cores).max(1);
    let range = parse_range(&sysctl("ip_local_port_range"));
    let ports = count_ports(&range, &sysctl("ip_local_reserved_ports"));
    let destinations: Vec<SocketAddr> = addresses.iter().filter_map(|address| address.parse().ok()).collect();
    let sources = options.source_ips.len().max(1) as u64;
    let fits =
        |at_most: &u64| sessions.saturating_add(at_most.saturating_mul(sources)) <= ports.saturating_mul(sources);
    let taken = if destinations.is_empty() {
        Taken::default()
    } else if let Some(all) = at_most(&destinations).find(fits) {
        Taken { all: all.saturating_mul(sources), ..Taken::default() }
    } else {
        let mut sockets: Vec<_> = ports::parse(&read("/proc/net/tcp")).collect();
        if destinations.iter().all(SocketAddr::is_ipv4) {
            // Of IPv6 sockets only listeners take ports of IPv4; they come first in their table.
            sockets.extend(listeners("/proc/net/tcp6"));
        } else {
            sockets.extend(ports::parse(&read("/proc/net/tcp6")));
        }
        let reuse = Reuse::parse(&sysctl("tcp_tw_reuse"), &sysctl("tcp_tw_reuse_delay"));
        ports::taken(&sockets, &range, &options.source_ips, &destinations, reuse)
    };
    let ports = ports.saturating_mul(sources);
    Capacity {
        threads,
        descriptors: descriptors_free(),
        ports,
        port_pool: if options.source_ips.is_empty() {
            port_pool(&chosen_sources(&destinations))
        } else {
            port_pool(&options.source_ips)
        },
        memory_bytes: memory_available_bytes(),
        max_sessions: options.max_sessions,
        ports_taken: taken.all.min(ports),
        ports_waiting: taken.waiting.min(ports),
        ports_back_us: taken.back_us,
        conntrack_room: conntrack_room(
            &read("/proc/sys/net/netfilter/nf_conntrack_max"),
            &read("/proc/sys/net/netfilter/nf_conntrack_count"),
        ),
    }
}

/// Upper bounds of the ports that are taken: first a cheap one, then a closer one for which the kernel is asked.
fn at_most(destinations: &[SocketAddr]) -> impl Iterator<Item = u64> {
    std::iter::once(SocketCounts::read().at_most())
        .chain(std::iter::once_with(|| diag::taken_at_most(destinations).unwrap_or(u64::MAX)))
}

/// How many TCP sockets this network namespace has (`/proc/net/sockstat`); `None` where the kernel does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SocketCounts {
    pub in_use: Option<u64>,
    pub orphans: Option<u64>,
    pub time_wait: Option<u64>,
}

impl SocketCounts {
    #[must_use]
    pub fn read() -> Self {
        Self::parse(&read("/proc/net/sockstat"), &read("/proc/net/sockstat6"))
    }

    /// Parses the files of both families. The second one has the sockets in use only.
    fn parse(v4: &str, v6: &str) -> Self {
        let after = |text: &str, prefix: &str, name: &str| -> Option<u64> {
            let line = text.lines().find(|line| line.starts_with(prefix))?;
            line.split_whitespace().skip_while(|word| *word != name).nth(1)?.parse().ok()
        };
        Self {
            in_use: after(v4, "TCP:", "inuse").map(|n| n + after(v6, "TCP6:", "inuse").unwrap_or(0)),
            orphans: after(v4, "TCP:", "orphan"),
            time_wait: after(v4, "TCP:", "tw"),
        }
    }

    /// An upper bound of the ports that are taken; the maximum if the kernel does not say.
    fn at_most(self) -> u64 {
        [self.in_use, self.orphans, self.time_wait]
            .into_iter()
            .try_fold(0_u64, |sum, count| count.map(|count| sum + count))
            .unwrap_or(u64::MAX)
    }
}

/// Reads the listening sockets of a table, which come before all others.
fn listeners(path: &str) -> Vec<ports::Socket> {
    let Ok(file) = fs::File::open(path) else { return Vec::new() };
    let lines = BufReader::new(file).lines().map_while(Result::ok).skip(1);
    lines.map_while(|line| ports::parse_line(&line).filter(ports::Socket::listens)).collect()
}

/// Room for more tracked connections; `None` if none are tracked. The kernel silently drops packets of connections
/// beyond the maximum, which looks like a time-out. The module may be loaded and track nothing: then the count is 0,
/// although this agent has a connection to its coordinator.
fn conntrack_room(max: &str, count: &str) -> Option<u64> {
    let (max, count) = (max.trim().parse::<u64>().ok()?, count.trim().parse::<u64>().ok()?);
    (count > 0).then(|| max.saturating_sub(count))
}

/// The text of a file; empty if it can't be read.
pub(super) fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn sysctl(name: &str) -> String {
    read(&format!("/proc/sys/net/ipv4/{name}"))
}

/// CPUs that this process may use.
#[must_use]
pub fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
}

/// Descriptors that sessions may use. Raises the soft limit to the hard one.
fn descriptors_free() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1_024 - DESCRIPTORS_RESERVED };
    let limit = if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    let open = fs::read_dir("/proc/self/fd").map_or(16, |entries| entries.count() as u64);
    limit.saturating_sub(open + DESCRIPTORS_RESERVED)
}

/// Parses the range from which the kernel takes local ports.
fn parse_range(text: &str) -> RangeInclusive<u16> {
    let mut bounds = text.split_whitespace().filter_map(|n| n.parse().ok());
    // Without /proc: the range that IANA gives to ephemeral ports (RFC 6335 section 6).
    bounds.next().unwrap_or(49_152)..=bounds.next().unwrap_or(65_535)
}

/// Ephemeral ports of one source address towards one destination: the range less the reserved ones inside.
fn count_ports(range: &RangeInclusive<u16>, reserved: &str) -> u64 {
    let (low, high) = (u64::from(*range.start()), u64::from(*range.end()));
    let inside: u64 = reserved
        .trim()
        .split(',')
        .filter_map(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to) = (from.trim().parse::<u64>().ok()?.max(low), to.trim().parse::<u64>().ok()?.min(high));
            Some((to + 1).saturating_sub(from))
        })
        .sum();
    (high + 1).saturating_sub(low).saturating_sub(inside)
}

/// The local addresses from which the kernel would reach `destinations`. Connecting a UDP socket sends nothing, but
/// gives it its local address.
fn chosen_sources(destinations: &[SocketAddr]) -> Vec<IpAddr> {
    let chosen = |to: &SocketAddr| {
        let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = std::net::UdpSocket::bind(any).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    };
    let mut sources: Vec<IpAddr> = destinations.iter().filter_map(chosen).collect();
    sources.sort();
    sources.dedup();
    sources
}

/// The name of the pool of ports that an agent draws from, `boot id/namespace/address+address`: ports belong to a
/// network namespace and a source address.
fn port_pool(source_ips: &[IpAddr]) -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| host_name());
    let namespace = fs::read_link("/proc/self/ns/net").map(|p| p.display().to_string()).unwrap_or_default();
    let mut sources: Vec<String> = source_ips.iter().map(ToString::to_string).collect();
    sources.sort();
    format!("{}/{namespace}/{}", boot.trim(), sources.join("+"))
}

/// Free memory in bytes; 0 if it is not known.
pub(crate) fn memory_available_bytes() -> u64 {
    let groups = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"].map(read);
    let used = ["/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes"].map(read);
    let pairs: Vec<(&str, &str)> = groups.iter().map(String::as_str).zip(used.iter().map(String::as_str)).collect();
    memory_left(&read("/proc/meminfo"), &pairs)
}

/// Free bytes of the host, or of this process's control group if that is less; 0 if neither is known.
fn memory_left(meminfo: &str, groups: &[(&str, &str)]) -> u64 {
    let host = kib_field(meminfo, "MemAvailable:");
    let left = |(limit, used): &(&str, &str)| {
        let (limit, used) = (limit.trim().parse::<u64>().ok()?, used.trim().parse::<u64>().ok()?);
        Some(limit.saturating_sub(used))
    };
    groups.iter().filter_map(left).chain([host]).min().unwrap_or(host)
}

/// The value in bytes of a line such as `VmHWM: 2048 kB`; 0 if there is none.
pub(super) fn kib_field(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(name));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|word| word.parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1_024)
}

/// This host's name, for people.
#[must_use]
pub fn host_name() -> String {
    nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_else(|| "unknown".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_the_range_less_the_reserved_ones_inside_it() {
        let count = |range: &str, reserved: &str| count_ports(&parse_range(range), reserved);
        assert_eq!(count("32768\t60999\n", "\n"), 28_232);
        assert_eq!(count("40000 40099", "1-10,40000-40004,40099,50000"), 94);
        assert_eq!(count("", ""), 16_384);
        assert_eq!(count("40000 40000", "40000"), 0);
    }

    #[test]
    fn connection_tracking_has_room_where_it_is_there() {
        assert_eq!(conntrack_room("262144\n", "144\n"), Some(262_000));
        assert_eq!(conntrack_room("10", "12"), Some(0));
        assert_eq!(conntrack_room("262144", "0"), None, "it is there and tracks nothing");
        assert_eq!(conntrack_room("", ""), None);
    }

    #[test]
    fn sockets_are_counted_without_their_table() {
        let v4 = "sockets: used 25\nTCP: inuse 11 orphan 1 tw 42 alloc 1 mem 123\n";
        let both = SocketCounts::parse(v4, "TCP6: inuse 2\n");
        assert_eq!((both.in_use, both.time_wait, both.at_most()), (Some(13), Some(42), 56));
        assert_eq!(SocketCounts::parse(v4, "").at_most(), 54);
        assert_eq!(SocketCounts::parse("", "").at_most(), u64::MAX);
        let few = measure_towards(&CapacityOptions::default(), &["127.0.0.9:80".to_owned()], 0);
        assert!(few.ports_taken <= few.ports && few.ports_waiting == 0, "{few:?}");
    }

    #[test]
    fn memory_is_the_least_of_host_and_control_group() {
        assert_eq!(memory_left("MemTotal: 9 kB\nMemAvailable:   8 kB\n", &[]), 8_192);
        assert_eq!(memory_left("MemAvailable: 8 kB\n", &[("max\n", "5\n"), ("4096\n", "1024\n")]), 3_072);
        assert_eq!(memory_left("", &[]), 0, "not known");
    }

    #[test]
    fn sources_multiply_ports_and_name_their_own_pool() {
        let plain = measure(&CapacityOptions::default());
        let ips: Vec<IpAddr> = vec!["127.0.0.2".parse().expect("ip"), "127.0.0.3".parse().expect("ip")];
        let two = measure(&CapacityOptions { source_ips: ips, threads: Some(3), ..CapacityOptions::default() });
        assert_eq!(two.ports, 2 * plain.ports);
        assert_eq!(two.threads, 3);
        assert_ne!(two.port_pool, plain.port_pool);
        let places = ["127.0.0.9:80".to_owned(), "no address".to_owned()];
        let towards = measure_towards(&CapacityOptions::default(), &places, 1 << 20);
        assert!(towards.port_pool.ends_with("/127.0.0.1"), "{}", towards.port_pool);
        assert!(plain.descriptors > 0);
    }
}
