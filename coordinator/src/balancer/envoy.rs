//! PURE: formats one process of a layout as an Envoy bootstrap, in JSON
//! (<https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/bootstrap/v3/bootstrap.proto>).
//!
//! Envoy's defaults would end sessions: routes time out after 15 s, idle streams after 5 min, and a cluster takes 1,024
//! connections and requests at once. Each of these limits is set to what the layout needs.

use serde_json::{Value, json};

use super::{
    BACKLOG, CHECK_FALL, CHECK_SECONDS, CHECK_SECONDS_MAX, CONNECT_SECONDS_MAX, IDLE_SECONDS_MAX, Layout, Proxy, Wanted,
};

pub const EXTENSION: &str = "json";

#[must_use]
pub fn render(wanted: &Wanted, layout: &Layout, proxy: &Proxy) -> String {
    let text = serde_json::to_string_pretty(&bootstrap(wanted, layout, proxy));
    let text = text.unwrap_or_else(|error| unreachable!("plain JSON: {error}"));
    format!("{text}\n")
}

fn seconds(seconds: u32) -> String {
    format!("{seconds}s")
}

fn socket_address(host: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": host, "port_value": port } })
}

fn bootstrap(wanted: &Wanted, layout: &Layout, proxy: &Proxy) -> Value {
    let sessions = layout.sessions_max;
    json!({
        "node": { "id": format!("{}-{}", proxy.node, proxy.number), "cluster": "muster" },
        "static_resources": {
            "listeners": [listener(proxy)],
            "clusters": [cluster(wanted, sessions, proxy)],
        },
        "overload_manager": {
            "resource_monitors": [{
                "name": "envoy.resource_monitors.global_downstream_max_connections",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
                    "max_active_downstream_connections": sessions,
                },
            }],
        },
    })
}

fn listener(proxy: &Proxy) -> Value {
    let address = proxy.address.map_or_else(|| "0.0.0.0".to_owned(), |address| address.to_string());
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "clients",
        "codec_type": "HTTP1",
        "upgrade_configs": [{ "upgrade_type": "websocket" }],
        "stream_idle_timeout": seconds(IDLE_SECONDS_MAX),
        "common_http_protocol_options": { "idle_timeout": seconds(IDLE_SECONDS_MAX) },
        "route_config": {
            "name": "all",
            "virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                // 0 means no limit; the default is 15 s.
                "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": "environments", "timeout": "0s" } }],
            }],
        },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
        }],
    });
    json!({
        "name": "clients",
        "address": socket_address(&address, proxy.port),
        "tcp_backlog_size": BACKLOG,
        "filter_chains": [{
            "filters": [{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }],
        }],
    })
}

fn cluster(wanted: &Wanted, sessions: u64, proxy: &Proxy) -> Value {
    let endpoints: Vec<Value> = wanted
        .backends
        .iter()
        .map(|backend| json!({ "endpoint": { "address": socket_address(&backend.host, backend.port) } }))
        .collect();
    let mut cluster = json!({
        "name": "environments",
        "type": "STRICT_DNS",
        "dns_lookup_family": "V4_PREFERRED",
        "connect_timeout": seconds(CONNECT_SECONDS_MAX),
        "lb_policy": "LEAST_REQUEST",
        // With every server out, no server is tried: such a request would count as if it were served.
        "common_lb_config": { "healthy_panic_threshold": { "value": 0.0 } },
        "load_assignment": { "cluster_name": "environments", "endpoints": [{ "lb_endpoints": endpoints }] },
        "circuit_breakers": { "thresholds": [{
            "max_connections": sessions,
            "max_pending_requests": sessions,
            "max_requests": sessions,
        }] },
        "health_checks": [{
            "timeout": seconds(CHECK_SECONDS_MAX),
            "interval": seconds(CHECK_SECONDS),
            "unhealthy_threshold": CHECK_FALL,
            "healthy_threshold": 1,
            "http_health_check": { "path": "/health" },
        }],
    });
    if let Some(address) = proxy.address {
        cluster["upstream_bind_config"] =
            json!({ "source_address": { "address": address.to_string(), "port_value": 0 } });
    }
    cluster
}

#[cfg(test)]
mod tests {
    use super::super::layout;
    use super::super::tests::wanted;
    use super::*;

    #[test]
    fn a_bootstrap() {
        let wanted = wanted(16_384, &["n2=10.0.0.2"], &["n1:9000", "[fd00::2]:9000"]);
        let layout = layout(&wanted).expect("layout");
        insta::assert_snapshot!(render(&wanted, &layout, &layout.proxies[0]));
    }
}
