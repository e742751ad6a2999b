//! Turns a target's urls into addresses that sessions can be sent to, with every check that comes before a connection.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use proto::Target;
use proto::base_url::BaseUrl;

use super::allow::{self, AllowRule};
use super::family;
use super::target::{Endpoint, Endpoints, TargetError, resolve};
use super::trust::tls_config;

/// What this agent brings to any target. Clones share what they remember.
#[derive(Debug, Clone, Default)]
pub struct TargetResolver {
    pub allow: Vec<AllowRule>,
    pub source_ips: Vec<IpAddr>,
    /// By host and port: whether IPv4 was chosen the last time, for hosts with addresses of both families.
    pub families: Arc<Mutex<BTreeMap<(String, u16), bool>>>,
}

impl TargetResolver {
    /// Looks every url up, checks its addresses against the allow-list, chooses one address family, and builds the TLS
    /// configuration if one is needed.
    ///
    /// # Errors
    /// See [`TargetError`].
    pub async fn endpoints(&self, target: &Target) -> Result<Endpoints, TargetError> {
        let mut list = Vec::with_capacity(target.urls.len());
        for text in &target.urls {
            let url = BaseUrl::parse(text)?;
            let addresses = resolve(&url).await?;
            // All of them are checked before any of them is dialled.
            allow::check(&self.allow, &url, &addresses).await?;
            let addresses = self.last_family_first(&url, addresses);
            let addresses = family::choose(&url.host, addresses, &self.source_ips).await?;
            self.remember(&url, &addresses);
            list.push(Endpoint { url, addresses });
        }
        let tls = if list.iter().any(|endpoint| endpoint.url.tls) { Some(tls_config(&target.ca_pem)?) } else { None };
        Ok(Endpoints { list, tls })
    }

    /// Sorts the family that answered the last time to the front: if none answers now, sessions still go there.
    fn last_family_first(&self, url: &BaseUrl, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ipv4) = families.get(&(url.host.clone(), url.port)) {
            addresses.sort_by_key(|address| address.is_ipv4() != *ipv4);
        }
        addresses
    }

    fn remember(&self, url: &BaseUrl, addresses: &[SocketAddr]) {
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = addresses.first() {
            families.insert((url.host.clone(), url.port), first.is_ipv4());
        }
    }
}
