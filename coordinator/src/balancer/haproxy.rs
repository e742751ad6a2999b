//! PURE: formats one process of a layout as a configuration of HAProxy 2.4 or newer
//! (<https://docs.haproxy.org/2.6/configuration.html>).

use std::net::IpAddr;

use super::{
    BACKLOG, CHECK_FALL, CHECK_SECONDS, CHECK_SECONDS_MAX, CONNECT_SECONDS_MAX, IDLE_SECONDS_MAX, Layout, Proxy, Wanted,
};

pub const EXTENSION: &str = "cfg";

#[must_use]
pub fn render(wanted: &Wanted, layout: &Layout, proxy: &Proxy) -> String {
    let sessions = layout.sessions_max;
    let threads = wanted.threads.map_or_else(String::new, |threads| format!("    nbthread {threads}\n"));
    let (bind, source) = match proxy.address {
        Some(address @ IpAddr::V6(_)) => (format!("[{address}]"), format!(" source [{address}]")),
        Some(address) => (address.to_string(), format!(" source {address}")),
        None => ("*".to_owned(), String::new()),
    };
    let port = proxy.port;
    let mut text = format!(
        "# {node}, process {number} of {processes}: up to {sessions} sessions, two descriptors each.
# Written by `coordinator balancer haproxy`.
global
    maxconn {sessions}
{threads}    hard-stop-after 5s

defaults
    mode http
    maxconn {sessions}
    timeout connect {CONNECT_SECONDS_MAX}s
    timeout client {IDLE_SECONDS_MAX}s
    timeout server {IDLE_SECONDS_MAX}s
    timeout tunnel {IDLE_SECONDS_MAX}s
    timeout check {CHECK_SECONDS_MAX}s

frontend clients
    bind {bind}:{port} backlog {BACKLOG}
    default_backend environments

backend environments
    # Sessions are long: a new one goes to where the fewest are open. An upgraded connection stays with its server.
    balance leastconn
    option httpchk
    http-check send meth GET uri /health ver HTTP/1.1 hdr Host health
    http-check expect status 200
    default-server check inter {CHECK_SECONDS}s fall {CHECK_FALL} rise 1{source}
",
        node = proxy.node,
        number = proxy.number,
        processes = layout.proxies.len(),
    );
    for (n, backend) in wanted.backends.iter().enumerate() {
        text.push_str(&format!("    server backend-{} {backend}\n", n + 1));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::tests::wanted;
    use super::super::{Wanted, layout};
    use super::*;

    #[test]
    fn a_configuration() {
        let wanted =
            Wanted { threads: Some(2), ..wanted(16_384, &["n1", "n2=10.0.0.2"], &["n1:9000", "[fd00::2]:9000"]) };
        let layout = layout(&wanted).expect("layout");
        let texts: Vec<String> = layout.proxies.iter().map(|proxy| render(&wanted, &layout, proxy)).collect();
        insta::assert_snapshot!(texts.join("\n"));
    }
}
