//! Checks the output of `coordinator balancer` with its readers: HAProxy itself, and Envoy's own message types.

use std::path::Path;
use std::process::Command;

use crate::support::{coordinator, run};

fn render(kind: &str, out: &Path) -> String {
    let mut command = coordinator();
    command
        .args(["balancer", kind, "--sessions", "40000", "--descriptors", "20000", "--threads", "2", "--out"])
        .arg(out);
    command.args([
        "--backend",
        "127.0.0.1:9000",
        "--backend",
        "[::1]:9000",
        "--node",
        "n1=127.0.0.1,127.0.0.2",
        "--node",
        "n2",
    ]);
    let ended = run(command);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    ended.text
}

fn files(out: &Path, extension: &str) -> Vec<std::path::PathBuf> {
    let found = std::fs::read_dir(out).expect("folder").filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<_> = found.filter(|path| path.extension().is_some_and(|e| e == extension)).collect();
    files.sort();
    files
}

#[test]
fn haproxy_takes_every_configuration() {
    let out = tempfile::tempdir().expect("dir");
    let text = render("haproxy", out.path());
    assert!(text.contains("40,000 sessions over 6 haproxy processes: 6,667 each"), "{text}");
    let files = files(out.path(), "cfg");
    assert_eq!(files.len(), 6);
    for file in files {
        let mut command = Command::new("haproxy");
        command.args(["-c", "-f"]).arg(&file).env("PATH", "/usr/sbin:/usr/bin:/bin");
        let ended = run(command);
        assert!(ended.status.success() && ended.text.contains("Configuration file is valid"), "{}", ended.text);
        assert!(!ended.text.contains("WARNING"), "{}", ended.text);
    }
    let table = std::fs::read_to_string(out.path().join("proxies.tsv")).expect("table");
    assert_eq!(table.lines().count(), 6);
    let connection: toml::Table =
        std::fs::read_to_string(out.path().join("connection.toml")).expect("file").parse().expect("TOML");
    assert_eq!(connection["urls"].as_array().map(Vec::len), Some(6));
    assert_eq!(connection["proxy_sessions_max"].as_integer(), Some(9_872));
}

/// Envoy's protocol buffers, from a Python package: an unknown field, a wrong type or an unknown extension is an error.
const CHECK: &str = r#"
import sys
from google.protobuf import json_format
from envoy.config.bootstrap.v3 import bootstrap_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2
from envoy.extensions.resource_monitors.downstream_connections.v3 import downstream_connections_pb2
for path in sys.argv[1:]:
    bootstrap = json_format.Parse(open(path).read(), bootstrap_pb2.Bootstrap())
    (listener,), (cluster,) = bootstrap.static_resources.listeners, bootstrap.static_resources.clusters
    manager = http_connection_manager_pb2.HttpConnectionManager()
    assert listener.filter_chains[0].filters[0].typed_config.Unpack(manager)
    assert [upgrade.upgrade_type for upgrade in manager.upgrade_configs] == ["websocket"]
    route = manager.route_config.virtual_hosts[0].routes[0].route
    assert route.HasField("timeout") and route.timeout.ToTimedelta().total_seconds() == 0
    (limits,) = cluster.circuit_breakers.thresholds
    assert limits.max_connections.value == limits.max_requests.value == 9872
    assert len(cluster.load_assignment.endpoints[0].lb_endpoints) == 2
    print("checked", path)
"#;

#[test]
fn envoys_own_messages_take_every_bootstrap() {
    let out = tempfile::tempdir().expect("dir");
    render("envoy", out.path());
    let files = files(out.path(), "json");
    assert_eq!(files.len(), 6);
    let python =
        std::env::var_os("MUSTER_TEST_PYTHON").expect("MUSTER_TEST_PYTHON, with xds-protos: scripts/test sets it");
    let mut command = Command::new(python);
    command.args(["-c", CHECK]).args(&files);
    let ended = run(command);
    assert!(ended.status.success(), "{}", ended.text);
    assert_eq!(ended.text.matches("checked ").count(), 6, "{}", ended.text);
}
