//! Tests of uploads that arrive late, twice, in another order, in part, or over a second connection.

use super::*;

/// An upload as a report followed by four chunks of records.
fn pieces(attempt: AttemptId, first: u64, sessions: u64) -> Vec<FromAgent> {
    let whole = report(attempt, first, sessions, |_| Outcome::Succeeded);
    let [FromAgent::Report(report), FromAgent::Records(all)] = whole.as_slice() else { panic!("a report and records") };
    let size = all.records.len().div_ceil(4).max(1);
    let chunks: Vec<Vec<SessionRecord>> = all.records.chunks(size).map(<[_]>::to_vec).collect();
    let report = Report { chunks: chunks.len() as u64, ..report.clone() };
    std::iter::once(FromAgent::Report(report))
        .chain(
            (0..).zip(chunks).map(|(sequence, records)| FromAgent::Records(RecordChunk { attempt, sequence, records })),
        )
        .collect()
}

/// Plays two agents until a batch runs. Returns the attempt and the upload of agent 1.
fn running() -> (Play, AttemptId, Vec<FromAgent>) {
    let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 2\nlease_seconds = 10\n"));
    play.join(1, "a");
    play.join(2, "b");
    play.until_running(2);
    let Phase::Running(current) = &play.machine.phase else { panic!("it runs") };
    let id = current.id;
    let (first, sessions) = play.shares[&(1, id)];
    (play, id, pieces(id, first, sessions))
}

/// The requests to agent `key` to send parts of its upload again.
fn resends(play: &Play, key: ConnectionId) -> Vec<Resend> {
    let orders = play.orders.get(&key).into_iter().flatten();
    orders
        .filter_map(|order| if let FromCoordinator::Resend(resend) = order { Some(resend.clone()) } else { None })
        .collect()
}

fn back(play: &mut Play, key: ConnectionId, name: &str, holding: Option<AttemptId>) {
    play.orders.insert(key, VecDeque::new());
    play.apply(Event::Joined(key, Box::new(Hello { holding, ..hello(name) })));
}

#[test]
fn a_gap_is_asked_for_as_soon_as_it_shows() {
    let (mut play, id, pieces) = running();
    for piece in [&pieces[0], &pieces[1], &pieces[4], &pieces[4]] {
        play.say(1, piece.clone());
    }
    let wanted = Resend { attempt: id, report: false, sequences: vec![1, 2], from: None };
    assert_eq!(resends(&play, 1), [wanted.clone(), wanted], "each time that the end comes without the middle");
    play.say(1, pieces[2].clone());
    play.say(1, pieces[3].clone());
    play.orders.get_mut(&1).expect("orders").clear();
    play.settle();
    assert_eq!((play.code(), play.accepted()), (0, vec![(0, 1), (1, 1), (2, 1), (3, 1)]));
}

#[test]
fn an_upload_that_stops_is_asked_for_with_growing_patience() {
    let (mut play, id, pieces) = running();
    play.say(1, pieces[1].clone());
    play.say(1, pieces[2].clone());
    for (seconds, asked) in [(9, 0), (1, 1), (19, 1), (1, 2)] {
        play.wait(Duration::from_secs(seconds));
        assert_eq!(resends(&play, 1).len(), asked, "after {seconds} s more");
    }
    let wanted = Resend { attempt: id, report: true, sequences: Vec::new(), from: Some(2) };
    assert_eq!(resends(&play, 1)[0], wanted, "the report, and all after what is there");
}

#[test]
fn a_broken_upload_goes_on_over_the_next_connection() {
    let (mut play, id, pieces) = running();
    for piece in &pieces[..3] {
        play.say(1, piece.clone());
    }
    play.leave(1);
    assert!(play.to_store.is_none(), "it may come back");
    back(&mut play, 7, "a", Some(id));
    let wanted = Resend { attempt: id, report: false, sequences: vec![2, 3], from: None };
    assert_eq!(resends(&play, 7), [wanted]);
    // Duplicates in reverse order must change nothing.
    for piece in pieces.iter().rev() {
        play.say(7, piece.clone());
    }
    play.orders.get_mut(&7).expect("orders").retain(|order| !matches!(order, FromCoordinator::Resend(_)));
    play.settle();
    assert_eq!((play.code(), play.accepted()), (0, vec![(0, 1), (1, 1), (2, 1), (3, 1)]));
    let undisturbed = {
        let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 2\n"));
        play.join(1, "a");
        play.join(2, "b");
        play.settle();
        play
    };
    assert_eq!(play.stored[2].rows, undisturbed.stored[2].rows);
}

#[test]
fn whoever_does_not_come_back_within_its_lease_is_lost() {
    for returns in [false, true] {
        let (mut play, id, pieces) = running();
        play.say(1, pieces[0].clone());
        play.leave(1);
        if returns {
            // A new process does not have the results of the old one.
            back(&mut play, 7, "a", None);
        } else {
            play.wait(Duration::from_secs(10));
        }
        while play.to_store.is_none() {
            assert!(play.obey(2), "the other one is cut and reports");
        }
        let cut = play.to_store.as_ref().expect("an attempt");
        assert_eq!((cut.id, cut.summary.accepted, cut.summary.ledger.lost), (id, false, 8));
        play.settle();
        assert_eq!(play.code(), 0);
        assert!(play.accepted().contains(&(2, 2)));
    }
}

#[test]
fn results_that_nobody_waits_for_are_let_go_of() {
    let (mut play, id, _) = running();
    back(&mut play, 7, "stranger", Some(AttemptId { attempt: 99, ..id }));
    let let_go = |order: &FromCoordinator| matches!(order, FromCoordinator::Stored(attempt) if attempt.attempt == 99);
    assert!(play.orders[&7].iter().any(let_go), "{:?}", play.orders[&7]);
    assert!(resends(&play, 7).is_empty());
}

#[test]
fn an_agent_that_takes_its_leave_is_thanked_and_its_attempt_repeated() {
    let (mut play, id, pieces) = running();
    play.say(1, FromAgent::Leaving("interrupted by a signal".to_owned()));
    for piece in pieces {
        play.say(1, piece);
    }
    assert!(play.orders[&1].iter().any(|order| *order == FromCoordinator::Stored(id)), "it waits for nothing else");
    play.say(1, FromAgent::Goodbye("interrupted by a signal".to_owned()));
    play.orders.remove(&1);
    while play.to_store.is_none() {
        assert!(play.obey(2), "the other one is cut and reports");
    }
    let cut = play.to_store.as_ref().expect("an attempt");
    assert!(!cut.summary.accepted && cut.summary.ledger.lost == 0, "what it had is kept: {}", cut.summary.ledger);
    assert_eq!(cut.summary.verdict.validity, Validity::Degraded);
    play.settle();
    assert_eq!(play.code(), 0);
}

/// The check of a late agent would add a session to the measured load.
#[test]
fn whoever_comes_while_sessions_run_is_checked_before_the_next_batch() {
    let (mut play, _, _) = running();
    play.join(3, "c");
    let probed = |play: &Play| play.orders[&3].iter().any(|order| matches!(order, FromCoordinator::Probe(_)));
    assert!(!probed(&play));
    play.settle();
    let shares: Vec<usize> = play.stored.iter().map(|f| f.summary.by_agent.len()).collect();
    assert_eq!(shares, [2, 2, 2, 3], "it takes part in the next one");
}

#[test]
fn a_coordinator_that_was_stopped_blames_nobody() {
    let (mut play, _, _) = running();
    play.mono += Duration::from_secs(100);
    play.apply(Event::HeldUp);
    play.apply(Event::Tick);
    assert!(play.hung_up.is_empty());
    play.settle();
    assert_eq!((play.code(), play.accepted().len()), (0, 4));
}

#[test]
fn what_an_earlier_life_decided_stands() {
    let first = {
        let mut play = Play::new(PLAN);
        play.join(1, "a");
        play.settle();
        play
    };
    let plan = Arc::new(plan_of(PLAN).expect("plan"));
    let mut history = History::default();
    for finished in &first.stored[..2] {
        history.decided.insert(finished.id.batch, finished.summary.clone());
    }
    history.refused.insert(2, 1);
    history.told.insert(2, vec!["attempt 1: agent b was lost".to_owned()]);
    let urls = plan.target.urls.clone();
    let setup = Setup { plan, run: RunId(uuid::Uuid::nil()), urls, ca_pem: Vec::new(), history };
    let mut play = Play { machine: Machine::new(setup.clone()), ..Play::new(PLAN) };
    assert!(!play.machine.nothing_left());
    play.join(1, "a");
    play.settle();
    assert_eq!((play.code(), play.accepted()), (0, vec![(2, 2), (3, 1)]), "attempts are counted on");
    assert_eq!(play.machine.results().len(), 4);
    let before: Vec<usize> = play.stored.iter().map(|finished| finished.summary.refused_before.len()).collect();
    assert_eq!(before, [1, 0], "what was refused before is told with the batch");

    let mut all = setup;
    all.history.decided = first.stored.iter().map(|f| (f.id.batch, f.summary.clone())).collect();
    let mut machine = Machine::new(all);
    assert!(machine.nothing_left());
    let now = Now { mono: Duration::ZERO, wall: Timestamp::UNIX_EPOCH };
    assert!(matches!(machine.finish(now).as_slice(), [Effect::Over(end)] if end.code(true) == 0));
}

#[test]
fn nobody_is_waited_for_twice_in_vain() {
    let text = PLAN.replace("[8, 16]", "[8, 1500]");
    let agents = "[agents]\ncount = 2\nready_timeout_seconds = 60\non_shortfall = \"continue\"\n";
    let mut play = Play::new(&format!("{text}{agents}"));
    play.join(1, "a");
    play.join(2, "b");
    play.until_running(0);
    play.leave(2);
    let before = play.mono;
    play.settle();
    let waits = play.told.iter().filter(|event| matches!(event, RunEvent::WaitingForAgents { .. })).count();
    let skipped = play.told.iter().filter(|event| matches!(event, RunEvent::BatchSkipped { .. })).count();
    assert_eq!((waits, skipped, play.accepted().len()), (1, 2, 2), "one of 1,000 descriptors can't carry 1,500");
    assert!(play.mono - before < Duration::from_secs(70));
}

#[test]
fn whoever_can_not_be_believed_is_sent_away() {
    let (mut play, id, _) = running();
    play.say(1, FromAgent::Records(RecordChunk { attempt: id, sequence: 0, records: Vec::new() }));
    assert!(play.orders[&1].iter().any(|order| matches!(order, FromCoordinator::Dismiss(_))));
    assert_eq!(play.hung_up, [1]);
    play.orders.remove(&1);
    play.settle();
    assert_eq!(play.code(), 0);
    assert!(play.accepted().contains(&(2, 2)) && play.accepted().contains(&(3, 1)));
}

#[test]
fn only_those_who_have_a_share_are_waited_for_and_listened_to() {
    let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 2\n"));
    play.join(1, "a");
    play.join(2, "b");
    play.settle_until_preparing(0);
    play.join(3, "c");
    let Phase::Arming(current, _) = &play.machine.phase else { panic!("it is prepared") };
    let id = current.id;
    for _ in 0..2 {
        play.say(3, FromAgent::Armed(id));
    }
    let Phase::Arming(current, round) = &play.machine.phase else { panic!("nobody is armed who counts") };
    assert_eq!(round.silent(), current.owners());
    play.settle();
    assert_eq!((play.code(), play.accepted().len()), (0, 4));
}

#[test]
fn a_loss_in_the_warm_up_is_like_any_other() {
    let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 1\n"));
    play.join(1, "a");
    play.until_running(AttemptId::WARMUP);
    play.leave(1);
    assert!(play.end.is_none(), "another may come");
    play.join(2, "b");
    play.settle();
    assert_eq!((play.code(), play.accepted().len()), (0, 4));
}

/// A run that ends because of too few agents leaves the batch open for `--resume`.
#[test]
fn a_batch_whose_attempts_are_not_used_up_stays_open() {
    let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 1\nlocal = 1\n"));
    play.join(1, "a");
    play.until_running(1);
    play.leave(1);
    while play.end.is_none() {
        assert!(play.store(), "the attempt is kept");
        play.wait(Duration::from_secs(1));
    }
    assert_eq!(play.code(), crate::exit::TOO_FEW_AGENTS);
    let last = play.stored.last().expect("an attempt");
    assert_eq!((last.id.batch, last.summary.accepted, last.stands), (1, false, false));
    assert_eq!(play.machine.results().len(), 1);
}

#[test]
fn an_agent_that_comes_and_goes_keeps_no_run_from_its_end() {
    let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 2\nready_timeout_seconds = 60\n"));
    play.join(1, "a");
    for key in 2..2_000 {
        if play.end.is_some() {
            break;
        }
        play.join(key, "b");
        play.pongs();
        play.wait(Duration::from_secs(1));
        if play.end.is_none() {
            play.leave(key);
        }
    }
    assert_eq!(play.code(), crate::exit::TOO_FEW_AGENTS);
}
