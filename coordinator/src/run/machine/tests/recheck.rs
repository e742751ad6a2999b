//! Tests of batches without any success, which are a finding if the target is still there.

use super::*;

const TWO: &str =
    "[target]\nurls=\"http://h:1\"\nmode=\"compare\"\n[grid]\nbatch_sizes=[4]\nrepetitions=2\nwarmup=false\n";

fn refused(_: u64) -> Outcome {
    Outcome::Failed(FailureKind::Refused, SessionPhase::Connect)
}

/// Plays one agent whose sessions all fail. `there` gives the result of the nth check for each mode.
fn settle_refused(play: &mut Play, there: impl Fn(usize, proto::Mode) -> Option<bool>) {
    settle_with(play, refused, there);
}

/// Plays one agent. `outcome` gives the outcome by session number. Returns the number of checks.
fn settle_with(
    play: &mut Play,
    outcome: impl Fn(u64) -> Outcome,
    there: impl Fn(usize, proto::Mode) -> Option<bool>,
) -> usize {
    let mut checks = 0;
    for _ in 0..10_000 {
        if play.end.is_some() {
            return checks;
        }
        let Some(order) = play.orders.get_mut(&1).and_then(VecDeque::pop_front) else {
            if !play.store() {
                play.wait(Duration::from_millis(250));
            }
            continue;
        };
        let messages = match &order {
            FromCoordinator::Go { attempt, .. } => report(*attempt, 0, play.shares[&(1, *attempt)].1, &outcome),
            FromCoordinator::Probe(probe) => {
                checks += 1;
                let found = probe.modes.iter().filter_map(|mode| {
                    let ready = there(checks, *mode)?;
                    let problem = if ready { String::new() } else { "refused at connect".to_owned() };
                    let addresses = vec!["10.0.0.1:1".to_owned()];
                    Some(ProbeResult {
                        url: "http://h:1".to_owned(),
                        mode: *mode,
                        ready,
                        last_word: true,
                        problem,
                        addresses,
                        served_by: Vec::new(),
                        refused_connects: 0,
                    })
                });
                vec![FromAgent::Probed(found.collect())]
            }
            other => answer(1, other, play.mono, &mut play.shares),
        };
        for message in messages {
            play.say(1, message);
        }
    }
    panic!("the run did not end: {:?}", play.machine.phase);
}

/// A server that rejects sessions explicitly was there, so no check follows.
#[test]
fn a_server_that_says_no_is_there() {
    let full = proto::FailureKind::CapacityReached;
    assert!(
        full.is_answer() && FailureKind::HttpStatus(404).is_answer() && FailureKind::UpgradeRefused(429).is_answer()
    );
    for none in [FailureKind::Refused, FailureKind::Closed(1012), FailureKind::UpgradeRefused(503), FailureKind::Reset]
    {
        assert!(!none.is_answer(), "{none}");
    }
    let mut play = Play::new(TWO);
    play.join(1, "a");
    // One of the four sessions gets an explicit rejection.
    let outcome = |n| match n {
        0 => Outcome::Failed(FailureKind::CapacityReached, SessionPhase::Reset),
        n => refused(n),
    };
    let checks = settle_with(&mut play, outcome, |_, _| Some(true));
    assert_eq!((play.code(), checks), (0, 1), "asked before the first batch only");
    assert_eq!(play.accepted().len(), 4);
}

/// Plays a first batch without any success, up to the check that follows. The check is not answered.
fn until_asked(play: &mut Play) {
    for _ in 0..1_000 {
        if matches!(play.machine.phase, Phase::Rechecking(_)) {
            return;
        }
        let Some(order) = play.orders.get_mut(&1).and_then(VecDeque::pop_front) else {
            play.wait(Duration::from_millis(250));
            continue;
        };
        let messages = match &order {
            FromCoordinator::Go { attempt, .. } => report(*attempt, 0, play.shares[&(1, *attempt)].1, refused),
            other => answer(1, other, play.mono, &mut play.shares),
        };
        for message in messages {
            play.say(1, message);
        }
    }
    panic!("nothing was asked: {:?}", play.machine.phase);
}

#[test]
fn a_target_that_answers_afterwards_has_refused_by_itself() {
    let mut play = Play::new(TWO);
    play.join(1, "a");
    settle_refused(&mut play, |_, _| Some(true));
    assert_eq!(play.code(), 0);
    assert_eq!(play.accepted(), [(0, 1), (1, 1), (2, 1), (3, 1)], "four batches at 0 %, each a finding");
}

#[test]
fn a_target_that_is_gone_leaves_the_batch_open() {
    let mut play = Play::new(TWO);
    play.join(1, "a");
    // The target answers before the run and after the first batch, but not after the second.
    settle_refused(&mut play, |check, _| Some(check <= 2));
    assert_eq!(play.code(), crate::exit::TARGET_NOT_READY);
    let text = play.end.as_ref().and_then(|end| end.failure.as_ref()).expect("failure").to_string();
    assert!(text.contains("not there any more") && text.contains("http://h:1 (ws) from agent a: refused"), "{text}");
    assert_eq!(play.accepted(), [(0, 1)]);
    let last = play.stored.last().expect("kept all the same");
    assert!(!last.stands && last.id.batch == 1, "--resume begins with it");
    assert_eq!(play.machine.results().len(), 1);
}

#[test]
fn a_mode_that_never_worked_is_not_asked_again() {
    let mut play = Play::new(TWO);
    play.join(1, "a");
    // HTTP never works. Over WebSocket the target answers every check.
    settle_refused(&mut play, |_, mode| Some(mode == proto::Mode::Ws));
    assert_eq!(play.code(), 0);
    assert_eq!(play.accepted().len(), 4, "that HTTP does not work is a finding");
}

#[test]
fn silence_is_no_answer_and_a_signal_waits_for_none() {
    let mut play = Play::new(TWO);
    play.join(1, "a");
    let mut silent = Play::new(TWO);
    silent.join(1, "a");
    settle_refused(&mut silent, |check, _| (check == 1).then_some(true));
    assert_eq!(silent.code(), crate::exit::TARGET_NOT_READY, "not one word within the time for it");

    until_asked(&mut play);
    play.apply(Event::Interrupt);
    assert!(play.store());
    assert_eq!(play.code(), crate::exit::INTERRUPTED);
    assert!(!play.stored[0].stands && play.machine.results().is_empty());
}

/// The checking agent leaves, so the result stands without a check.
#[test]
fn nobody_left_to_ask_leaves_what_was_measured() {
    let mut play = Play::new(&format!("{TWO}[agents]\ncount = 1\nready_timeout_seconds = 5\n"));
    play.join(1, "a");
    until_asked(&mut play);
    play.leave(1);
    assert!(play.store());
    assert!(play.stored[0].stands);
}
