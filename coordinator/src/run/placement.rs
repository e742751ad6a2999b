//! PURE: divides the sessions of a batch over the agents.

use std::fmt;

use proto::Capacity;

/// One agent, as the division sees it.
#[derive(Debug, Clone)]
pub struct Carrier<'a> {
    pub name: &'a str,
    pub capacity: &'a Capacity,
}

/// How far sessions spread over destinations, which determines how many of them one local port can serve.
///
/// With one destination it is one session per port. With several, the same local port can be used towards each of them,
/// and the busiest destination is the limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Spread {
    pub sessions_per_port: f64,
    /// The busiest destination, for messages.
    pub busiest: String,
    /// Every destination once, as `ip:port`.
    pub addresses: Vec<String>,
}

impl Spread {
    /// `addresses[u]` are the addresses of url `u`; sessions go round robin over urls, then over their addresses.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a few thousand at most")]
    pub fn over(addresses: &[Vec<String>]) -> Self {
        let mut parts: Vec<(&str, f64)> = Vec::new();
        for url in addresses {
            for address in url {
                let part = 1.0 / (addresses.len() as f64 * url.len() as f64);
                match parts.iter_mut().find(|(known, _)| known == address) {
                    Some((_, sum)) => *sum += part,
                    None => parts.push((address, part)),
                }
            }
        }
        let addresses = parts.iter().map(|(address, _)| (*address).to_owned()).collect();
        let busiest = parts.into_iter().max_by(|a, b| a.1.total_cmp(&b.1));
        let (busiest, part) = busiest.map_or_else(|| ("the target", 1.0), |(name, part)| (name, part));
        Self { sessions_per_port: 1.0 / part, busiest: busiest.to_owned(), addresses }
    }

    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "floor")]
    fn sessions(&self, ports: u64, agents: usize) -> u64 {
        // An agent's contiguous range of session numbers can be uneven by one session per destination.
        let uneven = if self.sessions_per_port > 1.0 { agents as f64 * self.sessions_per_port.ceil() } else { 0.0 };
        (ports as f64 * self.sessions_per_port - uneven).max(0.0) as u64
    }
}

/// The error that the agents can't carry the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortfall {
    /// Sessions that could be carried.
    pub carried: u64,
    /// What can't be carried.
    pub headline: String,
    /// What limits each agent, one line an agent.
    pub agents: Vec<String>,
    /// What helps.
    pub cure: Option<String>,
}

impl Shortfall {
    /// No agent is there at all.
    #[must_use]
    pub fn nobody() -> Self {
        let headline = "no agent is left; start agents, or run again with more of them".to_owned();
        Self { carried: 0, headline, agents: Vec::new(), cure: None }
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.headline)?;
        self.agents.iter().chain(&self.cure).try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// The share of one agent in a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allotment {
    pub sessions: u64,
    /// Limit of the agent's sessions open at one time.
    pub in_flight_max: u64,
}

/// Divides `total` over `carriers`, weighted by their threads, within the limit of each. The shares sum exactly to
/// `total`. Agents that use the same pool of ports share its limit.
///
/// # Errors
/// [`Shortfall`] if the agents can't carry `total` together.
pub fn split(total: u64, carriers: &[Carrier<'_>], spread: &Spread) -> Result<Vec<Allotment>, Box<Shortfall>> {
    let limits = limits(carriers, spread);
    let shares = fill(total, &weights(carriers), &limits);
    let shares = shares.map_err(|carried| shortfall(total, carried, carriers, spread))?;
    Ok(shares.into_iter().map(|sessions| Allotment { sessions, in_flight_max: sessions.max(1) }).collect())
}

/// Divides arrivals. Most of them are not open at the same time, so an agent's limit bounds the sessions that it has
/// open at once, not its share.
///
/// # Errors
/// [`Shortfall`] if no agent can carry anything.
pub fn split_arrivals(total: u64, carriers: &[Carrier<'_>], spread: &Spread) -> Result<Vec<Allotment>, Box<Shortfall>> {
    let limits = limits(carriers, spread);
    let room: Vec<u64> = limits.iter().map(|limit| if *limit == 0 { 0 } else { total }).collect();
    let shares = fill(total, &weights(carriers), &room);
    let shares = shares.map_err(|carried| shortfall(total, carried, carriers, spread))?;
    let share = |(sessions, limit): (u64, u64)| Allotment { sessions, in_flight_max: limit.min(sessions).max(1) };
    Ok(shares.into_iter().zip(limits).map(share).collect())
}

fn weights(carriers: &[Carrier<'_>]) -> Vec<u64> {
    carriers.iter().map(|c| u64::from(c.capacity.threads)).collect()
}

fn shortfall(total: u64, carried: u64, carriers: &[Carrier<'_>], spread: &Spread) -> Box<Shortfall> {
    Box::new(explain(total, carried, carriers, spread))
}

/// Memory of one open session on its agent's host. Measured: below 4 KiB in the agent (docs/performance.md), about 10
/// KiB with the kernel's socket.
const MEMORY_BYTES_PER_SESSION: u64 = 16 << 10;

/// An agent's limit apart from ports.
fn own_limit(c: &Capacity) -> u64 {
    let memory = if c.memory_bytes == 0 { u64::MAX } else { c.memory_bytes / MEMORY_BYTES_PER_SESSION };
    c.descriptors.min(c.max_sessions.unwrap_or(u64::MAX)).min(memory)
}

/// Sessions for which a pool of ports and the connection tracking of its namespace have room.
fn pool_room(members: &[&Capacity], spread: &Spread) -> u64 {
    let free = members.iter().map(|c| c.ports.saturating_sub(c.ports_taken)).max().unwrap_or(0);
    let tracked = members.iter().filter_map(|c| c.conntrack_room).min().unwrap_or(u64::MAX);
    spread.sessions(free, members.len()).min(tracked)
}

/// Groups agents that share ports: they have the network namespace and a source address in common, directly or through
/// other agents. If their address lists overlap without being equal, the group gets no more than its best member has.
fn pools(carriers: &[Carrier<'_>]) -> Vec<Vec<usize>> {
    let mut pools: Vec<Vec<usize>> = Vec::new();
    for n in 0..carriers.len() {
        let (meets, apart): (Vec<_>, Vec<_>) = pools
            .into_iter()
            .partition(|pool| pool.iter().any(|m| share_ports(carriers[*m].capacity, carriers[n].capacity)));
        let mut joined: Vec<usize> = meets.into_iter().flatten().collect();
        joined.push(n);
        pools = apart;
        pools.push(joined);
    }
    pools
}

fn share_ports(a: &Capacity, b: &Capacity) -> bool {
    if a.port_pool == b.port_pool {
        return true;
    }
    match (a.port_pool.rsplit_once('/'), b.port_pool.rsplit_once('/')) {
        // An agent that has not reported its addresses may use any address of the namespace.
        (Some((here, mine)), Some((there, theirs))) => {
            here == there
                && (mine.is_empty()
                    || theirs.is_empty()
                    || mine.split('+').any(|address| theirs.split('+').any(|other| other == address)))
        }
        _ => false,
    }
}

/// The most sessions that each agent may carry.
fn limits(carriers: &[Carrier<'_>], spread: &Spread) -> Vec<u64> {
    let mut limits: Vec<u64> = carriers.iter().map(|c| own_limit(c.capacity)).collect();
    for members in pools(carriers) {
        let capacities: Vec<&Capacity> = members.iter().map(|n| carriers[*n].capacity).collect();
        let room = pool_room(&capacities, spread);
        cap(&mut limits, carriers, &members, room);
    }
    // Connection tracking does not depend on source addresses: all pools of a namespace share its table.
    let namespace = |n: usize| carriers[n].capacity.port_pool.rsplit_once('/').map(|(namespace, _)| namespace);
    for n in 0..carriers.len() {
        let Some(own) = namespace(n) else { continue };
        let members: Vec<usize> = (0..carriers.len()).filter(|m| namespace(*m) == Some(own)).collect();
        let room = members.iter().filter_map(|m| carriers[*m].capacity.conntrack_room).min();
        if let Some(room) = room.filter(|_| members.first() == Some(&n)) {
            cap(&mut limits, carriers, &members, room);
        }
    }
    limits
}

/// Lowers the limits of these agents until their sum is at most `room`.
fn cap(limits: &mut [u64], carriers: &[Carrier<'_>], members: &[usize], room: u64) {
    let wants: u64 = members.iter().map(|n| limits[*n]).fold(0, u64::saturating_add);
    if wants <= room {
        return;
    }
    let weights: Vec<u64> = members.iter().map(|n| carriers[*n].capacity.threads.into()).collect();
    let caps: Vec<u64> = members.iter().map(|n| limits[*n]).collect();
    if let Ok(shares) = fill(room, &weights, &caps) {
        for (n, share) in members.iter().zip(shares) {
            limits[*n] = share;
        }
    }
}

/// Divides in proportion to the weights and within the caps, by largest remainder; `Err` holds the sum of the caps.
fn fill(total: u64, weights: &[u64], caps: &[u64]) -> Result<Vec<u64>, u64> {
    let room = caps.iter().copied().fold(0, u64::saturating_add);
    if room < total {
        return Err(room);
    }
    let mut shares = vec![0_u64; caps.len()];
    let mut open: Vec<usize> = (0..caps.len()).collect();
    let mut left = total;
    loop {
        let weight: u128 = open.iter().map(|n| u128::from(weights[*n].max(1))).sum();
        let proportional = |n: usize| u128::from(left) * u128::from(weights[n].max(1)) / weight.max(1);
        let full: Vec<usize> = open.iter().copied().filter(|n| proportional(*n) >= u128::from(caps[*n])).collect();
        if full.is_empty() || left == 0 {
            for n in &open {
                shares[*n] = u64::try_from(proportional(*n)).unwrap_or(u64::MAX);
            }
            let mut rest = left - open.iter().map(|n| shares[*n]).sum::<u64>();
            // The largest remainder comes first; equal ones stay in the order of the agents.
            let remainder = |n: usize| u128::from(left) * u128::from(weights[n].max(1)) % weight.max(1);
            open.sort_by_key(|n| std::cmp::Reverse(remainder(*n)));
            for n in open.iter().cycle().take(open.len() * 2) {
                if rest > 0 && shares[*n] < caps[*n] {
                    shares[*n] += 1;
                    rest -= 1;
                }
            }
            return Ok(shares);
        }
        for n in full {
            shares[n] = caps[n];
            left -= caps[n];
            open.retain(|other| *other != n);
        }
    }
}

fn explain(total: u64, carried: u64, carriers: &[Carrier<'_>], spread: &Spread) -> Shortfall {
    use crate::text::count;

    let limits = limits(carriers, spread);
    let missing = total - carried;
    let headline = format!(
        "a batch of {} sessions can't be carried: there is room for {}, {} short",
        count(total),
        count(carried),
        count(missing)
    );
    let mut binds = Binds::default();
    let agents = carriers.iter().zip(&limits).map(|(carrier, limit)| {
        let why = binds.why(carrier.capacity, *limit, carriers, spread);
        format!("agent {}: {} sessions, limited by {why}", carrier.name, count(*limit))
    });
    let agents = agents.collect();
    let each = limits.iter().copied().max().unwrap_or(0).max(1);
    let more = missing.div_ceil(each);
    let on = if binds.ports || binds.tracking {
        "on another host (or network namespace)"
    } else {
        "(agents of one host have their own descriptors, but share its ports)"
    };
    let mut cure = format!("add {more} {} {on}", if more == 1 { "agent" } else { "agents" });
    if binds.ports {
        cure.push_str(", or give agents --source-ip with further addresses, or widen net.ipv4.ip_local_port_range");
    }
    if binds.waiting >= missing && binds.back_us > 0 {
        let seconds = binds.back_us.div_ceil(1_000_000);
        cure.push_str(&format!(", or wait {seconds} s until the ports in TIME_WAIT are back"));
    }
    if binds.tracking {
        cure.push_str(", or raise net.netfilter.nf_conntrack_max");
    }
    if binds.descriptors {
        cure.push_str(", or raise the limit of open files (ulimit -Hn)");
    }
    cure.push_str("; agents.on_shortfall = \"continue\" runs what can be carried");
    Shortfall { carried, headline, agents, cure: Some(cure) }
}

/// The kinds of limits that were found, over all agents; each kind has its own remedy.
#[derive(Default)]
struct Binds {
    ports: bool,
    tracking: bool,
    descriptors: bool,
    /// Ports in TIME_WAIT; below it, the time until they are free.
    waiting: u64,
    back_us: u64,
}

impl Binds {
    fn why(&mut self, c: &Capacity, limit: u64, carriers: &[Carrier<'_>], spread: &Spread) -> String {
        use crate::text::count;

        if c.max_sessions == Some(limit) {
            return "its --max-sessions".to_owned();
        }
        if c.descriptors == limit {
            self.descriptors = true;
            return format!("{} free file descriptors", count(c.descriptors));
        }
        if own_limit(c) == limit {
            return format!("{} MiB of free memory", count(c.memory_bytes >> 20));
        }
        let members: Vec<&Capacity> =
            carriers.iter().map(|other| other.capacity).filter(|other| share_ports(other, c)).collect();
        let shared = if members.len() > 1 { format!(", shared by {} agents", members.len()) } else { String::new() };
        let free = c.ports.saturating_sub(c.ports_taken);
        if c.conntrack_room.is_some_and(|room| room < spread.sessions(free, members.len())) {
            self.tracking = true;
            let room = count(c.conntrack_room.unwrap_or(0));
            return format!("room for {room} connections in the host's connection tracking{shared}");
        }
        self.ports = true;
        // The agents of a pool report the same ports in TIME_WAIT.
        self.waiting += c.ports_waiting.div_ceil(members.len().max(1) as u64);
        self.back_us = self.back_us.max(if c.ports_waiting > 0 { c.ports_back_us } else { 0 });
        let mut text = format!("{} ephemeral ports to {}{shared}", count(free), spread.busiest);
        let mut less = Vec::new();
        if c.ports_waiting > 0 {
            less.push(format!("{} in TIME_WAIT", count(c.ports_waiting)));
        }
        if c.ports_taken > c.ports_waiting {
            less.push(format!("{} in use", count(c.ports_taken - c.ports_waiting)));
        }
        if !less.is_empty() {
            text.push_str(&format!(" ({} less {})", count(c.ports), less.join(" and ")));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn capacity(threads: u32, descriptors: u64, ports: u64, pool: u8) -> Capacity {
        Capacity { threads, descriptors, ports, port_pool: pool.to_string(), ..Capacity::default() }
    }

    fn one_destination() -> Spread {
        Spread::over(&[vec!["10.0.0.5:8000".to_owned()]])
    }

    fn split_of(total: u64, capacities: &[Capacity]) -> Result<Vec<u64>, Box<Shortfall>> {
        let names: Vec<String> = (1..=capacities.len()).map(|n| format!("n{n}")).collect();
        let carriers: Vec<Carrier<'_>> =
            names.iter().zip(capacities).map(|(name, capacity)| Carrier { name, capacity }).collect();
        let shares = split(total, &carriers, &one_destination())?;
        Ok(shares.into_iter().map(|share| share.sessions).collect())
    }

    #[test]
    fn sixteen_thousand_over_seven_is_exact() {
        let seven: Vec<Capacity> = (0..7).map(|n| capacity(4, 19_900, 28_232, n)).collect();
        assert_eq!(split_of(16_384, &seven), Ok(vec![2341, 2341, 2341, 2341, 2340, 2340, 2340]));
    }

    #[test]
    fn weights_and_limits_count() {
        assert_eq!(split_of(90, &[capacity(1, 100, 100, 0), capacity(2, 100, 100, 1)]), Ok(vec![30, 60]));
        assert_eq!(split_of(90, &[capacity(1, 100, 100, 0), capacity(2, 40, 100, 1)]), Ok(vec![50, 40]));
    }

    #[test]
    fn agents_of_one_pool_share_its_ports() {
        let two = [capacity(1, 19_900, 10_000, 0), capacity(1, 19_900, 10_000, 0)];
        assert_eq!(split_of(16_384, &two).map_err(|short| short.carried), Err(10_000));
        assert_eq!(split_of(10_000, &two), Ok(vec![5_000, 5_000]));
    }

    #[test]
    fn overlapping_source_addresses_are_one_pool() {
        let with = |pool: &str| Capacity { port_pool: pool.to_owned(), ..capacity(1, 19_900, 10_000, 0) };
        let overlap = [with("ns/10.0.0.1+10.0.0.2"), with("ns/10.0.0.2+10.0.0.3"), with("ns/10.0.0.3")];
        assert_eq!(split_of(16_384, &overlap).map_err(|short| short.carried), Err(10_000), "each by way of another");
        let apart = [with("ns/10.0.0.1"), with("ns/10.0.0.2"), with("other/10.0.0.1")];
        assert_eq!(split_of(30_000, &apart), Ok(vec![10_000; 3]));
        let unsaid = [with("ns/10.0.0.1"), with("ns/")];
        assert_eq!(split_of(16_384, &unsaid).map_err(|short| short.carried), Err(10_000));
        let tracked = |pool| Capacity { conntrack_room: Some(6_000), ..with(pool) };
        let two = [tracked("ns/10.0.0.1"), tracked("ns/10.0.0.2")];
        assert_eq!(split_of(16_384, &two).map_err(|short| short.carried), Err(6_000), "one table for both");
    }

    #[test]
    fn a_shortfall_says_what_is_missing_and_what_helps() {
        let one = [capacity(2, 19_900, 10_000, 0)];
        insta::assert_snapshot!(split_of(16_384, &one).expect_err("short").to_string());
        let few = [capacity(2, 900, 28_232, 0), Capacity { max_sessions: Some(10), ..capacity(2, 900, 28_232, 1) }];
        insta::assert_snapshot!(split_of(4_096, &few).expect_err("short").to_string());
    }

    #[test]
    fn what_is_taken_now_is_named_with_its_cure() {
        let waiting = Capacity {
            ports_taken: 17_028,
            ports_waiting: 17_000,
            ports_back_us: 42_100_000,
            ..capacity(2, 19_900, 28_232, 0)
        };
        let tracked = Capacity { conntrack_room: Some(1_000), ..capacity(2, 19_900, 28_232, 1) };
        let small = Capacity { memory_bytes: 160 << 20, ..capacity(2, 19_900, 28_232, 2) };
        insta::assert_snapshot!(split_of(32_768, &[waiting, tracked, small]).expect_err("short").to_string());
    }

    #[test]
    fn arrivals_are_bounded_by_what_is_open_at_once() {
        let one = Capacity { max_sessions: Some(100), ..capacity(1, 19_900, 28_232, 0) };
        let two = capacity(1, 50, 28_232, 1);
        let none = Capacity { max_sessions: Some(0), ..capacity(1, 50, 28_232, 2) };
        let carriers = [("a", &one), ("b", &two), ("c", &none)].map(|(name, capacity)| Carrier { name, capacity });
        let shares = split_arrivals(30_000, &carriers, &one_destination()).expect("shares");
        let share = |sessions, in_flight_max| Allotment { sessions, in_flight_max };
        assert_eq!(shares, [share(15_000, 100), share(15_000, 50), share(0, 1)]);
        assert!(split_arrivals(1, &carriers[2..], &one_destination()).is_err());
    }

    #[test]
    fn several_destinations_multiply_ports() {
        let address = |text: &str| text.to_owned();
        let spread = Spread::over(&[vec![address("a:1")], vec![address("b:1"), address("c:1")]]);
        assert_eq!((spread.sessions_per_port, spread.busiest.as_str()), (2.0, "a:1"));
        let same = Spread::over(&[vec![address("a:1")], vec![address("a:1")]]);
        assert_eq!(same.sessions_per_port, 1.0, "two names for one place");
        assert_eq!(Spread::over(&[]).sessions_per_port, 1.0);
    }

    proptest! {
        #[test]
        fn shares_sum_exactly_and_respect_every_limit(
            total in 0_u64..200_000,
            agents in proptest::collection::vec((1_u32..64, 0_u64..20_000, 0_u64..30_000, 0_u8..4), 1..40),
        ) {
            let capacities: Vec<Capacity> = agents.iter().map(|(t, d, p, pool)| {
                // A pool is one machine, so all of its agents have the same number of ports.
                let ports = agents.iter().filter(|a| a.3 == *pool).map(|a| a.2).max().unwrap_or(*p);
                capacity(*t, *d, ports, *pool)
            }).collect();
            match split_of(total, &capacities) {
                Ok(shares) => {
                    prop_assert_eq!(shares.iter().sum::<u64>(), total);
                    for (share, c) in shares.iter().zip(&capacities) {
                        prop_assert!(*share <= c.descriptors);
                    }
                    for pool in 0..4_u8 {
                        let members = || shares.iter().zip(&capacities).filter(|(_, c)| c.port_pool == pool.to_string());
                        if let Some((_, first)) = members().next() {
                            prop_assert!(members().map(|(s, _)| *s).sum::<u64>() <= first.ports);
                        }
                    }
                }
                Err(short) => {
                    prop_assert!(short.carried < total);
                    prop_assert!(split_of(short.carried, &capacities).is_ok(), "what is said to fit must fit");
                }
            }
        }

        #[test]
        fn without_limits_shares_are_within_one_of_proportional(
            total in 0_u64..1 << 24, weights in proptest::collection::vec(1_u32..64, 1..64),
        ) {
            let capacities: Vec<Capacity> =
                weights.iter().map(|t| capacity(*t, u64::MAX / 100, u64::MAX / 4096, 0)).collect();
            let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            let shares = split_of(total, &capacities).map_err(|s| TestCaseError::fail(s.to_string()))?;
            for (share, weight) in shares.iter().zip(&weights) {
                let exact = total * u64::from(*weight) / sum;
                prop_assert!(*share == exact || *share == exact + 1, "{share} for {exact}");
            }
        }
    }
}
