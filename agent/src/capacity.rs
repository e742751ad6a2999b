//! What this machine can carry: file descriptors, ephemeral ports, cores, memory.

use std::fs;
use std::net::IpAddr;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use proto::Capacity;

/// Descriptors that the agent needs beside its sessions: runtimes, the link, standard streams.
const DESCRIPTORS_RESERVED: u64 = 64;

/// What the user said about it.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    pub threads: Option<u32>,
    pub max_sessions: Option<u64>,
    pub source_ips: Vec<IpAddr>,
}

/// Raises the soft limit of open files to the hard one and measures.
#[must_use]
pub fn measure(wishes: &Wishes) -> Capacity {
    let threads = wishes.threads.unwrap_or_else(cores).max(1);
    Capacity {
        threads,
        descriptors: descriptors_free(),
        ports: ephemeral_ports().saturating_mul(wishes.source_ips.len().max(1) as u64),
        port_pool: port_pool(&wishes.source_ips),
        memory_bytes: memory_available_bytes(),
        max_sessions: wishes.max_sessions,
    }
}

fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1))
}

fn descriptors_free() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1_024 - DESCRIPTORS_RESERVED };
    let limit = if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    let open = fs::read_dir("/proc/self/fd").map_or(16, |entries| entries.count() as u64);
    limit.saturating_sub(open + DESCRIPTORS_RESERVED)
}

/// Ephemeral ports of one source address towards one destination: `ip_local_port_range` less the reserved ones inside.
fn ephemeral_ports() -> u64 {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
    count_ports(&read("ip_local_port_range"), &read("ip_local_reserved_ports"))
}

fn count_ports(range: &str, reserved: &str) -> u64 {
    let mut bounds = range.split_whitespace().filter_map(|n| n.parse::<u64>().ok());
    // Without /proc: the range that IANA gives to ephemeral ports (RFC 6335 section 6).
    let (low, high) = (bounds.next().unwrap_or(49_152), bounds.next().unwrap_or(65_535));
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

/// Ports belong to a network namespace and a source address.
fn port_pool(source_ips: &[IpAddr]) -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_else(|_| host_name());
    let namespace = fs::read_link("/proc/self/ns/net").map(|p| p.display().to_string()).unwrap_or_default();
    let mut sources: Vec<String> = source_ips.iter().map(ToString::to_string).collect();
    sources.sort();
    format!("{}/{namespace}/{}", boot.trim(), sources.join("+"))
}

fn memory_available_bytes() -> u64 {
    fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("MemAvailable:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .map_or(0, |kib| kib * 1_024)
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
        assert_eq!(count_ports("32768\t60999\n", "\n"), 28_232);
        assert_eq!(count_ports("40000 40099", "1-10,40000-40004,40099,50000"), 94);
        assert_eq!(count_ports("", ""), 16_384);
        assert_eq!(count_ports("40000 40000", "40000"), 0);
    }

    #[test]
    fn sources_multiply_ports_and_name_their_own_pool() {
        let plain = measure(&Wishes::default());
        let ips: Vec<IpAddr> = vec!["127.0.0.2".parse().expect("ip"), "127.0.0.3".parse().expect("ip")];
        let two = measure(&Wishes { source_ips: ips, threads: Some(3), ..Wishes::default() });
        assert_eq!(two.ports, 2 * plain.ports);
        assert_eq!(two.threads, 3);
        assert_ne!(two.port_pool, plain.port_pool);
        assert!(plain.descriptors > 0);
    }
}
