//! Makes the certificates of the control plane, with rcgen.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use time::{Duration, OffsetDateTime};

/// The name in a coordinator's certificate, which agents check whatever address they dialled.
pub const COORDINATOR_NAME: &str = "coordinator.muster.internal";
const AGENT_NAME: &str = "agent.muster.internal";

const CA_DAYS: i64 = 3_650;
/// Validity of a certificate that is made at each start.
const LEAF_DAYS: i64 = 90;
/// Certificates are valid from this long ago, because the clocks of two machines may differ.
const SKEW: Duration = Duration::DAY;

/// What a certificate may be used for. This prevents mistakes, not attacks: the authority's key can make both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Coordinator,
    Agent,
}

/// A certificate and its key.
#[derive(Debug)]
pub struct Leaf {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Leaf {
    /// A copy, with a copy of the key.
    #[must_use]
    pub fn clone_key(&self) -> Self {
        Self { chain: self.chain.clone(), key: PrivateKeyDer::clone_key(&self.key) }
    }
}

/// Why a certificate could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum CertError {
    #[error(transparent)]
    Make(#[from] rcgen::Error),
    #[error(transparent)]
    Read(#[from] rustls::pki_types::pem::Error),
}

/// Makes a new authority. Returns certificate and key as PEM.
///
/// # Errors
/// If the system has no randomness.
pub fn new_ca() -> Result<(String, String), CertError> {
    let mut params = valid_for(Vec::new(), CA_DAYS)?;
    // A name of its own, so that two authorities differ by more than their signatures.
    let name = format!("Muster identity {}", proto::RunId::random());
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Issues a certificate, valid for `days` days. Returns certificate and key as PEM.
///
/// # Errors
/// If the authority's certificate or key can't be read.
pub fn issue(ca_pem: &str, ca_key_pem: &str, role: Role, days: i64) -> Result<(String, String), CertError> {
    let issuer = Issuer::from_ca_cert_pem(ca_pem, KeyPair::from_pem(ca_key_pem)?)?;
    let (name, usage) = match role {
        Role::Coordinator => (COORDINATOR_NAME, ExtendedKeyUsagePurpose::ServerAuth),
        Role::Agent => (AGENT_NAME, ExtendedKeyUsagePurpose::ClientAuth),
    };
    let mut params = valid_for(vec![name.to_owned()], days)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![usage];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Issues a certificate for this process.
///
/// # Errors
/// If the authority's certificate or key can't be read.
pub fn mint(ca_pem: &str, ca_key_pem: &str, role: Role) -> Result<Leaf, CertError> {
    let (certificate, key) = issue(ca_pem, ca_key_pem, role, LEAF_DAYS)?;
    leaf(&certificate, &key)
}

/// Reads a certificate and its key.
///
/// # Errors
/// If they are no PEM.
pub fn leaf(certificate_pem: &str, key_pem: &str) -> Result<Leaf, CertError> {
    Ok(Leaf { chain: vec![certificate(certificate_pem)?], key: PrivateKeyDer::from_pem_slice(key_pem.as_bytes())? })
}

/// The first certificate of a PEM text.
///
/// # Errors
/// If there is none.
pub fn certificate(pem: &str) -> Result<CertificateDer<'static>, CertError> {
    Ok(CertificateDer::from_pem_slice(pem.as_bytes())?)
}

/// Formats a certificate as PEM (RFC 7468).
#[must_use]
pub fn pem(certificate: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(certificate);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

fn valid_for(names: Vec<String>, days: i64) -> Result<CertificateParams, CertError> {
    let mut params = CertificateParams::new(names)?;
    let now = OffsetDateTime::now_utc();
    params.not_before = now - SKEW;
    params.not_after = now + Duration::days(days);
    params.distinguished_name = rcgen::DistinguishedName::new();
    Ok(params)
}
