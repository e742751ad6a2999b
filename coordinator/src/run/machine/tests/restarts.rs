//! Tests of batches during which the server goes away.

use super::*;
use crate::exit;
use crate::results::verdict::Bottleneck;

const ONE: &str = "target.urls=\"http://h:1\"\ngrid.batch_sizes=[8]\ngrid.repetitions=1\ngrid.warmup=false\n";

/// The record of a session. `restarted` means that a restart of the server cut it.
fn life(session: u64, restarted: bool) -> SessionRecord {
    let outcome =
        if restarted { Outcome::Failed(FailureKind::Closed(1012), SessionPhase::Step) } else { Outcome::Succeeded };
    let mut record = SessionRecord::without_life(session, outcome, String::new());
    (record.pid, record.host_url) = (Some(7), Some("h:1".to_owned()));
    record
}

/// Plays one agent. The server is restarted during the attempts with these numbers.
fn play(more: &str, restarted: &[u32]) -> Play {
    let mut play = Play::new(&format!("{ONE}{more}"));
    play.join(1, "a");
    for _ in 0..10_000 {
        if play.end.is_some() {
            return play;
        }
        let Some(order) = play.orders.get_mut(&1).and_then(VecDeque::pop_front) else {
            if !play.store() {
                play.wait(Duration::from_millis(250));
            }
            continue;
        };
        let messages = match &order {
            FromCoordinator::Go { attempt, .. } => {
                let under = restarted.contains(&attempt.attempt);
                report_of(*attempt, 0, play.shares[&(1, *attempt)].1, |session| life(session, under))
            }
            other => answer(1, other, play.mono, &mut play.shares),
        };
        for message in messages {
            play.say(1, message);
        }
    }
    panic!("the run did not end: {:?}", play.machine.phase);
}

#[test]
fn the_attempt_is_repeated_and_the_undisturbed_one_counts() {
    let play = play("", &[1]);
    assert_eq!((play.code(), play.accepted()), (exit::DONE, vec![(0, 2)]));
    let (first, second) = (&play.stored[0].summary, &play.stored[1].summary);
    assert!(
        !first.accepted && first.verdict.outage.as_ref().is_some_and(|outage| outage.cut == 8),
        "{:?}",
        first.verdict
    );
    assert_eq!((second.verdict.validity, &second.verdict.outage), (Validity::Valid, &None));
    assert!(second.refused_before[0].starts_with("attempt 1: the server was restarted"), "{:?}", second.refused_before);
}

#[test]
fn a_server_that_falls_over_each_time_is_the_limit() {
    let play = play("agents.max_attempts=3\n", &[1, 2, 3]);
    assert_eq!((play.code(), play.accepted()), (exit::DONE, vec![(0, 3)]));
    let verdict = &play.stored[2].summary.verdict;
    assert_eq!((verdict.validity, verdict.limit), (Validity::Valid, Bottleneck::Server));
    assert!(verdict.reasons[0].contains("it crashed in 3 of 3 attempts"), "{verdict:?}");
}

#[test]
fn it_may_be_kept_or_end_the_run() {
    let kept = play("target.on_restart=\"keep\"\n", &[1]);
    assert_eq!((kept.code(), kept.accepted()), (exit::NOT_SOUND, vec![(0, 1)]));
    let verdict = &kept.stored[0].summary.verdict;
    assert!(verdict.validity == Validity::Degraded && verdict.outage.is_some(), "{verdict:?}");
    let ended = play("target.on_restart=\"abort\"\n", &[1]);
    assert_eq!((ended.code(), ended.accepted()), (exit::NOT_SOUND, Vec::new()));
    assert!(!ended.stored[0].stands, "the batch is left open");
}

/// Losses and restarts together use up the attempts. The last one is unsound, even if hosts are missing too.
#[test]
fn an_attempt_that_is_given_up_is_unsound_whatever_else_it_missed() {
    let hosts = "target.expected_hosts=2\ntarget.require_hosts=true\nagents.count=1\nagents.max_attempts=2\n";
    let mut play = Play::new(&format!("{ONE}{hosts}"));
    play.join(1, "a");
    play.until_running(0);
    play.leave(1);
    assert!(play.store(), "the first attempt is lost");
    play.join(2, "b");
    for _ in 0..10_000 {
        if play.end.is_some() {
            break;
        }
        let Some(order) = play.orders.get_mut(&2).and_then(VecDeque::pop_front) else {
            if !play.store() {
                play.wait(Duration::from_millis(250));
            }
            continue;
        };
        let messages = match &order {
            FromCoordinator::Go { attempt, .. } => {
                // One of the eight sessions succeeds, so that a host is known.
                report_of(*attempt, 0, play.shares[&(2, *attempt)].1, |session| life(session, session > 0))
            }
            other => answer(2, other, play.mono, &mut play.shares),
        };
        for message in messages {
            play.say(2, message);
        }
    }
    let last = play.stored.last().expect("stored");
    let verdict = &last.summary.verdict;
    assert!(last.stands && !last.summary.accepted && verdict.hosts_missing, "{verdict:?}");
    assert!(verdict.reasons.iter().any(|why| why.starts_with("the server was restarted")), "{verdict:?}");
    assert_eq!(play.code(), exit::NOT_SOUND, "and not {}", exit::HOSTS_NOT_MET);
}
