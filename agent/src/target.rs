//! The name behind a target URL, looked up before the batch, outside of what is measured.

use std::net::SocketAddr;
use std::sync::Arc;

use proto::Mode;
use proto::base_url::{BaseUrl, UrlError};

/// Why a target can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error("{host} does not resolve: {cause}; check the name, or give an address")]
    Resolve { host: String, cause: String },
    #[error("{cause}")]
    NotAllowed { cause: String },
    #[error("extra trust root: {0}")]
    TrustRoot(String),
}

/// All addresses behind a url's name, without doubles, in the resolver's order.
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

/// A target ready to be dialled.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub url: BaseUrl,
    pub addresses: Vec<SocketAddr>,
}

/// Every url of a target; sessions go round robin by global number, first over urls, then over each url's addresses.
#[derive(Debug, Clone)]
pub struct Endpoints {
    pub mode: Mode,
    pub list: Vec<Endpoint>,
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

impl Endpoints {
    /// Where session number `session` goes.
    #[must_use]
    pub fn of_session(&self, session: u64) -> (&Endpoint, SocketAddr) {
        let urls = self.list.len() as u64;
        let endpoint = &self.list[index(session % urls)];
        let address = endpoint.addresses[index((session / urls) % endpoint.addresses.len() as u64)];
        (endpoint, address)
    }
}

/// Whether an address is this machine's own.
#[must_use]
pub fn is_here(address: SocketAddr) -> bool {
    address.ip().is_loopback() || std::net::UdpSocket::bind((address.ip(), 0)).is_ok()
}

fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(0)
}

/// A client configuration that trusts the system's roots (or, where there are none, Mozilla's) and `ca_pem`.
///
/// # Errors
/// [`TargetError::TrustRoot`] if `ca_pem` holds no certificate.
pub fn tls_config(ca_pem: &[u8]) -> Result<Arc<rustls::ClientConfig>, TargetError> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    let mut roots = rustls::RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if added == 0 {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if !ca_pem.is_empty() {
        let mut found = 0;
        for certificate in CertificateDer::pem_slice_iter(ca_pem) {
            let certificate = certificate.map_err(|error| TargetError::TrustRoot(error.to_string()))?;
            roots.add(certificate).map_err(|error| TargetError::TrustRoot(error.to_string()))?;
            found += 1;
        }
        if found == 0 {
            return Err(TargetError::TrustRoot("no certificate in it".to_owned()));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TargetError::TrustRoot(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed handshake is cheaper than a first one: every session pays the whole price, as a new client would.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
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
        let endpoints = Endpoints { mode: Mode::Ws, list: vec![endpoint(1, 2), endpoint(2, 1)], tls: None };
        let seen: Vec<String> = (0..6).map(|n| endpoints.of_session(n).1.to_string()).collect();
        assert_eq!(seen, ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.2:1", "127.0.0.1:2", "127.0.0.1:1", "127.0.0.1:2"]);
    }

    #[test]
    fn a_trust_root_without_a_certificate_is_refused() {
        assert!(tls_config(b"").is_ok());
        assert!(tls_config(b"not a certificate").expect_err("no certificate").to_string().contains("no certificate"));
    }
}
