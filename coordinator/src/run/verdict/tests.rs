//! Verdicts on batches that are made up of rows.

use std::sync::Arc;

use proto::{Bounds, FailureKind, HistogramSet, Mode, Outcome, Phase, SessionRecord};

use super::*;
use crate::plan::check::plan_of;
use crate::plan::expand::Batch;
use crate::results::agent::AgentResult;
use crate::results::row::Row;
use crate::results::samples::context;

const SECOND: u64 = 1_000_000;

fn plan(more: &str) -> Plan {
    plan_of(&format!("target.urls=\"http://h\"\ngrid.batch_sizes=[1]\n{more}")).expect("plan")
}

/// A session that starts at `started`, connects at once and takes `total`.
fn session(number: u64, outcome: Outcome, started: u64, total: u64) -> Row {
    let mut record = SessionRecord::without_life(number, outcome, String::new());
    record.started_us = Some(started);
    record.connect_us = Some(1);
    record.reset_us = Some(0);
    record.total_us = Some(total);
    record.host_url = Some("one:1".to_owned());
    Row { agent: Arc::from("a"), record }
}

fn vitals() -> proto::Vitals {
    proto::Vitals { wall_us: SECOND, threads: 1, load_cpu_us: SECOND / 2, ..Default::default() }
}

fn summary_of(rows: &[Row]) -> Summary {
    let mut histograms = HistogramSet::new(Bounds::STANDARD);
    for row in rows {
        histograms.record(&row.record);
    }
    let batch = Batch { index: 0, mode: Mode::Ws, batch_size: rows.len() as u64, wait_us: SECOND, repetition: 1 };
    let context = context(batch);
    Summary::of(&context, rows, &histograms)
}

fn judged(plan: &Plan, rows: &[Row], faults: &[&str], lost: &[&str]) -> Verdict {
    judged_with(plan, rows, faults, lost, &vitals())
}

fn judged_with(plan: &Plan, rows: &[Row], faults: &[&str], lost: &[&str], vitals: &proto::Vitals) -> Verdict {
    let mut summary = summary_of(rows);
    let mut agent = AgentResult { name: "a".to_owned(), sessions: rows.len() as u64, ..AgentResult::default() };
    agent.measured(rows, vitals.clone());
    summary.by_agent = vec![agent];
    let owned = |texts: &[&str]| -> Vec<String> { texts.iter().map(|text| (*text).to_owned()).collect() };
    judge(&Evidence {
        plan,
        summary: &summary,
        rows,
        faults: &owned(faults),
        lost: &owned(lost),
        fate: &Fate::default(),
    })
}

fn good(count: u64) -> Vec<Row> {
    (0..count).map(|n| session(n, Outcome::Succeeded, n, SECOND)).collect()
}

#[test]
fn a_batch_that_met_everything_is_valid_and_nobody_was_the_limit() {
    let verdict = judged(&plan(""), &good(20), &[], &[]);
    assert_eq!((verdict.validity, verdict.limit, verdict.reasons.len()), (Validity::Valid, Bottleneck::None, 0));
}

#[test]
fn the_worst_holds_and_every_reason_is_told() {
    let verdict = judged(&plan(""), &good(20), &["a contradiction"], &["n2 was lost: silent"]);
    assert_eq!(verdict.validity, Validity::Invalid);
    assert_eq!(verdict.reasons, ["a contradiction", "agent n2 was lost: silent"]);
}

#[test]
fn missing_hosts_warn_or_make_it_invalid() {
    let warned = judged(&plan("target.expected_hosts=2"), &good(4), &[], &[]);
    assert_eq!((warned.validity, warned.hosts_missing), (Validity::Valid, false));
    assert_eq!(warned.reasons, ["1 of 2 expected hosts answered: one:1"]);
    let required = plan("target.expected_hosts=2\ntarget.require_hosts=true");
    let alone = judged(&required, &good(4), &[], &[]);
    assert_eq!((alone.validity, alone.only_hosts_missing), (Validity::Invalid, true));
    let with_loss = judged(&required, &good(4), &[], &["n2 was lost"]);
    assert_eq!((with_loss.hosts_missing, with_loss.only_hosts_missing), (true, false));
    let refused = |n| session(n, Outcome::Failed(FailureKind::Refused, Phase::Connect), 0, 5);
    let nobody = judged(&required, &[refused(0), refused(1)], &[], &[]);
    assert!(!nobody.hosts_missing, "where nothing succeeded nobody said who it was");
}

#[test]
fn a_slow_burst_is_no_fault_unless_sessions_had_ended_before_the_last_began() {
    // Launching took longer than a session lasts: at no instant were all open.
    let rows: Vec<Row> = (0..20).map(|n| session(n, Outcome::Succeeded, n * SECOND / 10, SECOND)).collect();
    let verdict = judged(&plan(""), &rows, &[], &[]);
    assert_eq!((verdict.validity, verdict.limit), (Validity::GeneratorLimited, Bottleneck::Generator));
    assert!(verdict.reasons[0].starts_with("only 10 of 20 sessions were open at once"), "{:?}", verdict.reasons);
    // The launch takes as long, but the sessions last longer.
    let rows: Vec<Row> = (0..20).map(|n| session(n, Outcome::Succeeded, n * SECOND / 10, 3 * SECOND)).collect();
    assert_eq!(judged(&plan(""), &rows, &[], &[]).validity, Validity::Valid);
}

#[test]
fn late_launches_of_a_ramp_count_when_they_decide_the_latency_criterion() {
    let ramp = "session.launch={kind='ramp',over_seconds=1}\n";
    let late = |lag: u64| -> Vec<Row> {
        (0..20)
            .map(|n| {
                let mut row = session(n, Outcome::Succeeded, n * 1_000 + lag, SECOND);
                row.record.intended_us = n * 1_000;
                row
            })
            .collect()
    };
    // The criterion is 2 x (1 s + 0.5 s).
    assert_eq!(judged(&plan(ramp), &late(SECOND), &[], &[]).validity, Validity::Valid);
    let verdict = judged(&plan(ramp), &late(3 * SECOND), &[], &[]);
    assert_eq!(verdict.validity, Validity::GeneratorLimited);
    assert!(verdict.reasons[0].contains("up to 3.00s late (launch lag p99)"), "{:?}", verdict.reasons);
}

#[test]
fn who_said_no_is_the_limit() {
    let mixed = |kind: FailureKind| -> Vec<Row> {
        (0..20)
            .map(|n| match n {
                0..10 => session(n, Outcome::Succeeded, 0, SECOND),
                _ => session(n, Outcome::Failed(kind.clone(), Phase::Reset), 0, 10),
            })
            .collect()
    };
    let server = judged(&plan(""), &mixed(FailureKind::CapacityReached), &[], &[]);
    assert_eq!((server.validity, server.limit), (Validity::Valid, Bottleneck::Server));
    assert_eq!(server.reasons, ["by the server: 10 of 20 capacity_reached at reset"]);
    // A faster generator would have been refused as well.
    let mut slow = mixed(FailureKind::CapacityReached);
    for (n, row) in (0..).zip(&mut slow) {
        row.record.started_us = Some(n * SECOND);
    }
    assert_eq!(judged(&plan(""), &slow, &[], &[]).validity, Validity::Valid, "it proves something");
    let own = judged(&plan(""), &mixed(FailureKind::PortExhausted), &[], &[]);
    assert_eq!((own.validity, own.limit), (Validity::GeneratorLimited, Bottleneck::Generator));
    let silent: Vec<Row> = (0..20).map(|n| session(n, Outcome::TimedOut(Phase::Step), 0, 9 * SECOND)).collect();
    assert_eq!(judged(&plan(""), &silent, &[], &[]).limit, Bottleneck::Unknown, "slow may be either side's doing");
}

/// A session whose own delay is known.
fn measured(number: u64, total: u64, own: u64) -> Row {
    let mut row = session(number, Outcome::Succeeded, 0, total);
    row.record.wire.own_delay_us = Some(own);
    row
}

#[test]
fn late_reads_count_when_they_decide_the_latency_criterion() {
    // The criterion is 2 x (1 s + 0.5 s).
    let rows = |total: u64, own: u64| -> Vec<Row> { (0..20).map(|n| measured(n, total, own)).collect() };
    let late = judged(&plan(""), &rows(4 * SECOND, 2 * SECOND), &[], &[]);
    assert_eq!((late.validity, late.limit), (Validity::GeneratorLimited, Bottleneck::Generator));
    insta::assert_snapshot!(late.reasons.join("\n"), @"agent a added 2.00s to its sessions (p99) with 0.50 of 1 load threads busy: the generator was the limit; without its own delay (measured) p99 would be 2.000s instead of 4.000s, within the criterion of 3.000s; add agents, give them more CPU, or ramp");
    // The agent was slow, but the server was too slow without it: the conclusion stands.
    let both = judged(&plan(""), &rows(6 * SECOND, 2 * SECOND), &[], &[]);
    assert_eq!((both.validity, both.limit), (Validity::Valid, Bottleneck::Server));
    assert!(
        both.reasons[0]
            .starts_with("by the server: without what the agents added (measured) p99 is still 4.000s of 6.000s")
    );
    // Where the criterion is met, the conclusion stands too.
    let met = judged(&plan(""), &rows(3 * SECOND, 2 * SECOND), &[], &[]);
    assert_eq!((met.validity, met.limit), (Validity::Valid, Bottleneck::None));
}

#[test]
fn without_receive_stamps_late_timers_are_the_evidence() {
    let slow: Vec<Row> = (0..20).map(|n| session(n, Outcome::Succeeded, 0, 4 * SECOND)).collect();
    let with = |overshoot_us: u64, looks: u64| {
        let mut histogram = agent::load::overshoot::empty();
        histogram.record_n(overshoot_us, looks).expect("in range");
        let mut bytes = Vec::new();
        hdrhistogram::serialization::Serializer::serialize(
            &mut hdrhistogram::serialization::V2Serializer::new(),
            &histogram,
            &mut bytes,
        )
        .expect("written");
        judged_with(&plan(""), &slow, &[], &[], &proto::Vitals { overshoot: bytes, ..vitals() })
    };
    let late = with(SECOND / 2, 100);
    assert_eq!((late.validity, late.limit), (Validity::GeneratorLimited, Bottleneck::Generator));
    assert!(late.reasons[0].contains("estimated from late timers"), "{:?}", late.reasons);
    let idle = with(2_000, 100);
    assert_eq!((idle.validity, idle.limit), (Validity::Valid, Bottleneck::Server));
    assert!(idle.reasons[0].contains("(estimated from late timers) p99 is still 3.990s"), "{:?}", idle.reasons);
    let few = with(SECOND / 2, 99);
    assert_eq!((few.validity, few.limit), (Validity::Valid, Bottleneck::Unknown), "too few looks to say anything");
    assert!(few.reasons[0].contains("is not known"), "{:?}", few.reasons);
}

#[test]
fn silence_is_the_servers_when_the_agents_kept_up() {
    let silent = |own: u64| -> Vec<Row> {
        (0..20)
            .map(|n| {
                let mut row = session(n, Outcome::TimedOut(Phase::Step), 0, 9 * SECOND);
                row.record.wire.own_delay_us = Some(own);
                row.record.wire.syn_retransmits = Some(u32::from(n < 3));
                row
            })
            .collect()
    };
    let plan = plan("session.timeout_seconds=5");
    let server = judged(&plan, &silent(1_000), &[], &[]);
    assert_eq!((server.validity, server.limit), (Validity::Valid, Bottleneck::Server));
    assert!(server.reasons[0].starts_with("by the server: 20 of 20 timed out, mostly at step after 5.00s"));
    assert!(server.reasons[1].starts_with("3 connections took more than one SYN"), "{:?}", server.reasons);
    assert_eq!(judged(&plan, &silent(2 * SECOND), &[], &[]).limit, Bottleneck::Unknown);
}

#[test]
fn a_machine_that_load_and_target_share_proves_nothing_about_the_server() {
    let rows: Vec<Row> = (0..20).map(|n| measured(n, 4 * SECOND, 1_000)).collect();
    let shared = proto::Vitals {
        beside_target: true,
        host_cpus: 2,
        host_cpu_permille: Some(990),
        process_cpu_us: SECOND,
        ..vitals()
    };
    let verdict = judged_with(&plan(""), &rows, &[], &[], &shared);
    assert_eq!((verdict.validity, verdict.limit), (Validity::Valid, Bottleneck::Unknown));
    assert!(verdict.reasons[0].contains("shared a machine"), "{:?}", verdict.reasons);
    let idle = proto::Vitals { host_cpu_permille: Some(600), ..shared };
    assert_eq!(judged_with(&plan(""), &rows, &[], &[], &idle).limit, Bottleneck::Server);
}

#[test]
fn a_total_time_limit_spent_by_the_agent_is_the_generators() {
    let limited = plan("session.total_timeout_seconds=2");
    let rows: Vec<Row> = (0..20)
        .map(|n| match n {
            0..10 => measured(n, SECOND, 0),
            _ => {
                let mut row = session(n, Outcome::TimedOut(Phase::Step), 0, 2 * SECOND);
                row.record.wire.own_delay_us = Some(SECOND);
                row
            }
        })
        .collect();
    let verdict = judged(&limited, &rows, &[], &[]);
    assert_eq!(verdict.validity, Validity::GeneratorLimited);
    assert!(verdict.reasons[0].contains("10 sessions were cut at their time limit"), "{:?}", verdict.reasons);
}

#[test]
fn clocks_that_are_not_known_well_make_a_start_together_invalid() {
    let two = |error_us: u64| -> Vec<AgentResult> {
        ["n1", "n2"]
            .map(|name| AgentResult {
                name: name.to_owned(),
                sessions: 10,
                clock_error_us: Some(error_us),
                ..AgentResult::default()
            })
            .to_vec()
    };
    let judge_of = |agents: Vec<AgentResult>| {
        let rows = good(20);
        let mut summary = summary_of(&rows);
        summary.by_agent = agents;
        judge(&Evidence {
            plan: &plan(""),
            summary: &summary,
            rows: &rows,
            faults: &[],
            lost: &[],
            fate: &Fate::default(),
        })
    };
    assert_eq!(judge_of(two(2_000)).validity, Validity::Valid);
    let loose = judge_of(two(9_150));
    assert_eq!(loose.validity, Validity::Invalid);
    assert!(loose.reasons[0].contains("is known within 9.1 ms only") && loose.reasons[0].contains("(2.0 ms)"));
    assert_eq!(
        judge_of(two(9_150)[..1].to_vec()).validity,
        Validity::Valid,
        "one agent has nobody to start together with"
    );
    let mut set = two(100);
    set[1].vitals =
        Some(proto::Vitals { wire: proto::WireState::Void, realtime_step_us: -1_500_000, ..Default::default() });
    let void = judge_of(set);
    assert_eq!(void.validity, Validity::Valid);
    assert!(void.reasons[0].contains("agent n2 was set by 1.50s"), "{:?}", void.reasons);
}

#[test]
fn a_total_limit_is_named_as_what_it_is() {
    let limited = plan("grid.wait_seconds=0\nsession.total_timeout_seconds=2");
    let rows: Vec<Row> = (0..20)
        .map(|n| {
            let mut row = session(n, Outcome::TimedOut(Phase::Reset), 0, 2 * SECOND);
            row.record.wire.own_delay_us = Some(SECOND / 5 + 1);
            row
        })
        .collect();
    let verdict = judged(&limited, &rows, &[], &[]);
    assert!(
        verdict.reasons[0].contains("cut at their time limit"),
        "a tenth of it was the agents': {:?}",
        verdict.reasons
    );
    let server: Vec<Row> = (0..20)
        .map(|n| {
            let mut row = session(n, Outcome::TimedOut(Phase::Reset), 0, 2 * SECOND);
            row.record.wire.own_delay_us = Some(1_000);
            row
        })
        .collect();
    let verdict = judged(&limited, &server, &[], &[]);
    assert_eq!(verdict.limit, Bottleneck::Server);
    assert!(verdict.reasons[0].contains("mostly at reset at the total time limit of 2.00s"), "{:?}", verdict.reasons);
}

#[test]
fn a_host_with_more_than_its_share_is_named() {
    let on = |counts: &[u64]| -> Verdict {
        let mut rows = Vec::new();
        for (host, n) in counts.iter().enumerate() {
            for _ in 0..*n {
                let mut row = session(rows.len() as u64, Outcome::Succeeded, 0, SECOND);
                row.record.host_url = Some(format!("h{host}:1"));
                rows.push(row);
            }
        }
        judged(&plan(""), &rows, &[], &[])
    };
    let skewed = on(&[300, 100, 100]);
    assert_eq!(skewed.validity, Validity::Valid);
    assert!(skewed.reasons[0].starts_with("host h0:1 had 300 of 500 sessions, 3 hosts would have 166 each"));
    assert_eq!(on(&[110, 90]).reasons, [] as [String; 0], "within what chance gives");
    assert_eq!(on(&[3, 1]).reasons, [] as [String; 0], "few are always uneven");
    assert_eq!(on(&[100]).reasons, [] as [String; 0]);
}

#[test]
fn arrivals_without_a_place_are_told_from_a_slow_agent() {
    let arrivals = plan_of("target.urls=\"http://h\"\nsession.launch={kind='arrivals',per_second=20,for_seconds=1}\n")
        .expect("plan");
    let rows: Vec<Row> = (0..20)
        .map(|n| {
            let mut row = session(n, Outcome::Succeeded, 4 * SECOND, SECOND);
            row.record.intended_us = n;
            row
        })
        .collect();
    let reason = |places: u64| {
        let mut summary = summary_of(&rows);
        let mut agent =
            AgentResult { name: "a".to_owned(), sessions: 20, at_once: Some(places), ..AgentResult::default() };
        agent.measured(&rows, proto::Vitals { in_flight_max: 8, ..vitals() });
        summary.by_agent = vec![agent];
        let verdict = judge(&Evidence {
            plan: &arrivals,
            summary: &summary,
            rows: &rows,
            faults: &[],
            lost: &[],
            fate: &Fate::default(),
        });
        assert_eq!(verdict.validity, Validity::GeneratorLimited);
        verdict.reasons[0].clone()
    };
    assert!(reason(8).contains("because all of its 8 places were taken"), "{}", reason(8));
    assert!(!reason(20).contains("places were taken"));
}

#[test]
fn a_last_session_that_was_late_to_connect_is_told_from_a_server_that_was() {
    // All are launched at once and last 1 s; the last one connects only when the first has ended.
    let rows = |own: u64| -> Vec<Row> {
        (0..20)
            .map(|n| {
                let mut row = session(n, Outcome::Succeeded, 0, if n == 19 { 2 * SECOND } else { SECOND });
                row.record.connect_us = Some(if n == 19 { SECOND + 1 } else { 10 });
                row.record.wire.own_delay_us = Some(if n == 19 { own } else { 0 });
                row.record.wire.open_own_us = row.record.wire.own_delay_us;
                row
            })
            .collect()
    };
    let agent = judged(&plan(""), &rows(SECOND), &[], &[]);
    assert_eq!(agent.validity, Validity::GeneratorLimited);
    assert!(agent.reasons[0].contains("only 19 of 20") && agent.reasons[0].contains("the last was open after 1.00s"));
    assert_eq!(judged(&plan(""), &rows(0), &[], &[]).validity, Validity::Valid, "the server took its time");
    // Delay that was added after the session was open does not count.
    let mut later = rows(SECOND);
    for row in &mut later {
        row.record.wire.open_own_us = Some(0);
    }
    assert_eq!(judged(&plan(""), &later, &[], &[]).validity, Validity::Valid);
}

#[test]
fn a_server_filled_by_sessions_that_the_agents_made_longer_refused_because_of_them() {
    let ramp = plan("session.launch={kind='ramp',over_seconds=2}");
    // One session starts every 0.1 s: lasting 0.5 s, 5 are open at once; lasting 1 s, 10. Every second is refused.
    let rows = |own: u64| -> Vec<Row> {
        (0..20)
            .map(|n| {
                let outcome = match n % 2 {
                    0 => Outcome::Succeeded,
                    _ => Outcome::Failed(FailureKind::CapacityReached, Phase::Reset),
                };
                let mut row = session(n, outcome, n * SECOND / 10, SECOND);
                row.record.intended_us = n * SECOND / 10;
                row.record.wire.own_delay_us = Some(own);
                row
            })
            .collect()
    };
    let agents = judged(&ramp, &rows(SECOND * 3 / 4), &[], &[]);
    assert_eq!((agents.validity, agents.limit), (Validity::GeneratorLimited, Bottleneck::Generator));
    assert!(agents.reasons[0].contains("refused 10 sessions when 5 were open at once"), "{:?}", agents.reasons);
    let server = judged(&ramp, &rows(0), &[], &[]);
    assert_eq!((server.validity, server.limit), (Validity::Valid, Bottleneck::Server));
}

mod corners {
    use proptest::prelude::*;

    use super::*;
    use proto::{Split, WireRecord};

    /// Any value that an authenticated peer may put into a record.
    fn any_us() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), Just(1), 0_u64..10_000_000, Just(u64::MAX), Just(u64::MAX - 1), any::<u64>()]
    }

    fn any_row() -> impl Strategy<Value = (u8, Vec<u64>, Option<u32>)> {
        (0_u8..6, proptest::collection::vec(any_us(), 9), proptest::option::of(any::<u32>()))
    }

    proptest! {
        /// No count or sum overflows, percentiles stay within the data, and there always is a verdict.
        #[test]
        fn the_largest_numbers_neither_overflow_nor_panic(
            rows in proptest::collection::vec(any_row(), 1..30), kind in 0_usize..3,
        ) {
            let rows: Vec<Row> = (0..).zip(rows).map(|(n, (outcome, us, again))| {
                let outcome = match outcome {
                    0..3 => Outcome::Succeeded,
                    3 => Outcome::TimedOut(Phase::Step),
                    4 => Outcome::Failed(FailureKind::Refused, Phase::Connect),
                    _ => Outcome::Failed(FailureKind::PortExhausted, Phase::Connect),
                };
                let mut row = session(n, outcome, us[0], us[1]);
                row.record.intended_us = us[2] % (1 << 40);
                row.record.connect_us = Some(us[3]);
                row.record.step_us = vec![us[4], us[5]];
                row.record.wire = WireRecord {
                    reset: Some(Split { wire_us: us[6], lag_us: us[7] }),
                    steps: vec![Split { wire_us: us[6], lag_us: us[7] }; 2],
                    own_delay_us: Some(us[8]),
                    connect_own_us: Some(us[8]),
                    open_own_us: Some(us[8]),
                    pings: 0,
                    ping_late_us: None,
                    silence: None,
                    handshake_rtt_us: Some(us[7]),
                    syn_retransmits: again,
                };
                row
            }).collect();
            let launch = ["", "session.launch={kind='ramp',over_seconds=1}", "session.total_timeout_seconds=1"][kind];
            let plan = plan(launch);
            let verdict = judged(&plan, &rows, &[], &[]);
            prop_assert!(verdict.validity <= Validity::GeneratorLimited, "{verdict:?}");
            let summary = summary_of(&rows);
            prop_assert!(summary.ledger.balances());
            prop_assert!(summary.total.p50_us <= summary.total.p99_us && summary.total.p99_us <= summary.total_max_us.max(1));
            prop_assert!(summary.open_max <= rows.len() as u64);
            // Each cell can be parsed: plain decimals without an exponent.
            let line = crate::store::schema::columns::line(&summary).expect("a line");
            for cell in String::from_utf8(line).expect("text").split(',').skip(10).take(20) {
                prop_assert!(cell.parse::<f64>().is_ok_and(f64::is_finite) && !cell.contains('e'), "{cell}");
            }
        }
    }
}

/// `n` sessions, of which `failed` end with `kind` and the others last a second.
fn some_failed(n: u64, failed: u64, kind: &FailureKind, silence: Option<(u64, u64)>) -> Vec<Row> {
    let of = |number: u64| {
        if number >= failed {
            return session(number, Outcome::Succeeded, 0, SECOND);
        }
        let mut row = session(number, Outcome::Failed(kind.clone(), Phase::Step), 0, SECOND / 2);
        row.record.wire.silence = silence.map(|(us, own_us)| proto::Silence { us, own_us });
        row
    };
    (0..n).map(of).collect()
}

/// Refused sessions don't count as missing among the open ones, whether they are few or many.
#[test]
fn what_the_server_refused_is_not_missed_among_those_that_were_open() {
    for refused in [1, 3, 5, 8, 30] {
        let mut rows: Vec<Row> = (0..100).map(|n| session(n, Outcome::Succeeded, 0, SECOND)).collect();
        for row in rows.iter_mut().take(refused) {
            row.record.outcome = Outcome::Failed(FailureKind::CapacityReached, Phase::Reset);
            (row.record.reset_us, row.record.total_us) = (None, Some(3));
        }
        let verdict = judged(&plan(""), &rows, &[], &[]);
        let limit = if refused <= 5 { Bottleneck::None } else { Bottleneck::Server };
        assert_eq!(
            (verdict.validity, verdict.limit),
            (Validity::Valid, limit),
            "{refused} refused: {:?}",
            verdict.reasons
        );
    }
}

#[test]
fn sessions_that_a_late_agent_lost_are_the_generators() {
    let plan = plan("");
    for kind in [FailureKind::Closed(1011), FailureKind::Closed(1006), FailureKind::HttpStatus(408), FailureKind::Reset]
    {
        let late = judged(&plan, &some_failed(100, 60, &kind, Some((20 * SECOND, 17 * SECOND))), &[], &[]);
        assert_eq!(
            (late.validity, late.limit),
            (Validity::GeneratorLimited, Bottleneck::Generator),
            "{kind}: {:?}",
            late.reasons
        );
        assert!(late.reasons[0].contains("which was up to 17.0s late"), "{:?}", late.reasons);
        let prompt = judged(&plan, &some_failed(100, 60, &kind, Some((20 * SECOND, 9_000))), &[], &[]);
        assert_eq!(
            (prompt.validity, prompt.limit),
            (Validity::Valid, Bottleneck::Server),
            "{kind}: {:?}",
            prompt.reasons
        );
    }
    let unread = judged(&plan, &some_failed(100, 60, &FailureKind::ClientLimit, None), &[], &[]);
    assert_eq!((unread.validity, unread.limit), (Validity::GeneratorLimited, Bottleneck::Generator));
    assert!(unread.reasons[0].contains("raise session.message_bytes_max"), "{:?}", unread.reasons);
    // So few that the criterion is met all the same.
    let few = judged(&plan, &some_failed(100, 4, &FailureKind::ClientLimit, None), &[], &[]);
    assert_eq!((few.validity, few.limit), (Validity::Valid, Bottleneck::None));
}

#[test]
fn an_episode_that_was_over_early_is_held_to_what_it_asked_for() {
    // The limit of five steps of a second is 2 x (5 s + 0.5 s), that of one step is 2 x (1 s + 0.5 s).
    let plan = plan("session.steps=5");
    let of = |total: u64| -> Vec<Row> {
        (0..50)
            .map(|n| {
                let mut row = session(n, Outcome::Succeeded, 0, total);
                (row.record.done, row.record.asked_us, row.record.wire.own_delay_us) = (true, SECOND, Some(0));
                row
            })
            .collect()
    };
    let quick = judged(&plan, &of(2 * SECOND), &[], &[]);
    assert_eq!((quick.validity, quick.limit), (Validity::Valid, Bottleneck::None), "{:?}", quick.reasons);
    let slow = judged(&plan, &of(4 * SECOND), &[], &[]);
    assert_eq!((slow.validity, slow.limit), (Validity::Valid, Bottleneck::Server), "{:?}", slow.reasons);
}

#[test]
fn values_above_the_range_are_told_and_the_criterion_goes_by_the_sessions() {
    let rows: Vec<Row> = (0..10).map(|n| session(n, Outcome::Succeeded, 0, 3_700 * SECOND)).collect();
    let verdict = judged(&plan(""), &rows, &[], &[]);
    assert_ne!(verdict.limit, Bottleneck::None, "it took an hour for a second: {verdict:?}");
    assert!(
        verdict.reasons.iter().any(|why| why.contains("above the range of the histograms")),
        "{:?}",
        verdict.reasons
    );
}

#[test]
fn connections_that_were_cut_after_the_same_silence_are_told_as_such() {
    let kind = FailureKind::Closed(1006);
    let same = judged(&plan(""), &some_failed(16, 16, &kind, Some((2 * SECOND, 0))), &[], &[]);
    assert!(same.reasons.iter().any(|why| why.contains("at the same age, 2.00s")), "{:?}", same.reasons);
    let mut rows = some_failed(16, 16, &kind, Some((2 * SECOND, 0)));
    rows[0].record.wire.silence = Some(proto::Silence { us: 9 * SECOND, own_us: 0 });
    let other = judged(&plan(""), &rows, &[], &[]);
    assert!(!other.reasons.iter().any(|why| why.contains("at the same age")), "{:?}", other.reasons);
}

#[test]
fn sessions_that_made_no_step_are_told() {
    let mut rows: Vec<Row> = (0..10).map(|n| session(n, Outcome::Succeeded, 0, SECOND)).collect();
    for row in &mut rows[..3] {
        (row.record.done, row.record.asked_us) = (true, 0);
        row.record.step_us.clear();
    }
    for row in &mut rows[3..] {
        row.record.step_us = vec![SECOND];
    }
    let verdict = judged(&plan(""), &rows, &[], &[]);
    assert!(
        verdict.reasons.iter().any(|why| why.starts_with("3 of 10 succeeded sessions were done at their reset")),
        "{:?}",
        verdict.reasons
    );
}
