use std::time::{Duration, Instant};

use rand_pcg::Pcg64Mcg;
use rand_pcg::rand_core::{Rng as _, SeedableRng as _};
use turmoil::Sim;

use crate::world::{AGENTS, COORDINATOR, Report, counted, run};

const SECOND: Duration = Duration::from_secs(1);
/// With this many seeds some troubles hit a batch; fewer seeds are for examining a failure.
const ENOUGH: usize = 10;

/// The seeds to run.
fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let count = number("MUSTER_SIM_SEEDS").unwrap_or(10);
    let first = number("MUSTER_SIM_SEED").unwrap_or(1);
    first..first + count
}

/// A trouble of one agent that begins at a random instant and ends again.
#[derive(Debug, Clone, Copy)]
struct Spell {
    agent: &'static str,
    from: Duration,
    until: Duration,
}

/// A spell of up to `longest` that begins within the duration of an undisturbed run.
fn spell(seed: u64, within: Duration, longest: Duration) -> Spell {
    let mut random = Pcg64Mcg::seed_from_u64(seed);
    let mut part = |whole: Duration| whole.mul_f64(f64::from(random.next_u32()) / f64::from(u32::MAX));
    let (from, lasts) = (part(within), part(longest));
    let agent = AGENTS[usize::try_from(seed % 3).expect("small")];
    Spell { agent, from, until: from + lasts + Duration::from_millis(1) }
}

type Change = fn(&mut Sim<'_>, &'static str);

/// Runs every seed with this trouble, and compares the outcomes with the undisturbed one. Returns the reports.
fn always_the_same(what: &str, longest: Duration, begin: Change, end: Change) -> Vec<Report> {
    let (undisturbed, takes) = undisturbed();
    let begun = Instant::now();
    let reports: Vec<Report> = seeds()
        .map(|seed| {
            let spell = spell(seed, takes, longest);
            let (mut before, mut over) = (true, false);
            let report = run(seed, |sim, now| {
                if before && now >= spell.from {
                    before = false;
                    begin(sim, spell.agent);
                }
                if !before && !over && now >= spell.until {
                    over = true;
                    end(sim, spell.agent);
                }
            });
            assert_eq!(report.came, undisturbed.came, "MUSTER_SIM_SEED={seed} {what} {spell:?}: {:#?}", report.told);
            report
        })
        .collect();
    let refused: usize = reports.iter().map(|report| report.refused.len()).sum();
    eprintln!(
        "{what}: seeds {:?}, {refused} attempts refused, every final table and row as undisturbed ({} ms)",
        seeds(),
        begun.elapsed().as_millis()
    );
    reports
}

/// The outcome of an undisturbed run, and how long it takes.
fn undisturbed() -> (Report, Duration) {
    let mut takes = Duration::ZERO;
    let report = run(0, |_, now| takes = now);
    assert_eq!((report.came.code, report.refused.len()), (0, 0), "{:#?}", report.told);
    assert_eq!(report.came.rows.len(), 2 * (7 + 20), "{:#?}", report.came.rows);
    assert!(report.came.table.contains("| ws "), "{}", report.came.table);
    (report, takes)
}

#[test]
fn the_network_being_slow_changes_nothing() {
    let (undisturbed, _) = undisturbed();
    for seed in seeds() {
        let latency = Duration::from_millis(5 + seed * 7 % 200);
        let report = run(seed, |sim, now| {
            if now < Duration::from_millis(2) {
                sim.set_max_message_latency(latency);
            }
        });
        assert_eq!(report.came, undisturbed.came, "MUSTER_SIM_SEED={seed} up to {latency:?}: {:#?}", report.told);
        assert!(report.refused.is_empty(), "MUSTER_SIM_SEED={seed}: {:#?}", report.told);
    }
}

#[test]
fn an_agent_that_dies_and_comes_back_changes_nothing() {
    let reports = always_the_same("death", 2 * SECOND, |sim, agent| sim.crash(agent), |sim, agent| sim.bounce(agent));
    if reports.len() >= ENOUGH {
        assert!(reports.iter().any(|report| !report.refused.is_empty()), "some died in the middle of a batch");
    }
}

#[test]
fn a_cut_cable_changes_nothing() {
    let reports = always_the_same(
        "cut",
        10 * SECOND,
        |sim, agent| sim.partition(COORDINATOR, agent),
        |sim, agent| sim.repair(COORDINATOR, agent),
    );
    if reports.len() >= ENOUGH {
        let silent = reports.iter().any(|report| report.told.iter().any(|line| line.contains("was silent for 3 s")));
        assert!(silent, "some were cut off for longer than their lease");
    }
}

#[test]
fn a_one_way_cut_changes_nothing() {
    always_the_same(
        "what the agent says is lost",
        8 * SECOND,
        |sim, agent| sim.partition_oneway(agent, COORDINATOR),
        |sim, agent| sim.repair_oneway(agent, COORDINATOR),
    );
    always_the_same(
        "what the agent should hear is lost",
        8 * SECOND,
        |sim, agent| sim.partition_oneway(COORDINATOR, agent),
        |sim, agent| sim.repair_oneway(COORDINATOR, agent),
    );
}

#[test]
fn a_stall_changes_nothing() {
    let reports = always_the_same(
        "stall",
        6 * SECOND,
        |sim, agent| sim.hold(COORDINATOR, agent),
        |sim, agent| sim.release(COORDINATOR, agent),
    );
    if reports.len() >= ENOUGH {
        let patient = reports.iter().filter(|report| report.refused.is_empty()).count();
        assert!(patient > 0 && patient < reports.len(), "stalls within a lease cost nothing, longer ones an attempt");
    }
}

/// The same seed gives the same run, so that a failure can be examined again.
#[test]
fn a_seed_tells_the_same_story_twice() {
    let story = |seed| {
        let spell = spell(seed, 8 * SECOND, SECOND);
        let report = run(seed, |sim, now| {
            if now == spell.from.max(Duration::from_millis(1)) {
                sim.partition(COORDINATOR, spell.agent);
            }
        });
        counted(&report.told)
    };
    assert_eq!(story(7), story(7));
}
