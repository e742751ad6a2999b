//! An agent and its coordinator over gRPC: greeting, orders, reports, and what happens when one of them goes.

use std::net::SocketAddr;
use std::time::Duration;

use agent::control::agent_loop::{Outcome, Settings, serve};
use agent::control::clock::Clock;
use agent::control::heartbeat::Executor;
use agent::control::link::{Connector, Link, Security};
use agent::control::machine::End;
use agent::control::probe::Prober;
use agent::host::capacity::CapacityOptions;
use agent::load::armed::LoadFactory;
use agent::net::allow::AllowRule;
use agent::net::resolver::TargetResolver;
use proto::message::{Hello, Probe, Refused, RefusedWhy, Report, Resend, Welcome};
use proto::{
    Assignment, AttemptId, Bounds, Capacity, FailureKind, FromAgent, FromCoordinator, HistogramSet, Launch, Metric,
    Mode, PlanHash, RunId, SessionRecord, Target, WireState,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

#[expect(dead_code, reason = "each test file needs a part of it")]
mod support;

use support::coordinator::{Coordinator, PLAN, Visit};
use support::{DEADLINE, bounded, nobody, raw, reference, script, url};

/// An agent that runs beside the test.
struct Agent {
    interrupt: CancellationToken,
    life: AbortOnDropHandle<Outcome>,
}

impl Agent {
    fn start(address: SocketAddr, reconnect_for: Duration, allow: &[&str]) -> Self {
        let settings = Settings {
            hello: Hello {
                protocol: proto::PROTOCOL,
                version: proto::VERSION.to_owned(),
                name: "a1".to_owned(),
                host: "here".to_owned(),
                pid: 1,
                instance: [7; 16],
                plan_hash: None,
                holding: None,
                capacity: Capacity {
                    threads: 2,
                    descriptors: 1_000,
                    ports: 1_000,
                    port_pool: "p".to_owned(),
                    memory_bytes: 1 << 30,
                    ..Capacity::default()
                },
            },
            resolver: TargetResolver {
                allow: allow.iter().map(|rule| rule.parse::<AllowRule>().expect("a rule")).collect(),
                ..TargetResolver::default()
            },
            capacity_options: CapacityOptions { max_sessions: Some(77), ..CapacityOptions::default() },
            clock: Clock::shifted(-500_000),
            load_factory: LoadFactory::default(),
            prober: Prober::default(),
            heartbeat: Executor::Thread,
            chunk_bytes: proto::limits::CHUNK_BYTES_TARGET,
        };
        let interrupt = CancellationToken::new();
        let connector = Connector::new(address.to_string(), Security::Plaintext);
        let link = Link::new(connector, reconnect_for, settings.clock);
        let life = tokio::spawn(serve(settings, link, interrupt.clone()));
        Self { interrupt, life: AbortOnDropHandle::new(life) }
    }

    async fn end(self) -> Outcome {
        self.life.await.expect("an agent does not panic")
    }
}

fn attempt(run: RunId, attempt: u32) -> AttemptId {
    AttemptId { run, batch: 3, attempt }
}

fn assignment(id: AttemptId, url: &str) -> Assignment {
    Assignment {
        attempt: id,
        plan_hash: PLAN,
        target: Target { urls: vec![url.to_owned()], ca_pem: Vec::new() },
        mode: Mode::Ws,
        script: proto::Script { steps: 2, wait: Duration::from_millis(5), ..script() },
        launch: Launch::Burst,
        first_session: 40,
        sessions: 25,
        batch_size: 100,
        seed: 1,
        agent_index: 1,
        agent_count: 4,
        bounds: Bounds::STANDARD,
        kernel_timestamps: true,
        clock_step_us_max: 50_000,
        in_flight_max: 25,
    }
}

/// Prepares and starts, the sessions then run.
async fn begin(visit: &mut Visit, assignment: Assignment) {
    let attempt = assignment.attempt;
    visit.say(FromCoordinator::Prepare(Box::new(assignment))).await;
    assert_eq!(visit.hear().await, Some(FromAgent::Armed(attempt)));
    visit.say(FromCoordinator::Go { attempt, start_at_us: 0 }).await;
}

/// The report and every record that follows it.
async fn results(visit: &mut Visit, attempt: AttemptId) -> (Report, Vec<SessionRecord>) {
    let Some(FromAgent::Report(report)) = visit.hear().await else { panic!("no report") };
    assert_eq!(report.attempt, attempt);
    let mut records = Vec::new();
    for expected in 0..report.chunks {
        let Some(FromAgent::Records(chunk)) = visit.hear().await else { panic!("no chunk {expected}") };
        assert_eq!((chunk.attempt, chunk.sequence), (attempt, expected));
        records.extend(chunk.records);
    }
    (report, records)
}

/// Ledger, records and histograms tell the same story of exactly the sessions that were ordered.
fn consistent(assignment: &Assignment, report: &Report, records: &[SessionRecord]) {
    assert!(report.ledger.balances() && report.ledger.planned == assignment.sessions, "{}", report.ledger);
    let sessions: Vec<u64> = records.iter().map(|record| record.session).collect();
    let end = assignment.first_session + assignment.sessions;
    assert_eq!(sessions, (assignment.first_session..end).collect::<Vec<_>>());
    let (mut ledger, mut own) = (proto::Ledger::planned(assignment.sessions), HistogramSet::new(assignment.bounds));
    for record in records {
        ledger.count(&record.outcome);
        own.record(record);
    }
    assert_eq!(ledger, report.ledger);
    let reported = HistogramSet::decode(assignment.bounds, &report.histograms).expect("histograms");
    let own = HistogramSet::decode(assignment.bounds, &own.encode()).expect("histograms");
    assert_eq!(reported.encode(), own.encode(), "histograms of the records");
}

#[test]
fn a_refused_agent_ends() {
    bounded(async {
        let mut coordinator = Coordinator::start();
        let agent = Agent::start(coordinator.address, DEADLINE, &[]);
        let _visit = coordinator.refuse(RefusedWhy::Version, "this is 9.9.9").await;
        let refused = Refused { why: RefusedWhy::Version, message: "this is 9.9.9".to_owned() };
        assert_eq!(agent.end().await, Outcome::End(End::Refused(refused)));
    });
}

#[test]
fn a_full_run_is_asked_again() {
    bounded(async {
        let mut coordinator = Coordinator::start();
        let agent = Agent::start(coordinator.address, DEADLINE, &[]);
        drop(coordinator.refuse(RefusedWhy::Full, "enough agents").await);
        let (visit, _) = coordinator.welcome(RunId::random()).await;
        visit.say(FromCoordinator::Dismiss("done".to_owned())).await;
        assert_eq!(agent.end().await, Outcome::End(End::Dismissed("done".to_owned())));
    });
}

#[test]
fn an_order_of_another_plan_ends_the_agent_and_both_sides_know_why() {
    bounded(async {
        let mut coordinator = Coordinator::start();
        let agent = Agent::start(coordinator.address, DEADLINE, &[]);
        let run = RunId::random();
        let (mut visit, _) = coordinator.welcome(run).await;
        let other = PlanHash([2; 32]);
        let order = Assignment { plan_hash: other, ..assignment(attempt(run, 1), "http://127.0.0.1:1") };
        visit.say(FromCoordinator::Prepare(Box::new(order))).await;
        let Some(FromAgent::Goodbye(reason)) = visit.hear().await else { panic!("no goodbye") };
        assert!(reason.contains(&PLAN.short()) && reason.contains(&other.short()), "{reason}");
        let refused = Refused { why: RefusedWhy::Plan, message: reason };
        assert_eq!(agent.end().await, Outcome::End(End::Refused(refused)));
    });
}

#[test]
fn without_a_coordinator_the_agent_says_where_it_looked_and_what_helps() {
    bounded(async {
        let address = |url: String| url.trim_start_matches("http://").parse().expect("an address");
        let web_server = raw(|mut peer| async move {
            peer.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await;
            peer.silent().await;
        });
        let web_server = address(web_server.await);
        let hangs_up = address(raw(|peer| async move { drop(peer) }).await);
        let silent = address(raw(|peer| peer.silent()).await);
        let (nobody, _held) = nobody();
        for (address, cause) in [(nobody, "refused"), (web_server, ""), (hangs_up, ""), (silent, "no answer")] {
            let agent = Agent::start(address, Duration::from_millis(300), &[]);
            let Outcome::Lost(problem) = agent.end().await else { panic!("nobody was there") };
            for part in [&address.to_string(), "--reconnect-for", cause] {
                assert!(problem.contains(part), "{part}: {problem}");
            }
            // Words for people: neither a bare category nor what a programmer would print.
            assert!(!problem.contains("transport error") && !problem.contains("Error("), "{problem}");
        }
    });
}

#[test]
fn a_whole_attempt() {
    bounded(async {
        let (target, _server) = reference(refserver::Options::default());
        let mut coordinator = Coordinator::start();
        let agent = Agent::start(coordinator.address, DEADLINE, &[]);
        let run = RunId::random();
        let (mut visit, greeted_with) = coordinator.welcome(run).await;
        assert_eq!(greeted_with, None, "the first greeting belongs to no plan");

        let probe = Probe {
            plan_hash: PLAN,
            target: Target { urls: vec![target.clone()], ca_pem: Vec::new() },
            modes: vec![Mode::Ws, Mode::Http],
            deadline: DEADLINE,
            script: script(),
            sessions: 1,
        };
        visit.say(FromCoordinator::Probe(Box::new(probe))).await;
        let Some(FromAgent::Probed(probed)) = visit.hear().await else { panic!("no probe result") };
        assert_eq!(probed.len(), 2, "one a mode");
        for result in probed {
            assert!(result.ready && result.last_word && result.problem.is_empty(), "{result:?}");
            assert_eq!((&result.url, result.addresses), (&target, vec![target.replace("http://", "")]));
        }

        for (number, mode) in [(1, Mode::Ws), (2, Mode::Http)] {
            let order = Assignment { mode, ..assignment(attempt(run, number), &target) };
            begin(&mut visit, order.clone()).await;
            let (report, records) = results(&mut visit, order.attempt).await;
            consistent(&order, &report, &records);
            assert_eq!(report.ledger.succeeded, order.sessions, "{:?}", records.iter().map(|r| &r.error_message));
            let first = records.iter().filter_map(|record| record.started_us).min();
            assert_eq!(Some(report.start_offset_us), first);
            assert!(records.iter().all(|record| record.step_us.len() == 2 && record.waited_us == Some(10_000)));
            visit.say(FromCoordinator::Stored(order.attempt)).await;
        }
        visit.say(FromCoordinator::Dismiss("done".to_owned())).await;
        assert_eq!(agent.end().await, Outcome::End(End::Dismissed("done".to_owned())));
    });
}

#[test]
fn records_of_many_sessions_come_in_many_chunks() {
    bounded(async {
        let (target, _held) = nobody();
        let target = url(target);
        let mut coordinator = Coordinator::start();
        let _agent = Agent::start(coordinator.address, DEADLINE, &[]);
        let run = RunId::random();
        let (mut visit, _) = coordinator.welcome(run).await;
        let sessions = 4_000;
        let order = Assignment { sessions, batch_size: 5_000, ..assignment(attempt(run, 1), &target) };
        begin(&mut visit, order.clone()).await;
        let (report, records) = results(&mut visit, order.attempt).await;
        consistent(&order, &report, &records);
        assert!(report.chunks > 1 && report.ledger.failed == sessions, "{} in {}", report.ledger, report.chunks);
    });
}

#[test]
fn an_aborted_attempt_is_cut_and_still_accounted_for() {
    bounded(async {
        let (target, _server) = reference(refserver::Options::default());
        let mut coordinator = Coordinator::start();
        let _agent = Agent::start(coordinator.address, DEADLINE, &[]);
        let run = RunId::random();
        let (mut visit, _) = coordinator.welcome(run).await;
        let mut order = assignment(attempt(run, 1), &target);
        // The second session is due long after the test is over, the first one never ends by itself.
        order.launch = Launch::Ramp { over_us: 100 * 3_600_000_000 };
        order.agent_index = 0;
        order.script.wait = 10 * DEADLINE;
        begin(&mut visit, order.clone()).await;
        loop {
            match visit.hear_all().await.expect("the agent is there") {
                FromAgent::Progress(progress) if progress.open == 1 => break,
                FromAgent::Progress(_) => {}
                other => panic!("{other:?}"),
            }
        }
        // Of another attempt: crossed another message on its way, and means nothing.
        visit.say(FromCoordinator::Abort { attempt: attempt(run, 9), reason: "stale".to_owned() }).await;
        visit.say(FromCoordinator::Abort { attempt: order.attempt, reason: "enough".to_owned() }).await;
        let (report, records) = results(&mut visit, order.attempt).await;
        consistent(&order, &report, &records);
        assert_eq!((report.ledger.failed, report.ledger.never_started), (1, 24), "{}", report.ledger);
        assert_eq!(records[0].outcome, support::failed(FailureKind::Cancelled, proto::Phase::Step));

        // And it is ready for the next one.
        begin(&mut visit, assignment(attempt(run, 2), &target)).await;
        let (report, _) = results(&mut visit, attempt(run, 2)).await;
        assert_eq!(report.ledger.succeeded, 25);
    });
}

#[test]
fn a_target_outside_of_the_allow_list_is_refused_and_not_touched() {
    bounded(async {
        let (touched, mut touches) = mpsc::unbounded_channel();
        let target = raw(move |peer| {
            touched.send(()).expect("the test is there");
            peer.silent()
        })
        .await;
        let mut coordinator = Coordinator::start();
        let _agent = Agent::start(coordinator.address, DEADLINE, &["10.0.0.0/8"]);
        let run = RunId::random();
        let (mut visit, _) = coordinator.welcome(run).await;
        visit.say(FromCoordinator::Prepare(Box::new(assignment(attempt(run, 1), &target)))).await;
        let Some(FromAgent::Trouble { attempt: about, problem }) = visit.hear().await else { panic!("no trouble") };
        assert_eq!(about, attempt(run, 1));
        assert!(problem.contains(&target) && problem.contains("--allow-target"), "{problem}");
        // The start of what was never armed does nothing either; the next refusal proves that it was read.
        visit.say(FromCoordinator::Go { attempt: attempt(run, 1), start_at_us: 0 }).await;
        visit.say(FromCoordinator::Prepare(Box::new(assignment(attempt(run, 2), &target)))).await;
        assert!(matches!(visit.hear().await, Some(FromAgent::Trouble { .. })));
        assert!(touches.try_recv().is_err(), "the target was touched");
    });
}

#[test]
fn pings_are_answered_in_order_with_a_clock_that_only_goes_forward() {
    bounded(async {
        let mut coordinator = Coordinator::start();
        let _agent = Agent::start(coordinator.address, DEADLINE, &[]);
        let (mut visit, _) = coordinator.welcome(RunId::random()).await;
        let mut last = 0;
        for sequence in [5, 6, 9] {
            visit.say(FromCoordinator::Ping { sequence }).await;
            let Some(FromAgent::Pong(pong)) = visit.hear().await else { panic!("no pong") };
            assert_eq!(pong.sequence, sequence);
            assert!(pong.agent_us > last, "{} after {last}", pong.agent_us);
            last = pong.agent_us;
        }
        // An agent's clock begins an hour after nothing; this one is half a second behind.
        assert!((3_599_500_000..3_660_000_000).contains(&last), "{last}");
    });
}

#[test]
fn a_survey_tells_what_can_be_carried_now() {
    bounded(async {
        let (target, _server) = reference(refserver::Options::default());
        let address = target.trim_start_matches("http://").to_owned();
        let open: Vec<_> = (0..7).map(|_| std::net::TcpStream::connect(&address).expect("connected")).collect();
        let mut coordinator = Coordinator::start();
        let _agent = Agent::start(coordinator.address, DEADLINE, &[]);
        let (mut visit, _) = coordinator.welcome(RunId::random()).await;
        let mut taken = Vec::new();
        for (number, addresses) in [(1, vec![address]), (2, vec!["192.0.2.1:9".to_owned()])] {
            visit.say(FromCoordinator::Survey { number, addresses, sessions: 1 << 20 }).await;
            let Some(FromAgent::Surveyed { number: about, capacity }) = visit.hear().await else { panic!("no answer") };
            assert_eq!((about, capacity.max_sessions), (number, Some(77)));
            taken.push(capacity.ports_taken);
        }
        // What listens in the port range counts towards every place; tests beside this one may come and go.
        assert!(taken[0] >= 7 && taken[1] < taken[0], "{taken:?} with {} open", open.len());
    });
}

#[test]
fn a_report_tells_how_the_agent_was_doing() {
    bounded(async {
        let (target, _server) = reference(refserver::Options::default());
        let mut coordinator = Coordinator::start();
        let _agent = Agent::start(coordinator.address, DEADLINE, &[]);
        let run = RunId::random();
        let (mut visit, _) = coordinator.welcome(run).await;
        for (number, wire) in [(1, true), (2, false)] {
            begin(&mut visit, Assignment { kernel_timestamps: wire, ..assignment(attempt(run, number), &target) })
                .await;
            let (report, records) = results(&mut visit, attempt(run, number)).await;
            let vitals = &report.vitals;
            assert!(vitals.threads >= 1 && vitals.process_cpu_us > 0 && vitals.memory_bytes_max > 0, "{vitals:?}");
            assert!(vitals.in_flight_max >= 1 && vitals.descriptors_max > vitals.in_flight_max, "{vitals:?}");
            assert!(vitals.retransmits.is_some() && vitals.host_cpu_permille.is_some(), "{vitals:?}");
            let set = HistogramSet::decode(Bounds::STANDARD, &report.histograms).expect("histograms");
            let splits: usize = records.iter().map(|record| record.wire.steps.len()).sum();
            if wire {
                assert_eq!((vitals.wire, splits), (WireState::Measured, 50));
                assert_eq!(set.get(Metric::Wire).len(), 50);
                assert_eq!(set.get(Metric::ReceiveLag).len(), 75, "resets too");
            } else {
                assert_eq!((vitals.wire, splits), (WireState::Off, 0));
                assert!(records.iter().all(|record| record.wire == proto::WireRecord::default()));
            }
            visit.say(FromCoordinator::Stored(attempt(run, number))).await;
        }
    });
}

/// A server whose sessions never get an answer to their step; says when one gets there, and when its connection ends.
async fn endless(tell: mpsc::UnboundedSender<&'static str>) -> String {
    raw(move |mut peer| {
        let tell = tell.clone();
        async move {
            peer.ws_until(proto::Phase::Step).await;
            tell.send("stepping").expect("the test is there");
            peer.silent().await;
            tell.send("gone").expect("the test is there");
        }
    })
    .await
}

async fn all(told: &mut mpsc::UnboundedReceiver<&'static str>, what: &str) {
    for _ in 0..25 {
        assert_eq!(told.recv().await, Some(what));
    }
}

#[test]
fn a_vanished_coordinator_ends_the_load_and_its_successor_finds_the_agent() {
    bounded(async {
        let (tell, mut told) = mpsc::unbounded_channel();
        let target = endless(tell).await;
        let (reference, _server) = reference(refserver::Options::default());
        let mut coordinator = Coordinator::start();
        let agent = Agent::start(coordinator.address, DEADLINE, &[]);
        let run = RunId::random();
        let (mut visit, _) = coordinator.welcome(run).await;
        begin(&mut visit, assignment(attempt(run, 1), &target)).await;
        all(&mut told, "stepping").await;
        // The stream alone ends; the coordinator is still there.
        drop(visit);
        all(&mut told, "gone").await;

        let (mut visit, greeted_with) = coordinator.welcome(run).await;
        assert_eq!(greeted_with, Some(PLAN), "the agent knows which run it belongs to");
        begin(&mut visit, assignment(attempt(run, 2), &target)).await;
        all(&mut told, "stepping").await;
        // The whole process dies and comes back.
        let address = coordinator.address;
        drop(coordinator);
        all(&mut told, "gone").await;

        let mut coordinator = Coordinator::start_at(address);
        let (mut visit, greeted_with) = coordinator.welcome(run).await;
        assert_eq!(greeted_with, Some(PLAN));
        let order = assignment(attempt(run, 3), &reference);
        begin(&mut visit, order.clone()).await;
        let (report, records) = results(&mut visit, order.attempt).await;
        consistent(&order, &report, &records);
        assert_eq!(report.ledger.succeeded, 25);

        agent.interrupt.cancel();
        assert!(matches!(visit.hear().await, Some(FromAgent::Goodbye(_))));
        assert_eq!(agent.end().await, Outcome::End(End::Interrupted));
    });
}

#[test]
fn an_interrupted_agent_cuts_its_sessions_and_reports_them() {
    bounded(async {
        let (tell, mut told) = mpsc::unbounded_channel();
        let target = endless(tell).await;
        let mut coordinator = Coordinator::start();
        let agent = Agent::start(coordinator.address, DEADLINE, &[]);
        let run = RunId::random();
        let (mut visit, _) = coordinator.welcome(run).await;
        let order = assignment(attempt(run, 1), &target);
        begin(&mut visit, order.clone()).await;
        all(&mut told, "stepping").await;
        agent.interrupt.cancel();
        all(&mut told, "gone").await;
        // It says so first, so that nobody takes its cut sessions for the server's failures.
        assert!(matches!(visit.hear().await, Some(FromAgent::Leaving(_))));
        let (report, records) = results(&mut visit, order.attempt).await;
        consistent(&order, &report, &records);
        assert!(records.iter().all(|r| r.outcome == support::failed(FailureKind::Cancelled, proto::Phase::Step)));
        visit.say(FromCoordinator::Stored(order.attempt)).await;
        assert!(matches!(visit.hear().await, Some(FromAgent::Goodbye(_))));
        assert_eq!(agent.end().await, Outcome::End(End::Interrupted));
    });
}

#[test]
fn an_upload_that_broke_off_is_asked_for_on_the_next_connection() {
    bounded(async {
        let (target, _held) = nobody();
        let target = url(target);
        let mut coordinator = Coordinator::start();
        let _agent = Agent::start(coordinator.address, DEADLINE, &[]);
        let run = RunId::random();
        let (mut visit, _) = coordinator.welcome(run).await;
        let order = Assignment { sessions: 4_000, batch_size: 5_000, ..assignment(attempt(run, 1), &target) };
        begin(&mut visit, order.clone()).await;
        let Some(FromAgent::Report(report)) = visit.hear().await else { panic!("no report") };
        let Some(FromAgent::Records(first)) = visit.hear().await else { panic!("no chunk") };
        drop(visit);

        let mut visit = coordinator.visit().await;
        let Some(FromAgent::Hello(hello)) = visit.hear().await else { panic!("no greeting") };
        assert_eq!(hello.holding, Some(order.attempt));
        let welcome = Welcome { run, plan_hash: PLAN, name: hello.name, lease: Duration::from_secs(10) };
        visit.say(FromCoordinator::Welcome(welcome)).await;
        // Backwards, one of them twice, one that does not exist; then everything once more.
        let sequences: Vec<u64> = (1..report.chunks).rev().chain([1, 1 << 19]).collect();
        let resend = Resend { attempt: order.attempt, report: false, sequences: sequences.clone(), from: None };
        visit.say(FromCoordinator::Resend(resend.clone())).await;
        let mut records = first.records;
        for expected in &sequences[..sequences.len() - 1] {
            let Some(FromAgent::Records(chunk)) = visit.hear().await else { panic!("no chunk {expected}") };
            assert_eq!(chunk.sequence, *expected);
            if records.iter().all(|known| known.session != chunk.records[0].session) {
                records.extend(chunk.records);
            }
        }
        records.sort_by_key(|record| record.session);
        consistent(&order, &report, &records);
        visit
            .say(FromCoordinator::Resend(Resend { report: true, sequences: Vec::new(), from: Some(0), ..resend }))
            .await;
        let (again, _) = results(&mut visit, order.attempt).await;
        assert_eq!(again, report);
    });
}

#[test]
fn an_order_that_makes_no_sense_ends_the_connection_and_not_the_agent() {
    bounded(async {
        let mut coordinator = Coordinator::start();
        let agent = Agent::start(coordinator.address, DEADLINE, &[]);
        let run = RunId::random();
        let (visit, _) = coordinator.welcome(run).await;
        let beyond = Assignment { first_session: 99, ..assignment(attempt(run, 1), "http://127.0.0.1:1") };
        visit.say(FromCoordinator::Prepare(Box::new(beyond))).await;
        let (visit, _) = coordinator.welcome(run).await;
        visit.say_raw(proto::pb::CoordinatorMessage { body: None }).await;
        let (visit, _) = coordinator.welcome(run).await;
        visit.say(FromCoordinator::Dismiss("done".to_owned())).await;
        assert_eq!(agent.end().await, Outcome::End(End::Dismissed("done".to_owned())));
    });
}
