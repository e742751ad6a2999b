//! How coordinator and agents prove who they are: a small certificate authority in a folder.
//!
//! ```text
//! ~/.config/muster/identity/     0700   (or $XDG_CONFIG_HOME/muster/identity, or --identity DIR)
//!   ca.pem                              the authority's certificate
//!   ca.key                       0600   its key: whoever reads it can be any coordinator and any agent
//!   agent.pem, agent.key         0600   instead of ca.key in a folder made by `coordinator identity issue-agent`
//! ```
//!
//! Each side makes a certificate of its own from it at its start, and checks a fixed name in the other's certificate
//! instead of the address that was dialled: addresses of cluster nodes prove nothing. Only TLS 1.3 is spoken, and both
//! sides show a certificate (RFC 8446 section 4.4.2).
//!
//! In this room: the folder (`folder`), the certificates ([`certs`]), and the two TLS configurations. Not in this
//! room: connections (see `control::link`), and the certificates of targets (see `net::trust`).

pub mod certs;
mod folder;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use certs::{Leaf, Role};
use folder::Credentials;
pub use folder::{AGENT_CERT, AGENT_KEY, CA_CERT, CA_KEY, DIR_MODE, IdentityError, KEY_MODE, default_dir};

/// An identity folder that was read and found safe.
#[derive(Debug)]
pub struct Identity {
    dir: PathBuf,
    ca: CertificateDer<'static>,
    credentials: Credentials,
}

impl Identity {
    /// Reads a folder.
    ///
    /// # Errors
    /// [`IdentityError::Missing`] if there is none; otherwise what is wrong with it, and the way out.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let (ca, credentials) = folder::load(dir)?;
        Ok(Self { dir: dir.to_path_buf(), ca, credentials })
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The TLS configuration of an agent.
    ///
    /// # Errors
    /// If the folder's files make no certificate.
    pub fn client(&self) -> Result<Arc<ClientConfig>, IdentityError> {
        let leaf = match &self.credentials {
            Credentials::Agent(leaf) => leaf.clone_key(),
            Credentials::Authority { cert, key } => self.mint(cert, key, Role::Agent)?,
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

    /// The TLS configuration of a coordinator.
    ///
    /// # Errors
    /// If the folder has no authority's key.
    pub fn server(&self) -> Result<Arc<ServerConfig>, IdentityError> {
        let Credentials::Authority { cert, key } = &self.credentials else {
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

    /// Issues a certificate for an agent on a machine that must not hold the authority's key. Returns certificate and
    /// key as PEM.
    ///
    /// # Errors
    /// If this folder was itself made for an agent.
    pub fn issue_agent(&self, days: u32) -> Result<(String, String), IdentityError> {
        match &self.credentials {
            Credentials::Authority { cert, key } => {
                certs::issue(cert, key, Role::Agent, i64::from(days)).map_err(|error| self.broken(&error))
            }
            Credentials::Agent(_) => Err(IdentityError::Broken(format!(
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

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What an error says about the identity of the two sides, for people; `None` for an error of the network. Trying again
/// is of no use after the former.
#[must_use]
pub fn identity_problem(error: &std::io::Error) -> Option<String> {
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
