//! Tests of the machine with simulated agents, without a network or a clock.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use proto::message::{Pong, ProbeResult, RecordChunk, RefusedWhy, Report, Resend};
use proto::{
    AttemptId, Bounds, Capacity, FailureKind, HistogramSet, Ledger, Outcome, Phase as SessionPhase, SessionRecord,
};

use super::*;
use crate::plan::check::plan_of;
use crate::results::verdict::Validity;

const PLAN: &str = "[target]\nurls = [\"http://h:1\"]\n[grid]\nbatch_sizes = [8, 16]\nrepetitions = 2\n";

fn hello(name: &str) -> Hello {
    let mut instance = [0; 16];
    instance[..name.len().min(16)].copy_from_slice(&name.as_bytes()[..name.len().min(16)]);
    Hello {
        protocol: proto::PROTOCOL,
        version: proto::VERSION.to_owned(),
        name: name.to_owned(),
        host: "host".to_owned(),
        pid: 1,
        instance,
        plan_hash: None,
        holding: None,
        capacity: Capacity {
            threads: 2,
            descriptors: 1_000,
            ports: 1_000,
            port_pool: name.to_owned(),
            ..Capacity::default()
        },
    }
}

/// The messages with which a correct agent answers an order.
fn answer(
    key: ConnectionId,
    order: &FromCoordinator,
    mono: Duration,
    shares: &mut BTreeMap<(ConnectionId, AttemptId), (u64, u64)>,
) -> Vec<FromAgent> {
    match order {
        FromCoordinator::Probe(probe) => vec![FromAgent::Probed(
            probe
                .target
                .urls
                .iter()
                .flat_map(|url| probe.modes.iter().map(move |mode| (url, mode)))
                .map(|(url, mode)| ProbeResult {
                    url: url.clone(),
                    mode: *mode,
                    ready: true,
                    last_word: true,
                    problem: String::new(),
                    addresses: vec!["10.0.0.1:1".to_owned()],
                    served_by: Vec::new(),
                    refused_connects: 0,
                })
                .collect(),
        )],
        // The simulated clocks agree, and the answer arrives without delay.
        FromCoordinator::Ping { sequence } => {
            vec![FromAgent::Pong(Pong { sequence: *sequence, agent_us: proto::units::micros(mono) })]
        }
        FromCoordinator::Survey { number, .. } => {
            vec![FromAgent::Surveyed { number: *number, capacity: hello("x").capacity }]
        }
        FromCoordinator::Prepare(assignment) => {
            shares.insert((key, assignment.attempt), (assignment.first_session, assignment.sessions));
            vec![FromAgent::Armed(assignment.attempt)]
        }
        FromCoordinator::Go { attempt, .. } | FromCoordinator::Resend(Resend { attempt, .. }) => shares
            .get(&(key, *attempt))
            .map_or_else(Vec::new, |(first, sessions)| report(*attempt, *first, *sessions, |_| Outcome::Succeeded)),
        _ => Vec::new(),
    }
}

fn report(attempt: AttemptId, first: u64, sessions: u64, outcome: impl Fn(u64) -> Outcome) -> Vec<FromAgent> {
    report_of(attempt, first, sessions, |session| SessionRecord::without_life(session, outcome(session), String::new()))
}

/// An upload with sessions of one second. `life` makes the records.
fn report_of(attempt: AttemptId, first: u64, sessions: u64, life: impl Fn(u64) -> SessionRecord) -> Vec<FromAgent> {
    let mut histograms = HistogramSet::new(Bounds::STANDARD);
    let mut ledger = Ledger::planned(sessions);
    let records: Vec<SessionRecord> = (first..first + sessions)
        .map(|session| {
            let mut record = life(session);
            record.started_us = Some(session);
            record.connect_us = Some(100);
            record.reset_us = Some(100);
            record.total_us = Some(1_000_200);
            histograms.record(&record);
            ledger.count(&record.outcome);
            record
        })
        .collect();
    let vitals = Box::default();
    let report = Report { attempt, ledger, start_offset_us: 0, chunks: 1, histograms: histograms.encode(), vitals };
    vec![FromAgent::Report(report), FromAgent::Records(RecordChunk { attempt, sequence: 0, records })]
}

/// A machine, its simulated agents, and its effects.
struct Play {
    machine: Machine,
    mono: Duration,
    /// Orders that an agent has not carried out yet.
    orders: BTreeMap<ConnectionId, VecDeque<FromCoordinator>>,
    shares: BTreeMap<(ConnectionId, AttemptId), (u64, u64)>,
    hung_up: Vec<ConnectionId>,
    to_store: Option<Box<FinishedAttempt>>,
    stored: Vec<FinishedAttempt>,
    told: Vec<RunEvent>,
    end: Option<End>,
}

impl Play {
    fn new(plan: &str) -> Self {
        let plan = plan_of(plan).expect("plan");
        let urls = plan.target.urls.clone();
        let run = RunId(uuid::Uuid::nil());
        Self {
            machine: Machine::new(Setup {
                plan: Arc::new(plan),
                run,
                urls,
                ca_pem: Vec::new(),
                history: History::default(),
            }),
            mono: Duration::ZERO,
            orders: BTreeMap::new(),
            shares: BTreeMap::new(),
            hung_up: Vec::new(),
            to_store: None,
            stored: Vec::new(),
            told: Vec::new(),
            end: None,
        }
    }

    fn apply(&mut self, event: Event) {
        let now = Now { mono: self.mono, wall: Timestamp::UNIX_EPOCH };
        let mut computed = None;
        for effect in self.machine.apply(now, event) {
            match effect {
                Effect::Send(key, order) => {
                    self.orders.entry(key).or_default().push_back(order);
                }
                Effect::Hangup(key) => self.hung_up.push(key),
                Effect::Compute(job) => computed = Some(Event::Computed(Ok(job.run()))),
                Effect::Store(finished) => {
                    assert!(self.to_store.is_none(), "one attempt at a time is stored");
                    self.to_store = Some(finished);
                }
                Effect::Tell(event) => self.told.push(event),
                Effect::Over(end) => {
                    assert!(self.end.is_none(), "a run ends once");
                    self.end = Some(end);
                }
            }
        }
        // A background job finishes before the next event.
        if let Some(event) = computed {
            return self.apply(event);
        }
        if let Some(finished) = &self.to_store {
            let summary = &finished.summary;
            assert!(summary.ledger.balances(), "{}", summary.ledger);
            assert_eq!(finished.rows.len() as u64, summary.batch.batch_size, "one row a planned session");
            assert!(finished.rows.iter().map(|row| row.record.session).eq(0..summary.batch.batch_size));
        }
    }

    fn join(&mut self, key: ConnectionId, name: &str) {
        self.orders.insert(key, VecDeque::new());
        self.apply(Event::Joined(key, Box::new(hello(name))));
    }

    fn leave(&mut self, key: ConnectionId) {
        self.orders.remove(&key);
        self.apply(Event::Left(key, "closed its connection".to_owned()));
    }

    fn say(&mut self, key: ConnectionId, message: FromAgent) {
        self.apply(Event::Message(key, Box::new(message)));
    }

    /// Makes an agent carry out its next order, if there is one.
    fn obey(&mut self, key: ConnectionId) -> bool {
        let Some(order) = self.orders.get_mut(&key).and_then(VecDeque::pop_front) else { return false };
        for message in answer(key, &order, self.mono, &mut self.shares) {
            self.say(key, message);
        }
        true
    }

    /// Makes all agents answer pings. Other orders are not carried out.
    fn pongs(&mut self) {
        let keys: Vec<ConnectionId> = self.orders.keys().copied().collect();
        for key in keys {
            let greeting =
                |order: &FromCoordinator| matches!(order, FromCoordinator::Ping { .. } | FromCoordinator::Welcome(_));
            while self.orders.get(&key).and_then(VecDeque::front).is_some_and(greeting) {
                self.obey(key);
            }
        }
    }

    fn store(&mut self) -> bool {
        let Some(finished) = self.to_store.take() else { return false };
        self.stored.push(*finished);
        self.apply(Event::Stored(Ok(())));
        true
    }

    fn wait(&mut self, time: Duration) {
        self.mono += time;
        let living: Vec<([u8; 16], Duration)> = self
            .orders
            .keys()
            .filter_map(|key| self.machine.agents.get(key))
            .map(|agent| (agent.hello.instance, self.mono))
            .collect();
        self.apply(Event::Heartbeats(living));
        self.apply(Event::Tick);
    }

    /// Lets all agents carry out their orders until the run ends.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            if self.end.is_some() {
                return;
            }
            let keys: Vec<ConnectionId> = self.orders.keys().copied().collect();
            let busy = keys.into_iter().any(|key| self.obey(key)) || self.store();
            if !busy {
                self.wait(Duration::from_millis(250));
            }
        }
        panic!("the run did not end: {:?}", self.machine.phase);
    }

    /// Runs until the orders to start this batch have been sent.
    fn until_running(&mut self, batch: u32) {
        for _ in 0..10_000 {
            if matches!(&self.machine.phase, Phase::Running(current) if current.id.batch == batch) {
                return;
            }
            let keys: Vec<ConnectionId> = self.orders.keys().copied().collect();
            let busy = keys.into_iter().any(|key| self.obey(key)) || self.store();
            if !busy {
                self.wait(Duration::from_millis(250));
            }
        }
        panic!("batch {batch} never ran");
    }

    /// Runs until the orders to prepare this batch have been sent.
    fn settle_until_preparing(&mut self, batch: u32) {
        for _ in 0..10_000 {
            if matches!(&self.machine.phase, Phase::Arming(current, _) if current.id.batch == batch) {
                return;
            }
            let keys: Vec<ConnectionId> = self.orders.keys().copied().collect();
            let busy = keys.into_iter().any(|key| self.obey(key)) || self.store();
            if !busy {
                self.wait(Duration::from_millis(250));
            }
        }
        panic!("batch {batch} was never prepared");
    }

    fn accepted(&self) -> Vec<(u32, u32)> {
        let counts = |f: &&FinishedAttempt| f.summary.accepted;
        self.stored.iter().filter(counts).map(|f| (f.id.batch, f.id.attempt)).collect()
    }

    fn code(&self) -> u8 {
        self.end.as_ref().expect("an end").code(false)
    }
}

#[test]
fn a_plan_runs_to_its_end_in_order() {
    let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 2\n"));
    play.join(1, "a");
    play.join(2, "b");
    play.settle();
    assert_eq!(play.code(), 0);
    assert_eq!(play.accepted(), [(0, 1), (1, 1), (2, 1), (3, 1)]);
    let shares: Vec<u64> = play.stored[2].summary.by_agent.iter().map(|agent| agent.sessions).collect();
    assert_eq!(shares, [8, 8]);
    assert!(play.orders.values().all(|orders| matches!(orders.back(), Some(FromCoordinator::Dismiss(_)))));
}

#[test]
fn too_few_agents_end_the_run_with_a_list() {
    let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 2\nready_timeout_seconds = 5\n"));
    play.join(1, "a");
    play.wait(Duration::from_secs(5));
    assert_eq!(play.code(), crate::exit::TOO_FEW_AGENTS);
    let text = play.end.and_then(|end| end.failure).expect("failure").to_string();
    assert!(text.contains("1 of 2 agents") && text.contains(": a;"), "{text}");
}

#[test]
fn a_target_that_is_not_ready_is_named_with_who_says_so() {
    let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 1\n"));
    play.join(1, "a");
    play.pongs();
    let mut result = ProbeResult {
        url: "http://h:1".to_owned(),
        mode: proto::Mode::Ws,
        ready: false,
        last_word: false,
        problem: "refused at connect".to_owned(),
        addresses: Vec::new(),
        served_by: Vec::new(),
        refused_connects: 0,
    };
    play.say(1, FromAgent::Probed(vec![result.clone()]));
    assert!(play.end.is_none());
    assert!(play.told.iter().any(|e| matches!(e, RunEvent::TargetNotReady { problem } if problem.contains("refused"))));
    result.last_word = true;
    play.say(1, FromAgent::Probed(vec![result]));
    assert_eq!(play.code(), crate::exit::TARGET_NOT_READY);
    let text = play.end.and_then(|end| end.failure).expect("failure").to_string();
    assert!(text.contains("http://h:1 (ws) from agent a: refused"), "{text}");
}

#[test]
fn one_more_than_wanted_that_leaves_during_the_readiness_check_does_not_stop_it() {
    let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 1\n"));
    play.join(1, "a");
    play.join(2, "b");
    play.pongs();
    assert!(matches!(play.machine.phase, Phase::Probing(_)));
    play.leave(2);
    play.settle();
    assert_eq!((play.code(), play.accepted().len()), (0, 4));
}

#[test]
fn an_agent_that_never_answers_the_readiness_check_keeps_the_run_from_starting() {
    let text = PLAN.replace("[grid]", "ready_timeout_seconds = 5\n[grid]");
    let mut play = Play::new(&format!("{text}[agents]\ncount = 2\n"));
    play.join(1, "a");
    play.join(2, "b");
    play.pongs();
    while play.obey(1) {}
    for _ in 0..40 {
        play.wait(Duration::from_secs(1));
    }
    assert_eq!(play.code(), crate::exit::TARGET_NOT_READY);
    let text = play.end.and_then(|end| end.failure).expect("failure").to_string();
    assert!(text.contains("from agent b: no answer") && !text.contains("agent a"), "{text}");
}

/// If the readiness check of a late agent fails, the run continues without this agent.
#[test]
fn an_agent_that_comes_late_gets_a_share_when_the_target_answers_it_and_else_costs_nothing() {
    let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 1\n"));
    play.join(1, "a");
    play.until_running(0);
    play.join(2, "b");
    play.join(3, "c");
    let refused = ProbeResult {
        url: "http://h:1".to_owned(),
        mode: proto::Mode::Ws,
        ready: false,
        last_word: true,
        problem: "not allowed".to_owned(),
        addresses: Vec::new(),
        served_by: Vec::new(),
        refused_connects: 0,
    };
    play.say(3, FromAgent::Probed(vec![refused]));
    assert_eq!(play.hung_up, [3]);
    play.orders.remove(&3);
    play.settle();
    assert_eq!(play.code(), 0);
    let agents = |n: usize| play.stored[n].summary.by_agent.iter().map(|agent| agent.name.as_str()).collect::<Vec<_>>();
    assert_eq!((agents(0), agents(3)), (vec!["a"], vec!["a", "b"]));
}

#[test]
fn an_agent_that_can_not_prepare_costs_an_attempt_and_is_let_go() {
    let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 2\n"));
    play.join(1, "a");
    play.join(2, "b");
    play.until_running(0);
    play.settle_until_preparing(1);
    let id = AttemptId { run: play.machine.setup.run, batch: 1, attempt: 1 };
    play.say(2, FromAgent::Trouble { attempt: id, problem: "h does not resolve".to_owned() });
    play.orders.remove(&2);
    play.settle();
    assert_eq!((play.code(), play.accepted()), (0, vec![(0, 1), (1, 2), (2, 1), (3, 1)]));
}

/// The agent sends heartbeats but never completes its upload.
#[test]
fn an_upload_that_never_ends_costs_an_attempt_and_not_the_run() {
    let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 2\n[session]\ntimeout_seconds = 1\n"));
    play.join(1, "a");
    play.join(2, "b");
    play.until_running(0);
    while play.obey(1) {}
    for _ in 0..200 {
        play.wait(Duration::from_secs(1));
        if play.to_store.is_some() {
            break;
        }
    }
    let lost = play.to_store.as_ref().expect("given up").summary.ledger.lost;
    assert_eq!(lost, 4);
    play.leave(2);
    play.settle();
    assert_eq!(play.code(), 0);
}

#[test]
fn a_process_that_comes_back_replaces_its_dead_connection() {
    let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 2\n"));
    play.join(1, "a");
    play.join(2, "a");
    assert_eq!(play.hung_up, [1]);
    let names: Vec<&str> = play.machine.agents.values().map(|agent| agent.name.as_str()).collect();
    assert_eq!(names, ["a"], "one process counts once");
}

#[test]
fn another_version_or_plan_is_refused_and_told_why() {
    let mut play = Play::new(PLAN);
    let other = Hello { version: "0.0.0".to_owned(), ..hello("old") };
    play.apply(Event::Joined(1, Box::new(other)));
    let stale = Hello { plan_hash: Some(PlanHash([9; 32])), ..hello("stale") };
    play.apply(Event::Joined(2, Box::new(stale)));
    for (key, why) in [(1, RefusedWhy::Version), (2, RefusedWhy::Plan)] {
        assert!(matches!(&play.orders[&key][0], FromCoordinator::Refused(refused) if refused.why == why));
    }
    assert_eq!(play.hung_up, [1, 2]);
    assert!(play.machine.agents.is_empty());
}

#[test]
fn two_agents_of_one_name_are_told_apart() {
    let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 2\n"));
    play.join(1, "node");
    play.apply(Event::Joined(2, Box::new(Hello { instance: [7; 16], ..hello("node") })));
    let names: Vec<&str> = play.machine.agents.values().map(|agent| agent.name.as_str()).collect();
    assert_eq!(names, ["node", "node-2"]);
}

#[test]
fn a_lost_agent_costs_an_attempt_and_the_batch_is_repeated_without_it() {
    let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 2\n"));
    play.join(1, "a");
    play.join(2, "b");
    play.until_running(1);
    play.leave(2);
    play.settle();
    assert_eq!(play.accepted(), [(0, 1), (1, 2), (2, 1), (3, 1)]);
    let refused = play.stored.iter().find(|f| !f.summary.accepted).expect("the refused attempt is kept");
    assert_eq!((refused.id.batch, refused.id.attempt, refused.stands), (1, 1, false));
    assert_eq!(refused.summary.ledger.lost, 4);
    assert_eq!(play.code(), 0, "what counts was measured whole");
}

#[test]
fn a_lost_agent_may_also_be_kept_or_end_the_run() {
    for (on_loss, accepted, code) in [("keep", vec![(0, 1), (1, 1), (2, 1), (3, 1)], 8), ("abort", vec![(0, 1)], 8)] {
        let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 2\non_loss = {on_loss:?}\n"));
        play.join(1, "a");
        play.join(2, "b");
        play.until_running(1);
        play.leave(2);
        play.settle();
        assert_eq!((play.accepted(), play.code()), (accepted, code), "{on_loss}");
        let lossy = play.stored.iter().find(|f| f.summary.ledger.lost > 0).expect("the attempt");
        assert_eq!(lossy.summary.verdict.validity, Validity::Degraded);
    }
}

#[test]
fn attempts_are_limited_and_the_last_one_stands() {
    let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 2\nmax_attempts = 2\n"));
    play.join(1, "a");
    play.join(2, "b");
    play.join(3, "c");
    for key in [2, 3] {
        play.until_running(0);
        play.leave(key);
        // The other agents report the attempt that was cut, and it is stored.
        while play.to_store.is_none() {
            assert!([1, 3].into_iter().any(|other| play.obey(other)), "someone still has orders");
        }
        play.store();
    }
    play.settle();
    let first: Vec<(u32, bool, bool)> =
        play.stored.iter().filter(|f| f.id.batch == 0).map(|f| (f.id.attempt, f.summary.accepted, f.stands)).collect();
    assert_eq!(first, [(1, false, false), (2, false, true)]);
    assert_eq!(play.code(), crate::exit::NOT_SOUND);
}

#[test]
fn a_silent_agent_is_lost_after_its_lease() {
    let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 2\nlease_seconds = 10\n"));
    play.join(1, "a");
    play.join(2, "b");
    play.until_running(0);
    play.mono += Duration::from_secs(9);
    play.apply(Event::Heartbeats(vec![(hello("a").instance, play.mono), ([99; 16], play.mono)]));
    play.apply(Event::Tick);
    assert!(play.hung_up.is_empty());
    assert_eq!(play.machine.deadline(), play.machine.agents[&2].last_seen.checked_add(Duration::from_secs(10)));
    play.mono += Duration::from_secs(1);
    play.apply(Event::Tick);
    assert_eq!(play.hung_up, [2]);
    play.orders.remove(&2);
    play.settle();
    assert_eq!(play.code(), 0);
}

#[test]
fn failing_sizes_stop_the_larger_ones_of_their_own_cell() {
    let text = "[target]\nurls=\"http://h:1\"\n[grid]\nbatch_sizes=[2,4,8]\nrepetitions=1\nstop_after_failing=1\nwarmup=false\n";
    let mut play = Play::new(text);
    play.join(1, "a");
    for _ in 0..200 {
        let Some(order) = play.orders.get_mut(&1).and_then(VecDeque::pop_front) else {
            if !play.store() {
                play.wait(Duration::from_millis(250));
            }
            if play.end.is_some() {
                break;
            }
            continue;
        };
        let refused = |_| Outcome::Failed(FailureKind::Refused, SessionPhase::Connect);
        let messages = match &order {
            FromCoordinator::Go { attempt, .. } if play.shares[&(1, *attempt)].1 > 2 => {
                report(*attempt, 0, play.shares[&(1, *attempt)].1, refused)
            }
            other => answer(1, other, play.mono, &mut play.shares),
        };
        for message in messages {
            play.say(1, message);
        }
    }
    let sizes: Vec<(u64, bool)> =
        play.machine.results().iter().map(|done| (done.batch().batch_size, done.summary().is_some())).collect();
    assert_eq!(sizes, [(2, true), (4, true), (8, false)], "the largest is skipped, never 0 %");
}

#[test]
fn a_batch_that_can_not_be_carried_stops_the_run_beforehand_or_is_skipped() {
    let text = "[target]\nurls=\"http://h:1\"\n[grid]\nbatch_sizes=[8,2000]\nrepetitions=1\n";
    let mut play = Play::new(text);
    play.join(1, "a");
    play.settle();
    assert_eq!(play.code(), crate::exit::TOO_FEW_AGENTS);
    assert!(play.stored.is_empty(), "told before the first batch");

    let mut play = Play::new(&format!("{text}[agents]\non_shortfall=\"continue\"\n"));
    play.join(1, "a");
    play.settle();
    assert_eq!((play.code(), play.accepted()), (0, vec![(0, 1)]));
    assert!(matches!(play.machine.results(), [Done::Ran(_), Done::Skipped { .. }]));
}

#[test]
fn an_interrupt_keeps_what_is_complete_and_cuts_the_rest() {
    let mut play = Play::new(&format!("{PLAN}[agents]\ncount = 2\n"));
    play.join(1, "a");
    play.join(2, "b");
    play.until_running(1);
    play.apply(Event::Interrupt);
    play.settle();
    assert_eq!((play.code(), play.accepted()), (130, vec![(0, 1)]));
    let cut = play.stored.last().expect("the cut attempt is kept");
    assert!(!cut.summary.accepted && !cut.stands);
}

#[test]
fn a_full_disk_ends_the_run_at_once() {
    let mut play = Play::new(PLAN);
    play.join(1, "a");
    while play.to_store.is_none() {
        if !play.obey(1) {
            play.wait(Duration::from_millis(250));
        }
    }
    play.apply(Event::Stored(Err("raw.jsonl (12 bytes to write): no space left".to_owned())));
    assert_eq!(play.code(), crate::exit::INTERNAL);
}

mod any_order;
mod recheck;
mod restarts;
mod survey;
mod uploads;
