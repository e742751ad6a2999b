//! Tests of surveys, waits for ports, and clocks.

use super::*;
use crate::run::upload::Share;

fn capacity_with(waiting: u64, back: Duration) -> Capacity {
    Capacity {
        ports_taken: waiting,
        ports_waiting: waiting,
        ports_back_us: proto::units::micros(back),
        ..hello("x").capacity
    }
}

/// Plays correct agents that answer surveys with the value of `capacity` at that time.
fn settle_with(play: &mut Play, capacity: impl Fn(Duration) -> Capacity) {
    for _ in 0..10_000 {
        if play.end.is_some() {
            return;
        }
        let keys: Vec<ConnectionId> = play.orders.keys().copied().collect();
        let mut busy = false;
        for key in keys {
            if let Some(FromCoordinator::Survey { number, .. }) = play.orders.get(&key).and_then(VecDeque::front) {
                let (number, now) = (*number, play.mono);
                play.orders.get_mut(&key).and_then(VecDeque::pop_front);
                play.say(key, FromAgent::Surveyed { number, capacity: capacity(now) });
                busy = true;
            } else {
                busy |= play.obey(key);
            }
        }
        if !(busy | play.store()) {
            play.wait(Duration::from_millis(250));
        }
    }
    panic!("the run did not end: {:?}", play.machine.phase);
}

#[test]
fn a_batch_waits_for_ports_that_come_back_by_themselves() {
    let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 1\n"));
    play.join(1, "a");
    let back_at = Duration::from_secs(40);
    settle_with(&mut play, |now| match back_at.checked_sub(now) {
        Some(left) => capacity_with(990, left),
        None => capacity_with(0, Duration::ZERO),
    });
    assert_eq!((play.code(), play.accepted().len()), (0, 4));
    assert!(play.mono >= back_at, "{:?}", play.mono);
    let waits: Vec<(u64, Duration)> = play
        .told
        .iter()
        .filter_map(|event| match event {
            RunEvent::WaitingForPorts { batch, pause, .. } => Some((batch.batch_size, *pause)),
            _ => None,
        })
        .collect();
    // 10 of 1,000 ports are free: enough for 8 sessions, not for 16.
    assert_eq!(waits.len(), 1, "{waits:?}");
    assert!(waits[0].0 == 16 && waits[0].1 > Duration::from_secs(30), "{waits:?}");
}

#[test]
fn ports_that_never_come_back_are_not_waited_for_for_ever() {
    let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 1\n"));
    play.join(1, "a");
    settle_with(&mut play, |_| capacity_with(999, Duration::from_secs(60)));
    assert_eq!(play.code(), crate::exit::TOO_FEW_AGENTS);
    assert!(play.mono < Duration::from_secs(200), "{:?}", play.mono);
    let text = play.end.and_then(|end| end.failure).expect("failure").to_string();
    assert!(text.contains("999 in TIME_WAIT") && text.contains("or wait 60 s"), "{text}");
}

#[test]
fn an_agent_is_told_to_start_on_its_own_clock() {
    let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 2\n"));
    play.join(1, "a");
    play.join(2, "b");
    let ahead = |key: ConnectionId| if key == 1 { 500_000 } else { -300_000_i64 };
    let mut starts: BTreeMap<ConnectionId, u64> = BTreeMap::new();
    while starts.len() < 2 {
        let keys: Vec<ConnectionId> = play.orders.keys().copied().collect();
        let mut busy = false;
        for key in keys {
            match play.orders.get(&key).and_then(VecDeque::front) {
                Some(FromCoordinator::Ping { sequence }) => {
                    let sequence = *sequence;
                    play.orders.get_mut(&key).and_then(VecDeque::pop_front);
                    // The ping takes 0.2 ms and the answer 0.4 ms.
                    play.mono += Duration::from_micros(200);
                    let agent_us = proto::units::micros(play.mono).checked_add_signed(10_000_000 + ahead(key));
                    let agent_us = agent_us.expect("positive");
                    play.mono += Duration::from_micros(400);
                    play.say(key, FromAgent::Pong(Pong { sequence, agent_us }));
                    busy = true;
                }
                Some(FromCoordinator::Go { attempt, start_at_us }) if attempt.batch == 0 => {
                    starts.insert(key, *start_at_us);
                    play.orders.get_mut(&key).and_then(VecDeque::pop_front);
                    busy = true;
                }
                Some(_) => busy |= play.obey(key),
                None => {}
            }
        }
        if !(busy | play.store()) {
            play.wait(Duration::from_millis(1));
        }
    }
    // Converted to one clock, both starts agree within the error of the pings.
    let common = |key: ConnectionId| i128::from(starts[&key]) - i128::from(ahead(key));
    assert!((common(1) - common(2)).unsigned_abs() <= 650, "{starts:?}");
    assert!(common(1) - 10_000_000 >= i128::try_from(play.mono.as_micros()).expect("small"), "not in the past");
}

#[test]
fn an_agent_that_answers_no_ping_does_not_keep_the_others_from_starting() {
    let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 1\n"));
    play.join(1, "a");
    play.join(2, "b");
    play.settle_until_preparing(0);
    for _ in 0..200 {
        let deaf = matches!(play.orders.get(&2).and_then(VecDeque::front), Some(FromCoordinator::Ping { .. }));
        if !(play.obey(1) || (!deaf && play.obey(2)) || play.store()) {
            play.wait(Duration::from_millis(250));
        }
        if play.hung_up.contains(&2) {
            break;
        }
    }
    assert!(play.hung_up.contains(&2));
    play.orders.remove(&2);
    play.settle();
    assert_eq!((play.code(), play.accepted().len()), (0, 4));
}

#[test]
fn sessions_that_follow_each_other_in_one_place_are_waited_for() {
    let plan = "[target]\nurls = [\"http://h:1\"]\n[session]\ntimeout_seconds = 1\n\
                launch = { kind = \"arrivals\", per_second = 100, for_seconds = 2 }\n";
    let play = Play::new(plan);
    let batch = play.machine.batches[0];
    let mut part = Share::new("a", 0, batch.batch_size);
    part.in_flight_max = 1;
    assert_eq!((batch.batch_size, part.turns()), (200, 200));
    // Each session may take 5 s: four phases and a wait of one second each.
    assert!(play.machine.longest(&batch, part.turns()) >= Duration::from_secs(1_000));
    assert!(play.machine.longest(&batch, 1) < Duration::from_secs(100));
}

#[test]
fn an_attempt_that_took_too_long_says_so_in_its_verdict() {
    let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 1\nmax_attempts = 1\n[session]\ntimeout_seconds = 1\n"));
    play.join(1, "a");
    play.until_running(0);
    // The agent ignores the order to start and obeys the order to stop.
    play.orders.get_mut(&1).map(VecDeque::clear);
    for _ in 0..400 {
        play.wait(Duration::from_millis(500));
        if let Some(FromCoordinator::Abort { attempt, .. }) = play.orders.get(&1).and_then(VecDeque::front).cloned() {
            play.orders.get_mut(&1).map(VecDeque::clear);
            for message in report(attempt, 0, 8, |_| Outcome::Succeeded) {
                play.say(1, message);
            }
            break;
        }
    }
    let finished = play.to_store.as_ref().expect("an attempt");
    let verdict = &finished.summary.verdict;
    assert_eq!((finished.summary.accepted, verdict.validity), (false, Validity::Degraded));
    assert!(verdict.reasons.iter().any(|reason| reason.starts_with("given up: it took longer")), "{verdict:?}");
}
