//! `coordinator balancer`: writes the configurations of proxies in front of several servers.

use std::fs;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::output::{Problem, VerbosityFlags};
use crate::balancer::{Backend, Layout, Node, Wanted, envoy, haproxy, layout};
use crate::text::count;

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Haproxy,
    Envoy,
}

#[derive(Debug, Args)]
pub(super) struct BalancerArgs {
    /// Which proxy
    #[arg(value_enum)]
    kind: Kind,

    /// Most sessions open at once, over all proxies
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    sessions: u64,

    /// A server behind it; may be repeated
    #[arg(long, value_name = "HOST:PORT", required = true)]
    backend: Vec<Backend>,

    /// A machine that runs proxies; may be repeated. Each of several addresses brings source ports of its own
    #[arg(long, value_name = "NAME[=ADDRESS,ADDRESS]", required = true)]
    node: Vec<Node>,

    /// Port of the first proxy on each node; further ones count up
    #[arg(long, value_name = "PORT", default_value_t = 8000, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,

    /// Open files that one proxy may have [default: this machine's hard limit]
    #[arg(long, value_name = "N")]
    descriptors: Option<u64>,

    /// Ephemeral ports of one address [default: this machine's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=65_535))]
    ports: Option<u64>,

    /// Threads of each proxy [default: the proxy's own choice]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: Option<u32>,

    /// Folder for the configurations, made if it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

pub(super) fn run(args: BalancerArgs, verbosity: VerbosityFlags) -> Result<u8, Problem> {
    let descriptors = args.descriptors.map_or_else(descriptors_max, Ok)?;
    let wanted = Wanted {
        sessions: args.sessions,
        backends: args.backend,
        nodes: args.node,
        port: args.port,
        descriptors,
        ports: args.ports.unwrap_or_else(|| {
            agent::host::capacity::measure(&agent::host::capacity::CapacityOptions::default()).ports
        }),
        threads: args.threads,
    };
    for (n, node) in wanted.nodes.iter().enumerate() {
        if wanted.nodes[..n].iter().any(|other| other.name == node.name) {
            return Err(Problem::usage(format!("--node {}: given twice; name all its addresses at once", node.name)));
        }
    }
    let layout = layout(&wanted).map_err(|error| Problem::usage(error.to_string()))?;
    let (extension, program) = match args.kind {
        Kind::Haproxy => (haproxy::EXTENSION, "haproxy"),
        Kind::Envoy => (envoy::EXTENSION, "envoy"),
    };
    let failed = |path: &std::path::Path, error: std::io::Error| {
        Problem::internal(format!("{}: {error}; give another --out", path.display()))
    };
    fs::create_dir_all(&args.out).map_err(|error| failed(&args.out, error))?;
    let mut table = String::new();
    for proxy in &layout.proxies {
        let text = match args.kind {
            Kind::Haproxy => haproxy::render(&wanted, &layout, proxy),
            Kind::Envoy => envoy::render(&wanted, &layout, proxy),
        };
        let file = format!("proxy-{}.{extension}", proxy.number);
        let path = args.out.join(&file);
        fs::write(&path, text).map_err(|error| failed(&path, error))?;
        table.push_str(&format!("{}\t{}\t{}\t{file}\n", proxy.number, proxy.node, proxy.url()));
    }
    let path = args.out.join("proxies.tsv");
    fs::write(&path, &table).map_err(|error| failed(&path, error))?;
    let path = args.out.join("connection.toml");
    fs::write(&path, connection(program, &layout)).map_err(|error| failed(&path, error))?;
    verbosity.print(&describe(program, &wanted, &layout, &args.out.display().to_string()))
}

/// The keys of a connection file that depend on the balancer; scripts add those of the servers.
fn connection(program: &str, layout: &Layout) -> String {
    let urls: Vec<String> = layout.proxies.iter().map(|proxy| format!("\"{}\"", proxy.url())).collect();
    format!("urls = [{}]\nbalancer = \"{program}\"\nproxy_sessions_max = {}\n", urls.join(", "), layout.sessions_max)
}

fn describe(program: &str, wanted: &Wanted, layout: &Layout, out: &str) -> String {
    let mut text = format!(
        "{} sessions over {} {program} {}: {} each; one carries {}: {} open files, two a session\n\
         source ports: {} on each address, of {} ({} towards each of {} backends)\n",
        count(wanted.sessions),
        layout.proxies.len(),
        if layout.proxies.len() == 1 { "process" } else { "processes" },
        count(layout.sessions_each),
        count(layout.sessions_max),
        count(wanted.descriptors),
        count(layout.ports_used),
        count(layout.ports_had),
        count(wanted.ports),
        wanted.backends.len()
    );
    for proxy in &layout.proxies {
        text.push_str(&format!("  {:>3}  {}  on {}\n", proxy.number, proxy.url(), proxy.node));
    }
    text.push_str(&format!("configurations, proxies.tsv and connection.toml in {out}\n"));
    text
}

fn descriptors_max() -> Result<u64, Problem> {
    nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).map(|(_, hard)| hard).map_err(|error| {
        Problem::internal(format!("the limit of open files can't be read: {error}; give --descriptors N"))
    })
}
