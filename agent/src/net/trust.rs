//! Which certificates TLS connections to a target trust: the system's roots, and those of `target.ca_file`.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Some editors put this before a text (UTF-8's byte order mark).
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Why a `target.ca_file` can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    #[error("it is empty; give a file with the server's certificate, or its authority's, as PEM; or leave the key out")]
    Empty,
    #[error(
        "no certificate in it; give PEM, which has a line -----BEGIN CERTIFICATE-----; of a DER file it is made with \
         openssl x509 -inform der -in FILE"
    )]
    NoCertificate,
    #[error("it is no good PEM: {cause}; give the certificate as it was made, with its BEGIN and its END line")]
    Pem { cause: String },
    #[error("its certificate number {number} can't be read: {cause}; take it out, or make it anew")]
    Certificate { number: usize, cause: String },
    #[error("no TLS with these trust roots: {cause}; is this agent's build whole?")]
    Tls { cause: String },
}

/// Checks that `ca_pem`, the content of a `target.ca_file`, adds at least one trusted certificate.
///
/// # Errors
/// See [`TrustError`].
pub fn check(ca_pem: &[u8]) -> Result<(), TrustError> {
    add_certificates(ca_pem, &mut RootCertStore::empty()).map(drop)
}

/// A client configuration that trusts the system's roots (Mozilla's, if the system has none) and the certificates of
/// `ca_pem`, which may be empty.
///
/// # Errors
/// See [`TrustError`].
pub fn tls_config(ca_pem: &[u8]) -> Result<Arc<rustls::ClientConfig>, TrustError> {
    let mut roots = RootCertStore::empty();
    let (system, _) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if system == 0 {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    let pinned = if ca_pem.is_empty() { Vec::new() } else { add_certificates(ca_pem, &mut roots)? };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| TrustError::Tls { cause: error.to_string() })?;
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TrustError::Tls { cause: error.to_string() })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { pinned, usual }))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed handshake is cheaper. Every session makes a full one, as a new client would.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Adds every certificate to `roots` as an authority, and returns them as pinned server certificates.
fn add_certificates(ca_pem: &[u8], roots: &mut RootCertStore) -> Result<Vec<Pinned>, TrustError> {
    let text = ca_pem.strip_prefix(BYTE_ORDER_MARK).unwrap_or(ca_pem);
    if text.trim_ascii().is_empty() {
        return Err(TrustError::Empty);
    }
    let mut pinned = Vec::new();
    let mut found = 0;
    for certificate in CertificateDer::pem_slice_iter(text) {
        let certificate = certificate.map_err(|error| TrustError::Pem { cause: error.to_string() })?;
        found += 1;
        // A certificate that can't be an authority may still be a server's own, and the other way round.
        match (roots.add(certificate.clone()), Pinned::of(certificate)) {
            (_, Some(pin)) => pinned.push(pin),
            (Ok(()), None) => {}
            (Err(error), None) => {
                return Err(TrustError::Certificate { number: found, cause: error.to_string() });
            }
        }
    }
    if found == 0 { Err(TrustError::NoCertificate) } else { Ok(pinned) }
}

/// A server certificate that is trusted as it is, whoever signed it.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    /// Validity in seconds since 1970, both ends included.
    not_before: i64,
    not_after: i64,
}

impl Pinned {
    /// `None` if its dates can't be read.
    fn of(certificate: CertificateDer<'static>) -> Option<Self> {
        let (not_before, not_after) = {
            let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).ok()?;
            let validity = parsed.validity();
            (validity.not_before.timestamp(), validity.not_after.timestamp())
        };
        Some(Self { certificate, not_before, not_after })
    }

    /// Checks dates and name. The signature needs no check: the user named this very certificate.
    fn check(&self, server_name: &ServerName<'_>, now: UnixTime) -> Result<(), rustls::Error> {
        let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
        if seconds < self.not_before {
            return Err(
                CertificateError::NotValidYetContext { time: now, not_before: unix_time(self.not_before) }.into()
            );
        }
        if seconds > self.not_after {
            return Err(CertificateError::ExpiredContext { time: now, not_after: unix_time(self.not_after) }.into());
        }
        verify_server_name(&ParsedCertificate::try_from(&self.certificate)?, server_name)
    }
}

/// A time before 1970 becomes 1970.
fn unix_time(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Accepts a server that shows a certificate of `target.ca_file`, and otherwise verifies as usual. `openssl req -x509`
/// makes an authority's certificate, which the usual verification accepts from no server; curl and Python accept it.
#[derive(Debug)]
struct Verifier {
    pinned: Vec<Pinned>,
    usual: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.pinned.iter().find(|pin| pin.certificate == *end_entity) {
            Some(pin) => pin.check(server_name, now).map(|()| ServerCertVerified::assertion()),
            None => self.usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn self_signed() -> String {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["h.example".to_owned()]).expect("parameters");
        params.self_signed(&key).expect("a certificate").pem()
    }

    #[test]
    fn a_file_without_a_certificate_is_refused_and_says_what_to_give() {
        assert!(tls_config(b"").is_ok(), "no file");
        for nothing in [&b""[..], b" \r\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf\n"] {
            assert_eq!(check(nothing), Err(TrustError::Empty), "{nothing:?}");
        }
        let key = rcgen::KeyPair::generate().expect("a key").serialize_pem();
        for text in ["not a certificate", &key] {
            let told = check(text.as_bytes()).expect_err("no certificate").to_string();
            assert!(told.contains("no certificate") && told.contains("BEGIN CERTIFICATE"), "{told}");
            assert!(tls_config(text.as_bytes()).is_err());
        }
    }

    #[test]
    fn a_broken_certificate_is_refused_by_its_number() {
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let told = check(format!("{}{broken}", self_signed()).as_bytes()).expect_err("broken");
        assert!(matches!(told, TrustError::Certificate { number: 2, .. }), "{told}");
        let cut = self_signed().replace("-----END CERTIFICATE-----", "");
        assert!(matches!(check(cut.as_bytes()), Err(TrustError::Pem { .. })), "{:?}", check(cut.as_bytes()));
    }

    #[test]
    fn a_byte_order_mark_and_other_line_ends_are_read_over() {
        let pem = self_signed();
        for text in
            [format!("\u{feff}{pem}"), pem.replace('\n', "\r\n"), format!("\u{feff}{pem}").replace('\n', "\r\n")]
        {
            let mut roots = RootCertStore::empty();
            let pinned = add_certificates(text.as_bytes(), &mut roots).expect("read");
            assert_eq!((pinned.len(), roots.len()), (1, 1), "{text:?}");
        }
    }
}
