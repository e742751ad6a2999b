//! The inputs of a run: its plan, its authentication, and its results folder.

use std::fs;
use std::path::{Path, PathBuf};

use agent::identity::{Identity, IdentityError};
use jiff::Timestamp;
use proto::RunId;
use proto::base_url::BaseUrl;

use super::args::{PlanArgs, RunArgs};
use super::output::Problem;
use super::source::{self as plan_source, Loaded};
use crate::exit;
use crate::net::identity;
use crate::net::listener::Security;
use crate::plan::Plan;
use crate::plan::diff::differences;
use crate::progress::Progress;
use crate::results::cells::CellHistograms;
use crate::results::history::History;
use crate::results::metadata::RunMetadata;
use crate::store::resume::{self, ResumeError, Resumed};
use crate::store::schema::run_json::RunJson;
use crate::store::{Store, folder};
use crate::text::rfc3339;

/// The plan of a run, and the stored run if one is resumed.
pub(super) struct RunSource {
    pub(super) plan: Plan,
    pub(super) folder: PathBuf,
    pub(super) stored: Option<(PathBuf, RunJson<'static>)>,
}

pub(super) fn source(args: &RunArgs) -> Result<RunSource, Problem> {
    let Some(dir) = &args.resume else {
        let Loaded { plan, folder } = plan_source::plan(&args.plan, args.output.as_deref())?;
        return Ok(RunSource { plan, folder, stored: None });
    };
    let stored = resume::stored(dir).map_err(|error| cant_resume(&error))?;
    let mut plan = stored.plan.clone().into_owned();
    let mut folder = PathBuf::from(if stored.plan_folder.is_empty() { "." } else { &*stored.plan_folder });
    if says_what_is_run(&args.plan) {
        if args.plan.plan.is_none() && (args.plan.target.is_empty() || args.plan.batch_sizes.is_empty()) {
            return Err(Problem::usage(format!(
                "--resume {0}: the plan comes from there and can't be changed; leave its flags out: coordinator run --resume \
                 {0}",
                dir.display()
            )));
        }
        let given = plan_source::plan(&args.plan, None)?;
        let differences = differences(&stored.plan, &given.plan);
        if !differences.is_empty() {
            return Err(Problem {
                code: exit::PLAN_INVALID,
                text: format!(
                    "the plan is not the one of {}:\n  {}\none run is one experiment: leave the plan and its flags out to go \
                     on, or start a new run without --resume",
                    dir.display(),
                    differences.join("\n  ")
                ),
            });
        }
        folder = given.folder;
        (plan.agents.count, plan.agents.local) = (given.plan.agents.count, given.plan.agents.local);
    } else {
        // The number of agents is no part of what is measured. The two flags mean what they mean for a new run.
        if let Some(local) = args.plan.local {
            (plan.agents.local, plan.agents.count) = (local, local.max(1));
        }
        if let Some(agents) = args.plan.agents {
            plan.agents.count = agents.max(1);
            plan.agents.local = plan.agents.local.min(plan.agents.count);
        }
    }
    Ok(RunSource { plan, folder, stored: Some((dir.clone(), stored)) })
}

fn cant_resume(error: &ResumeError) -> Problem {
    match error {
        ResumeError::NotResumable(text) => Problem::usage(format!("--resume {text}")),
        ResumeError::Io(error) => Problem::internal(format!("--resume: {error}")),
    }
}

/// Whether flags give a plan or a part of one, apart from the number of agents.
fn says_what_is_run(args: &PlanArgs) -> bool {
    args.plan.is_some()
        || !args.set.is_empty()
        || !args.target.is_empty()
        || !args.batch_sizes.is_empty()
        || !args.wait.is_empty()
        || args.reps.is_some()
        || args.mode.is_some()
        || args.compare
}

/// How agents authenticate.
pub(super) enum AgentAuth {
    Plaintext,
    Identity {
        identity: Box<Identity>,
        /// Whether it was created just now.
        new: bool,
        /// Whether a flag named it.
        given: bool,
        /// The folder of an identity for local agents only; it is removed with this value.
        _temporary: Option<TemporaryFolder>,
    },
}

pub(super) fn auth(args: &RunArgs, plan: &Plan) -> Result<AgentAuth, Problem> {
    if args.insecure_plaintext {
        return Ok(AgentAuth::Plaintext);
    }
    let given = args.identity.is_some();
    let all_local = plan.agents.local >= plan.agents.count;
    let usage = |error: IdentityError| Problem::usage(error.to_string());
    let (identity, new, temporary) = if all_local && !given {
        match identity::place(None).and_then(|dir| Identity::load(&dir)) {
            Ok(identity) => (identity, false, None),
            Err(error @ IdentityError::Unsafe(_)) => return Err(usage(error)),
            // A run with local agents only leaves no identity in the home folder, and needs none there.
            Err(IdentityError::Missing(_) | IdentityError::Broken(_)) => {
                let folder = TemporaryFolder(std::env::temp_dir().join(format!("muster-{}", uuid::Uuid::new_v4())));
                let (identity, _) = identity::load_or_create(&folder.0.join("identity")).map_err(usage)?;
                (identity, false, Some(folder))
            }
        }
    } else {
        let place = identity::place(args.identity.as_deref());
        let (identity, new) = place.and_then(|dir| identity::load_or_create(&dir)).map_err(usage)?;
        (identity, new, None)
    };
    // Problems with the identity are reported before a port is bound.
    identity.server().map_err(|error| Problem::usage(error.to_string()))?;
    Ok(AgentAuth::Identity { identity: Box::new(identity), new, given, _temporary: temporary })
}

impl AgentAuth {
    pub(super) fn security(&self) -> Security {
        match self {
            Self::Plaintext => Security::Plaintext,
            Self::Identity { identity, .. } => match identity.server() {
                Ok(config) => Security::Tls(config),
                Err(error) => unreachable!("it was made a moment ago: {error}"),
            },
        }
    }

    pub(super) fn tell(&self, progress: &Progress) {
        match self {
            Self::Plaintext => progress.warn(
                "agents connect unencrypted and unauthenticated: whoever reaches the port can be one of them \
                 (--insecure-plaintext)",
            ),
            Self::Identity { identity, new: true, .. } => {
                progress
                    .say(&format!("identity made in {}: agents that share it need no flag", identity.dir().display()));
            }
            Self::Identity { .. } => {}
        }
    }

    /// The flags for agents that are child processes.
    pub(super) fn child_flags(&self, urls: &[String]) -> Vec<String> {
        match self {
            Self::Identity { identity, .. } => vec!["--identity".to_owned(), identity.dir().display().to_string()],
            Self::Plaintext => {
                let mut flags = vec!["--insecure-plaintext".to_owned()];
                for url in urls.iter().filter_map(|url| BaseUrl::parse(url).ok()) {
                    let host = if url.host.contains(':') { format!("[{}]", url.host) } else { url.host.clone() };
                    flags.extend(["--allow-target".to_owned(), format!("{host}:{}", url.port)]);
                }
                flags
            }
        }
    }

    /// The flags for agents that a person starts elsewhere.
    pub(super) fn agent_flags(&self) -> String {
        match self {
            Self::Plaintext => " --insecure-plaintext --allow-target TARGET".to_owned(),
            Self::Identity { identity, given: true, .. } => format!(" --identity {}", identity.dir().display()),
            Self::Identity { .. } => String::new(),
        }
    }
}

/// A folder that is removed when this is dropped.
pub(super) struct TemporaryFolder(PathBuf);

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // At worst a key is left that nothing trusts any more.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A run that is ready to write results.
pub(super) struct Prepared {
    pub(super) store: Store,
    pub(super) run: RunId,
    pub(super) metadata: RunMetadata,
    pub(super) history: History,
    pub(super) cells: CellHistograms,
    /// What was cut off of the results of a resumed run.
    pub(super) notes: Vec<String>,
}

pub(super) fn results(
    args: &RunArgs,
    plan: &Plan,
    stored: Option<(PathBuf, RunJson<'static>)>,
) -> Result<Prepared, Problem> {
    let faults = args.fault.clone().unwrap_or_default();
    let Some((dir, stored)) = stored else {
        let started = Timestamp::now();
        let date: String = rfc3339(started).chars().take(10).collect();
        let dir =
            folder::create(&folder::resolve(plan, &date)).map_err(|error| Problem::internal(error.to_string()))?;
        let store = Store::create(dir.clone(), plan.output.raw, started, faults).map_err(|error| {
            take_back(&dir);
            Problem::internal(format!(
                "the results can't be written: {error}; make room, or give another folder with --output"
            ))
        })?;
        return Ok(Prepared {
            store,
            run: RunId::random(),
            metadata: RunMetadata { started, ..RunMetadata::default() },
            history: History::default(),
            cells: CellHistograms::default(),
            notes: Vec::new(),
        });
    };
    let Resumed { store, run, started, mut resumed, agents, command, history, cells, notes } =
        resume::resume(dir, stored, faults).map_err(|error| cant_resume(&error))?;
    resumed.push(rfc3339(Timestamp::now()));
    let metadata = RunMetadata { command, started, resumed, earlier_agents: agents, ..RunMetadata::default() };
    Ok(Prepared { store, run, metadata, history, cells, notes })
}

/// Removes a folder that was just created and never held results.
fn take_back(dir: &Path) {
    // `remove_dir` fails if the folder holds anything besides these empty files.
    for name in ["raw.jsonl", "raw.jsonl.zst", "summary.csv", "histograms.hlog", "journal.jsonl"] {
        let _ = fs::remove_file(dir.join(name));
    }
    let _ = fs::remove_dir(dir);
}
