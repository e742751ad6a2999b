use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::certs::{COORDINATOR_NAME, new_ca};
use super::*;

/// A folder as the coordinator makes it.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("dir");
    let (cert, key) = new_ca().expect("ca");
    put(dir.path(), CA_CERT, &cert, 0o644);
    put(dir.path(), CA_KEY, &key, 0o600);
    dir
}

fn put(dir: &Path, name: &str, text: &str, mode: u32) {
    fs::write(dir.join(name), text).expect("written");
    fs::set_permissions(dir.join(name), fs::Permissions::from_mode(mode)).expect("mode");
}

/// A handshake over a pipe, and a byte each way; what the two sides say.
async fn handshake(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    name: &'static str,
) -> (std::io::Result<()>, std::io::Result<()>) {
    let (near, far) = tokio::io::duplex(64 << 10);
    let serve = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        stream.write_all(&byte).await?;
        stream.shutdown().await
    };
    let dial = async {
        let name = ServerName::try_from(name).expect("a name");
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        stream.write_all(b"x").await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await.map(drop)
    };
    tokio::join!(serve, dial)
}

#[tokio::test]
async fn two_sides_of_one_folder_trust_each_other() {
    let dir = folder();
    let identity = Identity::load(dir.path()).expect("identity");
    let (server, client) = (identity.server().expect("server"), identity.client().expect("client"));
    let (served, dialled) = handshake(server.clone(), client.clone(), COORDINATOR_NAME).await;
    served.expect("served");
    dialled.expect("dialled");
    let (_, dialled) = handshake(server, client, "localhost").await;
    assert!(dialled.is_err(), "the fixed name is checked");
}

#[tokio::test]
async fn strangers_are_refused_by_both_sides() {
    let (own, other) = (folder(), folder());
    let (own, other) = (Identity::load(own.path()).expect("own"), Identity::load(other.path()).expect("other"));
    let (served, dialled) =
        handshake(own.server().expect("server"), other.client().expect("client"), COORDINATOR_NAME).await;
    assert!(served.is_err());
    assert!(identity_problem(&dialled.expect_err("refused")).is_some_and(|why| why.contains("another identity")));
    // One that trusts this coordinator, but is not trusted by it.
    let mut mixed = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_root_certificates(own.roots().expect("roots"))
        .with_no_client_auth();
    mixed.alpn_protocols = vec![b"h2".to_vec()];
    let (served, dialled) = handshake(own.server().expect("server"), Arc::new(mixed), COORDINATOR_NAME).await;
    assert!(served.is_err());
    assert!(identity_problem(&dialled.expect_err("refused")).is_some_and(|why| why.contains("does not accept")));
}

#[tokio::test]
async fn an_agent_is_no_coordinator() {
    let dir = folder();
    let identity = Identity::load(dir.path()).expect("identity");
    let (cert, key) = identity.issue_agent(30).expect("issued");
    let issued = tempfile::tempdir().expect("dir");
    put(issued.path(), CA_CERT, &identity.ca_pem(), 0o644);
    put(issued.path(), AGENT_CERT, &cert, 0o644);
    put(issued.path(), AGENT_KEY, &key, 0o600);
    let agent = Identity::load(issued.path()).expect("agent's folder");
    let (served, dialled) =
        handshake(identity.server().expect("server"), agent.client().expect("client"), COORDINATOR_NAME).await;
    served.expect("served");
    dialled.expect("dialled");
    assert!(agent.server().expect_err("no key").to_string().contains("made for an agent"));
    assert!(agent.issue_agent(1).is_err());
    // Even a program that tries: its leaf is not one of a server.
    let leaf = certs::leaf(&cert, &key).expect("leaf");
    let pretends = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(leaf.chain, leaf.key)
        .expect("config");
    let (_, dialled) = handshake(Arc::new(pretends), identity.client().expect("client"), COORDINATOR_NAME).await;
    assert!(dialled.is_err());
}

#[test]
fn what_others_can_read_or_change_is_refused_with_the_way_out() {
    let dir = folder();
    for (name, mode, word) in [(CA_KEY, 0o640, "read"), (CA_KEY, 0o604, "read"), (CA_CERT, 0o666, "changed")] {
        let before = fs::metadata(dir.path().join(name)).expect("metadata").permissions();
        fs::set_permissions(dir.path().join(name), fs::Permissions::from_mode(mode)).expect("mode");
        let error = Identity::load(dir.path()).expect_err("refused").to_string();
        assert!(error.contains(name) && error.contains("chmod") && error.contains(word), "{error}");
        fs::set_permissions(dir.path().join(name), before).expect("mode");
    }
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o770)).expect("mode");
    assert!(matches!(Identity::load(dir.path()), Err(IdentityError::Unsafe(text)) if text.contains("chmod 700")));
}

#[test]
fn what_is_missing_or_broken_says_what_to_do() {
    let dir = tempfile::tempdir().expect("dir");
    let nowhere = dir.path().join("nowhere");
    let error = Identity::load(&nowhere).expect_err("missing");
    assert_eq!(error, IdentityError::Missing(nowhere));
    assert!(error.to_string().contains("coordinator identity init"), "{error}");
    assert!(matches!(Identity::load(dir.path()), Err(IdentityError::Missing(_))), "an empty folder");
    put(dir.path(), CA_CERT, "no certificate", 0o644);
    assert!(matches!(Identity::load(dir.path()), Err(IdentityError::Broken(_))));
    let whole = folder();
    put(whole.path(), CA_KEY, "no key", 0o600);
    let error = Identity::load(whole.path()).expect("read").server().expect_err("broken").to_string();
    assert!(error.contains("coordinator identity init"), "{error}");
}
