//! PURE: the batches, agents and configuration of a run, as tables and lists.

use std::collections::{BTreeMap, BTreeSet};

use proto::Mode;
use serde_json::Value;

use crate::cells;
use crate::report::table::{Badge, Table, TableCell};
use crate::report::wording::{not_judged, skipped, success};
use crate::results::agent::AgentResult;
use crate::results::batch::Summary;
use crate::results::cells::{Cell, Done};
use crate::results::run::Run;
use crate::results::verdict::{Bottleneck, Validity};
use crate::text::{count, duration, latency, milliseconds, percent, rate, seconds_short};

/// One row per batch of the grid, in the order in which they ran.
#[must_use]
pub fn batches(run: &Run) -> Table {
    let header = [
        "Mode",
        "Batch Size",
        "wait_s",
        "Rep",
        "Success",
        "p50",
        "p99",
        "Beyond p50",
        "Beyond p99",
        "Response p99",
        "Step wire beyond p99",
        "Own delay p99",
        "Sessions/s",
        "Open at once",
        "Per worker",
        "Hosts",
        "Agents",
        "Verdict",
        "Limit",
        "Reasons",
    ];
    let mut table = Table::new(header, 1..17).with_prose();
    for done in &run.results {
        let b = done.batch();
        let head =
            cells![b.mode.to_string(), b.batch_size.to_string(), seconds_short(b.wait_us), b.repetition.to_string()];
        let rest = match done {
            Done::Ran(summary) => of_batch(run, summary),
            Done::Skipped { why, .. } => {
                let mut rest = vec![TableCell::default(); 16];
                (rest[0], rest[13], rest[15]) = (skipped().into(), "-".into(), why.as_str().into());
                rest
            }
        };
        table.row(head.into_iter().chain(rest));
    }
    table
}

/// The verdicts of each mode, with one row per batch size and one column per wait.
#[must_use]
pub fn verdicts(run: &Run) -> Vec<(Mode, Table)> {
    let grid = run.grid();
    let of_mode = |mode: &Mode| {
        let lines: Vec<(u64, &Vec<Cell<'_>>)> =
            grid.lines.iter().filter(|((m, _), _)| m == mode).map(|((_, wait_us), line)| (*wait_us, line)).collect();
        let columns = lines.iter().map(|(wait_us, _)| format!("wait={}s", seconds_short(*wait_us)));
        let mut table = Table::new(std::iter::once("Batch Size".to_owned()).chain(columns), 0..1);
        let sizes: BTreeSet<u64> = lines.iter().flat_map(|(_, line)| line.iter().map(|cell| cell.batch_size)).collect();
        for size in sizes {
            let verdicts = lines.iter().map(|(_, line)| {
                line.iter()
                    .find(|cell| cell.batch_size == size)
                    .map_or_else(TableCell::default, |cell| verdict(run, cell))
            });
            table.row(cells![size.to_string()].into_iter().chain(verdicts));
        }
        table
    };
    run.plan
        .target
        .mode
        .list()
        .iter()
        .map(|mode| (*mode, of_mode(mode)))
        .filter(|(_, table)| !table.is_empty())
        .collect()
}

/// `100%: valid`, or `39.1%: valid · server ×2, degraded ×1`.
fn verdict(run: &Run, cell: &Cell<'_>) -> TableCell {
    let success = success(cell);
    if cell.runs.is_empty() {
        return success;
    }
    let head = format!("{success}: ");
    if !run.judged() {
        return TableCell::badges(head, [not_judged()]);
    }
    let mut counts: BTreeMap<(Validity, bool), usize> = BTreeMap::new();
    for summary in &cell.runs {
        let verdict = &summary.verdict;
        *counts.entry((verdict.validity, verdict.limit == Bottleneck::Server)).or_default() += 1;
    }
    let several = counts.len() > 1;
    let badges = counts.into_iter().map(|((validity, server), n)| {
        let badge = Badge::from(validity);
        let server = if server { " · server" } else { "" };
        let times = if several { format!(" ×{n}") } else { String::new() };
        Badge { text: format!("{}{server}{times}", badge.text), ..badge }
    });
    TableCell::badges(head, badges)
}

fn of_batch(run: &Run, summary: &Summary) -> Vec<TableCell> {
    let l = &summary.ledger;
    let some = |us: u64| if l.succeeded == 0 { "-".to_owned() } else { latency(us) };
    let judged = |badge: Badge| if run.judged() { badge } else { not_judged() };
    cells![
        percent(l.succeeded, l.planned),
        some(summary.total.p50_us),
        some(summary.total.p99_us),
        beyond(summary.beyond.map(|beyond| beyond.p50_us)),
        beyond(summary.beyond.map(|beyond| beyond.p99_us)),
        summary.response.map_or_else(|| "-".to_owned(), |response| latency(response.p99_us)),
        beyond(summary.wire_beyond.map(|beyond| beyond.p99_us)),
        beyond(summary.own_delay_p99_us),
        if l.succeeded == 0 { "-".to_owned() } else { rate(summary.requests_per_second) },
        if run.judged() { count(summary.open_max) } else { "-".to_owned() },
        per_worker(summary),
        summary.unique_hosts().to_string(),
        if run.judged() { summary.agents.to_string() } else { "-".to_owned() },
        judged(summary.verdict.validity.into()),
        judged(summary.verdict.limit.into()),
        summary.verdict.reasons.join("; "),
    ]
    .into()
}

/// Formats a latency; `-` if it is unknown.
fn beyond(us: Option<u64>) -> String {
    us.map_or_else(|| "-".to_owned(), milliseconds)
}

/// Sessions answered by each process of the server: `100+59`, or `30 to 56 each of 48`; `-` if no process is named.
#[must_use]
pub fn per_worker(summary: &Summary) -> String {
    /// With more processes, only the range is shown.
    const LISTED_MAX: usize = 4;
    let mut sessions: Vec<u64> = summary.workers.values().copied().collect();
    sessions.sort_unstable_by(|a, b| b.cmp(a));
    match sessions.as_slice() {
        [] => "-".to_owned(),
        list if list.len() <= LISTED_MAX => list.iter().map(|n| count(*n)).collect::<Vec<_>>().join("+"),
        [most, .., least] => format!("{} to {} each of {}", count(*least), count(*most), sessions.len()),
        [one] => count(*one),
    }
}

/// The explanation of the columns of [`batches`].
pub const BATCHES: &str = "\
Beyond is what a session took beyond the waits and pauses that it asked for, step wire beyond what a step took until the kernel had \
its reply, beyond its wait; own delay is what the agents added. Per worker: sessions that each process of the server answered.";

/// The explanation of the cells of [`verdicts`].
pub const VERDICTS: &str = "\
Success, then what the number is worth, which is another thing: valid says that the generator did not decide it, server that the \
server was the limit.";

/// The explanation of the columns of [`agents`].
pub const AGENTS: &str = "\
Of each agent the worst of all its batches: what it added to its sessions itself (own delay, launch lag, late timers), and how \
near it was to its machine's limits. Run queue is the time its load threads were runnable without a CPU, throttled the time that a \
CPU quota held it back; TCP resent are segments sent again in the network namespace, all its processes together.";

/// One row per agent, with the worst of each value over all batches.
#[must_use]
pub fn agents(run: &Run) -> Table {
    let header = [
        "Agent",
        "Host",
        "Address",
        "Sessions",
        "Failed",
        "Lost",
        "Own delay p99",
        "Launch lag p99",
        "Late timers p99",
        "Start offset",
        "Clock within",
        "Threads busy",
        "Run queue",
        "Throttled",
        "Host CPU",
        "Memory",
        "Descriptors",
        "TCP resent",
    ];
    let mut table = Table::new(header, 3..18);
    let mut by_name: BTreeMap<&str, Vec<&AgentResult>> = BTreeMap::new();
    for summary in run.results.iter().filter_map(Done::summary) {
        for agent in &summary.by_agent {
            by_name.entry(&agent.name).or_default().push(agent);
        }
    }
    for name in run.agents.keys() {
        by_name.entry(name).or_default();
    }
    for (name, results) in by_name {
        table.row(of_agent(name, run.agents.get(name), &results));
    }
    table
}

fn of_agent(name: &str, known: Option<&Value>, results: &[&AgentResult]) -> Vec<String> {
    let text = |key: &str| known.and_then(|agent| agent.get(key)?.as_str()).unwrap_or("-").to_owned();
    let sum = |of: fn(&AgentResult) -> u64| count(results.iter().map(|agent| of(agent)).sum());
    let worst = |of: &dyn Fn(&AgentResult) -> Option<u64>| results.iter().filter_map(|agent| of(agent)).max();
    let seconds = |us: Option<u64>| us.map_or_else(|| "-".to_owned(), latency);
    let busiest = results
        .iter()
        .filter_map(|agent| agent.vitals.as_ref())
        .max_by(|a, b| a.cores_busy().total_cmp(&b.cores_busy()))
        .map_or_else(|| "-".to_owned(), |vitals| format!("{:.2} of {}", vitals.cores_busy(), vitals.threads));
    let vital = |of: fn(&proto::Vitals) -> Option<u64>| worst(&|agent| of(agent.vitals.as_ref()?));
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), count);
    vec![
        name.to_owned(),
        text("host"),
        text("address"),
        sum(|agent| agent.sessions),
        sum(|agent| agent.ledger.failed + agent.ledger.timed_out),
        sum(|agent| agent.ledger.lost + agent.ledger.never_started),
        seconds(worst(&|agent| agent.own_delay_p99_us)),
        seconds(worst(&|agent| agent.launch_lag_p99_us)),
        seconds(worst(&AgentResult::timer_overshoot_p99_us)),
        worst(&|agent| agent.start_offset_us).map_or_else(|| "-".to_owned(), milliseconds),
        worst(&|agent| agent.clock_error_us).map_or_else(|| "-".to_owned(), milliseconds),
        busiest,
        seconds(vital(|vitals| vitals.run_queue_us)),
        seconds(vital(|vitals| vitals.throttled_us)),
        vital(|vitals| vitals.host_cpu_permille.map(u64::from))
            .map_or_else(|| "-".to_owned(), |permille| format!("{}%", permille / 10)),
        vital(|vitals| Some(vitals.memory_bytes_max))
            .map_or_else(|| "-".to_owned(), |bytes| format!("{} MiB", bytes.div_ceil(1 << 20))),
        number(vital(|vitals| Some(vitals.descriptors_max))),
        number(vital(|vitals| vitals.retransmits)),
    ]
}

/// The lines of a log entry's Configuration, without list marks. What the run does not know is shown as unknown.
#[must_use]
pub fn configuration(run: &Run) -> Vec<String> {
    let (server, experiment) = (&run.plan.server, &run.plan.experiment);
    let known = |value: Option<u64>| value.map_or_else(|| "unknown".to_owned(), |value| value.to_string());
    let text = |text: &str| if text.is_empty() { "unknown".to_owned() } else { text.to_owned() };
    // The defaults of an embedded target are known.
    let embedded = run.plan.target.embedded;
    let envs = match server.max_concurrent_envs {
        None | Some(0) if embedded => "unlimited".to_owned(),
        envs => known(envs),
    };
    let mut list = vec![
        format!("Workers: {}", known(server.workers.or(embedded.then_some(1)))),
        format!("Max Concurrent Envs: {envs}"),
        format!("URL: {}", text(&run.urls.join(", "))),
    ];
    if let Some(nodes) = server.nodes {
        list.push(format!("Nodes: {nodes}"));
        list.push(format!("CPUs per node: {}", known(server.cpus_per_node)));
    }
    list.push(format!("Total cores: {}", known(experiment.cores)));
    if !server.backends.is_empty() {
        list.push(format!("Backend nodes: {}", server.backends.join(", ")));
    }
    if let Some(balancer) = &server.balancer {
        list.push(format!("Load balancer: {balancer}"));
    }
    list.push(format!("Hardware: {}", text(&experiment.hardware)));
    if let Some(words) = run.session_words() {
        list.push(format!("Session: {words}"));
    }
    list.push(format!("Measured by: {}", measured_by(run)));
    list.push(format!("Notes: {}", if experiment.notes.is_empty() { "none" } else { &experiment.notes }));
    list
}

/// When the run began and ended, for a report; a log entry has separate fields for these.
#[must_use]
pub fn times(run: &Run) -> String {
    let began = format!("{:.0}", run.started);
    match run.ended {
        None => format!("Began: {began}; its end is unknown"),
        Some(ended) => {
            let us = u64::try_from(ended.duration_since(run.started).as_micros()).unwrap_or(0);
            format!("Began: {began}, ended {ended:.0}, after {}", duration(us))
        }
    }
}

/// What measured the run: `Muster 0.1.0, 4 agents on n1, n2`.
fn measured_by(run: &Run) -> String {
    if !run.judged() {
        return format!("{}, one process", run.client());
    }
    if run.agents.is_empty() {
        return run.client();
    }
    let mut hosts: Vec<&str> = run.agents.values().filter_map(|agent| agent.get("host")?.as_str()).collect();
    hosts.sort_unstable();
    hosts.dedup();
    /// With more hosts, only their number is shown.
    const NAMED_MAX: usize = 8;
    let named = match hosts.len() {
        0 => String::new(),
        n if n <= NAMED_MAX => format!(" on {}", hosts.join(", ")),
        n => format!(" on {n} hosts"),
    };
    format!("{}, {}{named}", run.client(), agents_of(run))
}

/// The number of agents: `3 agents`.
#[must_use]
pub fn agents_of(run: &Run) -> String {
    match run.agents.len() {
        1 => "1 agent".to_owned(),
        n => format!("{} agents", count(n as u64)),
    }
}
