//! A target's urls and addresses. Names are looked up before the batch, outside of the measured time.

use std::net::SocketAddr;
use std::sync::Arc;

use proto::base_url::{BaseUrl, UrlError};

use super::trust::TrustError;

/// Why a target can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error("{host} does not resolve: {cause}; check the name, or give an address")]
    Resolve { host: String, cause: String },
    #[error("{cause}")]
    NotAllowed { cause: String },
    #[error("target.ca_file: {0}")]
    TrustRoot(#[from] TrustError),
    #[error(
        "{host} has {theirs} addresses only ({addresses}), and --source-ip {ours} ones only ({sources}): no connection \
         between them; start the agent with an {theirs} --source-ip or without one, or give a target with an {ours} address"
    )]
    SourceFamily { host: String, theirs: &'static str, addresses: String, ours: &'static str, sources: String },
}

/// All addresses of a url's host, without duplicates, in the resolver's order.
///
/// # Errors
/// [`TargetError::Resolve`].
pub async fn resolve(url: &BaseUrl) -> Result<Vec<SocketAddr>, TargetError> {
    let refuse = |cause: String| TargetError::Resolve { host: url.host.clone(), cause };
    let found =
        tokio::net::lookup_host((url.host.as_str(), url.port)).await.map_err(|error| refuse(error.to_string()))?;
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() { Err(refuse("no address".to_owned())) } else { Ok(addresses) }
}

/// One url with its addresses.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub url: BaseUrl,
    /// The addresses of its servers, at least one, all of one family.
    pub addresses: Vec<SocketAddr>,
}

/// Every url of a target, at least one. Sessions go round robin by their global number, first over urls, then over each
/// url's addresses.
#[derive(Debug, Clone)]
pub struct Endpoints {
    pub list: Vec<Endpoint>,
    /// `Some` if one of the urls needs TLS.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

impl Endpoints {
    /// The url and address of session number `session`.
    #[must_use]
    pub fn of_session(&self, session: u64) -> (&Endpoint, SocketAddr) {
        let urls = self.list.len() as u64;
        let endpoint = &self.list[index(session % urls)];
        let address = endpoint.addresses[index((session / urls) % endpoint.addresses.len() as u64)];
        (endpoint, address)
    }
}

/// Whether an address belongs to this machine.
#[must_use]
pub fn is_own_address(address: SocketAddr) -> bool {
    address.ip().is_loopback() || std::net::UdpSocket::bind((address.ip(), 0)).is_ok()
}

fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_go_round_robin_over_urls_and_then_addresses() {
        let endpoint = |port: u16, count: u8| Endpoint {
            url: BaseUrl::parse(&format!("http://h:{port}")).expect("url"),
            addresses: (1..=count).map(|i| SocketAddr::from(([127, 0, 0, i], port))).collect(),
        };
        let endpoints = Endpoints { list: vec![endpoint(1, 2), endpoint(2, 1)], tls: None };
        let seen: Vec<String> = (0..6).map(|n| endpoints.of_session(n).1.to_string()).collect();
        assert_eq!(seen, ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.2:1", "127.0.0.1:2", "127.0.0.1:1", "127.0.0.1:2"]);
    }
}
