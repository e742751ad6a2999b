//! PURE: layers of raw values into a [`Plan`], or every fault at once.

use std::cell::RefCell;
use std::fmt::Display;
use std::ops::RangeInclusive;

use proto::Launch;
use proto::base_url::BaseUrl;
use proto::limits;

use super::parse::{Fault, Layer, Node, Shape, Value};
use super::{
    Agents, Experiment, Grid, Modes, OnLoss, OnShortfall, Order, Output, Plan, Raw, Server, Session, Success, Target,
};

/// Every section with its keys: what is not here is unknown.
pub const KEYS: &[(&str, &[&str])] = &[
    ("experiment", &["infrastructure", "variant", "hardware", "cores", "notes"]),
    (
        "server",
        &["connection", "workers", "max_concurrent_envs", "nodes", "cpus_per_node", "backends", "start_command"],
    ),
    ("target", &["urls", "mode", "expected_hosts", "require_hosts", "ready_timeout_seconds", "embedded", "ca_file"]),
    (
        "grid",
        &["batch_sizes", "wait_seconds", "repetitions", "cooldown_seconds", "order", "stop_after_failing", "warmup"],
    ),
    (
        "session",
        &[
            "steps",
            "think_seconds",
            "seed",
            "timeout_seconds",
            "connect_timeout_seconds",
            "reset_timeout_seconds",
            "step_timeout_seconds",
            "close_timeout_seconds",
            "total_timeout_seconds",
            "launch",
        ],
    ),
    (
        "agents",
        &["count", "ready_timeout_seconds", "local", "lease_seconds", "on_loss", "max_attempts", "on_shortfall"],
    ),
    ("measure", &["wire", "max_clock_error_ms"]),
    ("success", &["min_success_rate", "max_latency_multiplier", "overhead_seconds"]),
    ("output", &["dir", "raw"]),
];

const LAUNCH_KEYS: &[&str] = &["kind", "over_seconds", "per_second", "for_seconds", "process"];

/// A day: nothing in a plan takes longer.
const SECONDS_MAX: f64 = 86_400.0;
/// Batches of one run.
const BATCHES_MAX: u64 = 100_000;

/// Where the value of a key was found.
struct Found<'a> {
    layer: &'a Layer,
    node: &'a Node,
    name: String,
}

impl Found<'_> {
    fn item<'b>(&'b self, n: usize, node: &'b Node) -> Found<'b> {
        Found { layer: self.layer, node, name: format!("{}[{n}]", self.name) }
    }
}

struct Reader<'a> {
    layers: &'a [Layer],
    faults: RefCell<Vec<Fault>>,
}

impl<'a> Reader<'a> {
    fn fault(&self, fault: Fault) {
        self.faults.borrow_mut().push(fault);
    }

    fn wrong(&self, found: &Found<'_>, message: impl Into<String>) {
        self.fault(found.layer.fault(Some(found.node.span.clone()), &found.name, message));
    }

    /// Said of the plan's file, if there is one.
    fn missing(&self, name: &str, message: &str) {
        let file = self.layers.iter().find(|layer| layer.shape == Shape::Plan && layer.is_file());
        self.fault(match file {
            Some(layer) => layer.fault(None, name, message),
            None => Fault::general("the command line", name, message),
        });
    }

    /// From the last layer that has it.
    fn find(&self, section: &str, key: &str) -> Option<Found<'a>> {
        self.layers.iter().rev().find_map(|layer| {
            layer.find(section, key).map(|node| Found { layer, node, name: format!("{section}.{key}") })
        })
    }

    fn text(&self, found: &Found<'_>) -> Option<String> {
        match &found.node.value {
            Value::Text(text) if text.chars().any(char::is_control) => {
                self.wrong(found, "contains a control character; give one line of plain text");
                None
            }
            Value::Text(text) => Some(text.clone()),
            other => {
                self.wrong(found, format!("a string is expected, this is {}", other.kind()));
                None
            }
        }
    }

    fn integer(&self, found: &Found<'_>, range: RangeInclusive<u64>, what: &str) -> Option<u64> {
        let bounds = format!("give {} to {}", range.start(), range.end());
        match &found.node.value {
            Value::Integer(Ok(number)) => match u64::try_from(*number) {
                Ok(number) if range.contains(&number) => Some(number),
                _ if *number == 0 => {
                    self.wrong(found, format!("0 {what}; give at least {}", range.start()));
                    None
                }
                _ => {
                    self.wrong(found, format!("{number} {what}; {bounds}"));
                    None
                }
            },
            Value::Integer(Err(text)) => {
                self.wrong(found, format!("{text} {what}; {bounds}"));
                None
            }
            other => {
                self.wrong(found, format!("an integer is expected, this is {}", other.kind()));
                None
            }
        }
    }

    fn number(&self, found: &Found<'_>, range: RangeInclusive<f64>, unit: &str) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "out of every range anyway")]
        let number = match &found.node.value {
            Value::Float(number) => *number,
            Value::Integer(Ok(number)) => *number as f64,
            Value::Integer(Err(_)) => f64::INFINITY,
            other => {
                self.wrong(found, format!("a number is expected, this is {}", other.kind()));
                return None;
            }
        };
        if range.contains(&number) {
            Some(number)
        } else {
            self.wrong(found, format!("{number} {unit}; give {} to {}", range.start(), range.end()));
            None
        }
    }

    fn seconds(&self, found: &Found<'_>, at_least: f64) -> Option<u64> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to a day in microseconds")]
        self.number(found, at_least..=SECONDS_MAX, "seconds").map(|seconds| (seconds * 1e6).round() as u64)
    }

    fn flag(&self, found: &Found<'_>) -> Option<bool> {
        match &found.node.value {
            Value::Bool(flag) => Some(*flag),
            other => {
                self.wrong(found, format!("true or false is expected, this is {}", other.kind()));
                None
            }
        }
    }

    fn choice<T: Copy>(&self, found: &Found<'_>, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text(found)?;
        let choice = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        if choice.is_none() {
            let names: Vec<String> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
            let hint = nearest(&text, choices.iter().map(|(name, _)| *name));
            self.wrong(found, format!("{text:?} is not known{hint}; give {}", names.join(" or ")));
        }
        choice
    }

    /// A list, or one value that stands for a list of one.
    fn list<T>(&self, found: &Found<'_>, read: impl Fn(&Found<'_>) -> Option<T>) -> Option<Vec<T>> {
        match &found.node.value {
            Value::List(items) => {
                let values: Vec<Option<T>> =
                    items.iter().enumerate().map(|(n, node)| read(&found.item(n, node))).collect();
                values.into_iter().collect()
            }
            _ => read(found).map(|value| vec![value]),
        }
    }

    fn no_doubles<T: PartialEq + Display>(&self, found: &Found<'_>, values: &[T]) {
        let Value::List(items) = &found.node.value else { return };
        for (n, value) in values.iter().enumerate() {
            if let Some(first) = values[..n].iter().position(|other| other == value) {
                let item = found.item(n, &items[n]);
                self.wrong(&item, format!("the same as {}[{first}]; give each value once", found.name));
            }
        }
    }

    // Shorthands for `find` + one of the above, with a default.

    fn text_or(&self, section: &str, key: &str, default: &str) -> String {
        self.find(section, key).and_then(|found| self.text(&found)).unwrap_or_else(|| default.to_owned())
    }

    fn integer_of(&self, section: &str, key: &str, range: RangeInclusive<u64>, what: &str) -> Option<u64> {
        self.find(section, key).and_then(|found| self.integer(&found, range, what))
    }

    fn small_or(&self, section: &str, key: &str, range: RangeInclusive<u32>, what: &str, default: u32) -> u32 {
        let wide = u64::from(*range.start())..=u64::from(*range.end());
        self.integer_of(section, key, wide, what).and_then(|n| u32::try_from(n).ok()).unwrap_or(default)
    }

    fn seconds_or(&self, section: &str, key: &str, at_least: f64, default_us: u64) -> u64 {
        self.find(section, key).and_then(|found| self.seconds(&found, at_least)).unwrap_or(default_us)
    }

    fn flag_or(&self, section: &str, key: &str, default: bool) -> bool {
        self.find(section, key).and_then(|found| self.flag(&found)).unwrap_or(default)
    }

    fn choice_or<T: Copy>(&self, section: &str, key: &str, choices: &[(&str, T)], default: T) -> T {
        self.find(section, key).and_then(|found| self.choice(&found, choices)).unwrap_or(default)
    }

    // ---- sections ----

    fn unknown_keys(&self) {
        for layer in self.layers {
            match layer.shape {
                Shape::Connection => {
                    let known =
                        ["urls"].into_iter().chain(keys_of("server").iter().copied().filter(|k| *k != "connection"));
                    let known: Vec<&str> = known.collect();
                    self.unknown_in(layer, "", layer.root(), &known);
                }
                Shape::Plan => {
                    for entry in layer.root().entries() {
                        match KEYS.iter().find(|(section, _)| *section == entry.key) {
                            None => {
                                let hint = nearest(&entry.key, KEYS.iter().map(|(section, _)| *section));
                                self.fault(layer.fault(
                                    Some(entry.key_span.clone()),
                                    &entry.key,
                                    format!("unknown section{hint}"),
                                ));
                            }
                            Some((section, keys)) => match &entry.node.value {
                                Value::Table(_) => self.unknown_in(layer, section, &entry.node.value, keys),
                                other => self.fault(layer.fault(
                                    Some(entry.node.span.clone()),
                                    section,
                                    format!("a table [{section}] is expected, this is {}", other.kind()),
                                )),
                            },
                        }
                    }
                }
            }
        }
    }

    fn unknown_in(&self, layer: &Layer, section: &str, table: &Value, keys: &[&str]) {
        for entry in table.entries() {
            if !keys.contains(&entry.key.as_str()) {
                let name = if section.is_empty() { entry.key.clone() } else { format!("{section}.{}", entry.key) };
                let elsewhere =
                    KEYS.iter().find(|(other, known)| *other != section && known.contains(&entry.key.as_str()));
                let hint = match (nearest(&entry.key, keys.iter().copied()), elsewhere) {
                    (hint, None) => hint,
                    (_, Some((other, _))) => format!("; it belongs to [{other}]"),
                };
                self.fault(layer.fault(Some(entry.key_span.clone()), &name, format!("unknown key{hint}")));
            }
        }
    }

    fn experiment(&self) -> Experiment {
        let name = |key: &str, default: &str| {
            let Some(found) = self.find("experiment", key) else { return default.to_owned() };
            let Some(text) = self.text(&found) else { return default.to_owned() };
            let optional = default.is_empty() && text.is_empty();
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if !optional && (text.is_empty() || text.len() > 64 || text.starts_with('.') || !text.chars().all(plain)) {
                self.wrong(
                    &found,
                    format!("{text:?} becomes a folder's name; give 1 to 64 letters, digits, '-', '_' or '.', not starting with '.'"),
                );
            }
            text
        };
        Experiment {
            infrastructure: name("infrastructure", "local"),
            variant: name("variant", ""),
            hardware: self.text_or("experiment", "hardware", "unknown"),
            cores: self.integer_of("experiment", "cores", 1..=10_000_000, "cores"),
            notes: self.text_or("experiment", "notes", ""),
        }
    }

    fn server(&self) -> Server {
        let count = |key, what| self.integer_of("server", key, 1..=10_000_000, what);
        // Where it points to is read before; here only its type is checked.
        if let Some(found) = self.find("server", "connection") {
            self.text(&found);
        }
        Server {
            workers: count("workers", "workers"),
            max_concurrent_envs: count("max_concurrent_envs", "environments"),
            nodes: count("nodes", "nodes"),
            cpus_per_node: count("cpus_per_node", "CPUs"),
            backends: self
                .find("server", "backends")
                .and_then(|found| self.list(&found, |item| self.text(item)))
                .unwrap_or_default(),
            start_command: self.find("server", "start_command").and_then(|found| self.text(&found)),
        }
    }

    fn target(&self) -> Target {
        let embedded = self.flag_or("target", "embedded", false);
        let found = self.find("target", "urls");
        let urls = found.as_ref().and_then(|found| {
            let urls = self.list(found, |item| {
                let text = self.text(item)?;
                match BaseUrl::parse(&text) {
                    Ok(_) if text.len() <= limits::TEXT_BYTES_MAX => Some(text),
                    Ok(_) => {
                        self.wrong(item, format!("longer than {} bytes", limits::TEXT_BYTES_MAX));
                        None
                    }
                    Err(error) => {
                        self.wrong(item, error.to_string());
                        None
                    }
                }
            })?;
            if urls.len() > limits::URLS_MAX {
                self.wrong(found, format!("{} urls; give at most {}", urls.len(), limits::URLS_MAX));
            }
            self.no_doubles(found, &urls);
            Some(urls)
        });
        match (&found, embedded) {
            (None, false) => self.missing(
                "target.urls",
                "missing; give urls = [\"http://HOST:PORT\"], --target URL, or embedded = true for the built-in reference server",
            ),
            (Some(found), true) => self.wrong(found, "goes not with target.embedded = true; give one of the two"),
            (Some(found), false) if urls.as_ref().is_some_and(Vec::is_empty) => {
                self.wrong(found, "no url; give at least one");
            }
            _ => {}
        }
        let expected_hosts = self.integer_of("target", "expected_hosts", 1..=1_000_000, "hosts");
        let require_hosts = self.flag_or("target", "require_hosts", false);
        if require_hosts && self.find("target", "expected_hosts").is_none() {
            self.missing("target.expected_hosts", "missing; require_hosts needs to know how many");
        }
        Target {
            urls: urls.unwrap_or_default(),
            mode: self.choice_or(
                "target",
                "mode",
                &[("ws", Modes::Ws), ("http", Modes::Http), ("compare", Modes::Compare)],
                Modes::Ws,
            ),
            expected_hosts,
            require_hosts,
            ready_timeout_us: self.seconds_or("target", "ready_timeout_seconds", 0.1, 60_000_000),
            embedded,
            ca_file: self.find("target", "ca_file").and_then(|found| self.text(&found)),
        }
    }

    fn grid(&self) -> Grid {
        let sizes = self.find("grid", "batch_sizes");
        let batch_sizes = match &sizes {
            None => {
                self.missing("grid.batch_sizes", "missing; give batch_sizes = [32, 128] or --batch-sizes 32,128");
                None
            }
            Some(found) => {
                let sizes = self.list(found, |item| self.integer(item, 1..=limits::SESSIONS_MAX, "sessions"));
                if let Some(sizes) = &sizes {
                    self.no_doubles(found, sizes);
                    if sizes.is_empty() {
                        self.wrong(found, "no batch size; give at least one");
                    }
                }
                sizes
            }
        };
        let waits = self.find("grid", "wait_seconds");
        let waits_us = waits.as_ref().map_or_else(
            || vec![1_000_000],
            |found| {
                let waits = self.list(found, |item| self.seconds(item, 0.0)).unwrap_or_default();
                self.no_doubles(found, &waits);
                if matches!(&found.node.value, Value::List(items) if items.is_empty()) {
                    self.wrong(found, "no wait; give at least one");
                }
                waits
            },
        );
        let grid = Grid {
            batch_sizes: batch_sizes.unwrap_or_default(),
            waits_us,
            repetitions: self.small_or("grid", "repetitions", 1..=10_000, "repetitions", 3),
            cooldown_us: self.seconds_or("grid", "cooldown_seconds", 0.0, 500_000),
            order: self.choice_or(
                "grid",
                "order",
                &[("ascending", Order::Ascending), ("shuffled", Order::Shuffled)],
                Order::Ascending,
            ),
            stop_after_failing: self.integer_of("grid", "stop_after_failing", 0..=1_000, "batch sizes").unwrap_or(0),
            warmup: self.flag_or("grid", "warmup", true),
        };
        let batches = [grid.batch_sizes.len() as u64, grid.waits_us.len() as u64, grid.repetitions.into(), 2]
            .into_iter()
            .fold(1, u64::saturating_mul);
        if let (true, Some(found)) = (batches > BATCHES_MAX, &sizes) {
            self.wrong(
                found,
                format!("the grid has more than {BATCHES_MAX} batches; give fewer sizes, waits or repetitions"),
            );
        }
        grid
    }

    fn session(&self) -> Session {
        let timeout_us = self.seconds_or("session", "timeout_seconds", 0.001, 120_000_000);
        let phase = |key| self.seconds_or("session", key, 0.001, timeout_us);
        let seed = self.integer_of("session", "seed", 0..=u64::MAX >> 1, "as seed").unwrap_or(1);
        Session {
            steps: self.small_or("session", "steps", 1..=limits::STEPS_MAX, "steps", 1),
            think_us: self.seconds_or("session", "think_seconds", 0.0, 0),
            seed,
            connect_timeout_us: phase("connect_timeout_seconds"),
            reset_timeout_us: phase("reset_timeout_seconds"),
            step_timeout_us: phase("step_timeout_seconds"),
            close_timeout_us: phase("close_timeout_seconds"),
            total_timeout_us: self
                .find("session", "total_timeout_seconds")
                .and_then(|found| self.seconds(&found, 0.001)),
            launch: self.launch(),
        }
    }

    fn launch(&self) -> Launch {
        let Some(found) = self.find("session", "launch") else { return Launch::Burst };
        let table = match &found.node.value {
            table @ Value::Table(_) => table,
            other => {
                self.wrong(
                    &found,
                    format!("a table such as {{ kind = \"burst\" }} is expected, this is {}", other.kind()),
                );
                return Launch::Burst;
            }
        };
        self.unknown_in(found.layer, "session.launch", table, LAUNCH_KEYS);
        let part = |key: &str| {
            table.get(key).map(|node| Found { layer: found.layer, node, name: format!("session.launch.{key}") })
        };
        let stray = |allowed: &[&str], kind: &str| {
            for key in LAUNCH_KEYS.iter().filter(|key| !allowed.contains(key)) {
                if let Some(stray) = part(key) {
                    self.wrong(&stray, format!("has no meaning with kind = {kind:?}; leave it out"));
                }
            }
        };
        let Some(kind) = part("kind") else {
            self.wrong(&found, "no kind; give kind = \"burst\" or \"ramp\"");
            return Launch::Burst;
        };
        match self.text(&kind).as_deref() {
            Some("burst") => {
                stray(&["kind"], "burst");
                Launch::Burst
            }
            Some("ramp") => {
                stray(&["kind", "over_seconds"], "ramp");
                match part("over_seconds") {
                    Some(over) => self.seconds(&over, 0.001).map_or(Launch::Burst, |over_us| Launch::Ramp { over_us }),
                    None => {
                        self.wrong(&found, "a ramp needs over_seconds, for example over_seconds = 5.0");
                        Launch::Burst
                    }
                }
            }
            Some("arrivals") => {
                self.wrong(&kind, "\"arrivals\" is not supported yet; give \"burst\" or \"ramp\"");
                Launch::Burst
            }
            Some(other) => {
                let hint = nearest(other, ["burst", "ramp"].into_iter());
                self.wrong(&kind, format!("{other:?} is not known{hint}; give \"burst\" or \"ramp\""));
                Launch::Burst
            }
            None => Launch::Burst,
        }
    }

    fn agents(&self, embedded: bool) -> Agents {
        let agents_max = u32::try_from(limits::AGENTS_MAX).unwrap_or(u32::MAX);
        let local = self.find("agents", "local");
        let local_count = self.small_or("agents", "local", 0..=256, "local agents", 0);
        let count = self.find("agents", "count");
        // Neither given: this machine is enough for a first run.
        let local_count = match (&local, &count) {
            (None, None) if embedded => 2,
            (None, None) => 1,
            _ => local_count,
        };
        let total = self.small_or("agents", "count", 1..=agents_max, "agents", local_count.max(1));
        if let (Some(count), true) = (&count, total < local_count) {
            self.wrong(
                count,
                format!("{total} agents in all, but {local_count} local ones; give at least {local_count}"),
            );
        }
        Agents {
            count: total,
            ready_timeout_us: self.seconds_or("agents", "ready_timeout_seconds", 0.1, 300_000_000),
            local: local_count,
            lease_us: self.seconds_or("agents", "lease_seconds", 2.0, 10_000_000),
            on_loss: self.choice_or(
                "agents",
                "on_loss",
                &[("repeat", OnLoss::Repeat), ("keep", OnLoss::Keep), ("abort", OnLoss::Abort)],
                OnLoss::Repeat,
            ),
            max_attempts: self.small_or("agents", "max_attempts", 1..=100, "attempts", 3),
            on_shortfall: self.choice_or(
                "agents",
                "on_shortfall",
                &[("stop", OnShortfall::Stop), ("continue", OnShortfall::Continue)],
                OnShortfall::Stop,
            ),
        }
    }

    fn measure(&self) {
        if let Some(found) = self.find("measure", "wire")
            && self.flag(&found) == Some(true)
        {
            self.wrong(&found, "kernel receive timestamps are not supported yet; leave it out or give false");
        }
        if let Some(found) = self.find("measure", "max_clock_error_ms") {
            self.wrong(&found, "not supported yet: clocks are not compared; leave it out");
        }
    }

    fn success(&self) -> Success {
        let number = |key, range, unit, default| {
            self.find("success", key).and_then(|found| self.number(&found, range, unit)).unwrap_or(default)
        };
        Success {
            min_success_rate: number("min_success_rate", 0.0..=1.0, "as a fraction", 0.95),
            max_latency_multiplier: number("max_latency_multiplier", 1.0..=1_000.0, "times", 2.0),
            overhead_us: self.seconds_or("success", "overhead_seconds", 0.0, 500_000),
        }
    }

    fn output(&self) -> Output {
        let default = "experiments/results/{infrastructure}/{date}";
        let dir = self.text_or("output", "dir", default);
        if let Some(found) = self.find("output", "dir") {
            let rest =
                ["{infrastructure}", "{variant}", "{date}"].iter().fold(dir.clone(), |dir, p| dir.replace(p, ""));
            if rest.contains(['{', '}']) {
                self.wrong(&found, "an unknown placeholder; known are {infrastructure}, {variant} and {date}");
            }
            if dir.is_empty() {
                self.wrong(&found, "empty; give a folder");
            }
        }
        Output {
            dir,
            raw: self.choice_or(
                "output",
                "raw",
                &[("jsonl", Raw::Jsonl), ("jsonl.zst", Raw::JsonlZst), ("none", Raw::None)],
                Raw::Jsonl,
            ),
        }
    }
}

fn keys_of(section: &str) -> &'static [&'static str] {
    KEYS.iter().find(|(name, _)| *name == section).map_or(&[], |(_, keys)| keys)
}

/// `; did you mean X?` if something is near enough.
fn nearest<'n>(text: &str, names: impl Iterator<Item = &'n str>) -> String {
    names
        .map(|name| (strsim::damerau_levenshtein(text, name), name))
        .min()
        .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
        .map_or_else(String::new, |(_, name)| format!("; did you mean {name}?"))
}

/// Makes a plan of layers, lowest first. `earlier` are faults found while reading them.
///
/// # Errors
/// Every fault, in the order of the file.
pub fn check(layers: &[Layer], earlier: Vec<Fault>) -> Result<Plan, Vec<Fault>> {
    let reader = Reader { layers, faults: RefCell::new(earlier) };
    reader.unknown_keys();
    let target = reader.target();
    let agents = reader.agents(target.embedded);
    reader.measure();
    let plan = Plan {
        experiment: reader.experiment(),
        server: reader.server(),
        grid: reader.grid(),
        session: reader.session(),
        success: reader.success(),
        output: reader.output(),
        target,
        agents,
    };
    let mut faults = reader.faults.into_inner();
    faults.sort();
    faults.dedup();
    if faults.is_empty() { Ok(plan) } else { Err(faults) }
}

/// For tests elsewhere: a plan from text, or the faults one a line.
#[cfg(test)]
pub(crate) fn plan_of(text: &str) -> Result<Plan, String> {
    let (layer, faults) = Layer::file("plan.toml", text, Shape::Plan);
    check(&[layer], faults).map_err(|faults| faults.iter().map(|f| format!("{f}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
