//! PURE: remarks that keep readers from concluding more from the tables than they show.

use crate::report::table::Table;
use crate::results::batch::Summary;
use crate::results::cells::Done;
use crate::text::{count, latency, percent, seconds_short};

/// Most batches that are listed singly.
const TOLD_MAX: usize = 5;

/// A remark on sessions that timed out, if there were any: no success column includes them.
#[must_use]
pub fn timeouts(results: &[Done]) -> String {
    let mut cut: Vec<&Summary> =
        results.iter().filter_map(Done::summary).filter(|summary| summary.ledger.timed_out > 0).collect();
    if cut.is_empty() {
        return String::new();
    }
    cut.sort_by_key(|summary| std::cmp::Reverse(summary.ledger.timed_out));
    let mut text = "p50 and p99 above are of succeeded sessions only (service time).\n".to_owned();
    for summary in cut.iter().take(TOLD_MAX) {
        text.push_str(&format!(
            "{}: {} of {} timed out: their response times are known only to be longer than their cut; response p99 with them \
             {}\n",
            cell(summary),
            count(summary.ledger.timed_out),
            count(summary.ledger.planned),
            summary.response.map_or_else(|| "-".to_owned(), |response| latency(response.p99_us))
        ));
    }
    if cut.len() > TOLD_MAX {
        text.push_str(&format!("and in {} more batches, see timed_out in summary.csv\n", cut.len() - TOLD_MAX));
    }
    text
}

/// How the sessions of the largest batch with several hosts were spread over them.
#[must_use]
pub fn hosts(results: &[Done]) -> String {
    spread(results).map_or_else(String::new, |(of, table)| format!("Hosts ({of})\n{}\n", table.markdown()))
}

/// The batch of [`hosts`] in words, and its table.
#[must_use]
pub fn spread(results: &[Done]) -> Option<(String, Table)> {
    let summary = results
        .iter()
        .filter_map(Done::summary)
        .filter(|summary| summary.hosts.len() > 1)
        .max_by_key(|summary| (summary.batch.batch_size, summary.ledger.succeeded))?;
    let all: u64 = summary.hosts.values().sum();
    let mut table = Table::new(["Host", "Sessions", "Share"], 1..3);
    let mut hosts: Vec<(&String, &u64)> = summary.hosts.iter().collect();
    hosts.sort_by_key(|(_, sessions)| std::cmp::Reverse(**sessions));
    for (host, sessions) in hosts {
        table.row([host.clone(), count(*sessions), percent(*sessions, all)]);
    }
    Some((cell(summary), table))
}

/// Hints for a target that answered with fewer hosts than expected.
#[must_use]
pub fn missing_hosts(expected: u64, seen: &[String]) -> String {
    let who = if seen.is_empty() { "none".to_owned() } else { seen.join(", ") };
    format!(
        "{} of {expected} expected hosts answered (target.expected_hosts): {who}\n  \
         is every backend up? ask each one's /health directly\n  \
         does the load balancer know it, and think it healthy? it may take a backend out for good after a failed check\n  \
         does the load balancer pin a client address to one backend (source hash, sticky sessions)? give agents several \
         --source-ip, or balance by connection\n  \
         do two backends call themselves by one name? host_url is what a server says of itself, NAME:PORT",
        seen.len()
    )
}

/// Names a batch: `ws 2,048 x 1.0 s rep 1`.
#[must_use]
pub fn cell(summary: &Summary) -> String {
    let b = &summary.batch;
    format!("{} {} x {} s rep {}", b.mode, count(b.batch_size), seconds_short(b.wait_us), b.repetition)
}

#[cfg(test)]
mod tests {
    use proto::{Bounds, HistogramSet, Ledger, Mode};

    use super::*;
    use crate::plan::expand::Batch;
    use crate::results::samples::context;

    fn done(size: u64, timed_out: u64, hosts: &[(&str, u64)]) -> Done {
        let batch = Batch { index: 0, mode: Mode::Ws, batch_size: size, wait_us: 1_000_000, repetition: 1 };
        let context = context(batch);
        let mut summary = Summary::of(&context, &[], &HistogramSet::new(Bounds::STANDARD));
        summary.ledger = Ledger { planned: size, succeeded: size - timed_out, timed_out, ..Ledger::default() };
        summary.response = Some(crate::results::batch::Percentiles { p99_us: 120_000_000, ..Default::default() });
        summary.hosts = hosts.iter().map(|(host, n)| ((*host).to_owned(), *n)).collect();
        Done::Ran(Box::new(summary))
    }

    #[test]
    fn what_is_said_and_when() {
        let quiet = [done(32, 0, &[("one:1", 32)])];
        assert_eq!((timeouts(&quiet), hosts(&quiet)), (String::new(), String::new()));
        let mut results: Vec<Done> = (1..=7).map(|n| done(n * 1_000, n, &[])).collect();
        results.push(done(512, 12, &[("b:1", 100), ("a:1", 400)]));
        insta::assert_snapshot!(format!("{}{}", timeouts(&results), hosts(&results)));
        insta::assert_snapshot!(missing_hosts(3, &["a:1".to_owned(), "b:1".to_owned()]));
    }
}
