//! Runs with made-up numbers, which show everything that a page can have.

use std::collections::BTreeMap;

use coordinator::plan::check::plan_of;
use coordinator::plan::expand::Batch;
use coordinator::results::agent::{AgentResult, Overshoot, Pings};
use coordinator::results::batch::{Context, Summary};
use coordinator::results::cells::{CellHistograms, Done};
use coordinator::results::run::{Client, Run, Status};
use coordinator::results::timeline::{BatchTimeline, SessionInterval};
use coordinator::results::verdict::{Bottleneck, Validity, Verdict};
use proto::{Bounds, HistogramSet, Ledger, Metric, Mode, Outcome, SessionRecord, Vitals};

/// Sessions of one batch: latencies grow with the batch, and some sessions fail.
fn records(batch: &Batch, succeeded: u64, timed_out: u64) -> Vec<SessionRecord> {
    let spread_us = batch.batch_size * 120;
    (0..batch.batch_size.min(2_000))
        .map(|session| {
            let place = session * batch.batch_size / batch.batch_size.min(2_000);
            let outcome = if place < succeeded {
                Outcome::Succeeded
            } else if place < succeeded + timed_out {
                Outcome::TimedOut(proto::Phase::Step)
            } else {
                Outcome::Failed(proto::FailureKind::Refused, proto::Phase::Connect)
            };
            let late_us = spread_us * session / batch.batch_size.min(2_000);
            let mut record = SessionRecord::without_life(session, outcome, String::new());
            record.started_us = Some(late_us / 50);
            record.connect_us = Some(2_000 + late_us / 2);
            record.reset_us = Some(1_000 + late_us / 8);
            record.step_us = vec![batch.wait_us + late_us / 4];
            record.close_us = Some(500);
            record.total_us = Some(batch.wait_us + 3_500 + late_us);
            record
        })
        .collect()
}

struct Made {
    done: Done,
    records: Vec<SessionRecord>,
}

fn batch(
    index: u32,
    mode: Mode,
    size: u64,
    wait_us: u64,
    repetition: u32,
    agents: usize,
    cells: &mut CellHistograms,
) -> Made {
    let batch = Batch { index, mode, batch_size: size, wait_us, repetition };
    // Success declines above 2,048, and one size has unstable repetitions.
    let held = match size {
        0..=2_048 => size,
        4_096 if repetition == 2 => 200,
        4_096 => size * 71 / 100,
        _ => 3_200,
    };
    let held = if mode == Mode::Http { held.min(512) } else { held };
    let timed_out = if size > 4_096 { 40 } else { 0 };
    let records = records(&batch, held, timed_out);
    let mut histograms = HistogramSet::new(Bounds::STANDARD);
    records.iter().for_each(|record| histograms.record(record));
    for metric in Metric::ALL {
        cells.add_one(&batch, metric, histograms.get(metric)).expect("the same bounds");
    }
    let context = Context {
        batch,
        url: "http://10.0.0.5:8000",
        hardware: "made up",
        timestamp: jiff::Timestamp::UNIX_EPOCH,
        asked_wait_us: wait_us,
        agents: agents as u64,
        attempt: 1,
    };
    let mut summary = Summary::of(&context, &[], &histograms);
    summary.ledger = Ledger {
        planned: size,
        succeeded: held,
        failed: size - held - timed_out.min(size - held),
        timed_out: timed_out.min(size - held),
        ..Ledger::default()
    };
    summary.total_wall_us = wait_us + size * 120;
    summary.requests_per_second = held as f64 * 1e6 / summary.total_wall_us as f64;
    summary.total_max_us = wait_us + 3_500 + size * 120;
    summary.unique_pids = 96.min(size);
    summary.open_max = size;
    summary.hosts = BTreeMap::from([
        ("ip-26-0-164-45:8000".to_owned(), held / 2),
        ("ip-26-0-164-75:8000".to_owned(), held - held / 2),
    ]);
    summary.workers = (0..12).map(|n| (format!("ip-26-0-164-45:8000 {}", 4_100 + n), held / 12 + 3 * n)).collect();
    summary.own_delay_p99_us = Some(41_000);
    summary.done = held / 3;
    if index % 4 == 1 {
        summary.untidy = BTreeMap::from([("closed(1006)".to_owned(), held / 50 + 1)]);
        let why = "attempt 1: the server was restarted while sessions ran: process 4100 of ip-26-0-164-45:8000 closed 512 sessions";
        summary.refused_before = vec![why.to_owned()];
    }
    summary.start_skew_us = Some(1_300);
    if held < size {
        summary.errors = vec![
            ("refused at connect".to_owned().into(), size - held - timed_out),
            ("timeout at step".to_owned().into(), timed_out),
        ];
    }
    summary.errors.retain(|(_, count)| *count > 0);
    summary.by_agent = (0..agents).map(|n| agent(n, agents, size)).collect();
    summary.verdict = verdict(index, held == size);
    Made { done: Done::Ran(Box::new(summary)), records }
}

fn agent(n: usize, agents: usize, size: u64) -> AgentResult {
    let sessions = size / agents as u64;
    AgentResult {
        name: format!("node-{:03}-{}", n / 2 + 1, n % 2),
        sessions,
        ledger: Ledger { planned: sessions, succeeded: sessions, ..Ledger::default() },
        at_once: Some(sessions),
        start_offset_us: Some(400 + 37 * (n as u64 % 11)),
        clock_error_us: Some(120 + 9 * (n as u64 % 5)),
        launch_lag_p99_us: Some(2_000 + 900 * (n as u64 % 7)),
        own_delay_p99_us: Some(4_000 + 700 * (n as u64 % 9)),
        timer_overshoot: Some(Overshoot { looks: 900, p99_us: 1_500, max_us: 9_000, ..Overshoot::default() }),
        vitals: Some(Vitals {
            threads: 16,
            wall_us: 1_200_000,
            load_cpu_us: 640_000,
            run_queue_us: Some(12_000),
            host_cpu_permille: Some(430),
            memory_bytes_max: 90 << 20,
            descriptors_max: sessions + 40,
            retransmits: Some(3),
            ..Vitals::default()
        }),
        pings: Some(Pings { sessions, pings: 3 * sessions, late_p99_us: Some(4_000), late_us_max: Some(31_000) }),
        lost: None,
    }
}

/// The indexes go through all kinds of verdicts.
fn verdict(index: u32, met: bool) -> Verdict {
    let (worth, limit, reason) = match (index % 9, met) {
        (1, _) => (
            Validity::GeneratorLimited,
            Bottleneck::Generator,
            "p99 1.412s would be 0.981s without what the agents added: agent node-001-0 added 0.431s to its sessions (p99) with \
             15.97 of 16 load threads busy, 0.212s waiting for a CPU: add agents, give them more CPU, or ramp",
        ),
        (4, _) => (Validity::Degraded, Bottleneck::Unknown, "node-002-1 was lost: it gave no sign of life for 10.0 s"),
        (7, _) => (
            Validity::Invalid,
            Bottleneck::Unknown,
            "the clock of node-003-0 is known to 4.1 ms only (measure.max_clock_error_ms is 2.0)",
        ),
        (_, true) => (Validity::Valid, Bottleneck::None, ""),
        (_, false) => (
            Validity::Valid,
            Bottleneck::Server,
            "10,141 of 16,384 sessions were refused at connect while the agents kept up",
        ),
    };
    let reasons = if reason.is_empty() { Vec::new() } else { vec![reason.to_owned()] };
    Verdict { validity: worth, limit, reasons, ..Verdict::default() }
}

fn run(infrastructure: &str, modes: &[Mode], sizes: &[u64], waits_us: &[u64], agents: usize) -> Run {
    let mode = if modes.len() > 1 { "compare" } else { "ws" };
    let list = |values: Vec<String>| values.join(",");
    let plan = plan_of(&format!(
        "[experiment]\ninfrastructure={infrastructure:?}\nhardware=\"AWS HPC (SLURM cluster)\"\ncores=96\nnotes=\"2 nodes behind HAProxy\"\n\
         [server]\nworkers=96\nmax_concurrent_envs=2000\nnodes=2\ncpus_per_node=48\nbackends=[\"ip-26-0-164-45\",\"ip-26-0-164-75\"]\n\
         start_command=\"sbatch deploy/slurm/serve_multi_batch.sh\"\n[target]\nurls=\"http://10.0.0.5:8000\"\nmode={mode:?}\nexpected_hosts=2\n\
         [grid]\nbatch_sizes=[{}]\nwait_seconds=[{}]\nrepetitions=3\n",
        list(sizes.iter().map(u64::to_string).collect()),
        list(waits_us.iter().map(|us| format!("{}", *us as f64 / 1e6)).collect())
    ))
    .expect("plan");
    let (mut cells, mut results, mut traced) = (CellHistograms::default(), Vec::new(), Vec::new());
    for wanted in plan.batches() {
        if wanted.batch_size > 16_384 {
            results.push(Done::Skipped {
                batch: wanted,
                why: "3 smaller batch sizes failed (grid.stop_after_failing = 3)".to_owned(),
            });
            continue;
        }
        let made =
            batch(wanted.index, wanted.mode, wanted.batch_size, wanted.wait_us, wanted.repetition, agents, &mut cells);
        let shown = wanted.batch_size == 2_048
            || Some(&wanted.batch_size) == sizes.iter().filter(|size| **size <= 16_384).max();
        if shown && wanted.repetition == 1 && wanted.wait_us == waits_us[0] {
            traced.push(trace(&wanted, &made.records, agents));
        }
        results.push(made.done);
    }
    let started: jiff::Timestamp = "2026-11-27T09:00:00Z".parse().expect("a time");
    Run {
        place: format!("experiments/results/{infrastructure}/2026-11-27"),
        client: Client::Muster { version: "0.1.0".to_owned() },
        status: Status::Complete,
        failure: None,
        again: String::new(),
        id: "00000000-0000-0000-0000-000000000000".to_owned(),
        started,
        ended: started.checked_add(jiff::SignedDuration::from_mins(21)).ok(),
        command: [
            "target/release/coordinator",
            "run",
            "experiments/plans/slurm-multi.toml",
            "--agents",
            "4",
            "--set",
            "experiment.notes=2 nodes",
        ]
        .map(str::to_owned)
        .to_vec(),
        output: String::new(),
        urls: plan.target.urls.clone(),
        plan,
        agents: (0..agents)
            .map(|n| {
                (
                    agent(n, agents, 0).name,
                    serde_json::json!({"host": format!("node-{:03}", n / 2 + 1), "address": "10.0.1.17"}),
                )
            })
            .collect(),
        results,
        cells,
        traced,
        raw: Some("raw.jsonl".to_owned()),
        notes: Vec::new(),
    }
}

fn trace(batch: &Batch, records: &[SessionRecord], agents: usize) -> BatchTimeline {
    let lives: Vec<SessionInterval> = records
        .iter()
        .map(|record| SessionInterval {
            agent: agent(usize::try_from(record.session).unwrap_or(0) % agents, agents, 0).name,
            opened_us: record.opened_us(),
            ended_us: record.ended_us().unwrap_or(0),
            succeeded: record.outcome == Outcome::Succeeded,
        })
        .collect();
    BatchTimeline::of(*batch, lives.iter().map(|life| life.ended_us).max().unwrap_or(0), &lives)
}

const SIZES: [u64; 8] = [32, 128, 512, 2_048, 4_096, 8_192, 16_384, 32_768];

/// A run with both protocols, three waits, every verdict, skipped batches and incomplete files.
pub(crate) fn every_verdict() -> Run {
    let mut run = run("slurm-multi", &[Mode::Ws, Mode::Http], &SIZES, &[1_000_000, 5_000_000, 10_000_000], 4);
    run.status = Status::Interrupted;
    run.notes.push("histograms.hlog: it ends early; it lacks 2 of 144 batches, so that the p99 of their cells is a bound, and details are left out".to_owned());
    run
}

pub(crate) fn hundred_agents() -> Run {
    run("slurm-multi", &[Mode::Ws], &SIZES, &[1_000_000], 100)
}

pub(crate) fn one_point() -> Run {
    run("local-uvicorn", &[Mode::Ws], &[1], &[0], 1)
}

/// A run that failed before its first batch.
pub(crate) fn nothing() -> Run {
    let mut run = run("hf-spaces", &[Mode::Ws], &SIZES, &[1_000_000], 1);
    (run.results, run.cells, run.traced) = (Vec::new(), CellHistograms::default(), Vec::new());
    run.status = Status::Failed;
    run.failure =
        Some("the target is not ready after 60 s: https://space.example: http_status(503) at connect".to_owned());
    run.notes.push("0 of 24 batches were decided".to_owned());
    run
}

/// The five infrastructures of the log, and seven with long names.
pub(crate) fn twelve() -> Vec<Run> {
    let names = [
        "local-uvicorn",
        "local-docker",
        "hf-spaces",
        "slurm-single",
        "slurm-multi",
        "kubernetes-eu-west-1-spot-pool",
        "kubernetes-us-east-2-on-demand-pool-with-a-long-name",
        "a",
        "bare-metal",
        "ray-cluster",
        "nomad",
        "slurm-multi-envoy",
    ];
    (0_u64..)
        .zip(names)
        .map(|(n, name)| {
            let sizes: Vec<u64> = SIZES.iter().map(|size| size >> (n % 4)).collect();
            run(name, &[Mode::Ws], &sizes, &[1_000_000, 5_000_000], 2)
        })
        .collect()
}
