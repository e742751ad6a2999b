//! PURE: was the server restarted, or gone for a while, under a batch?
//!
//! A server that goes away cuts its sessions, and in a batch that looks like a limit. Three things tell: it says so (close code
//! 1012); all sessions of one process end by a cut within a moment, and nobody hears of that process again; or nobody took
//! connections in between, or another process answers after. One of the last two alone is no outage: proxies cut idle
//! connections together, and servers cut the ones they can't serve.

use std::collections::{BTreeMap, BTreeSet};

use proto::message::{ProbeResult, Served};
use proto::{FailureKind, Outcome, Phase, SessionRecord};

use crate::report::facts::{Outage, Row};
use crate::report::format::{count, latency};

/// Connections that one process loses when it ends are cut within this time of each other.
const MOMENT_US: u64 = 1_000_000;
/// Of so few sessions nothing is said by how they ended alone.
const SESSIONS_MIN: u64 = 3;
/// Silences that differ by less are the same: an idle limit of somebody.
const SAME_AGE_PERCENT: u64 = 10;
const SAME_AGE_US: u64 = 100_000;

/// What was found when the target was asked again after the batch.
#[derive(Debug, Clone, Default)]
pub struct After {
    pub served_by: BTreeSet<Served>,
    pub refused_connects: u64,
    /// What it answered, or did not, before it was there again.
    pub told: Vec<String>,
}

impl After {
    /// Of what agents found.
    pub fn add(&mut self, found: &[ProbeResult]) {
        for result in found {
            self.served_by.extend(result.served_by.iter().cloned());
            self.refused_connects = self.refused_connects.saturating_add(result.refused_connects);
        }
    }
}

/// Sessions of one process that were cut together.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Cut {
    process: Served,
    at_us: u64,
    until_us: u64,
    sessions: u64,
    /// The server said that it restarts.
    said_so: bool,
    /// No session of the process lived on.
    whole: bool,
    /// All had been silent for the same time.
    same_age: bool,
}

/// Whether the batch may have met with an outage: then it is worth asking the target.
#[must_use]
pub fn is_suspect(rows: &[Row]) -> bool {
    cuts(rows).iter().any(|cut| cut.said_so || cut.whole)
}

/// What is known of an outage, if there was one. `after`: nothing, where nobody could be asked.
#[must_use]
pub fn judge(rows: &[Row], after: &After) -> Option<Outage> {
    let cuts = cuts(rows);
    let known: BTreeSet<Served> = rows.iter().filter_map(|row| process_of(&row.record)).collect();
    let mut outage: Option<Outage> = None;
    for cut in &cuts {
        let refused = refused_after(rows, cut.at_us);
        let fresh = fresh(cut, after, &known, rows);
        // In a container the first process has the same number each time: that it answers is no sign if nobody did before.
        let lives = cut.process.pid.is_some() && after.served_by.contains(&cut.process);
        let gone_for_good = cut.whole && cut.sessions >= SESSIONS_MIN && !cut.same_age && !lives;
        let seen_to_be_gone = cut.whole && (refused + after.refused_connects > 0 || (fresh.is_some() && !lives));
        if !cut.said_so && !gone_for_good && !seen_to_be_gone {
            continue;
        }
        let mut evidence = vec![in_words(cut)];
        if refused + after.refused_connects > 0 {
            evidence.push(format!("{} connections were refused in between", count(refused + after.refused_connects)));
        }
        evidence.extend(fresh.map(|fresh| format!("{fresh} answers now")));
        evidence.extend(after.told.iter().map(|told| format!("after the batch: {told}")));
        match &mut outage {
            None => {
                outage = Some(Outage {
                    at_us: cut.at_us,
                    cut: cut.sessions,
                    refused_connects: refused + after.refused_connects,
                    evidence,
                });
            }
            Some(outage) => {
                outage.at_us = outage.at_us.min(cut.at_us);
                outage.cut += cut.sessions;
                outage.evidence.push(in_words(cut));
            }
        }
    }
    outage
}

fn in_words(cut: &Cut) -> String {
    let who = match &cut.process {
        Served { pid: Some(pid), host_url } => {
            format!("process {pid}{}", host_url.as_ref().map(|host| format!(" of {host}")).unwrap_or_default())
        }
        Served { pid: None, .. } => "the server".to_owned(),
    };
    let how = if cut.said_so { "closed" } else { "was gone, and cut" };
    let code = if cut.said_so { " with 1012 (service restart)" } else { "" };
    format!("{who} {how} {} sessions {} after the start{code}", count(cut.sessions), latency(cut.at_us))
}

/// Who answers now, and was not there before the cut.
fn fresh(cut: &Cut, after: &After, known: &BTreeSet<Served>, rows: &[Row]) -> Option<String> {
    let host = &cut.process.host_url;
    cut.process.pid?;
    let within = rows
        .iter()
        .map(|row| &row.record)
        .filter(|record| record.opened_us().is_some_and(|at| at > cut.at_us))
        .filter_map(process_of)
        .filter(|served| served.host_url == *host)
        .find(|served| !opened_before(rows, served, cut.at_us));
    let later = || after.served_by.iter().find(|served| served.pid.is_some() && !known.contains(*served)).cloned();
    within.or_else(later).and_then(|served| served.pid).map(|pid| format!("process {pid}"))
}

fn opened_before(rows: &[Row], process: &Served, at_us: u64) -> bool {
    rows.iter().map(|row| &row.record).any(|record| {
        record.opened_us().is_some_and(|opened| opened <= at_us) && process_of(record).as_ref() == Some(process)
    })
}

/// Connections that nobody took, from a moment before the first cut on.
fn refused_after(rows: &[Row], at_us: u64) -> u64 {
    let refused = |record: &&SessionRecord| {
        matches!(record.outcome, Outcome::Failed(FailureKind::Refused, Phase::Connect))
            && record.ended_us().is_some_and(|ended| ended >= at_us)
    };
    rows.iter().map(|row| &row.record).filter(refused).count() as u64
}

/// Who served a session; `None` where no process is named.
fn process_of(record: &SessionRecord) -> Option<Served> {
    record.pid.map(|pid| Served { host_url: record.host_url.clone(), pid: Some(pid) })
}

fn is_cut(record: &SessionRecord) -> bool {
    let Outcome::Failed(kind, phase) = &record.outcome else { return false };
    *phase != Phase::Connect
        && matches!(kind, FailureKind::Closed(1001 | 1005 | 1006 | 1012) | FailureKind::Reset)
        && record.ended_us().is_some()
}

/// For each process whose sessions were cut: the moment in which most of them were.
fn cuts(rows: &[Row]) -> Vec<Cut> {
    let mut groups: BTreeMap<Served, Vec<&SessionRecord>> = BTreeMap::new();
    for record in rows.iter().map(|row| &row.record).filter(|record| record.opened_us().is_some()) {
        groups.entry(process_of(record).unwrap_or_default()).or_default().push(record);
    }
    groups.into_iter().filter_map(|(process, members)| of_process(process, &members)).collect()
}

fn of_process(process: Served, members: &[&SessionRecord]) -> Option<Cut> {
    let mut ends: Vec<u64> =
        members.iter().filter(|record| is_cut(record)).filter_map(|record| record.ended_us()).collect();
    ends.sort_unstable();
    let within = |from: u64| ends.partition_point(|end| *end <= from.saturating_add(MOMENT_US));
    let (first, last) = (0..ends.len())
        .map(|first| (first, within(ends[first])))
        .max_by_key(|(first, last)| (last - first, std::cmp::Reverse(*first)))?;
    let (at_us, until_us) = (ends[first], ends[last - 1]);
    let in_it = |record: &&&SessionRecord| {
        is_cut(record) && record.ended_us().is_some_and(|end| (at_us..=until_us).contains(&end))
    };
    let cut: Vec<&&SessionRecord> = members.iter().filter(in_it).collect();
    // Its sessions that were open when it began, or came later, and did not end by it.
    let lived_on = members.iter().any(|record| {
        record.ended_us().is_some_and(|end| end > at_us) && !in_it(&record) && !ended_within(record, at_us)
    });
    let said_so = cut.iter().any(|record| matches!(record.outcome, Outcome::Failed(FailureKind::Closed(1012), _)));
    Some(Cut {
        process,
        at_us,
        until_us,
        sessions: cut.len() as u64,
        said_so,
        whole: !lived_on,
        same_age: same_age(&cut.iter().map(|record| silence_us(record)).collect::<Vec<_>>()),
    })
}

/// It failed in the same moment in another way: its process went away while it said goodbye, say.
fn ended_within(record: &SessionRecord, at_us: u64) -> bool {
    record.outcome != Outcome::Succeeded
        && record.ended_us().is_some_and(|end| end <= at_us.saturating_add(2 * MOMENT_US))
}

/// How long the server had said nothing when the session was cut.
#[must_use]
pub fn silence_us(record: &SessionRecord) -> u64 {
    let measured = record.wire.silence.map(|silence| silence.us);
    let since_open = || {
        let answered = record.open_latency_us()?.saturating_add(record.step_us.iter().sum());
        Some(record.total_us?.saturating_sub(answered))
    };
    measured.or_else(since_open).unwrap_or(0)
}

/// Whether all of these are about the same.
#[must_use]
pub fn same_age(ages_us: &[u64]) -> bool {
    let (Some(least), Some(most)) = (ages_us.iter().min(), ages_us.iter().max()) else { return false };
    most - least <= (most / 100 * SAME_AGE_PERCENT).max(SAME_AGE_US)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const MS: u64 = 1_000;

    /// A session of process `pid` that opened and ended at these milliseconds.
    fn row(pid: u64, opened_ms: u64, ended_ms: u64, outcome: Outcome) -> Row {
        let mut record = SessionRecord::without_life(0, outcome, String::new());
        record.started_us = Some(0);
        record.connect_us = Some(opened_ms * MS);
        record.reset_us = Some(0);
        record.total_us = Some(ended_ms * MS);
        record.pid = (pid > 0).then_some(pid);
        record.host_url = (pid > 0).then(|| "h:1".to_owned());
        Row { agent: Arc::from("a"), record }
    }

    fn closed(code: u16) -> Outcome {
        Outcome::Failed(FailureKind::Closed(code), Phase::Step)
    }

    fn refused(started_ms: u64) -> Row {
        let mut row = row(0, 0, started_ms, Outcome::Failed(FailureKind::Refused, Phase::Connect));
        (row.record.connect_us, row.record.reset_us) = (None, None);
        row
    }

    fn served(pid: u64) -> After {
        let one = Served { host_url: Some("h:1".to_owned()), pid: Some(pid) };
        After { served_by: BTreeSet::from([one]), ..After::default() }
    }

    fn cut_at(pid: u64, at_ms: u64, code: u16) -> Vec<Row> {
        (0..32).map(|n| row(pid, 10 + n, at_ms + n, closed(code))).collect()
    }

    #[test]
    fn a_server_that_says_so_was_restarted() {
        let rows = cut_at(7, 500, 1012);
        assert!(is_suspect(&rows));
        let outage = judge(&rows, &After::default()).expect("an outage");
        assert_eq!((outage.cut, outage.at_us), (32, 500 * MS));
        assert!(outage.evidence[0].contains("1012"), "{:?}", outage.evidence);
    }

    #[test]
    fn a_killed_process_is_known_by_who_answers_after_it() {
        let rows = cut_at(7, 500, 1006);
        assert!(is_suspect(&rows));
        let outage = judge(&rows, &served(8)).expect("an outage");
        assert_eq!(outage.evidence[1], "process 8 answers now");
        assert_eq!(judge(&rows, &served(7)), None, "the same process answers: it has cut them by itself");
        let gone = After { refused_connects: 2, ..After::default() };
        assert_eq!(judge(&rows, &gone).expect("an outage").refused_connects, 2);
        assert_eq!(judge(&rows, &After::default()), None, "all of the same age: somebody's idle limit");
    }

    #[test]
    fn one_worker_of_several_is_enough_and_the_others_live_on() {
        let mut rows = cut_at(7, 500, 1006);
        rows.extend((0..32).map(|n| row(6, 10 + n, 1_000 + n, Outcome::Succeeded)));
        rows.push(row(9, 800, 1_800, Outcome::Succeeded));
        let outage = judge(&rows, &served(6)).expect("an outage");
        assert_eq!((outage.cut, outage.evidence[1].as_str()), (32, "process 9 answers now"));
    }

    #[test]
    fn a_process_that_lives_on_had_no_outage() {
        let mut rows = cut_at(7, 500, 1006);
        rows.push(row(7, 20, 1_500, Outcome::Succeeded));
        assert!(!is_suspect(&rows));
        assert_eq!(judge(&rows, &served(8)), None);
        let few: Vec<Row> = (0..40).map(|n| row(7, 10, 100 + 200 * n, closed(1006))).collect();
        assert_eq!(judge(&few, &served(7)), None, "one after the other, over eight seconds");
    }

    #[test]
    fn a_worker_that_was_replaced_without_a_cut_is_none() {
        let mut rows: Vec<Row> = (0..8).map(|n| row(7, 10 + n, 500, Outcome::Succeeded)).collect();
        rows.extend((0..8).map(|n| row(8, 600 + n, 1_500, Outcome::Succeeded)));
        assert!(!is_suspect(&rows));
        assert_eq!(judge(&rows, &served(8)), None);
    }

    #[test]
    fn without_names_different_ages_tell_and_refused_connections_do() {
        // A ramp: each had been open for another time when all were cut at once.
        let ramp: Vec<Row> = (0..20).map(|n| row(0, 100 * n, 2_000, closed(1006))).collect();
        assert!(judge(&ramp, &After::default()).is_some());
        let burst: Vec<Row> = (0..20).map(|_| row(0, 10, 2_000, closed(1006))).collect();
        assert_eq!(judge(&burst, &After::default()), None);
        let mut with_refused = burst.clone();
        with_refused.extend((0..4).map(|_| refused(2_100)));
        assert_eq!(judge(&with_refused, &After::default()).expect("an outage").refused_connects, 4);
        let full: Vec<Row> = (0..20).map(|_| refused(1)).collect();
        assert!(!is_suspect(&full), "nothing was cut");
    }
}
