//! Which ephemeral ports are taken, and until when, by what `/proc` lists of the existing sockets. Pure: texts are
//! parsed, nothing is read.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;

use proto::units::micros;

/// How long Linux keeps a socket in TIME_WAIT (`TCP_TIMEWAIT_LEN`).
const TIME_WAIT_US: u64 = 60_000_000;
/// `/proc/net/tcp` counts in hundredths of a second on every architecture (`USER_HZ`).
const TICK_US: u64 = 10_000;

/// When the kernel gives the port of a socket in TIME_WAIT to a new connection to the same place
/// (`tcp_tw_reuse`, Linux `Documentation/networking/ip-sysctl.rst`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reuse {
    pub when: ReuseWhen,
    /// How old the socket must be (`tcp_tw_reuse_delay`).
    pub after_us: u64,
}

/// For which connections (`tcp_tw_reuse`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReuseWhen {
    Never,
    Always,
    Loopback,
}

impl Reuse {
    /// Parses the two files; a missing one has the kernel's default.
    #[must_use]
    pub fn parse(tw_reuse: &str, delay_ms: &str) -> Self {
        let when = match tw_reuse.trim() {
            "0" => ReuseWhen::Never,
            "1" => ReuseWhen::Always,
            _ => ReuseWhen::Loopback,
        };
        let delay = delay_ms.trim().parse().unwrap_or(1_000);
        Self { when, after_us: micros(std::time::Duration::from_millis(delay)) }
    }
}

/// One line of `/proc/net/tcp` or `tcp6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    local: SocketAddr,
    remote: SocketAddr,
    state: u8,
    /// Time until its timer fires.
    timer_us: u64,
}

const STATE_TIME_WAIT: u8 = 6;
const STATE_LISTEN: u8 = 10;

/// Parses a table. Lines that can't be parsed are left out.
pub fn parse(table: &str) -> impl Iterator<Item = Socket> {
    table.lines().skip(1).filter_map(parse_line)
}

/// Parses one line of a table.
#[must_use]
pub fn parse_line(line: &str) -> Option<Socket> {
    let mut words = line.split_whitespace().skip(1);
    let (local, remote) = (address(words.next()?)?, address(words.next()?)?);
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    let (_, when) = words.nth(1)?.split_once(':')?;
    let timer_us = u64::from_str_radix(when, 16).ok()?.saturating_mul(TICK_US);
    Some(Socket { local, remote, state, timer_us })
}

impl Socket {
    #[must_use]
    pub fn listens(&self) -> bool {
        self.state == STATE_LISTEN
    }
}

/// Parses `0100007F:1F90`: the address in 32-bit words of the machine's byte order, the port as a number.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::with_capacity(16);
    for word in ip.as_bytes().chunks(8) {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// How many ports are taken towards one destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    pub all: u64,
    /// How many of them are in TIME_WAIT.
    pub waiting: u64,
    /// Time until the last of those is free again.
    pub back_us: u64,
}

/// The ports of `range` that are taken towards the destination where most are. Without `sources` the kernel chooses one
/// local address for each destination; with them every source address has the range once.
#[must_use]
pub fn taken(
    sockets: &[Socket],
    range: &RangeInclusive<u16>,
    sources: &[IpAddr],
    destinations: &[SocketAddr],
    reuse: Reuse,
) -> Taken {
    let inside = || sockets.iter().filter(|socket| range.contains(&socket.local.port()));
    // The kernel skips a port that a listener has bound, whatever the destination and the source address.
    let listening: BTreeSet<u16> =
        inside().filter(|s| s.state == STATE_LISTEN).map(|socket| socket.local.port()).collect();
    let listening = listening.len() as u64 * sources.len().max(1) as u64;
    let towards = |destination: &SocketAddr| {
        let mut taken = Taken { all: listening, ..Taken::default() };
        for socket in inside() {
            let ours = sources.is_empty() || sources.contains(&socket.local.ip());
            if !ours || socket.remote != *destination || socket.state == STATE_LISTEN {
                continue;
            }
            if socket.state == STATE_TIME_WAIT {
                let back_us = free_in_us(socket, reuse);
                if back_us == 0 {
                    continue;
                }
                taken.waiting += 1;
                taken.back_us = taken.back_us.max(back_us);
            }
            taken.all += 1;
        }
        taken
    };
    let nothing_more = Taken { all: listening, ..Taken::default() };
    destinations.iter().map(towards).max_by_key(|taken| taken.all).unwrap_or(nothing_more)
}

/// Time until the kernel gives the port of a socket in TIME_WAIT to a new connection; 0 if it does so now.
fn free_in_us(socket: &Socket, reuse: Reuse) -> u64 {
    let early = match reuse.when {
        ReuseWhen::Never => false,
        ReuseWhen::Always => true,
        ReuseWhen::Loopback => socket.local.ip().is_loopback() || socket.remote.ip().is_loopback(),
    };
    let age_us = TIME_WAIT_US.saturating_sub(socket.timer_us);
    if early { reuse.after_us.saturating_sub(age_us).min(socket.timer_us) } else { socket.timer_us }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn hex(address: &str) -> String {
        let address: SocketAddr = address.parse().expect("address");
        let IpAddr::V4(ip) = address.ip() else { panic!("v4") };
        format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port())
    }

    fn line(local: &str, remote: &str, state: u8, timer_ticks: u64) -> String {
        let (local, remote) = (hex(local), hex(remote));
        format!(
            "   0: {local} {remote} {state:02X} 00000000:00000000 03:{timer_ticks:08X} 00000000     0        0 0 3\n"
        )
    }

    fn counted(lines: &[String], sources: &[&str], to: &[&str], when: ReuseWhen) -> Taken {
        let table: Vec<Socket> = parse(&format!("{HEAD}{}", lines.concat())).collect();
        assert_eq!(table.len(), lines.len());
        let sources: Vec<IpAddr> = sources.iter().map(|ip| ip.parse().expect("ip")).collect();
        let to: Vec<SocketAddr> = to.iter().map(|to| to.parse().expect("address")).collect();
        taken(&table, &(40_000..=40_099), &sources, &to, Reuse { when, after_us: 1_000_000 })
    }

    #[test]
    fn only_what_stands_between_us_and_the_destination_counts() {
        let lines = [
            line("10.0.0.1:40000", "10.0.0.5:8000", 1, 0),
            line("10.0.0.1:40001", "10.0.0.5:8000", STATE_TIME_WAIT, 1_700),
            line("10.0.0.2:40002", "10.0.0.5:8000", 1, 0),
            line("10.0.0.1:40003", "10.0.0.6:8000", 1, 0),
            line("10.0.0.1:50000", "10.0.0.5:8000", 1, 0),
            line("0.0.0.0:40004", "0.0.0.0:0", STATE_LISTEN, 0),
            line("127.0.0.1:40004", "0.0.0.0:0", STATE_LISTEN, 0),
        ];
        let to = ["10.0.0.5:8000", "10.0.0.6:8000"];
        let all = counted(&lines, &[], &to, ReuseWhen::Loopback);
        assert_eq!(all, Taken { all: 4, waiting: 1, back_us: 17_000_000 });
        let one = counted(&lines, &["10.0.0.2"], &to, ReuseWhen::Loopback);
        assert_eq!(one, Taken { all: 2, waiting: 0, back_us: 0 });
        assert_eq!(counted(&lines, &["10.0.0.1", "10.0.0.2"], &to, ReuseWhen::Loopback).all, 5, "a listener twice");
        assert_eq!(counted(&lines, &[], &[], ReuseWhen::Never).all, 1);
    }

    #[test]
    fn time_wait_ends_early_where_the_kernel_reuses_it() {
        // 60 s less 0.4 s left: 0.4 s old.
        let young = [line("127.0.0.1:40000", "127.0.0.1:80", STATE_TIME_WAIT, 5_960)];
        let old = [line("127.0.0.1:40000", "127.0.0.1:80", STATE_TIME_WAIT, 3_000)];
        let far = [line("10.0.0.1:40000", "10.0.0.5:80", STATE_TIME_WAIT, 3_000)];
        let (near, away) = (["127.0.0.1:80"], ["10.0.0.5:80"]);
        let waiting = |back_us| Taken { all: 1, waiting: 1, back_us };
        assert_eq!(counted(&young, &[], &near, ReuseWhen::Loopback), waiting(600_000));
        assert_eq!(counted(&old, &[], &near, ReuseWhen::Loopback), Taken::default());
        assert_eq!(counted(&old, &[], &near, ReuseWhen::Never), waiting(30_000_000));
        assert_eq!(counted(&far, &[], &away, ReuseWhen::Loopback), waiting(30_000_000));
        assert_eq!(counted(&far, &[], &away, ReuseWhen::Always), Taken::default());
        assert_eq!(Reuse::parse("2\n", ""), Reuse { when: ReuseWhen::Loopback, after_us: 1_000_000 });
        assert_eq!(Reuse::parse("1\n", "250\n"), Reuse { when: ReuseWhen::Always, after_us: 250_000 });
        assert_eq!(Reuse::parse("0", "x").when, ReuseWhen::Never);
    }

    #[test]
    fn both_families_are_read() {
        let v6 = format!(
            "{HEAD}   0: 00000000000000000000000001000000:9C40 0000000000000000FFFF00000500000A:1F40 01 0:0 00:00000000 0\n"
        );
        let socket = parse(&v6).next().expect("one");
        assert_eq!(
            (socket.local, socket.remote),
            ("[::1]:40000".parse().expect("a"), "10.0.0.5:8000".parse().expect("a"))
        );
        assert_eq!(parse("x\ngarbage\n1: 0:0\n").count(), 0);
    }
}
