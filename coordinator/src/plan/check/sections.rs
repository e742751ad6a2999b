//! Each section of a plan: its keys, defaults and ranges.

use proto::base_url::BaseUrl;
use proto::limits;

use super::launch::Launching;
use super::reader::{Reader, nearest};
use crate::plan::parse::{Layer, Shape, Value};
use crate::plan::{
    Agents, Experiment, Grid, Measure, Modes, OnLoss, OnRestart, OnShortfall, Order, Output, Raw, Server, Session,
    Success, Target, message_bytes_max,
};

/// Every section with its keys: what is not here is unknown.
pub const KEYS: &[(&str, &[&str])] = &[
    ("experiment", &["infrastructure", "variant", "hardware", "cores", "notes"]),
    (
        "server",
        &[
            "connection",
            "workers",
            "max_concurrent_envs",
            "nodes",
            "cpus_per_node",
            "backends",
            "start_command",
            "balancer",
            "proxy_sessions_max",
        ],
    ),
    (
        "target",
        &[
            "urls",
            "mode",
            "expected_hosts",
            "require_hosts",
            "ready_timeout_seconds",
            "embedded",
            "ca_file",
            "on_restart",
        ],
    ),
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
            "until_done",
            "message_bytes_max",
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

/// Keys of the target that a connection file has beside those of the server.
pub const CONNECTION_TARGET_KEYS: &[&str] = &["urls", "ca_file"];

/// The session section, and how many sessions its launch makes by itself.
pub(super) struct Sessions {
    pub(super) session: Session,
    pub(super) arrivals: Option<u64>,
}

/// A reply of the benchmark environment has a few hundred bytes.
const MESSAGE_BYTES_MIN: u64 = 1_024;
/// Batches of one run.
const BATCHES_MAX: u64 = 100_000;

impl Reader<'_> {
    pub(super) fn unknown_keys(&self) {
        for layer in self.layers {
            match layer.shape {
                Shape::Connection => {
                    let known = CONNECTION_TARGET_KEYS
                        .iter()
                        .copied()
                        .chain(keys_of("server").iter().copied().filter(|k| *k != "connection"));
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

    pub(super) fn unknown_in(&self, layer: &Layer, section: &str, table: &Value, keys: &[&str]) {
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

    pub(super) fn experiment(&self, server: &Server) -> Experiment {
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
            // Whoever started the server knows how large it is.
            cores: self
                .integer_of("experiment", "cores", 1..=10_000_000, "cores")
                .or_else(|| Some(server.nodes?.saturating_mul(server.cpus_per_node?))),
            notes: self.text_or("experiment", "notes", ""),
        }
    }

    pub(super) fn server(&self) -> Server {
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
            balancer: self.find("server", "balancer").and_then(|found| self.text(&found)),
            proxy_sessions_max: count("proxy_sessions_max", "sessions"),
        }
    }

    pub(super) fn target(&self) -> Target {
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
            on_restart: self.choice_or(
                "target",
                "on_restart",
                &[("repeat", OnRestart::Repeat), ("keep", OnRestart::Keep), ("abort", OnRestart::Abort)],
                OnRestart::Repeat,
            ),
        }
    }

    /// `arrivals`: how many sessions the launch makes by itself.
    pub(super) fn grid(&self, arrivals: Option<u64>) -> Grid {
        let sizes = self.find("grid", "batch_sizes");
        let batch_sizes = match &sizes {
            None if arrivals.is_some() => arrivals.map(|sessions| vec![sessions]),
            None => {
                self.missing("grid.batch_sizes", "missing; give batch_sizes = [32, 128] or --batch-sizes 32,128");
                None
            }
            Some(found) => {
                let sizes = self.list(found, |item| self.integer(item, 1..=limits::SESSIONS_MAX, "sessions"));
                if let Some(sizes) = &sizes {
                    self.no_doubles(found, sizes);
                    match (sizes.as_slice(), arrivals) {
                        ([], _) => self.wrong(found, "no batch size; give at least one"),
                        ([one], Some(arrivals)) if *one == arrivals => {}
                        (_, Some(arrivals)) => self.wrong(
                            found,
                            format!(
                                "arrivals make {arrivals} sessions (per_second x for_seconds); leave batch_sizes out, or give \
                                 [{arrivals}]"
                            ),
                        ),
                        (_, None) => {}
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

    pub(super) fn session(&self) -> Sessions {
        let timeout_us = self.seconds_or("session", "timeout_seconds", 0.001, 120_000_000);
        let phase = |key| self.seconds_or("session", key, 0.001, timeout_us);
        let seed = self.integer_of("session", "seed", 0..=u64::MAX >> 1, "as seed").unwrap_or(1);
        let Launching { launch, arrivals } = self.launch();
        let session = Session {
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
            launch,
            until_done: self.flag_or("session", "until_done", true),
            message_bytes_max: self
                .integer_of("session", "message_bytes_max", MESSAGE_BYTES_MIN..=limits::REPLY_BYTES_MAX, "bytes")
                .unwrap_or_else(message_bytes_max),
        };
        Sessions { session, arrivals }
    }

    pub(super) fn agents(&self, embedded: bool) -> Agents {
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

    pub(super) fn measure(&self) -> Measure {
        let error_ms = self.find("measure", "max_clock_error_ms");
        let error_ms = error_ms.and_then(|found| self.number(&found, 0.001..=60_000.0, "ms")).unwrap_or(2.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
        let max_clock_error_us = (error_ms * 1_000.0).round() as u64;
        Measure { wire: self.flag_or("measure", "wire", true), max_clock_error_us }
    }

    pub(super) fn success(&self) -> Success {
        let number = |key, range, unit, default| {
            self.find("success", key).and_then(|found| self.number(&found, range, unit)).unwrap_or(default)
        };
        Success {
            min_success_rate: number("min_success_rate", 0.0..=1.0, "as a fraction", 0.95),
            max_latency_multiplier: number("max_latency_multiplier", 1.0..=1_000.0, "times", 2.0),
            overhead_us: self.seconds_or("success", "overhead_seconds", 0.0, 500_000),
        }
    }

    pub(super) fn output(&self) -> Output {
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
