//! Which targets this agent may load. Rules are checked against resolved addresses, so that a name can't be pointed
//! elsewhere.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use proto::base_url::BaseUrl;

use super::target::TargetError;

/// One `--allow-target`: `HOST`, `HOST:PORT`, an address, or a network in CIDR notation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowRule {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    Network(IpNet),
    Name(String),
}

impl FromStr for AllowRule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let network = |text: &str| text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        if let Some(net) = network(text) {
            return Ok(Self { hosts: Hosts::Network(net), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => {
                let port = port.parse().map_err(|_| format!("{text}: {port:?} is no port"))?;
                (host.trim_start_matches('[').trim_end_matches(']'), Some(port))
            }
            None => (text, None),
        };
        if let Some(net) = network(host) {
            return Ok(Self { hosts: Hosts::Network(net), port });
        }
        let plausible = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !plausible {
            return Err(format!("{text}: give HOST, HOST:PORT, an address or a network such as 10.0.0.0/8"));
        }
        Ok(Self { hosts: Hosts::Name(host.to_owned()), port })
    }
}

impl AllowRule {
    fn permits(&self, address: SocketAddr, names: &[(String, Vec<IpAddr>)]) -> bool {
        let host_fits = match &self.hosts {
            Hosts::Network(net) => net.contains(&address.ip()),
            Hosts::Name(name) => names.iter().any(|(known, ips)| known == name && ips.contains(&address.ip())),
        };
        host_fits && self.port.is_none_or(|port| port == address.port())
    }
}

/// Checks every address of a url. An empty list of rules allows everything.
///
/// # Errors
/// [`TargetError::NotAllowed`] with the first address that no rule covers.
pub async fn check(rules: &[AllowRule], url: &BaseUrl, addresses: &[SocketAddr]) -> Result<(), TargetError> {
    if rules.is_empty() {
        return Ok(());
    }
    let mut names = Vec::new();
    for rule in rules {
        if let Hosts::Name(name) = &rule.hosts {
            // A name that does not resolve allows nothing.
            let ips = match tokio::net::lookup_host((name.as_str(), 0)).await {
                Ok(found) => found.map(|address| address.ip()).collect(),
                Err(_) => Vec::new(),
            };
            names.push((name.clone(), ips));
        }
    }
    match addresses.iter().find(|address| !rules.iter().any(|rule| rule.permits(**address, &names))) {
        None => Ok(()),
        Some(address) => Err(TargetError::NotAllowed {
            cause: format!(
                "{} ({address}) is outside of what this agent may load; start it with --allow-target {address}",
                url.text
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn allowed(rules: &[&str], address: &str) -> bool {
        let rules: Vec<AllowRule> = rules.iter().map(|r| r.parse().expect(r)).collect();
        let url = BaseUrl::parse("http://h:1").expect("url");
        check(&rules, &url, &[address.parse().expect(address)]).await.is_ok()
    }

    #[tokio::test]
    async fn rules_are_judged_by_address_and_port() {
        assert!(allowed(&[], "10.0.0.1:80").await);
        assert!(allowed(&["10.0.0.0/8"], "10.9.9.9:80").await);
        assert!(!allowed(&["10.0.0.0/8"], "11.0.0.1:80").await);
        assert!(allowed(&["10.0.0.1:80"], "10.0.0.1:80").await);
        assert!(!allowed(&["10.0.0.1:80"], "10.0.0.1:81").await);
        assert!(allowed(&["::1"], "[::1]:5").await);
        assert!(allowed(&["[::1]:5"], "[::1]:5").await);
        assert!(allowed(&["localhost"], "127.0.0.1:9").await);
        assert!(!allowed(&["localhost"], "10.0.0.1:9").await);
        assert!(!allowed(&["no-such-name.invalid"], "127.0.0.1:9").await);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", ":80", "h:port", "a b", "10.0.0.0/99:1"] {
            assert!(text.parse::<AllowRule>().is_err(), "{text:?}");
        }
    }
}
