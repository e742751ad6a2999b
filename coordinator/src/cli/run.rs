//! `coordinator run`: everything around the event loop.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use agent::host::slurm::{self, Job};
use jiff::Timestamp;
use proto::RunId;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

use super::args::RunArgs;
use super::output::{Problem, VerbosityFlags, print};
use super::prepare::{self, AgentAuth, Prepared, RunSource};
use super::{check, report};
use crate::children;
use crate::net::listener;
use crate::net::rpc::{self, LastHeard};
use crate::plan::{OnShortfall, Plan};
use crate::progress::{Progress, Verbosity};
use crate::report::caveats;
use crate::report::tables::final_tables;
use crate::results::cells::Done;
use crate::results::metadata::RunState;
use crate::run::event_loop::{self, Frame, Outcome, Outside};
use crate::run::machine::{Machine, Setup};
use crate::store::schema::run_json::RunJson;

/// Bound of the queue of events for the loop; beyond it agents wait.
const HEARD_MAX: usize = 256;

pub(super) fn run(args: RunArgs, flags: VerbosityFlags, command: Vec<OsString>) -> Result<u8, Problem> {
    if args.ui.is_some() {
        return Err(Problem::usage("--ui is not supported yet; leave it out"));
    }
    let filter = EnvFilter::try_from_env("MUSTER_LOG")
        .unwrap_or_else(|_| EnvFilter::new(if flags.verbose { "info" } else { "warn" }));
    // This fails if the process has a subscriber already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(agent::cli::colours())
        .with_target(false)
        .try_init();
    let source = prepare::source(&args)?;
    if args.dry_run {
        return print(&check::describe(&source.plan));
    }
    let auth = prepare::auth(&args, &source.plan)?;
    // Raises the limit of open files: thousands of agents may connect.
    let _ = agent::host::capacity::measure(&agent::host::capacity::CapacityOptions::default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Problem::internal(format!("can't start: {error}")))?;
    let code = runtime.block_on(go(&args, flags, source, auth, command));
    runtime.shutdown_background();
    code
}

fn listen_address(args: &RunArgs, plan: &Plan) -> SocketAddr {
    let all_local = plan.agents.local >= plan.agents.count;
    let default = if all_local { ([127, 0, 0, 1], 0) } else { ([0, 0, 0, 0], 50_051) };
    args.listen.unwrap_or_else(|| default.into())
}

fn ca_pem(plan: &Plan, folder: &Path) -> Result<Vec<u8>, Problem> {
    let Some(file) = &plan.target.ca_file else { return Ok(Vec::new()) };
    read_ca(&folder.join(file))
}

/// Reads `target.ca_file`. Agents get its contents without its name, so a file without certificates is reported here.
fn read_ca(path: &Path) -> Result<Vec<u8>, Problem> {
    let refused = |cause: String| Problem {
        code: crate::exit::PLAN_INVALID,
        text: format!("target.ca_file: {}: {cause}", path.display()),
    };
    let pem = fs::read(path).map_err(|error| refused(error.to_string()))?;
    agent::net::trust::check(&pem).map_err(|error| refused(error.to_string()))?;
    Ok(pem)
}

async fn go(
    args: &RunArgs,
    flags: VerbosityFlags,
    source: RunSource,
    auth: AgentAuth,
    command: Vec<OsString>,
) -> Result<u8, Problem> {
    let RunSource { plan, folder: plan_folder, stored } = source;
    let ca_pem = ca_pem(&plan, &plan_folder)?;
    let listen = listen_address(args, &plan);
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        Problem::usage(format!(
            "--listen {listen}: {error}; is another coordinator running there? give another --listen"
        ))
    })?;
    let address = listener.local_addr().map_err(|error| Problem::internal(error.to_string()))?;
    // Signals are caught before the results folder is created, so that it is always left in order.
    let (outside_tx, outside) = mpsc::channel(16);
    catch_signals(&outside_tx)?;
    let command: Vec<String> = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let Prepared { store, run, mut metadata, history, cells, notes } = prepare::results(args, &plan, stored)?;
    if metadata.command.is_empty() {
        metadata.command.clone_from(&command);
    }
    metadata.plan_folder = std::path::absolute(&plan_folder).unwrap_or(plan_folder).display().to_string();
    let dir = store.dir().to_path_buf();

    let mut progress = announce(args, flags, &plan, &dir, &notes, &auth);
    let mut setup = Setup { plan: Arc::new(plan.clone()), run, urls: plan.target.urls.clone(), ca_pem, history };
    if args.resume.is_some() {
        let (done, all) = (setup.history.decided.len(), plan.batches().len());
        progress.say(&format!("taken up again: {done} of {all} batches are done and stand"));
    }
    let (incoming_tx, incoming) = mpsc::channel(HEARD_MAX);
    let last_heard = LastHeard::default();
    let (mut server, mut kept) = (None, Vec::new());
    if !Machine::new(setup.clone()).nothing_left() {
        if plan.target.embedded {
            let (workers, envs) = (plan.server.workers.unwrap_or(1), plan.server.max_concurrent_envs.unwrap_or(0));
            let (child, url) = children::target(workers, envs).await.map_err(Problem::internal)?;
            kept.push(children::watch("the embedded target".to_owned(), child, outside_tx.clone()));
            progress.say(&format!("target  {url}, embedded"));
            setup.urls = vec![url];
        }
        server = Some(rpc::serve(listener::open(listener, auth.security()), incoming_tx, last_heard.clone()));
        let child_flags = auth.child_flags(&setup.urls);
        let local =
            children::agents(plan.agents.local, address, &child_flags, flags.verbose).map_err(Problem::internal)?;
        for (name, child) in local {
            kept.push(children::watch(format!("agent {name}"), child, outside_tx.clone()));
        }
        announce_agents(&plan, address, &auth, &progress);
    }

    let (run, urls) = (setup.run, setup.urls.clone());
    let frame =
        Frame { store, metadata, incoming, last_heard, outside, enforce: args.enforce, cells, wall: Timestamp::now };
    let outcome = event_loop::run(setup, frame, |event| progress.on(event)).await;
    if let Some(server) = server {
        server.abort();
    }
    drop(kept);
    progress.finish();
    conclude(args, &plan, run, &urls, &dir, &progress, &outcome)
}

/// Says what is run and where its results go.
fn announce(
    args: &RunArgs,
    flags: VerbosityFlags,
    plan: &Plan,
    dir: &Path,
    notes: &[String],
    auth: &AgentAuth,
) -> Progress {
    let verbosity = match (flags.quiet, flags.verbose) {
        (true, _) => Verbosity::Quiet,
        (_, true) => Verbosity::Verbose,
        _ => Verbosity::Normal,
    };
    let progress = Progress::new(plan, verbosity, args.json);
    progress.say(&check::headline(plan, &plan.batches()));
    progress.say(&format!("results in {}", dir.display()));
    for note in notes {
        progress.warn(note);
    }
    auth.tell(&progress);
    for warning in [check::beyond_the_proxies(plan), check::beyond_the_server(plan)].into_iter().flatten() {
        progress.warn(&format!("note: {warning}"));
    }
    progress
}

/// Says which agents have to be started elsewhere, and how.
fn announce_agents(plan: &Plan, address: SocketAddr, auth: &AgentAuth, progress: &Progress) {
    if plan.agents.count > plan.agents.local {
        let missing = plan.agents.count - plan.agents.local;
        let how = how_to_start(missing, address, &auth.agent_flags());
        progress.say(&format!("agents  waiting for {missing} on {address}; {how}"));
    }
    if plan.agents.on_shortfall == OnShortfall::Continue {
        progress.say("batches that the agents can't carry are skipped (agents.on_shortfall)");
    }
}

fn conclude(
    args: &RunArgs,
    plan: &Plan,
    run: RunId,
    urls: &[String],
    dir: &Path,
    progress: &Progress,
    outcome: &Outcome,
) -> Result<u8, Problem> {
    let code = outcome.end.code(args.enforce);
    let place = dir.display().to_string();
    let (decided, planned) = (outcome.results.len(), plan.batches().len());
    if decided > 0 {
        progress.say("");
        if decided < planned {
            progress.say(&format!("not the whole run: {decided} of {planned} batches were decided"));
        }
        progress.say(final_tables(plan, &outcome.results, &outcome.cells).trim_end());
    }
    if let Some(failure) = &outcome.end.failure {
        progress.warn(&failure.to_string());
    }
    if outcome.end.failure.is_some() || outcome.end.interrupted {
        let kept = if decided > 0 { "what is complete is kept" } else { "no batch was finished" };
        progress.warn(&format!("{kept}; go on with: coordinator run --resume {place}"));
    }
    if outcome.end.hosts_missing {
        let seen: BTreeSet<String> = outcome
            .results
            .iter()
            .filter_map(Done::summary)
            .filter(|summary| summary.verdict.hosts_missing)
            .flat_map(|summary| summary.hosts.keys().cloned())
            .collect();
        let seen: Vec<String> = seen.into_iter().collect();
        progress.warn(&caveats::missing_hosts(plan.target.expected_hosts.unwrap_or(0), &seen));
    }
    match report::of_finished(dir) {
        Ok(page) => progress.say(&format!("report in {}", page.display())),
        Err(why) => progress.warn(&format!(
            "the results are whole, but no report could be made of them: {why}; try again with: coordinator report {place}"
        )),
    }
    if args.json {
        let facts = RunState {
            run,
            plan,
            urls,
            metadata: &outcome.metadata,
            output: place.clone(),
            ended: Some(outcome.ended),
            end: Some((&outcome.end, code)),
            agents: &outcome.agents,
            results: &outcome.results,
        };
        let text = serde_json::to_string_pretty(&RunJson::of(&facts)).map_err(|e| Problem::internal(e.to_string()))?;
        print(&format!("{text}\n"))?;
    } else {
        print(&format!("results in {place}\n"))?;
    }
    Ok(code)
}

/// How a person starts `agents` agents on other machines.
fn how_to_start(agents: u32, address: SocketAddr, flags: &str) -> String {
    // The script that started this process starts them too.
    if slurm::variable("MUSTER_AGENTS_COME").is_some() {
        return "they are being started".to_owned();
    }
    let job = Job::of(&slurm::variable);
    let agent = agent_beside_this();
    let dialled = if address.ip().is_unspecified() {
        // SLURM's name of this node is the one that the other nodes know.
        let host = job.as_ref().and_then(|job| job.node.clone()).unwrap_or_else(agent::host::capacity::host_name);
        format!("{host}:{}", address.port())
    } else {
        address.to_string()
    };
    match job {
        Some(job) => format!("start them with: {} {agent} --coordinator {dialled}{flags}", job.srun(agents)),
        None => format!("start each with: agent --coordinator {dialled}{flags}"),
    }
}

/// The agent that was built with this coordinator; other nodes of a job find it at the same path.
fn agent_beside_this() -> String {
    let beside = std::env::current_exe().ok().map(|path| path.with_file_name("agent")).filter(|path| path.is_file());
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.+".contains(c);
    // A path that a shell would split is not used: PATH must find the agent then.
    beside
        .map(|path| path.display().to_string())
        .filter(|path| path.chars().all(plain))
        .unwrap_or_else(|| "agent".to_owned())
}

fn catch_signals(outside: &mpsc::Sender<Outside>) -> Result<(), Problem> {
    // A terminal that hangs up must not end the process without its records.
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut stream = signal(kind).map_err(|error| Problem::internal(format!("signals: {error}")))?;
        let outside = outside.clone();
        tokio::spawn(async move {
            let mut said = 0;
            while stream.recv().await.is_some() {
                said += 1;
                // Only a second Ctrl-C stops at once: schedulers send SIGTERM more than once.
                let twice = kind == SignalKind::interrupt() && said > 1;
                if outside.send(if twice { Outside::AtOnce } else { Outside::Interrupt }).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_file_that_adds_no_trust_is_refused_by_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca.pem");
        for (text, cause) in [("", "it is empty"), ("\u{feff}\r\n", "it is empty"), ("hello\n", "no certificate in it")]
        {
            fs::write(&path, text).expect("written");
            let problem = read_ca(&path).expect_err("refused");
            assert_eq!(problem.code, crate::exit::PLAN_INVALID);
            let named = format!("target.ca_file: {}: {cause}", path.display());
            assert!(problem.text.starts_with(&named), "{}", problem.text);
        }
        let missing = read_ca(&folder.path().join("missing.pem")).expect_err("refused");
        assert!(missing.text.contains("missing.pem"), "{}", missing.text);
        let (pem, _) = agent::identity::certs::new_ca().expect("a certificate");
        fs::write(&path, &pem).expect("written");
        assert_eq!(read_ca(&path).expect("read"), pem.as_bytes());
    }
}
