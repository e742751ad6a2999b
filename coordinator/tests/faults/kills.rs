//! Kills a random agent at a random instant, several times. `MUSTER_FAULTS_KILLS` is the number of kills (5),
//! `MUSTER_FAULTS_SEED` the seed.

use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{Rng as _, SeedableRng as _};

use crate::compare::assert_same;
use crate::support::{Process, Results, Server, agent, coordinator};

const AGENTS: usize = 3;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

/// Runs the grid with agents from outside; `disturb` gets them when the run begins. Returns how long the run took.
fn grid(server: &Server, out: &Path, disturb: impl FnOnce(&str, &mut Vec<Process>)) -> Duration {
    let mut command = coordinator();
    command
        .args(["run", "--target", &server.url, "--batch-sizes", "6,13", "--wait", "0.3", "--reps", "2"])
        .args(["--agents", "3", "--listen", "127.0.0.1:0", "--set", "agents.lease_seconds=5"])
        .args(["--set", "measure.max_clock_error_ms=500", "--output"])
        .arg(out);
    let mut run = Process::start(command);
    let line = run.line_with("start each with: agent --coordinator ");
    let address = line.rsplit(' ').next().expect("address").to_owned();
    let begun = Instant::now();
    let mut agents: Vec<Process> = (0..AGENTS).map(|n| start(&address, n)).collect();
    disturb(&address, &mut agents);
    let ended = run.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    begun.elapsed()
}

fn start(address: &str, n: usize) -> Process {
    agent(address, &["--name", &format!("n{n}"), "--threads", "1"])
}

#[test]
fn whoever_dies_whenever_the_run_comes_to_the_same() {
    let kills = number("MUSTER_FAULTS_KILLS").unwrap_or(5);
    let seed = number("MUSTER_FAULTS_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970");
        u64::from(now.subsec_nanos())
    });
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let whole = dir.path().join("whole");
    let takes = grid(&server, &whole, |_, _| {});
    let whole = Results::of(&whole);
    let mut refused = 0;
    for kill in 0..kills {
        let seed = seed + kill;
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let victim = usize::try_from(random.next_u64() % AGENTS as u64).expect("small");
        let after = takes.mul_f64(f64::from(random.next_u32()) / f64::from(u32::MAX));
        eprintln!("MUSTER_FAULTS_SEED={seed}: n{victim} dies after {} ms", after.as_millis());
        let out = dir.path().join(seed.to_string());
        grid(&server, &out, |address, agents| {
            // The instant is random on purpose; nothing is waited for.
            std::thread::park_timeout(after);
            agents[victim].signal(Signal::SIGKILL);
            agents[victim] = start(address, victim);
        });
        let results = Results::of(&out);
        assert_same(&whole, &results, &format!("seed {seed}"));
        refused += results.journal().iter().filter(|line| line["accepted"] == false).count();
    }
    eprintln!("{kills} kills, {refused} attempts refused, every ledger balanced, every table and row as undisturbed");
}
