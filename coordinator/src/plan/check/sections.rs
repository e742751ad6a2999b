//! Reads each section of a plan.

use proto::base_url::BaseUrl;
use proto::limits;

use super::reader::{Reader, nearest};
use crate::plan::launch::Launching;
use crate::plan::layers::{Layer, Shape, Value};
use crate::plan::schema::{
    CONNECTION_TARGET_KEYS, Key, NAMES, Text, agents, experiment, grid, measure, names_of, output, server, session,
    success, target,
};
use crate::plan::{Agents, Experiment, Grid, Measure, Output, Server, Session, Success, Target};

/// The session section, and the number of sessions if its launch is an arrival rate.
pub(super) struct Sessions {
    pub(super) session: Session,
    pub(super) arrivals: Option<u64>,
}

/// The most batches of one run.
const BATCHES_MAX: u64 = 100_000;

impl Reader<'_> {
    pub(super) fn unknown_keys(&self) {
        for layer in self.layers {
            match layer.shape {
                Shape::Connection => {
                    let known = CONNECTION_TARGET_KEYS
                        .iter()
                        .copied()
                        .chain(names_of("server").iter().copied().filter(|k| *k != "connection"));
                    let known: Vec<&str> = known.collect();
                    self.unknown_in(layer, "", layer.root(), &known);
                }
                Shape::Plan => {
                    for entry in layer.root().entries() {
                        match NAMES.iter().find(|(section, _)| *section == entry.key) {
                            None => {
                                let hint = nearest(&entry.key, NAMES.iter().map(|(section, _)| *section));
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

    pub(in crate::plan) fn unknown_in(&self, layer: &Layer, section: &str, table: &Value, keys: &[&str]) {
        for entry in table.entries() {
            if !keys.contains(&entry.key.as_str()) {
                let name = if section.is_empty() { entry.key.clone() } else { format!("{section}.{}", entry.key) };
                let elsewhere =
                    NAMES.iter().find(|(other, known)| *other != section && known.contains(&entry.key.as_str()));
                let hint = match (nearest(&entry.key, keys.iter().copied()), elsewhere) {
                    (hint, None) => hint,
                    (_, Some((other, _))) => format!("; it belongs to [{other}]"),
                };
                self.fault(layer.fault(Some(entry.key_span.clone()), &name, format!("unknown key{hint}")));
            }
        }
    }

    pub(super) fn experiment(&self, server: &Server) -> Experiment {
        let name = |key: &Key<Text>| {
            let default = key.kind.0;
            let Some(found) = self.key(key) else { return default.to_owned() };
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
            infrastructure: name(&experiment::INFRASTRUCTURE),
            variant: name(&experiment::VARIANT),
            hardware: self.text_of(&experiment::HARDWARE),
            // By default, the cores are those of the server's nodes.
            cores: self
                .count_of(&experiment::CORES)
                .or_else(|| Some(server.nodes?.saturating_mul(server.cpus_per_node?))),
            notes: self.text_of(&experiment::NOTES),
        }
    }

    pub(super) fn server(&self) -> Server {
        // The connection file has been read already; this checks only the type of its name.
        let _: Option<String> = self.optional_text_of(&server::CONNECTION);
        Server {
            workers: self.count_of(&server::WORKERS),
            max_concurrent_envs: self.count_of(&server::MAX_CONCURRENT_ENVS),
            nodes: self.count_of(&server::NODES),
            cpus_per_node: self.count_of(&server::CPUS_PER_NODE),
            backends: self
                .key(&server::BACKENDS)
                .and_then(|found| self.list(&found, |item| self.text(item)))
                .unwrap_or_default(),
            start_command: self.optional_text_of(&server::START_COMMAND),
            balancer: self.optional_text_of(&server::BALANCER),
            proxy_sessions_max: self.count_of(&server::PROXY_SESSIONS_MAX),
        }
    }

    pub(super) fn target(&self) -> Target {
        let embedded = self.flag_of(&target::EMBEDDED);
        let found = self.key(&target::URLS);
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
        let expected_hosts = self.count_of(&target::EXPECTED_HOSTS);
        let require_hosts = self.flag_of(&target::REQUIRE_HOSTS);
        if require_hosts && self.key(&target::EXPECTED_HOSTS).is_none() {
            self.missing("target.expected_hosts", "missing; require_hosts needs to know how many");
        }
        Target {
            urls: urls.unwrap_or_default(),
            mode: self.choice_of(&target::MODE),
            expected_hosts,
            require_hosts,
            ready_timeout_us: self.seconds_of(&target::READY_TIMEOUT).unwrap_or_default(),
            embedded,
            ca_file: self.optional_text_of(&target::CA_FILE),
            on_restart: self.choice_of(&target::ON_RESTART),
        }
    }

    /// `arrivals` is the number of sessions if the launch is an arrival rate.
    pub(super) fn grid(&self, arrivals: Option<u64>) -> Grid {
        let sizes = self.key(&grid::BATCH_SIZES);
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
        let waits = self.key(&grid::WAITS);
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
            repetitions: self.small_of(&grid::REPETITIONS),
            cooldown_us: self.seconds_of(&grid::COOLDOWN).unwrap_or_default(),
            order: self.choice_of(&grid::ORDER),
            stop_after_failing: self.count_of(&grid::STOP_AFTER_FAILING).unwrap_or(0),
            warmup: self.flag_of(&grid::WARMUP),
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
        let timeout_us = self.seconds_of(&session::TIMEOUT).unwrap_or_default();
        let phase = |key| self.seconds_of(key).unwrap_or(timeout_us);
        let seed = self.count_of(&session::SEED).unwrap_or_default();
        let Launching { launch, arrivals } = self.launch();
        let session = Session {
            steps: self.small_of(&session::STEPS),
            think_us: self.seconds_of(&session::THINK).unwrap_or_default(),
            seed,
            connect_timeout_us: phase(&session::CONNECT_TIMEOUT),
            reset_timeout_us: phase(&session::RESET_TIMEOUT),
            step_timeout_us: phase(&session::STEP_TIMEOUT),
            close_timeout_us: phase(&session::CLOSE_TIMEOUT),
            total_timeout_us: self.seconds_of(&session::TOTAL_TIMEOUT),
            launch,
            until_done: self.flag_of(&session::UNTIL_DONE),
            message_bytes_max: self.count_of(&session::MESSAGE_BYTES_MAX).unwrap_or_default(),
        };
        Sessions { session, arrivals }
    }

    pub(super) fn agents(&self, embedded: bool) -> Agents {
        let narrow = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        let count = self.key(&agents::COUNT);
        let local = match (self.key(&agents::LOCAL), &count) {
            // The default is chosen so that a first run needs no other machine.
            (None, None) if embedded => 2,
            (None, None) => 1,
            (None, Some(_)) => 0,
            (Some(_), _) => self.given_count_of(&agents::LOCAL).map_or(0, narrow),
        };
        let total = self.given_count_of(&agents::COUNT).map_or(local.max(1), narrow);
        if let (Some(count), true) = (&count, total < local) {
            self.wrong(count, format!("{total} agents in all, but {local} local ones; give at least {local}"));
        }
        Agents {
            count: total,
            ready_timeout_us: self.seconds_of(&agents::READY_TIMEOUT).unwrap_or_default(),
            local,
            lease_us: self.seconds_of(&agents::LEASE).unwrap_or_default(),
            on_loss: self.choice_of(&agents::ON_LOSS),
            max_attempts: self.small_of(&agents::MAX_ATTEMPTS),
            on_shortfall: self.choice_of(&agents::ON_SHORTFALL),
        }
    }

    pub(super) fn measure(&self) -> Measure {
        let error_ms = self.number_of(&measure::MAX_CLOCK_ERROR);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
        let max_clock_error_us = (error_ms * 1_000.0).round() as u64;
        Measure { wire: self.flag_of(&measure::WIRE), max_clock_error_us }
    }

    pub(super) fn success(&self) -> Success {
        Success {
            min_success_rate: self.number_of(&success::MIN_SUCCESS_RATE),
            max_latency_multiplier: self.number_of(&success::MAX_LATENCY_MULTIPLIER),
            overhead_us: self.seconds_of(&success::OVERHEAD).unwrap_or_default(),
        }
    }

    pub(super) fn output(&self) -> Output {
        let dir = self.text_of(&output::DIR);
        if let Some(found) = self.key(&output::DIR) {
            let rest =
                ["{infrastructure}", "{variant}", "{date}"].iter().fold(dir.clone(), |dir, p| dir.replace(p, ""));
            if rest.contains(['{', '}']) {
                self.wrong(&found, "an unknown placeholder; known are {infrastructure}, {variant} and {date}");
            }
            if dir.is_empty() {
                self.wrong(&found, "empty; give a folder");
            }
        }
        Output { dir, raw: self.choice_of(&output::RAW) }
    }
}
