//! The keys of a plan, with their names, types, ranges, defaults, units and meanings.
//!
//! The reader, the hints for unknown keys, the template of `plan init` and docs/keys.md use this list. To add a key,
//! add an entry here, a field in [`super::Plan`], and the line in `check/sections.rs` that reads it. The compiler
//! reports a key that nothing reads.

use std::ops::RangeInclusive;

use proto::limits;

use super::{Modes, OnLoss, OnRestart, OnShortfall, Order, Raw};

/// One day, the upper limit of every duration in a plan.
pub(super) const SECONDS_MAX: f64 = 86_400.0;
const NAMES_MAX: u64 = 10_000_000;

/// One key and the kind of its value.
#[derive(Debug)]
pub(super) struct Key<K> {
    pub(super) section: &'static str,
    pub(super) name: &'static str,
    pub(super) kind: K,
}

/// A line of text with its default.
#[derive(Debug)]
pub(super) struct Text(pub(super) &'static str);

/// A line of text without a default.
#[derive(Debug)]
pub(super) struct Optional;

/// A boolean with its default.
#[derive(Debug)]
pub(super) struct Flag(pub(super) bool);

/// A whole number: its range, the name of what it counts, and its default.
#[derive(Debug)]
pub(super) struct Count(pub(super) RangeInclusive<u64>, pub(super) &'static str, pub(super) Option<u64>);

/// A duration, stored in microseconds: its minimum and its default, both in seconds.
#[derive(Debug)]
pub(super) struct Seconds(pub(super) f64, pub(super) Option<f64>);

/// A number: its range, its unit in messages, and its default.
#[derive(Debug)]
pub(super) struct Number(pub(super) RangeInclusive<f64>, pub(super) &'static str, pub(super) f64);

/// One of several named values. The first one is the default.
#[derive(Debug)]
pub(super) struct Choice<T: 'static>(pub(super) &'static [(&'static str, T)]);

/// A value with its own parser, such as a list or a table. The text is the default that the template shows.
#[derive(Debug)]
pub(super) struct Own(pub(super) &'static str);

trait Documented {
    /// The default as TOML. `None` if the key has no default.
    fn toml(&self) -> Option<String>;

    fn unit(&self) -> &'static str {
        ""
    }
}

impl Documented for Text {
    fn toml(&self) -> Option<String> {
        Some(format!("{:?}", self.0))
    }
}

impl Documented for Optional {
    fn toml(&self) -> Option<String> {
        None
    }
}

impl Documented for Flag {
    fn toml(&self) -> Option<String> {
        Some(self.0.to_string())
    }
}

impl Documented for Count {
    fn toml(&self) -> Option<String> {
        self.2.map(|default| default.to_string())
    }

    fn unit(&self) -> &'static str {
        if self.1 == "bytes" { "bytes" } else { "" }
    }
}

impl Documented for Seconds {
    fn toml(&self) -> Option<String> {
        self.1.map(|seconds| format!("{seconds:?}"))
    }

    fn unit(&self) -> &'static str {
        "s"
    }
}

impl Documented for Number {
    fn toml(&self) -> Option<String> {
        Some(format!("{:?}", self.2))
    }

    fn unit(&self) -> &'static str {
        if self.1 == "ms" { "ms" } else { "" }
    }
}

impl<T> Documented for Choice<T> {
    fn toml(&self) -> Option<String> {
        self.0.first().map(|(word, _)| format!("{word:?}"))
    }
}

impl Documented for Own {
    fn toml(&self) -> Option<String> {
        Some(self.0.to_owned())
    }
}

/// The form of a key in the template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shown {
    /// The key with its default.
    On,
    /// A commented-out line with this example value.
    Example(&'static str),
    /// The key with this value instead of its default.
    As(&'static str),
}

/// Documentation of one key, for the template and the reference.
#[derive(Debug)]
pub struct KeyInfo {
    pub name: &'static str,
    /// TOML text.
    pub default: Option<String>,
    /// `s`, `ms`, `bytes`, or an empty string.
    pub unit: &'static str,
    pub meaning: &'static str,
    shown: Shown,
}

/// A section with its keys.
#[derive(Debug)]
pub struct Section {
    pub name: &'static str,
    pub meaning: &'static str,
    pub keys: Vec<KeyInfo>,
}

macro_rules! keys {
    ($($section:ident $meaning_of:literal { $($CONST:ident $name:ident: $kind:ty = $value:expr, $shown:expr, $meaning:literal;)* })*) => {
        $(#[doc = $meaning_of]
        pub(super) mod $section {
            use super::*;
            $(#[doc = $meaning]
            pub(in crate::plan) const $CONST: Key<$kind> =
                Key { section: stringify!($section), name: stringify!($name), kind: $value };)*
        })*

        /// All sections, in the order of the template.
        #[must_use]
        pub fn sections() -> Vec<Section> {
            vec![$(Section {
                name: stringify!($section),
                meaning: $meaning_of,
                keys: vec![$({
                    let kind: $kind = $value;
                    KeyInfo { name: stringify!($name), default: kind.toml(), unit: kind.unit(), meaning: $meaning, shown: $shown }
                },)*],
            },)*]
        }

        /// The names of all known keys, by section.
        pub(super) const NAMES: &[(&str, &[&str])] = &[$((stringify!($section), &[$(stringify!($name),)*]),)*];
    };
}

use Shown::{As, Example, On};

keys! {
    experiment "what the run is called, and what it ran on" {
        INFRASTRUCTURE infrastructure: Text = Text("local"), On, "row of the overview and folder of the results, e.g. \"slurm-multi\"";
        VARIANT variant: Text = Text(""), On, "e.g. \"cpu-upgrade\"";
        HARDWARE hardware: Text = Text("unknown"), On, "free text, e.g. \"AWS HPC (SLURM cluster)\"";
        CORES cores: Count = Count(1..=NAMES_MAX, "cores", None), Example("96"), "of the system under test, e.g. 96";
        NOTES notes: Text = Text(""), On, "free text for the log entry";
    }
    server "what the log entry says of the server" {
        CONNECTION connection: Optional = Optional, Example("\"connection.toml\""), "written by the deploy scripts: urls and the keys below; this plan overrides it";
        WORKERS workers: Count = Count(1..=NAMES_MAX, "workers", None), Example("8"), "processes of each server";
        MAX_CONCURRENT_ENVS max_concurrent_envs: Count = Count(1..=NAMES_MAX, "environments", None), Example("100"), "environments that each worker holds";
        NODES nodes: Count = Count(1..=NAMES_MAX, "nodes", None), Example("1"), "machines that run servers";
        CPUS_PER_NODE cpus_per_node: Count = Count(1..=NAMES_MAX, "CPUs", None), Example("8"), "cores of each of them";
        BACKENDS backends: Own = Own("[]"), Example("[\"localhost\"]"), "the servers behind the urls";
        START_COMMAND start_command: Optional = Optional, Example("\"WORKERS=8 ./deploy/local/run_uvicorn.sh\""), "how the server was started";
        BALANCER balancer: Optional = Optional, Example("\"haproxy\""), "what stands behind the urls, if it is not the servers themselves";
        PROXY_SESSIONS_MAX proxy_sessions_max: Count = Count(1..=NAMES_MAX, "sessions", None), Example("9872"), "sessions that the proxy behind one url carries: two descriptors each";
    }
    target "what is loaded" {
        URLS urls: Own = Own(""), As("[\"http://127.0.0.1:8000\"]"), "http, https, ws, wss; several: sessions go round robin";
        MODE mode: Choice<Modes> = Choice(&Modes::NAMED), On, "\"ws\", \"http\" or \"compare\" (both)";
        EXPECTED_HOSTS expected_hosts: Count = Count(1..=1_000_000, "hosts", None), Example("1"), "warn when fewer hosts answer";
        REQUIRE_HOSTS require_hosts: Flag = Flag(false), On, "fail (exit 6) instead of warning";
        READY_TIMEOUT ready_timeout_seconds: Seconds = Seconds(0.1, Some(60.0)), On, "every agent must get one whole session out of every url within this time";
        EMBEDDED embedded: Flag = Flag(false), Example("true"), "instead of urls: start the built-in reference server";
        CA_FILE ca_file: Optional = Optional, Example("\"ca.pem\""), "extra trust root for https and wss, or the server's own certificate";
        ON_RESTART on_restart: Choice<OnRestart> = Choice(&[("repeat", OnRestart::Repeat), ("keep", OnRestart::Keep), ("abort", OnRestart::Abort)]), On, "repeat a batch under which the server was restarted; or \"keep\" it as degraded; or \"abort\" the run";
    }
    grid "which batches are run" {
        BATCH_SIZES batch_sizes: Own = Own(""), As("[32, 128]"), "sessions that are open at once";
        WAITS wait_seconds: Own = Own("[1.0]"), On, "what each step asks the server to wait";
        REPETITIONS repetitions: Count = Count(1..=10_000, "repetitions", Some(3)), On, "of each cell";
        COOLDOWN cooldown_seconds: Seconds = Seconds(0.0, Some(0.5)), On, "pause after each batch";
        ORDER order: Choice<Order> = Choice(&[("ascending", Order::Ascending), ("shuffled", Order::Shuffled)]), On, "mode, batch size, wait, repetition; or \"shuffled\" by session.seed";
        STOP_AFTER_FAILING stop_after_failing: Count = Count(0..=1_000, "batch sizes", Some(0)), On, "after N failing batch sizes of a (mode, wait) skip the larger ones; 0: never";
        WARMUP warmup: Flag = Flag(true), On, "one small batch first that is not recorded";
    }
    session "what a session does" {
        STEPS steps: Count = Count(1..=limits::STEPS_MAX as u64, "steps", Some(1)), On, "steps of a session";
        THINK think_seconds: Seconds = Seconds(0.0, Some(0.0)), On, "pause of the client before each step";
        SEED seed: Count = Count(0..=u64::MAX >> 1, "as seed", Some(1)), On, "of random starts and shuffled batches";
        TIMEOUT timeout_seconds: Seconds = Seconds(0.001, Some(120.0)), On, "of each phase; a step's wait is not counted";
        CONNECT_TIMEOUT connect_timeout_seconds: Seconds = Seconds(0.001, None), Example("120.0"), "of this phase alone; default: timeout_seconds";
        RESET_TIMEOUT reset_timeout_seconds: Seconds = Seconds(0.001, None), Example("120.0"), "of this phase alone";
        STEP_TIMEOUT step_timeout_seconds: Seconds = Seconds(0.001, None), Example("120.0"), "of this phase alone";
        CLOSE_TIMEOUT close_timeout_seconds: Seconds = Seconds(0.001, None), Example("120.0"), "of this phase alone";
        TOTAL_TIMEOUT total_timeout_seconds: Seconds = Seconds(0.001, None), Example("300.0"), "of the whole session, from its actual start";
        UNTIL_DONE until_done: Flag = Flag(true), On, "steps end where a reply says that the episode is done";
        MESSAGE_BYTES_MAX message_bytes_max: Count = Count(1_024..=limits::REPLY_BYTES_MAX, "bytes", Some(16 << 20)), On, "the largest reply that is read, in bytes; a larger one fails its session as client_limit";
        LAUNCH launch: Own = Own("{ kind = \"burst\" }"), On, "or { kind = \"ramp\", over_seconds = 5.0 }, or, in place of batch_sizes, { kind = \"arrivals\", per_second = 500, for_seconds = 60, process = \"poisson\" }";
    }
    agents "who carries the load" {
        COUNT count: Count = Count(1..=limits::AGENTS_MAX as u64, "agents", Some(1)), On, "start when this many are ready";
        READY_TIMEOUT ready_timeout_seconds: Seconds = Seconds(0.1, Some(300.0)), On, "give up (exit 5) after this time";
        LOCAL local: Count = Count(0..=256, "local agents", Some(1)), On, "of them, started by the coordinator itself; with count alone: 0";
        LEASE lease_seconds: Seconds = Seconds(2.0, Some(10.0)), On, "an agent that is silent for longer is lost";
        ON_LOSS on_loss: Choice<OnLoss> = Choice(&[("repeat", OnLoss::Repeat), ("keep", OnLoss::Keep), ("abort", OnLoss::Abort)]), On, "the batch; or \"keep\" it as degraded, or \"abort\" the run";
        MAX_ATTEMPTS max_attempts: Count = Count(1..=100, "attempts", Some(3)), On, "at a batch, lost agents and restarts together";
        ON_SHORTFALL on_shortfall: Choice<OnShortfall> = Choice(&[("stop", OnShortfall::Stop), ("continue", OnShortfall::Continue)]), On, "when a batch is more than the agents can carry; or \"continue\" with the smaller ones";
    }
    measure "what is measured beside latencies" {
        WIRE wire: Flag = Flag(true), On, "kernel receive timestamps: tells the server's time from the agents' own";
        MAX_CLOCK_ERROR max_clock_error_ms: Number = Number(0.001..=60_000.0, "ms", 2.0), On, "agents whose clocks are known less well make a batch invalid";
    }
    success "when a batch counts as held" {
        MIN_SUCCESS_RATE min_success_rate: Number = Number(0.0..=1.0, "as a fraction", 0.95), On, "first criterion: succeeded / planned sessions";
        MAX_LATENCY_MULTIPLIER max_latency_multiplier: Number = Number(1.0..=1_000.0, "times", 2.0), On, "second criterion: p99 <= multiplier x (steps x (wait + think) + overhead)";
        OVERHEAD overhead_seconds: Seconds = Seconds(0.0, Some(0.5)), On, "see max_latency_multiplier";
    }
    output "where results go" {
        DIR dir: Text = Text("experiments/results/{infrastructure}/{date}"), On, "also {variant}; an existing folder gets -2, -3";
        RAW raw: Choice<Raw> = Choice(&[("jsonl", Raw::Jsonl), ("jsonl.zst", Raw::JsonlZst), ("none", Raw::None)]), On, "one line a session; or \"jsonl.zst\", or \"none\"";
    }
}

/// The `[target]` keys that a connection file may contain in addition to the `[server]` keys.
pub(super) const CONNECTION_TARGET_KEYS: &[&str] = &["urls", "ca_file"];

pub(super) fn names_of(section: &str) -> &'static [&'static str] {
    NAMES.iter().find(|(name, _)| *name == section).map_or(&[], |(_, names)| names)
}

/// The text that `coordinator plan init` prints: a plan with every key, its default and its meaning.
#[must_use]
pub fn template() -> String {
    let mut text = "# A plan for `coordinator run`. Every key but target.urls and grid.batch_sizes may be left out; the values shown are\n\
                    # the defaults, except where \"e.g.\" is said. `coordinator check PLAN` shows what a plan will run.\n"
        .to_owned();
    for section in sections() {
        text.push('\n');
        text.push_str(&commented(&format!("[{}]", section.name), section.meaning));
        for key in &section.keys {
            let default = key.default.as_deref().unwrap_or_default();
            let (off, value) = match key.shown {
                On => ("", default),
                Example(example) => ("# ", example),
                As(value) => ("", value),
            };
            text.push_str(&commented(&format!("{off}{} = {value}", key.name), key.meaning));
        }
    }
    text
}

/// Appends a comment to a line. Comments after short lines are aligned.
fn commented(line: &str, comment: &str) -> String {
    if comment.is_empty() { format!("{line}\n") } else { format!("{line:<30}  # {comment}\n") }
}

/// The documentation page of the keys, as Markdown.
#[must_use]
pub fn reference() -> String {
    let mut page = "# Keys of a plan\n\nA key without a default may be left out, or must be given where its section says so. `coordinator plan init` \
                    prints all of them as a plan.\n"
        .to_owned();
    for section in sections() {
        page.push_str(&format!("\n## [{}]\n\n", section.name));
        if !section.meaning.is_empty() {
            page.push_str(&format!("{}\n\n", capitalized(section.meaning)));
        }
        page.push_str("| key | default | unit | meaning |\n| --- | --- | --- | --- |\n");
        for key in &section.keys {
            let default = key.default.as_deref().filter(|text| !text.is_empty());
            let default = default.map_or_else(String::new, |text| format!("`{text}`"));
            page.push_str(&format!("| `{}` | {default} | {} | {} |\n", key.name, key.unit, key.meaning));
        }
    }
    page
}

fn capitalized(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| format!("{}{}.", first.to_uppercase(), chars.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::check::plan_of;

    #[test]
    fn the_template_is_a_valid_plan() {
        plan_of(&template()).expect("valid");
    }

    #[test]
    fn defaults_are_those_that_the_template_shows() {
        let switched_on: Vec<String> =
            template().lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect();
        let given = plan_of(&switched_on.join("\n")).expect("valid");
        let left_out =
            plan_of("[target]\nurls=[\"http://127.0.0.1:8000\"]\n[grid]\nbatch_sizes=[32, 128]\n").expect("valid");
        assert_eq!(given, left_out);
    }

    #[test]
    fn commented_keys_are_valid_too() {
        // Every commented-out example must be valid once enabled, except for keys that exclude each other.
        let switched_on: String = template()
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(key) if key.contains(" = ") && !key.starts_with("embedded") => key,
                _ => line,
            })
            .map(|line| format!("{line}\n"))
            .collect();
        plan_of(&switched_on).expect("valid");
    }
}
