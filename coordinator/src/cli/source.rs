//! Builds a checked plan from flags and files: the input side of the pure `plan` module.

use std::fs;
use std::path::{Path, PathBuf};

use toml::Value;

use super::args::PlanArgs;
use super::output::Problem;
use crate::exit;
use crate::plan::check::check;
use crate::plan::layers::{Fault, FaultKind, Layer, Shape};
use crate::plan::{Modes, Plan};

/// A plan, and the folder that its relative paths start from.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) plan: Plan,
    pub(super) folder: PathBuf,
}

/// Reads, layers and checks a plan. `output` is the flag of `run`.
pub(super) fn plan(args: &PlanArgs, output: Option<&Path>) -> Result<Loaded, Problem> {
    if args.plan.is_none() && args.target.is_empty() && args.set.is_empty() {
        return Err(Problem::usage(
            "no plan: give a PLAN, or --target URL --batch-sizes N,N; `coordinator plan init` prints a plan to begin with",
        ));
    }
    let mut faults = Vec::new();
    let mut layers = Vec::new();
    let mut folder = PathBuf::from(".");
    if let Some(path) = &args.plan {
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            folder = parent.to_path_buf();
        }
        let text = fs::read_to_string(path).map_err(|error| {
            let hint = match error.kind() {
                // Only if there is no file: the hint must not overwrite one.
                std::io::ErrorKind::NotFound => {
                    format!("; `coordinator plan init > {}` writes one to begin with", path.display())
                }
                _ => "; a plan is a TOML file".to_owned(),
            };
            Problem { code: exit::PLAN_INVALID, text: format!("{}: {error}{hint}", path.display()) }
        })?;
        let (layer, found) = Layer::file(&path.display().to_string(), &text, Shape::Plan);
        faults.extend(found);
        layers.push(layer);
    }
    for assignment in &args.set {
        match Layer::set(assignment) {
            Ok(layer) => layers.push(layer),
            Err(fault) => faults.push(fault),
        }
    }
    layers.extend(flags(args, output));
    if let Some(connection) = layers.iter().rev().find_map(|layer| layer.text_of("server", "connection")) {
        let path = folder.join(connection);
        match fs::read_to_string(&path) {
            Ok(text) => {
                let (layer, found) = Layer::file(&path.display().to_string(), &text, Shape::Connection);
                faults.extend(found);
                layers.insert(0, layer);
            }
            // A plan with its own urls needs no connection file: the server may not be up yet.
            Err(_) if layers.iter().any(|layer| layer.find_urls()) => {}
            Err(error) => faults.push(Fault::connection(
                &path.display().to_string(),
                format!(
                    "{error}; start the server with its deploy script, which writes this file, or give --target URL"
                ),
            )),
        }
    }
    // With the connection file missing its urls are missing too, and one message says enough.
    let unreadable = faults.iter().any(|fault| fault.is(FaultKind::Connection));
    match check(&layers, faults) {
        Ok(plan) => Ok(Loaded { plan, folder }),
        Err(faults) => {
            let lines: Vec<String> = faults
                .iter()
                .filter(|fault| !(unreadable && fault.is_missing_urls()))
                .map(ToString::to_string)
                .collect();
            Err(Problem { code: exit::PLAN_INVALID, text: lines.join("\n") })
        }
    }
}

/// Turns flags into layers: each overrides one key, and is named if its value is wrong.
fn flags(args: &PlanArgs, output: Option<&Path>) -> Vec<Layer> {
    let text = |value: &str| Value::String(value.to_owned());
    let number = |value: u64| Value::Integer(i64::try_from(value).unwrap_or(i64::MAX));
    let mut layers = Vec::new();
    if !args.target.is_empty() {
        let urls = Value::Array(args.target.iter().map(|url| text(url)).collect());
        layers.push(Layer::flag("--target", "target.urls", &urls));
        layers.push(Layer::flag("--target", "target.embedded", &Value::Boolean(false)));
    }
    if !args.batch_sizes.is_empty() {
        let sizes = Value::Array(args.batch_sizes.iter().map(|size| number(*size)).collect());
        layers.push(Layer::flag("--batch-sizes", "grid.batch_sizes", &sizes));
    }
    if !args.wait.is_empty() {
        let waits = Value::Array(args.wait.iter().map(|wait| Value::Float(*wait)).collect());
        layers.push(Layer::flag("--wait", "grid.wait_seconds", &waits));
    }
    if let Some(reps) = args.reps {
        layers.push(Layer::flag("--reps", "grid.repetitions", &number(reps.into())));
    }
    if let Some(modes) = args.mode.or(args.compare.then_some(Modes::Compare)) {
        layers.push(Layer::flag("--mode", "target.mode", &text(modes.into())));
    }
    if let Some(local) = args.local {
        layers.push(Layer::flag("--local", "agents.local", &number(local.into())));
        if args.agents.is_none() {
            layers.push(Layer::flag("--local", "agents.count", &number(local.max(1).into())));
        }
    }
    if let Some(agents) = args.agents {
        layers.push(Layer::flag("--agents", "agents.count", &number(agents.into())));
    }
    if let Some(output) = output {
        layers.push(Layer::flag("--output", "output.dir", &text(&output.display().to_string())));
    }
    layers
}
