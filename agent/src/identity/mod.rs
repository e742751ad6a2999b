//! Who may give orders and who may take them: a small certificate authority in a folder.
//!
//! ```text
//! ~/.config/muster/identity/     0700   (or $XDG_CONFIG_HOME/muster/identity, or --identity DIR)
//!   ca.pem                              the authority's certificate
//!   ca.key                       0600   its key: whoever reads it can be any coordinator and any agent
//!   agent.pem, agent.key         0600   instead of ca.key in a folder made by `coordinator identity issue-agent`
//! ```
//!
//! Both sides mint a leaf of their own from it when they start, and check a fixed name instead of the one that was
//! dialled: addresses of cluster nodes say nothing. TLS 1.3 only, both ways (RFC 8446 section 4.4.2).

pub mod certs;
mod folder;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use certs::{Leaf, Role};
pub use folder::{AGENT_CERT, AGENT_KEY, CA_CERT, CA_KEY, DIR_MODE, KEY_MODE, default_dir};

/// Why an identity can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error(
        "no identity in {0}; on the machine that has one, or shares this home folder: `coordinator identity init`; for a \
         machine without a shared home folder: `coordinator identity issue-agent DIR`, copied here, and --identity DIR"
    )]
    Missing(PathBuf),
    #[error("{0}")]
    Unsafe(String),
    #[error("{0}")]
    Broken(String),
}

/// An identity folder that was read and found safe.
#[derive(Debug)]
pub struct Identity {
    dir: PathBuf,
    ca: CertificateDer<'static>,
    holds: Holds,
}

#[derive(Debug)]
enum Holds {
    /// PEM.
    CaKey {
        cert: String,
        key: String,
    },
    AgentLeaf(Leaf),
}

impl Identity {
    /// Reads a folder.
    ///
    /// # Errors
    /// [`IdentityError::Missing`] if there is none; otherwise what is wrong with it, and the way out.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        folder::load(dir)
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How an agent proves itself, and whom it believes.
    ///
    /// # Errors
    /// If the folder's files make no certificate.
    pub fn client(&self) -> Result<Arc<ClientConfig>, IdentityError> {
        let leaf = match &self.holds {
            Holds::AgentLeaf(leaf) => leaf.clone_key(),
            Holds::CaKey { cert, key } => self.mint(cert, key, Role::Agent)?,
        };
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| self.broken(&error))?
            .with_root_certificates(self.roots()?)
            .with_client_auth_cert(leaf.chain, leaf.key)
            .map_err(|error| self.broken(&error))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// How a coordinator proves itself, and whom it lets in.
    ///
    /// # Errors
    /// If the folder has no authority's key.
    pub fn server(&self) -> Result<Arc<ServerConfig>, IdentityError> {
        let Holds::CaKey { cert, key } = &self.holds else {
            return Err(IdentityError::Broken(format!(
                "{} was made for an agent (it has no {CA_KEY}): a coordinator can't prove itself with it; use the folder \
                 that it was issued from",
                self.dir.display()
            )));
        };
        let leaf = self.mint(cert, key, Role::Coordinator)?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider())
            .build()
            .map_err(|error| self.broken(&error))?;
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| self.broken(&error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(leaf.chain, leaf.key)
            .map_err(|error| self.broken(&error))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Arc::new(config))
    }

    /// A leaf for an agent on a machine that must not hold the authority's key: PEM of certificate and key.
    ///
    /// # Errors
    /// If this folder was itself made for an agent.
    pub fn issue_agent(&self, days: u32) -> Result<(String, String), IdentityError> {
        match &self.holds {
            Holds::CaKey { cert, key } => {
                certs::issue(cert, key, Role::Agent, i64::from(days)).map_err(|error| self.broken(&error))
            }
            Holds::AgentLeaf(_) => Err(IdentityError::Broken(format!(
                "{} was itself made for an agent and can't issue others; use the folder that it was issued from",
                self.dir.display()
            ))),
        }
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> String {
        certs::pem(&self.ca)
    }

    fn mint(&self, cert: &str, key: &str, role: Role) -> Result<Leaf, IdentityError> {
        certs::mint(cert, key, role).map_err(|error| self.broken(&error))
    }

    fn roots(&self) -> Result<RootCertStore, IdentityError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone()).map_err(|error| self.broken(&error))?;
        Ok(roots)
    }

    fn broken(&self, error: &dyn std::error::Error) -> IdentityError {
        IdentityError::Broken(format!(
            "the identity in {} can't be used ({error}); move the folder away and make a new one with `coordinator \
             identity init`",
            self.dir.display()
        ))
    }
}

impl Leaf {
    fn clone_key(&self) -> Self {
        Self { chain: self.chain.clone(), key: PrivateKeyDer::clone_key(&self.key) }
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Whether this is a matter of identity (and trying again is of no use), rather than of the network.
#[must_use]
pub fn refuses(error: &std::io::Error) -> Option<String> {
    use rustls::{AlertDescription as Alert, CertificateError as Cert};
    let tls = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    match tls {
        rustls::Error::InvalidCertificate(why @ (Cert::Expired | Cert::ExpiredContext { .. })) => Some(format!(
            "the coordinator's certificate has expired ({why:?}): start the coordinator again; is the clock right?"
        )),
        rustls::Error::InvalidCertificate(why @ (Cert::NotValidYet | Cert::NotValidYetContext { .. })) => {
            Some(format!(
                "the coordinator's certificate is of the future ({why:?}): the clocks of the two machines are more than a day apart"
            ))
        }
        rustls::Error::InvalidCertificate(Cert::InvalidPurpose | Cert::InvalidPurposeContext { .. }) => {
            Some("what listens there has an agent's identity, not a coordinator's".to_owned())
        }
        rustls::Error::InvalidCertificate(why) => Some(format!(
            "the coordinator there has another identity than this agent ({why:?}): one of the two looks at another folder, \
             or another user's coordinator listens there"
        )),
        rustls::Error::AlertReceived(
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateRequired
            | Alert::CertificateRevoked
            | Alert::UnsupportedCertificate
            | Alert::AccessDenied
            | Alert::DecryptError,
        ) => Some(format!("the coordinator does not accept this agent's identity ({tls})")),
        rustls::Error::AlertReceived(Alert::CertificateExpired) => Some(
            "the coordinator finds this agent's certificate expired: have a new folder issued (coordinator identity \
             issue-agent DIR), or start the agent again if it has run for months; is the clock right?"
                .to_owned(),
        ),
        rustls::Error::NoCertificatesPresented => Some("the coordinator shows no identity".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
