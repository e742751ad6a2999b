//! A property test with random events in random order.

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Join(ConnectionId),
    Leave(ConnectionId),
    Obey(ConnectionId),
    Skip(ConnectionId),
    Store,
    Wait(u64),
    Silence(u64),
    Interrupt,
    Stale(ConnectionId),
    /// The agent sends its report and loses its connection. It then reconnects with or without its records.
    Break(ConnectionId, bool),
    /// The agent announces that it is leaving and uploads its results.
    TakeLeave(ConnectionId),
    HeldUp,
}

/// The number of test cases, which `PROPTEST_CASES` overrides.
fn cases(usual: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(usual)
}

fn step() -> impl Strategy<Value = Step> {
    let key = || 0_u64..4;
    prop_oneof![
        3 => key().prop_map(Step::Join),
        1 => key().prop_map(Step::Leave),
        20 => key().prop_map(Step::Obey),
        1 => key().prop_map(Step::Skip),
        5 => Just(Step::Store),
        4 => (0_u64..2_000).prop_map(Step::Wait),
        1 => (0_u64..20_000).prop_map(Step::Silence),
        1 => Just(Step::Interrupt),
        2 => key().prop_map(Step::Stale),
        3 => (key(), any::<bool>()).prop_map(|(key, keeps)| Step::Break(key, keeps)),
        1 => key().prop_map(Step::TakeLeave),
        1 => Just(Step::HeldUp),
    ]
}

/// The share that this agent is running, if any.
fn go_of(play: &Play, key: ConnectionId) -> Option<(AttemptId, u64, u64)> {
    let Phase::Running(current) = &play.machine.phase else { return None };
    let (first, sessions) = play.shares.get(&(key, current.id))?;
    Some((current.id, *first, *sessions))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(400), ..ProptestConfig::default() })]

    /// Stored attempts balance (checked in `apply`), batches are accepted at most once and in order, lost sessions are
    /// accepted only with `on_loss = "keep"`, and correct agents bring the run to its end.
    #[test]
    fn any_order_of_events_keeps_the_invariants(steps in proptest::collection::vec(step(), 0..120), keep in any::<bool>()) {
        let on_loss = if keep { "keep" } else { "repeat" };
        let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 2\non_loss = \"{on_loss}\"\nready_timeout_seconds = 86400\n"));
        let mut next_key = 100;
        let mut live: BTreeMap<u64, ConnectionId> = BTreeMap::new();
        for step in steps {
            if play.end.is_some() {
                break;
            }
            live.retain(|_, key| play.orders.contains_key(key) && !play.hung_up.contains(key));
            match step {
                Step::Join(n) if !live.contains_key(&n) => {
                    next_key += 1;
                    live.insert(n, next_key);
                    play.join(next_key, &format!("a{n}"));
                }
                Step::Leave(n) => {
                    if let Some(key) = live.remove(&n) {
                        play.leave(key);
                    }
                }
                Step::Obey(n) => {
                    if let Some(key) = live.get(&n) {
                        play.obey(*key);
                    }
                }
                // The order is lost and the agent does nothing, so the machine must stop waiting by itself.
                Step::Skip(n) => {
                    if let Some(orders) = live.get(&n).and_then(|key| play.orders.get_mut(key)) {
                        orders.pop_front();
                    }
                }
                Step::Store => {
                    play.store();
                }
                Step::Wait(ms) => play.wait(Duration::from_millis(ms)),
                Step::Silence(ms) => {
                    play.mono += Duration::from_millis(ms);
                    play.apply(Event::Tick);
                    let gone = std::mem::take(&mut play.hung_up);
                    for key in gone {
                        play.orders.remove(&key);
                    }
                }
                Step::Interrupt => play.apply(Event::Interrupt),
                Step::Stale(n) => {
                    if let Some(key) = live.get(&n).copied() {
                        let id = AttemptId { run: play.machine.setup.run, batch: 77, attempt: 9 };
                        for message in report(id, 0, 3, |_| Outcome::Succeeded) {
                            play.say(key, message);
                        }
                        play.say(key, FromAgent::Armed(id));
                    }
                }
                Step::Break(n, keeps) => {
                    let Some(key) = live.remove(&n) else { continue };
                    let held = go_of(&play, key);
                    if let Some((id, first, sessions)) = held {
                        let report = report(id, first, sessions, |_| Outcome::Succeeded).swap_remove(0);
                        play.say(key, report);
                    }
                    play.leave(key);
                    if play.end.is_some() {
                        continue;
                    }
                    next_key += 1;
                    live.insert(n, next_key);
                    play.orders.insert(next_key, VecDeque::new());
                    let holding = held.map(|(id, ..)| id).filter(|_| keeps);
                    play.apply(Event::Joined(next_key, Box::new(Hello { holding, ..hello(&format!("a{n}")) })));
                    if let (Some((id, first, sessions)), true) = (held, keeps) {
                        play.shares.insert((next_key, id), (first, sessions));
                    }
                }
                Step::TakeLeave(n) => {
                    let Some(key) = live.get(&n).copied() else { continue };
                    let held = go_of(&play, key);
                    play.say(key, FromAgent::Leaving("told to".to_owned()));
                    for piece in held.map_or_else(Vec::new, |(id, first, n)| report(id, first, n, |_| Outcome::Succeeded)) {
                        play.say(key, piece);
                    }
                }
                Step::HeldUp => play.apply(Event::HeldUp),
                Step::Join(_) => {}
            }
        }
        // The remaining agents leave, and new agents that behave correctly join.
        if play.end.is_none() {
            let keys: Vec<ConnectionId> = play.orders.keys().copied().collect();
            for key in keys {
                play.leave(key);
            }
            for n in 0..2 {
                play.join(1_000 + n, &format!("fresh{n}"));
            }
            if play.end.is_none() {
                play.settle();
            }
        }
        let accepted = play.accepted();
        let batches: Vec<u32> = accepted.iter().map(|(batch, _)| *batch).collect();
        prop_assert!(batches.windows(2).all(|pair| pair[0] < pair[1]), "{batches:?}");
        for finished in &play.stored {
            if finished.summary.accepted && !keep {
                prop_assert_eq!(finished.summary.ledger.lost, 0);
            }
        }
    }
}
