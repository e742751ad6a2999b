//! How this agent was doing during a batch: what the operating system says before and after it, and the difference.
//! Everything is read outside the measured time. What can't be read is absent, never 0.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use proto::Vitals;
use proto::units::micros;

use super::capacity::{SocketCounts, cores, kib_field, read};
use crate::net::timestamps::realtime_ahead_us;

/// The time that the scheduler gave a thread (`schedstat`, Linux `Documentation/scheduler/sched-stats.rst`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThreadCpu {
    pub cpu_us: u64,
    /// Time that it was runnable without a CPU.
    pub run_queue_us: Option<u64>,
}

impl ThreadCpu {
    /// The calling thread's times since it began.
    #[must_use]
    pub fn of_this_thread() -> Self {
        Self::parse(&read("/proc/thread-self/schedstat"))
    }

    fn parse(text: &str) -> Self {
        let mut ns = text.split_whitespace().map(str::parse::<u64>);
        let (cpu, waiting) = (ns.next().and_then(Result::ok), ns.next().and_then(Result::ok));
        Self { cpu_us: cpu.unwrap_or(0) / 1_000, run_queue_us: waiting.map(|ns| ns / 1_000) }
    }

    /// The difference to an earlier reading.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            cpu_us: self.cpu_us.saturating_sub(earlier.cpu_us),
            run_queue_us: self.run_queue_us.zip(earlier.run_queue_us).map(|(now, then)| now.saturating_sub(then)),
        }
    }
}

/// How the server closed connections whose sessions were over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CloseDelays {
    /// The longest that it took, in microseconds.
    pub us_max: u64,
    /// Connections that were still open at the time limit.
    pub left_open: u64,
}

impl CloseDelays {
    /// Adds other connections to these.
    pub fn add(&mut self, other: Self) {
        self.us_max = self.us_max.max(other.us_max);
        self.left_open = self.left_open.saturating_add(other.left_open);
    }
}

/// One reading of the machine's and the process's figures.
#[derive(Debug, Clone)]
struct Reading {
    at: Instant,
    process_cpu_us: u64,
    host: Option<HostCpu>,
    throttled_us: Option<u64>,
    tcp: Counts,
}

/// Takes one reading when it is made and another when it is finished.
#[derive(Debug)]
pub struct Sampler {
    first: Reading,
    /// Open descriptors at the first reading.
    descriptors: u64,
    realtime_ahead_us: i64,
}

impl Sampler {
    /// Takes the first reading.
    #[must_use]
    pub fn start() -> Self {
        let first = Reading::take();
        Self {
            descriptors: fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64),
            realtime_ahead_us: realtime_ahead_us(first.at),
            first,
        }
    }

    /// How far CLOCK_REALTIME has moved against CLOCK_MONOTONIC since the start.
    #[must_use]
    pub fn realtime_step_us(&self) -> i64 {
        realtime_ahead_us(self.first.at).saturating_sub(self.realtime_ahead_us)
    }

    /// Takes the second reading and returns the difference, added to what the load threads know of themselves.
    #[must_use]
    pub fn finish(self, wall: Duration, threads: Vitals, realtime_step_us: i64) -> Vitals {
        let (first, last) = (self.first, Reading::take());
        let sockets = SocketCounts::read();
        let since = |now: Option<u64>, then: Option<u64>| now.zip(then).map(|(now, then)| now.saturating_sub(then));
        let host = last.host.zip(first.host).map(|(now, then)| now.since(then));
        Vitals {
            wall_us: micros(wall),
            process_cpu_us: last.process_cpu_us.saturating_sub(first.process_cpu_us),
            throttled_us: since(last.throttled_us, first.throttled_us),
            host_cpu_permille: host.map(HostCpu::busy_permille),
            host_steal_permille: host.map(HostCpu::steal_permille),
            retransmits: since(last.tcp.retransmits, first.tcp.retransmits),
            syn_retransmits: since(last.tcp.syn_retransmits, first.tcp.syn_retransmits),
            listen_overflows: since(last.tcp.listen_overflows, first.tcp.listen_overflows),
            memory_bytes_max: memory_bytes_max(&read("/proc/self/status")),
            descriptors_max: self.descriptors + threads.in_flight_max,
            tcp_in_use: sockets.in_use,
            time_wait: sockets.time_wait,
            realtime_step_us,
            // The CPUs of the whole host, like its busy share; a quota of this process does not make it smaller.
            host_cpus: host.map_or_else(cores, |host| host.cpus),
            ..threads
        }
    }
}

impl Reading {
    fn take() -> Self {
        let usage = getrusage(UsageWho::RUSAGE_SELF).ok();
        let cpu =
            usage.map_or(0, |usage| usage.user_time().num_microseconds() + usage.system_time().num_microseconds());
        Self {
            at: Instant::now(),
            process_cpu_us: u64::try_from(cpu).unwrap_or(0),
            host: HostCpu::parse(&read("/proc/stat")),
            throttled_us: throttled_us(),
            tcp: Counts::parse(&read("/proc/net/snmp"), &read("/proc/net/netstat")),
        }
    }
}

/// Clock ticks of all CPUs together (proc_stat(5), first line).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct HostCpu {
    all: u64,
    idle: u64,
    steal: u64,
    cpus: u32,
}

impl HostCpu {
    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().next()?.strip_prefix("cpu ")?;
        let ticks: Vec<u64> = line.split_whitespace().map_while(|word| word.parse().ok()).collect();
        // user nice system idle iowait irq softirq steal; guest times are part of user already.
        let idle = ticks.get(3)? + ticks.get(4)?;
        let each = text.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count();
        Some(Self {
            all: ticks.iter().take(8).sum(),
            idle,
            steal: ticks.get(7).copied().unwrap_or(0),
            cpus: u32::try_from(each).unwrap_or(0),
        })
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            all: self.all.saturating_sub(earlier.all),
            idle: self.idle.saturating_sub(earlier.idle),
            steal: self.steal.saturating_sub(earlier.steal),
            cpus: self.cpus,
        }
    }

    fn busy_permille(self) -> u32 {
        permille(self.all.saturating_sub(self.idle), self.all)
    }

    fn steal_permille(self) -> u32 {
        permille(self.steal, self.all)
    }
}

fn permille(part: u64, whole: u64) -> u32 {
    u32::try_from(part.saturating_mul(1_000).checked_div(whole).unwrap_or(0)).unwrap_or(u32::MAX)
}

/// TCP counters of this network namespace (RFC 4022 and Linux's own).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    retransmits: Option<u64>,
    syn_retransmits: Option<u64>,
    listen_overflows: Option<u64>,
}

impl Counts {
    fn parse(snmp: &str, netstat: &str) -> Self {
        Self {
            retransmits: counter(snmp, "Tcp:", "RetransSegs"),
            syn_retransmits: counter(netstat, "TcpExt:", "TCPSynRetrans"),
            listen_overflows: counter(netstat, "TcpExt:", "ListenOverflows"),
        }
    }
}

/// The value of one counter. Both files have pairs of lines with the same prefix: names, then values.
fn counter(text: &str, prefix: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(prefix));
    let (names, values) = (lines.next()?, lines.next()?);
    let place = names.split_whitespace().position(|word| word == name)?;
    values.split_whitespace().nth(place)?.parse().ok()
}

/// The largest resident size so far, in bytes (proc_pid_status(5), VmHWM).
fn memory_bytes_max(status: &str) -> u64 {
    kib_field(status, "VmHWM:")
}

/// How long a CPU quota has held this process's control group back, in microseconds; `None` without one.
fn throttled_us() -> Option<u64> {
    let groups = read("/proc/self/cgroup");
    let files = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?.trim_end_matches('/'));
        match controllers {
            "" => Some(format!("/sys/fs/cgroup{path}/cpu.stat")),
            v1 if v1.split(',').any(|name| name == "cpu") => Some(format!("/sys/fs/cgroup/{v1}{path}/cpu.stat")),
            _ => None,
        }
    });
    // Inside a container the path is the host's, but the visible group is mounted at the top.
    let tops = ["/sys/fs/cgroup/cpu.stat".to_owned(), "/sys/fs/cgroup/cpu/cpu.stat".to_owned()];
    files.chain(tops).find_map(|file| parse_throttled(&read(&file)))
}

fn parse_throttled(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| match line.split_once(' ')? {
        ("throttled_usec", us) => us.trim().parse().ok(),
        ("throttled_time", ns) => ns.trim().parse::<u64>().ok().map(|ns| ns / 1_000),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read_as_they_are_written() {
        assert_eq!(ThreadCpu::parse("1500000 2500000 7\n"), ThreadCpu { cpu_us: 1_500, run_queue_us: Some(2_500) });
        assert_eq!(ThreadCpu::parse(""), ThreadCpu::default());
        let first = HostCpu::parse("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 1").expect("cpu");
        let then = HostCpu::parse("cpu  160 0 60 810 50 0 0 20 9 9\n").expect("cpu");
        let host = then.since(first);
        assert_eq!((host.busy_permille(), host.steal_permille()), (900, 200));
        assert_eq!(HostCpu::parse("intr 1"), None);
        let netstat = "TcpExt: SyncookiesSent ListenOverflows TCPSynRetrans\nTcpExt: 1 22 333\nIpExt: ListenOverflows\nIpExt: 9\n";
        let snmp = "Ip: A\nIp: 1\nTcp: InSegs RetransSegs\nTcp: 5 77\n";
        let counts = Counts { retransmits: Some(77), syn_retransmits: Some(333), listen_overflows: Some(22) };
        assert_eq!(Counts::parse(snmp, netstat), counts);
        assert_eq!(Counts::parse("", "TcpExt: A\n"), Counts::default());
        assert_eq!(memory_bytes_max("VmPeak: 1 kB\nVmHWM:\t  2048 kB\n"), 2 << 20);
        assert_eq!(parse_throttled("nr_periods 3\nthrottled_usec 77\n"), Some(77));
        assert_eq!(parse_throttled("nr_throttled 3\nthrottled_time 77000\n"), Some(77));
        assert_eq!(parse_throttled("usage_usec 1\n"), None);
    }

    #[test]
    fn a_thread_that_works_is_seen_working() {
        let (sampler, before) = (Sampler::start(), ThreadCpu::of_this_thread());
        let begun = Instant::now();
        let mut sum = 0_u64;
        // Until the scheduler has noticed, whatever its tick.
        while ThreadCpu::of_this_thread().since(before).cpu_us < 20_000 {
            sum = sum.wrapping_add(sum ^ 1);
            assert!(begun.elapsed() < Duration::from_secs(60), "no CPU time in a minute: {sum}");
        }
        let own = ThreadCpu::of_this_thread().since(before);
        let threads = Vitals { threads: 1, load_cpu_us: own.cpu_us, in_flight_max: 3, ..Vitals::default() };
        let vitals = sampler.finish(begun.elapsed(), threads, 0);
        assert!(vitals.process_cpu_us >= 10_000, "{vitals:?}");
        assert!(vitals.cores_busy() > 0.0 && vitals.memory_bytes_max > 1 << 20, "{vitals:?}");
        assert!(vitals.descriptors_max > 3 && vitals.retransmits.is_some(), "{vitals:?}");
    }
}
