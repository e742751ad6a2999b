//! Servers that speak TLS, and who vouches for them.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use rustls::SupportedProtocolVersion;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A certification authority and what it signed.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("a certificate") }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A server with a certificate for `name`.
    pub(crate) fn acceptor(&self, name: &str) -> TlsAcceptor {
        self.acceptor_until(name, 4_096)
    }

    /// The same; the certificate holds until this year begins.
    pub(crate) fn acceptor_until(&self, name: &str, year: i32) -> TlsAcceptor {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        params.not_after = date_time_ymd(year, 1, 1);
        let leaf = params.signed_by(&key, &self.issuer).expect("a certificate");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        showing(CertificateDer::from(leaf), &key, rustls::ALL_VERSIONS)
    }
}

/// A server that shows `certificate` and signs with `key`, whether or not the two belong together.
pub(crate) fn showing(
    certificate: CertificateDer<'static>,
    key: &PrivateKeyDer<'_>,
    versions: &[&'static SupportedProtocolVersion],
) -> TlsAcceptor {
    let key = rustls::crypto::ring::sign::any_supported_type(key).expect("a key");
    let shown = SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map(|builder| builder.with_no_client_auth().with_cert_resolver(Arc::new(shown)))
        .expect("a server configuration");
    TlsAcceptor::from(Arc::new(config))
}

/// Speaks TLS; what `play` does then is its own affair. A failed handshake ends with its alert, as it should.
pub(crate) async fn tls<F: Future<Output = ()> + 'static>(
    acceptor: TlsAcceptor,
    play: impl Fn(TlsStream<TcpStream>) -> F + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
    let address = listener.local_addr().expect("address");
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            match acceptor.accept(stream).into_fallible().await {
                Ok(stream) => drop(tokio::task::spawn_local(play(stream))),
                Err((_, mut stream)) => drop(stream.shutdown().await),
            }
        }
    });
    address
}

/// The reference server behind TLS.
pub(crate) async fn secured(acceptor: TlsAcceptor, plain: &str) -> SocketAddr {
    let plain = plain.trim_start_matches("http://").to_owned();
    tls(acceptor, move |mut stream| {
        let plain = plain.clone();
        async move {
            let mut inner = TcpStream::connect(plain).await.expect("the reference server");
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut inner).await;
        }
    })
    .await
}
