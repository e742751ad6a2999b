//! A server with a certificate that it signed itself: it is trusted when `target.ca_file` has exactly this one.

use std::path::Path;
use std::process::Command;

use proto::{FailureKind, Mode, Outcome, Phase, SessionRecord};
use rcgen::{BasicConstraints, CertificateParams, CustomExtension, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::{TLS12, TLS13};
use tokio_util::sync::CancellationToken;

#[expect(dead_code, reason = "each test file needs a part of it")]
mod support;

use support::tls::{secured, showing};
use support::{bounded, dialer, failed, live, reference, script};

/// A certificate and its key, as PEM.
struct Made {
    certificate: String,
    key: String,
}

impl Made {
    /// By `openssl req -x509`, with these arguments more.
    fn by_openssl(folder: &Path, more: &[&str]) -> Self {
        let path = |name: &str| folder.join(name).display().to_string();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"])
            .args(["-keyout", &path("key.pem"), "-out", &path("cert.pem")])
            .args(more)
            .output()
            .expect("openssl");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("a file");
        Self { certificate: read("cert.pem"), key: read("key.pem") }
    }

    /// By rcgen, for `localhost`.
    fn by_rcgen(change: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        Self { certificate: params.self_signed(&key).expect("a certificate").pem(), key: key.serialize_pem() }
    }

    fn certificate(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes()).expect("a certificate")
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).expect("a key")
    }
}

const RSA: [&str; 2] = ["-newkey", "rsa:2048"];
const NAMED: [&str; 2] = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];

async fn session(host: &str, port: u16, ca_pem: &str, mode: Mode) -> SessionRecord {
    let dialer = dialer(&format!("https://{host}:{port}"), ca_pem).await;
    live(mode, dialer, 0, &script(), &CancellationToken::new()).await
}

/// What becomes of a session with `host` if the server shows `shown` and the user trusts `ca_pem`.
async fn between(host: &str, shown: &Made, ca_pem: &str) -> SessionRecord {
    let (plain, _server) = reference(refserver::Options::default());
    let acceptor = showing(shown.certificate(), &shown.key(), rustls::ALL_VERSIONS);
    let port = secured(acceptor, &plain).await.port();
    session(host, port, ca_pem, Mode::Ws).await
}

#[track_caller]
fn assert_refused(record: &SessionRecord, because: &str) {
    let said = &record.error_message;
    assert_eq!(record.outcome, failed(FailureKind::Tls, Phase::Connect), "{said}");
    assert!(said.contains(because), "{because}: {said}");
}

#[test]
fn what_openssl_req_x509_makes_is_trusted_where_it_is_given() {
    bounded(async {
        let folder = tempfile::tempdir().expect("a folder");
        let ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
        let leaf = ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "keyUsage=critical,digitalSignature"];
        let (plain, _server) = reference(refserver::Options::default());
        for more in [[&RSA[..], &NAMED].concat(), [&ec[..], &NAMED].concat(), [&ec[..], &NAMED, &leaf].concat()] {
            let made = Made::by_openssl(folder.path(), &more);
            for version in [&TLS12, &TLS13] {
                let port = secured(showing(made.certificate(), &made.key(), &[version]), &plain).await.port();
                for (host, mode) in [("localhost", Mode::Ws), ("127.0.0.1", Mode::Http)] {
                    let record = session(host, port, &made.certificate, mode).await;
                    assert_eq!(record.outcome, Outcome::Succeeded, "{more:?} {host}: {}", record.error_message);
                }
            }
        }
    });
}

#[test]
fn a_file_of_windows_is_trusted_as_well() {
    bounded(async {
        let folder = tempfile::tempdir().expect("a folder");
        let made = Made::by_openssl(folder.path(), &[&RSA[..], &NAMED].concat());
        let text = format!("\u{feff}{}", made.certificate.replace('\n', "\r\n"));
        let record = between("localhost", &made, &text).await;
        assert_eq!(record.outcome, Outcome::Succeeded, "{}", record.error_message);
    });
}

#[test]
fn it_is_trusted_for_its_names_only() {
    bounded(async {
        let folder = tempfile::tempdir().expect("a folder");
        let elsewhere = ["-addext", "subjectAltName=DNS:elsewhere.example"];
        let made = Made::by_openssl(folder.path(), &[&RSA[..], &elsewhere].concat());
        let record = between("localhost", &made, &made.certificate).await;
        assert_refused(&record, "certificate not valid for name \"localhost\"");
        assert_refused(&record, "elsewhere.example");
        let nameless = Made::by_openssl(folder.path(), &RSA);
        assert_refused(&between("localhost", &nameless, &nameless.certificate).await, "subjectAltName");
    });
}

#[test]
fn it_is_trusted_within_its_dates_only() {
    bounded(async {
        for ca in [IsCa::Ca(BasicConstraints::Unconstrained), IsCa::ExplicitNoCa, IsCa::NoCa] {
            let made = |from: i32, until: i32| {
                Made::by_rcgen(|params| {
                    params.is_ca = ca;
                    params.not_before = date_time_ymd(from, 1, 1);
                    params.not_after = date_time_ymd(until, 1, 1);
                })
            };
            for (from, until, because) in [(2001, 2002, "certificate expired"), (4001, 4002, "not valid yet")] {
                let made = made(from, until);
                assert_refused(&between("localhost", &made, &made.certificate).await, because);
            }
            let made = made(2001, 4001);
            let record = between("localhost", &made, &made.certificate).await;
            assert_eq!(record.outcome, Outcome::Succeeded, "{ca:?}: {}", record.error_message);
        }
    });
}

#[test]
fn another_certificate_of_the_same_name_is_not_trusted() {
    bounded(async {
        let folder = tempfile::tempdir().expect("a folder");
        let more = [&RSA[..], &NAMED].concat();
        let (ours, other) = (Made::by_openssl(folder.path(), &more), Made::by_openssl(folder.path(), &more));
        assert_refused(&between("localhost", &other, &ours.certificate).await, "invalid peer certificate");
        // One of several will do.
        let both = format!("{}{}", ours.certificate, other.certificate);
        let record = between("localhost", &other, &both).await;
        assert_eq!(record.outcome, Outcome::Succeeded, "{}", record.error_message);
    });
}

#[test]
fn who_shows_it_must_have_its_key() {
    bounded(async {
        let folder = tempfile::tempdir().expect("a folder");
        let more = [&RSA[..], &NAMED].concat();
        let (ours, thief) = (Made::by_openssl(folder.path(), &more), Made::by_openssl(folder.path(), &more));
        let (plain, _server) = reference(refserver::Options::default());
        for version in [&TLS12, &TLS13] {
            let port = secured(showing(ours.certificate(), &thief.key(), &[version]), &plain).await.port();
            assert_refused(&session("localhost", port, &ours.certificate, Mode::Ws).await, "BadSignature");
        }
    });
}

/// What can't be an authority for the library still makes no useless file of one that has good ones too.
#[test]
fn one_that_is_no_authority_does_not_spoil_the_file() {
    bounded(async {
        // An extension given twice: no authority for rustls.
        let odd = Made::by_rcgen(|params| {
            let twice = CustomExtension::from_oid_content(&[2, 5, 29, 31], vec![0x30, 0]);
            params.custom_extensions = vec![twice.clone(), twice];
        });
        assert!(rustls::RootCertStore::empty().add(odd.certificate()).is_err(), "it is as it should be");
        let good = Made::by_rcgen(|_| {});
        let both = format!("{}{}", odd.certificate, good.certificate);
        let record = between("localhost", &good, &both).await;
        assert_eq!(record.outcome, Outcome::Succeeded, "{}", record.error_message);
        assert_refused(&between("localhost", &odd, &both).await, "invalid peer certificate");
    });
}
