//! PURE: turns layers of raw values into a [`Plan`], or reports every fault at once.

pub(in crate::plan) mod reader;
mod sections;

use std::cell::RefCell;

use self::reader::Reader;
use super::layers::{Fault, FaultKind, Layer};
use super::{Plan, schema};

/// Makes a plan of layers, lowest priority first. `earlier` holds the faults found while reading them.
///
/// # Errors
/// Returns every fault, in the order of the file.
pub fn check(layers: &[Layer], earlier: Vec<Fault>) -> Result<Plan, Vec<Fault>> {
    let reader = Reader { layers, faults: RefCell::new(earlier) };
    reader.unknown_keys();
    let target = reader.target();
    let agents = reader.agents(target.embedded);
    let session = reader.session();
    let server = reader.server();
    let plan = Plan {
        experiment: reader.experiment(&server),
        server,
        grid: reader.grid(session.arrivals),
        session: session.session,
        measure: reader.measure(),
        success: reader.success(),
        output: reader.output(),
        target,
        agents,
    };
    let longest_us = plan.grid.waits_us.iter().map(|wait_us| plan.session_floor_us(*wait_us)).max().unwrap_or(0);
    if let Some(found) = reader.key(&schema::session::TOTAL_TIMEOUT)
        && plan.session.total_timeout_us.is_some_and(|total_us| total_us < longest_us)
    {
        let at_least = crate::text::seconds_short(longest_us);
        reader.wrong(
            &found,
            format!("no session can meet it: steps x (wait + think) is {at_least} s; give more than that"),
        );
    }
    let mut faults = reader.faults.into_inner();
    // The parser may have skipped keys after a syntax error.
    if faults.iter().any(|fault| fault.is(FaultKind::Syntax)) {
        faults.retain(|fault| !fault.is(FaultKind::Missing));
    }
    faults.sort();
    faults.dedup();
    if faults.is_empty() { Ok(plan) } else { Err(faults) }
}

/// Makes a plan from the text of a single file.
///
/// # Errors
/// Returns every fault, one per line.
pub fn plan_of(text: &str) -> Result<Plan, String> {
    let (layer, faults) = Layer::file("plan.toml", text, super::layers::Shape::Plan);
    check(&[layer], faults).map_err(|faults| faults.iter().map(|f| format!("{f}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::layers::Shape;

    const SMALL: &str = "[target]\nurls = [\"http://h:1\"]\n[grid]\nbatch_sizes = [8]\n";

    #[test]
    fn everything_has_a_default_but_target_and_sizes() {
        let plan = plan_of(SMALL).expect("plan");
        assert_eq!(plan.grid.waits_us, [1_000_000]);
        assert_eq!((plan.agents.count, plan.agents.local), (1, 1), "this machine is enough for a first run");
        let plan = plan_of(&format!("{SMALL}[agents]\ncount = 4\n")).expect("plan");
        assert_eq!((plan.agents.count, plan.agents.local), (4, 0), "agents that are asked for dial in");
        insta::assert_snapshot!(plan_of("").expect_err("faults"), @r#"
        plan.toml: grid.batch_sizes: missing; give batch_sizes = [32, 128] or --batch-sizes 32,128
        plan.toml: target.urls: missing; give urls = ["http://HOST:PORT"], --target URL, or embedded = true for the built-in reference server
        "#);
    }

    #[test]
    fn all_faults_are_named_at_once() {
        let text = r#"
[experiment]
infrastructure = "../etc"
cores = 0
[target]
urls = ["ftp://h", "http://h:1", "http://h:1"]
mode = "wss"
readytimeout_seconds = 1
[grid]
batch_sizes = [32, 0, 128, 32, -4, 99999999999999999999, "x"]
wait_seconds = [nan, -1.0, 1e9]
repetitions = 1.5
[session]
launch = { kind = "arrivals", per_second = 5 }
timeout_seconds = 0
steps = true
[agnets]
count = 4
[measure]
wire = true
max_clock_error_ms = 2.0
[output]
dir = "x/{host}"
lease_seconds = 3
"#;
        insta::assert_snapshot!(plan_of(text).expect_err("faults"));
    }

    #[test]
    fn flags_win_over_the_plan_and_the_plan_over_the_connection() {
        let (connection, none) =
            Layer::file("c.toml", "urls = [\"http://c:1\"]\nworkers = 8\nnodes = 2\nwrokers = 1", Shape::Connection);
        assert!(none.is_empty());
        let (plan, _) = Layer::file("p.toml", "[grid]\nbatch_sizes=[1]\n[server]\nworkers = 4", Shape::Plan);
        let set = Layer::set("grid.batch_sizes=[2,3]").expect("set");
        let faults = check(&[connection, plan, set], Vec::new()).expect_err("one unknown key");
        assert_eq!(
            faults.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["c.toml:4:1: wrokers: unknown key; did you mean workers?"]
        );

        let (connection, _) =
            Layer::file("c.toml", "urls = [\"http://c:1\"]\nworkers = 8\nnodes = 2", Shape::Connection);
        let (plan, _) = Layer::file("p.toml", "[grid]\nbatch_sizes=[1]\n[server]\nworkers = 4", Shape::Plan);
        let set = Layer::set("grid.batch_sizes=[2,3]").expect("set");
        let plan = check(&[connection, plan, set], Vec::new()).expect("plan");
        assert_eq!(plan.target.urls, ["http://c:1"]);
        assert_eq!((plan.server.workers, plan.server.nodes), (Some(4), Some(2)));
        assert_eq!(plan.grid.batch_sizes, [2, 3]);
    }

    #[test]
    fn a_syntax_error_is_not_drowned_by_what_could_not_be_read() {
        let faults = plan_of("[target\nurls = \"http://h\"\n[grid]\nbatch_sizes = [1]\n").expect_err("faults");
        assert!(faults.starts_with("plan.toml:1:") && !faults.contains("missing"), "{faults}");
    }

    #[test]
    fn a_wrong_flag_is_named_as_the_user_wrote_it() {
        let (plan, _) = Layer::file("p.toml", SMALL, Shape::Plan);
        let set = Layer::set("grid.batch_sizes=[0]").expect("set");
        let faults = check(&[plan, set], Vec::new()).expect_err("fault");
        assert_eq!(
            faults[0].to_string(),
            "--set grid.batch_sizes=[0]: grid.batch_sizes[0]: 0 sessions; give at least 1"
        );
    }

    #[test]
    fn equal_plans_have_equal_hashes_however_they_are_written() {
        let one = plan_of(SMALL).expect("plan");
        let two = plan_of("grid.batch_sizes = [8]\ngrid.wait_seconds = 1\ntarget.urls = \"http://h:1\"").expect("plan");
        assert_eq!(one.hash(), two.hash());
        let other = plan_of(&SMALL.replace("[8]", "[9]")).expect("plan");
        assert_ne!(one.hash(), other.hash());
    }

    #[test]
    fn histograms_reach_as_far_as_sessions_may_last() {
        use proto::Bounds;
        let bounds = |more: &str| plan_of(&format!("{SMALL}{more}")).expect("plan").bounds();
        assert_eq!(bounds(""), Bounds::STANDARD);
        let hours = |n: u64| Bounds { high_us: n * Bounds::STANDARD.high_us, ..Bounds::STANDARD };
        // Two steps of 1,900 s + 120 s, and three other limits of 120 s.
        assert_eq!(bounds("wait_seconds=1900\n[session]\nsteps=2\n"), hours(2));
        assert_eq!(bounds("wait_seconds=1900\n[session]\nsteps=2\ntotal_timeout_seconds=3900\n"), hours(2));
        assert_eq!(bounds("[session]\nsteps=300\ntotal_timeout_seconds=3600\n"), hours(1));
        assert_eq!(bounds("[session]\nlaunch={kind=\"ramp\",over_seconds=7200}\n"), hours(3));
        assert!(bounds("wait_seconds=86400\n[session]\nsteps=10000\n").valid(), "a year at the most");
    }

    #[test]
    fn what_a_server_takes_is_workers_times_environments() {
        let capacity = |more: &str| plan_of(&format!("{SMALL}[server]\n{more}")).expect("plan").known_capacity();
        assert_eq!(capacity("workers=4\nmax_concurrent_envs=100\n"), Some(400));
        assert_eq!(capacity("workers=4\nmax_concurrent_envs=100\nnodes=2\n"), Some(800));
        assert_eq!(capacity("workers=4\n"), None);
    }
}
