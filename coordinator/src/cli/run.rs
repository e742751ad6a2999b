//! `coordinator run`: everything that is needed around the event loop.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::IsTerminal as _;
use std::net::SocketAddr;

use jiff::Timestamp;
use proto::RunId;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;

use super::source::Loaded;
use super::{Problem, RunArgs, check, print, source};
use crate::children;
use crate::plan::{OnShortfall, Plan};
use crate::progress::{Progress, Verbosity};
use crate::report::cells::Done;
use crate::report::remarks;
use crate::report::summary::rfc3339;
use crate::report::tables::final_tables;
use crate::run::event_loop::{self, Frame, Outcome, Outside};
use crate::run::machine::Setup;
use crate::service;
use crate::store::run_json::{Facts, RunJson};
use crate::store::{Store, folder};

/// Events that wait for the loop; beyond it agents wait.
const HEARD_MAX: usize = 256;

pub(super) fn run(args: RunArgs, command: Vec<OsString>) -> Result<u8, Problem> {
    unsupported(&args)?;
    let filter = EnvFilter::try_from_env("MUSTER_LOG")
        .unwrap_or_else(|_| EnvFilter::new(if args.verbose { "info" } else { "warn" }));
    // Only the first subscriber of a process counts.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .try_init();
    let loaded = source::plan(&args.plan, args.output.as_deref())?;
    let listen = listen_address(&args, &loaded.plan)?;
    if args.dry_run {
        return print(&check::describe(&loaded.plan));
    }
    // Sessions of local agents are not ours, but thousands of agents are.
    let _ = agent::capacity::measure(&agent::capacity::Wishes::default());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Problem::internal(format!("can't start: {error}")))?;
    let code = runtime.block_on(go(&args, loaded, listen, command));
    runtime.shutdown_background();
    code
}

fn unsupported(args: &RunArgs) -> Result<(), Problem> {
    for (given, flag) in
        [(args.resume.is_some(), "--resume"), (args.ui.is_some(), "--ui"), (args.identity.is_some(), "--identity")]
    {
        if given {
            return Err(Problem::usage(format!("{flag} is not supported yet; leave it out")));
        }
    }
    Ok(())
}

fn listen_address(args: &RunArgs, plan: &Plan) -> Result<SocketAddr, Problem> {
    let all_local = plan.agents.local >= plan.agents.count;
    let default = if all_local { ([127, 0, 0, 1], 0) } else { ([0, 0, 0, 0], 50_051) };
    let listen = args.listen.unwrap_or_else(|| default.into());
    if !listen.ip().is_loopback() && !args.insecure_plaintext {
        return Err(Problem::usage(format!(
            "agents of other machines would connect to {listen} unencrypted and unauthenticated; on a network that you \
             trust, say so with --insecure-plaintext; for agents on this machine use --local N or --listen 127.0.0.1:50051"
        )));
    }
    Ok(listen)
}

async fn go(args: &RunArgs, loaded: Loaded, listen: SocketAddr, command: Vec<OsString>) -> Result<u8, Problem> {
    let Loaded { plan, folder: plan_folder } = loaded;
    let ca_pem = match &plan.target.ca_file {
        None => Vec::new(),
        Some(file) => {
            let path = plan_folder.join(file);
            fs::read(&path).map_err(|error| Problem {
                code: crate::exit::PLAN_INVALID,
                text: format!("target.ca_file: {}: {error}", path.display()),
            })?
        }
    };
    let listener = TcpListener::bind(listen).await.map_err(|error| {
        Problem::usage(format!(
            "--listen {listen}: {error}; is another coordinator running there? give another --listen"
        ))
    })?;
    let address = listener.local_addr().map_err(|error| Problem::internal(error.to_string()))?;
    // Signals are caught from here on: a folder that exists is always left in order.
    let (outside_tx, outside) = mpsc::channel(16);
    catch_signals(&outside_tx)?;

    let started = Timestamp::now();
    let date: String = rfc3339(started).chars().take(10).collect();
    let dir = folder::create(&folder::resolve(&plan, &date)).map_err(|error| Problem::internal(error.to_string()))?;
    let store = Store::create(dir.clone(), plan.output.raw, started)
        .map_err(|error| Problem::internal(format!("the results can't be written: {error}")))?;

    let verbosity = match (args.quiet, args.verbose) {
        (true, _) => Verbosity::Quiet,
        (_, true) => Verbosity::Verbose,
        _ => Verbosity::Normal,
    };
    let mut progress = Progress::new(&plan, verbosity, args.json);
    progress.say(&check::headline(&plan, &plan.batches()));
    progress.say(&format!("results in {}", dir.display()));

    let mut kept = Vec::new();
    let mut urls = plan.target.urls.clone();
    if plan.target.embedded {
        let (workers, envs) = (plan.server.workers.unwrap_or(1), plan.server.max_concurrent_envs.unwrap_or(0));
        let (child, url) = children::target(workers, envs).await.map_err(Problem::internal)?;
        kept.push(children::watch("the embedded target".to_owned(), child, outside_tx.clone()));
        progress.say(&format!("target  {url}, embedded"));
        urls = vec![url];
    }
    let (heard_tx, heard) = mpsc::channel(HEARD_MAX);
    let server = service::serve(listener, heard_tx);
    for (name, child) in children::agents(plan.agents.local, address, args.verbose).map_err(Problem::internal)? {
        kept.push(children::watch(format!("agent {name}"), child, outside_tx.clone()));
    }
    if plan.agents.count > plan.agents.local {
        progress.say(&format!(
            "agents  waiting for {} on {address}; start each with: agent --coordinator {}",
            plan.agents.count - plan.agents.local,
            dialled(address)
        ));
    }
    if plan.agents.on_shortfall == OnShortfall::Continue {
        progress.say("batches that the agents can't carry are skipped (agents.on_shortfall)");
    }

    let command: Vec<String> = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let setup = Setup { plan: plan.clone(), run: RunId::random(), urls: urls.clone(), ca_pem };
    let frame = Frame { store, command: command.clone(), heard, outside, enforce: args.enforce };
    let run = setup.run;
    let outcome = event_loop::run(setup, frame, |event| progress.on(event)).await;
    server.abort();
    drop(kept);
    progress.finish();
    conclude(args, &plan, run, &urls, &command, &dir.display().to_string(), &progress, &outcome)
}

#[expect(clippy::too_many_arguments, reason = "everything that is known at the end")]
fn conclude(
    args: &RunArgs,
    plan: &Plan,
    run: RunId,
    urls: &[String],
    command: &[String],
    dir: &str,
    progress: &Progress,
    outcome: &Outcome,
) -> Result<u8, Problem> {
    let code = outcome.end.code(args.enforce);
    if !outcome.results.is_empty() {
        progress.say("");
        progress.say(final_tables(plan, &outcome.results, &outcome.cells).trim_end());
    }
    if let Some(failure) = &outcome.end.failure {
        progress.warn(&failure.to_string());
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
        progress.warn(&remarks::missing_hosts(plan.target.expected_hosts.unwrap_or(0), &seen));
    }
    if args.json {
        let facts = Facts {
            run,
            plan,
            urls,
            command,
            output: dir.to_owned(),
            started: outcome.started,
            ended: Some(outcome.ended),
            end: Some((&outcome.end, code)),
            agents: &outcome.agents,
            results: &outcome.results,
        };
        let text = serde_json::to_string_pretty(&RunJson::of(&facts)).map_err(|e| Problem::internal(e.to_string()))?;
        print(&format!("{text}\n"))?;
    } else {
        print(&format!("results in {dir}\n"))?;
    }
    Ok(code)
}

/// How an agent on another machine reaches this one.
fn dialled(address: SocketAddr) -> String {
    if address.ip().is_loopback() {
        return address.to_string();
    }
    let host = if address.ip().is_unspecified() { agent::capacity::host_name() } else { address.ip().to_string() };
    format!("{host}:{} --insecure-plaintext --allow-target TARGET", address.port())
}

fn catch_signals(outside: &mpsc::Sender<Outside>) -> Result<(), Problem> {
    // A terminal that hangs up is no reason to lose the bookkeeping.
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut stream = signal(kind).map_err(|error| Problem::internal(format!("signals: {error}")))?;
        let outside = outside.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                if outside.send(Outside::Interrupt).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}
