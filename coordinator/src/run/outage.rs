//! PURE: decides whether the server was restarted or unreachable during a batch.
//!
//! A server that goes away cuts its sessions, which looks like a limit in a batch. It counts as an outage
//! - if the server says so (close code 1012), or
//! - if all open sessions of one process are cut within a moment, and there is a second sign: connections refused in
//!   between, another process that answers afterwards while the old one does not, or sessions of such different ages
//!   that no rule about idle or old connections explains the cut.
//!
//! A cut of many sessions alone is no outage: proxies cut idle connections together, and servers cut those they can't
//! serve. If the server has many processes, a few sessions may fail to meet one of them by chance.

use std::collections::{BTreeMap, BTreeSet};

use proto::message::{ProbeResult, Served};
use proto::{FailureKind, Outcome, Phase, SessionRecord};

use super::side::{same_age, silence_us};
use crate::results::row::Row;
use crate::results::verdict::Outage;
use crate::text::{count, latency};

/// The connections of a process that ends are cut within this time of each other.
const MOMENT_US: u64 = 1_000_000;
/// Fewer cut sessions than this are no sign of an outage.
const SESSIONS_MIN: u64 = 3;
/// Fewer cut sessions than this are no sign of an outage if no process is named.
const NAMELESS_MIN: u64 = 8;

/// What the target answered when it was probed after the batch.
#[derive(Debug, Clone, Default)]
pub struct After {
    pub served_by: BTreeSet<Served>,
    /// Number of refused connections, by index of the url.
    pub refused_connects: BTreeMap<usize, u64>,
    /// Problems with the target before it was ready again.
    pub told: Vec<String>,
}

impl After {
    /// Adds the findings of one agent.
    pub fn add(&mut self, urls: &[String], found: &[ProbeResult]) {
        for result in found {
            self.served_by.extend(result.served_by.iter().cloned());
            let place = urls.iter().position(|url| *url == result.url).unwrap_or(0);
            let refused = self.refused_connects.entry(place).or_default();
            *refused = refused.saturating_add(result.refused_connects);
        }
    }
}

/// Sessions of one process that were cut together.
#[derive(Debug, Clone)]
struct Cut {
    process: Served,
    /// Indexes of the urls of these sessions.
    urls: BTreeSet<usize>,
    at_us: u64,
    sessions: u64,
    /// Whether the server announced a restart.
    said_so: bool,
    /// Whether no open session of the process survived the cut.
    whole: bool,
    /// Whether the process had sessions that were opened after the cut.
    opened_later: bool,
    /// Whether all had been silent, or open, for the same time, as by an idle or age limit.
    by_rule: bool,
}

/// Number of target processes that are named in the batch.
#[must_use]
pub fn processes(rows: &[Row]) -> usize {
    rows.iter().filter_map(|row| process_of(&row.record)).collect::<BTreeSet<_>>().len()
}

/// Whether an outage is possible, so that the target should be probed. `urls` is the number of the target's urls.
#[must_use]
pub fn is_suspect(rows: &[Row], urls: usize) -> bool {
    cuts(rows, urls).iter().any(|cut| cut.said_so || (cut.whole && cut.sessions >= SESSIONS_MIN))
}

/// The outage, if there was one. `after` is empty if the target could not be probed.
#[must_use]
pub fn judge(rows: &[Row], urls: usize, after: &After) -> Option<Outage> {
    let known: BTreeSet<Served> = rows.iter().filter_map(|row| process_of(&row.record)).collect();
    let cuts = cuts(rows, urls);
    let lost: BTreeSet<&Served> = cuts.iter().filter(|cut| cut.whole).map(|cut| &cut.process).collect();
    let mut outage: Option<Outage> = None;
    for cut in &cuts {
        let refused = refused(rows, urls, cut, after);
        let fresh = fresh(cut, after, &known);
        // After a restart of the whole server none of its old processes can answer.
        let lasting: BTreeSet<&Served> =
            known.iter().filter(|process| fresh.is_none() || !lost.contains(process)).collect();
        if !is_outage(cut, after, &lasting, refused, fresh.is_some()) {
            continue;
        }
        let mut evidence = vec![in_words(cut)];
        if refused > 0 {
            evidence.push(format!("{} refused in between", counted(refused, "connection")));
        }
        evidence.extend(fresh.map(|pid| format!("process {pid} answers now")));
        match &mut outage {
            None => {
                evidence.extend(after.told.iter().map(|told| format!("after the batch: {told}")));
                outage = Some(Outage { at_us: cut.at_us, cut: cut.sessions, refused_connects: refused, evidence });
            }
            Some(outage) => {
                outage.at_us = outage.at_us.min(cut.at_us);
                outage.cut += cut.sessions;
                outage.evidence.extend(evidence);
            }
        }
    }
    outage
}

/// Whether a cut is an outage. `lasting` are the processes that can be expected to answer after the batch.
fn is_outage(cut: &Cut, after: &After, lasting: &BTreeSet<&Served>, refused: u64, fresh: bool) -> bool {
    if cut.said_so {
        return true;
    }
    if !cut.whole || cut.sessions < SESSIONS_MIN {
        return false;
    }
    // A container's first process has the same id after a restart: if connections were refused, its answer is no sign.
    if refused > 0 {
        return true;
    }
    if cut.process.pid.is_none() {
        return cut.sessions >= NAMELESS_MIN && !cut.by_rule && !cut.opened_later;
    }
    let lives = cut.opened_later || after.served_by.contains(&cut.process);
    !lives && all_others_met(cut, after, lasting) && (fresh || !cut.by_rule)
}

/// Whether the sessions after the batch met every other process of the host. Only then is it a sign that they did not
/// meet this one.
fn all_others_met(cut: &Cut, after: &After, lasting: &BTreeSet<&Served>) -> bool {
    let host = &cut.process.host_url;
    let met = after.served_by.iter().any(|served| served.host_url == *host);
    let mut others = lasting.iter().filter(|served| served.host_url == *host && ***served != cut.process);
    met && others.all(|served| after.served_by.contains(*served))
}

/// The id of a process of the same host that answers now but did not answer in the batch.
fn fresh(cut: &Cut, after: &After, known: &BTreeSet<Served>) -> Option<u64> {
    let new = |served: &&Served| served.host_url == cut.process.host_url && !known.contains(*served);
    after.served_by.iter().filter(new).find_map(|served| served.pid)
}

/// `32 sessions`, `1 session`
fn counted(n: u64, what: &str) -> String {
    format!("{} {what}{}", count(n), if n == 1 { "" } else { "s" })
}

fn in_words(cut: &Cut) -> String {
    let who = match &cut.process {
        Served { pid: Some(pid), host_url } => {
            format!("process {pid}{}", host_url.as_ref().map(|host| format!(" of {host}")).unwrap_or_default())
        }
        Served { pid: None, .. } => "the server".to_owned(),
    };
    let sessions = counted(cut.sessions, "session");
    let at = latency(cut.at_us);
    if cut.said_so {
        format!("{who} closed {sessions} with 1012 (service restart), {at} after the start")
    } else {
        format!("{who} was gone, and had cut {sessions}, {at} after the start")
    }
}

/// Number of connections refused at the urls of the cut: in the batch from a moment before the cut on, and after the
/// batch. A proxy without a server behind it answers 502, 503 or 504 instead.
fn refused(rows: &[Row], urls: usize, cut: &Cut, after: &After) -> u64 {
    let nobody = |record: &&SessionRecord| {
        let Outcome::Failed(kind, _) = &record.outcome else { return false };
        found_nobody(kind)
            && cut.urls.contains(&url_of(record, urls))
            && record.ended_us().is_some_and(|ended| ended.saturating_add(MOMENT_US) >= cut.at_us)
    };
    let within = rows.iter().map(|row| &row.record).filter(nobody).count() as u64;
    let later = cut.urls.iter().filter_map(|place| after.refused_connects.get(place)).sum::<u64>();
    within.saturating_add(later)
}

fn found_nobody(kind: &FailureKind) -> bool {
    matches!(kind, FailureKind::Refused | FailureKind::UpgradeRefused(502..=504) | FailureKind::HttpStatus(502..=504))
}

fn url_of(record: &SessionRecord, urls: usize) -> usize {
    usize::try_from(record.session % urls.max(1) as u64).unwrap_or(0)
}

/// The process that served a session; `None` if none is named.
fn process_of(record: &SessionRecord) -> Option<Served> {
    record.pid.map(|pid| Served { host_url: record.host_url.clone(), pid: Some(pid) })
}

fn is_cut(record: &SessionRecord) -> bool {
    let Outcome::Failed(kind, phase) = &record.outcome else { return false };
    *phase != Phase::Connect
        && matches!(kind, FailureKind::Closed(1001 | 1005 | 1006 | 1012) | FailureKind::Reset)
        && record.ended_us().is_some()
}

/// The largest cut of each process that had any. Sessions without a named process are grouped by url.
fn cuts(rows: &[Row], urls: usize) -> Vec<Cut> {
    let mut groups: BTreeMap<(Served, usize), Vec<&SessionRecord>> = BTreeMap::new();
    for record in rows.iter().map(|row| &row.record).filter(|record| record.opened_us().is_some()) {
        let group = match process_of(record) {
            Some(process) => (process, 0),
            None => (Served::default(), url_of(record, urls)),
        };
        groups.entry(group).or_default().push(record);
    }
    groups.into_iter().filter_map(|((process, _), members)| of_process(process, &members, urls)).collect()
}

fn of_process(process: Served, members: &[&SessionRecord], urls: usize) -> Option<Cut> {
    let mut ends: Vec<u64> =
        members.iter().filter(|record| is_cut(record)).filter_map(|record| record.ended_us()).collect();
    ends.sort_unstable();
    let within = |from: u64| ends.partition_point(|end| *end <= from.saturating_add(MOMENT_US));
    let (first, last) = (0..ends.len())
        .map(|first| (first, within(ends[first])))
        .max_by_key(|(first, last)| (last - first, std::cmp::Reverse(*first)))?;
    let (at_us, until_us) = (ends[first], ends[last - 1]);
    let ended = |record: &SessionRecord| record.ended_us().unwrap_or(0);
    let opened = |record: &SessionRecord| record.opened_us().unwrap_or(u64::MAX);
    let cut: Vec<&&SessionRecord> =
        members.iter().filter(|record| is_cut(record) && (at_us..=until_us).contains(&ended(record))).collect();
    // The end of a session that had its last answer before the cut may be noticed later. A session whose next request
    // was refused did not survive.
    let lived_on = members.iter().any(|record| {
        let nobody = matches!(&record.outcome, Outcome::Failed(kind, _) if found_nobody(kind));
        opened(record) <= at_us && ended(record) > until_us.saturating_add(MOMENT_US) && !nobody
    });
    let silences: Vec<u64> = cut.iter().map(|record| silence_us(record)).collect();
    let ages: Vec<u64> = cut.iter().map(|record| ended(record).saturating_sub(opened(record))).collect();
    Some(Cut {
        urls: cut.iter().map(|record| url_of(record, urls)).collect(),
        at_us,
        sessions: cut.len() as u64,
        said_so: cut.iter().any(|record| matches!(record.outcome, Outcome::Failed(FailureKind::Closed(1012), _))),
        whole: !lived_on,
        opened_later: members.iter().any(|record| opened(record) > until_us),
        by_rule: same_age(&silences) || same_age(&ages),
        process,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const MS: u64 = 1_000;

    /// A session of process `pid` that opened and ended at these milliseconds; `pid` 0 means none is named.
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

    fn refused_at(ms: u64, kind: FailureKind, phase: Phase) -> Row {
        let mut row = row(0, 0, ms, Outcome::Failed(kind, phase));
        (row.record.connect_us, row.record.reset_us) = (None, None);
        row
    }

    fn served(pids: &[u64]) -> After {
        let one = |pid: &u64| Served { host_url: Some("h:1".to_owned()), pid: Some(*pid) };
        After { served_by: pids.iter().map(one).collect(), ..After::default() }
    }

    fn nobody(n: u64) -> After {
        After { refused_connects: BTreeMap::from([(0, n)]), ..After::default() }
    }

    /// A burst in which all sessions have about the same age.
    fn cut_at(pid: u64, at_ms: u64, code: u16) -> Vec<Row> {
        (0..32).map(|n| row(pid, 10 + n, at_ms + n, closed(code))).collect()
    }

    #[test]
    fn a_server_that_says_so_was_restarted() {
        let rows = cut_at(7, 500, 1012);
        assert!(is_suspect(&rows, 1));
        let outage = judge(&rows, 1, &After::default()).expect("an outage");
        assert_eq!((outage.cut, outage.at_us), (32, 500 * MS));
        assert!(outage.evidence[0].contains("1012"), "{:?}", outage.evidence);
    }

    #[test]
    fn a_killed_process_is_known_by_who_answers_after_it() {
        let rows = cut_at(7, 500, 1006);
        assert!(is_suspect(&rows, 1));
        let outage = judge(&rows, 1, &served(&[8])).expect("an outage");
        assert_eq!(outage.evidence[1], "process 8 answers now");
        assert_eq!(judge(&rows, 1, &served(&[7])), None, "the same process answers: it has cut them by itself");
        assert_eq!(judge(&rows, 1, &nobody(2)).expect("an outage").refused_connects, 2);
        assert_eq!(judge(&rows, 1, &After::default()), None, "all of the same age: somebody's idle limit");
    }

    #[test]
    fn one_worker_of_several_is_enough_and_the_others_live_on() {
        let mut rows = cut_at(7, 500, 1006);
        rows.extend((0..32).map(|n| row(6, 10 + n, 1_000 + n, Outcome::Succeeded)));
        let outage = judge(&rows, 1, &served(&[6, 9])).expect("an outage");
        assert_eq!((outage.cut, outage.evidence[1].as_str()), (32, "process 9 answers now"));
        assert_eq!(judge(&rows, 1, &served(&[9])), None, "6 was not met either: too few sessions to know");
    }

    /// With many workers, a few sessions may well miss some of them and be the first to meet others.
    #[test]
    fn all_workers_that_end_at_once_are_an_outage() {
        let rows: Vec<Row> = [cut_at(1, 900, 1006), cut_at(2, 1_000, 1006)].concat();
        let outage = judge(&rows, 1, &served(&[3, 4])).expect("an outage");
        assert_eq!(outage.cut, rows.len() as u64, "{outage:?}");
        assert!(judge(&rows, 1, &served(&[1, 2])).is_none(), "both live on");
    }

    #[test]
    fn many_workers_of_which_few_are_met_had_no_outage() {
        let mut rows: Vec<Row> = (1..=40).map(|pid| row(pid, 10, 1_000, Outcome::Succeeded)).collect();
        rows[0] = row(1, 10, 500, closed(1006));
        assert!(!is_suspect(&rows, 1), "one session");
        rows.extend([row(1, 90, 520, closed(1006)), row(1, 400, 510, closed(1006))]);
        assert_eq!(judge(&rows, 1, &served(&[2, 3, 50])), None);
        // In a ramp, some workers get their first session after the cut.
        let mut ramp: Vec<Row> = (0..20).map(|n| row(1 + n, 100 * n, 3_000, Outcome::Succeeded)).collect();
        ramp[0] = row(1, 0, 500, closed(1006));
        assert_eq!(judge(&ramp, 1, &served(&[1, 2, 30])), None);
    }

    #[test]
    fn a_process_that_lives_on_had_no_outage() {
        let mut rows = cut_at(7, 500, 1006);
        rows.push(row(7, 20, 3_500, Outcome::Succeeded));
        assert!(!is_suspect(&rows, 1));
        assert_eq!(judge(&rows, 1, &served(&[8])), None);
        let few: Vec<Row> = (0..40).map(|n| row(7, 10, 100 + 200 * n, closed(1006))).collect();
        assert_eq!(judge(&few, 1, &served(&[7])), None, "one after the other, over eight seconds");
    }

    /// The end of a session that had its last answer just before the cut is noticed just after it.
    #[test]
    fn a_last_answer_that_was_read_a_moment_later_is_no_life_after_it() {
        let mut rows = cut_at(7, 500, 1006);
        rows.push(row(7, 20, 540, Outcome::Succeeded));
        assert!(judge(&rows, 1, &served(&[8])).is_some());
    }

    #[test]
    fn a_worker_that_was_replaced_without_a_cut_is_none() {
        let mut rows: Vec<Row> = (0..8).map(|n| row(7, 10 + n, 500, Outcome::Succeeded)).collect();
        rows.extend((0..8).map(|n| row(8, 600 + n, 1_500, Outcome::Succeeded)));
        assert!(!is_suspect(&rows, 1));
        assert_eq!(judge(&rows, 1, &served(&[8])), None);
    }

    /// A restarted container has the same process id, and serves later sessions.
    #[test]
    fn the_same_number_after_refused_connections_is_another_life() {
        let mut rows: Vec<Row> = (0..20).map(|n| row(1, 100 * n, 2_000, closed(1006))).collect();
        rows.extend((0..5).map(|n| refused_at(2_050 + n, FailureKind::Refused, Phase::Connect)));
        rows.extend((0..10).map(|n| row(1, 3_000 + 100 * n, 5_000, Outcome::Succeeded)));
        assert_eq!(judge(&rows, 1, &served(&[1])).expect("an outage").refused_connects, 5);
        rows.retain(|row| row.record.reset_us.is_some());
        assert_eq!(judge(&rows, 1, &served(&[1])), None, "without them the process has lived on");
    }

    /// A proxy answers for a server that is gone; over HTTP the next request of a session is refused.
    #[test]
    fn whoever_finds_nobody_behind_a_proxy_or_at_the_next_request_counts() {
        for (kind, phase) in [
            (FailureKind::UpgradeRefused(502), Phase::Connect),
            (FailureKind::HttpStatus(503), Phase::Reset),
            (FailureKind::Refused, Phase::Step),
        ] {
            let mut rows = cut_at(7, 500, 1006);
            rows.push(refused_at(700, kind.clone(), phase));
            assert!(judge(&rows, 1, &served(&[7])).is_some(), "{kind} at {phase}");
        }
        let mut later = cut_at(7, 500, 1006);
        later.push(row(7, 20, 4_000, Outcome::Failed(FailureKind::Refused, Phase::Step)));
        assert!(judge(&later, 1, &served(&[7])).is_some(), "a pause, and then nobody");
    }

    #[test]
    fn without_names_different_ages_tell_and_refused_connections_do() {
        // In a ramp, each session had been open and silent for a different time when all were cut at once.
        let ramp: Vec<Row> = (0..20).map(|n| row(0, 100 * n, 2_000, closed(1006))).collect();
        assert!(judge(&ramp, 1, &After::default()).is_some());
        let burst: Vec<Row> = (0..20).map(|_| row(0, 10, 2_000, closed(1006))).collect();
        assert_eq!(judge(&burst, 1, &After::default()), None);
        let mut with_refused = burst.clone();
        with_refused.extend((0..4).map(|_| refused_at(2_100, FailureKind::Refused, Phase::Connect)));
        assert_eq!(judge(&with_refused, 1, &After::default()).expect("an outage").refused_connects, 4);
        let full: Vec<Row> = (0..20).map(|_| refused_at(1, FailureKind::Refused, Phase::Connect)).collect();
        assert!(!is_suspect(&full, 1), "nothing was cut");
    }

    /// Two urls in turn: one of the two servers goes away, and refused connections at the other are not counted for it.
    #[test]
    fn each_url_is_a_server_of_its_own() {
        let at = |number: u64, mut row: Row| {
            row.record.session = number;
            row
        };
        let mut rows: Vec<Row> = (0..20).map(|n| at(2 * n, row(0, 100 * n, 2_000, closed(1006)))).collect();
        rows.extend((0..20).map(|n| at(2 * n + 1, row(0, 100 * n, 4_000, Outcome::Succeeded))));
        assert_eq!(judge(&rows, 2, &After::default()).expect("an outage").cut, 20);
        let mut burst: Vec<Row> = (0..20).map(|n| at(2 * n, row(0, 10, 2_000, closed(1006)))).collect();
        burst.extend((0..20).map(|n| at(2 * n + 1, refused_at(2_100, FailureKind::Refused, Phase::Connect))));
        assert_eq!(judge(&burst, 2, &After::default()), None);
    }
}
