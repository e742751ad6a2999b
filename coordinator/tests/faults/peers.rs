//! Peers on the gRPC port that are no agents of this run. Whatever they do, they are refused or bounded, the run
//! continues, and the coordinator's memory does not grow.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use agent::control::link::{Connector, DialError, Security};
use agent::identity::Identity;
use proto::limits::MESSAGE_BYTES_MAX;
use proto::message::{Heartbeat, Hello};
use proto::pb::control_client::ControlClient;
use proto::{Capacity, FromAgent, FromCoordinator, pb};
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;

use crate::support::{Process, Results, Server, agent, coordinator, identity};

/// Far more than any of these peers should cost.
const GROWTH_MAX_KIB: u64 = 48 << 10;
const HALF_OPEN: usize = 2_000;

fn hello(name: &str, instance: u8) -> Hello {
    Hello {
        protocol: proto::PROTOCOL,
        version: proto::VERSION.to_owned(),
        name: name.to_owned(),
        host: "host".to_owned(),
        pid: 1,
        instance: [instance; 16],
        plan_hash: None,
        capacity: Capacity { threads: 1, descriptors: 1, ports: 1, port_pool: "p".to_owned(), ..Capacity::default() },
        holding: None,
    }
}

fn peak_kib(run: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", run.pid())).expect("status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

async fn trusted(address: &str) -> Result<ControlClient<Channel>, DialError> {
    let security = Security::Tls(identity().client().expect("client"));
    let (client, _) = Connector::new(address.to_owned(), security).channel().await?;
    Ok(client.max_encoding_message_size(64 << 20))
}

/// The first answer to these messages, or why there is none.
async fn answer(address: &str, messages: Vec<pb::AgentMessage>) -> Result<FromCoordinator, String> {
    let mut client = trusted(address).await.map_err(|error| format!("{error:?}"))?;
    let messages = tokio_stream::iter(messages).chain(tokio_stream::pending());
    let mut answers = client.attend(messages).await.map_err(|status| status.to_string())?.into_inner();
    let first = answers.message().await.map_err(|status| status.to_string())?;
    FromCoordinator::try_from(first.ok_or("closed without a word")?).map_err(|invalid| invalid.to_string())
}

fn refused(answer: Result<FromCoordinator, String>) -> String {
    match answer {
        Ok(FromCoordinator::Refused(refused)) => format!("refused: {}", refused.message),
        Ok(other) => panic!("not refused: {other:?}"),
        Err(problem) => format!("cut off: {problem}"),
    }
}

/// A run that waits for its agent, and its address.
fn waiting_run(server: &Server, out: &Path) -> (Process, String) {
    let mut command = coordinator();
    command
        .args(["run", "--target", &server.url, "--batch-sizes", "64", "--wait", "0.2", "--reps", "2", "--agents", "1"])
        .args(["--listen", "127.0.0.1:0", "--set", "measure.max_clock_error_ms=500", "--output"])
        .arg(out);
    let mut run = Process::start(command);
    let line = run.line_with("start each with: agent --coordinator ");
    let address = line.rsplit(' ').next().expect("address").to_owned();
    (run, address)
}

/// What each peer did, and the answer that it got.
async fn visits(address: &str) -> Vec<(&'static str, String)> {
    let mut table = Vec::new();
    let stranger = tempfile::tempdir().expect("dir");
    let (other, _) = coordinator::net::identity::load_or_create(&stranger.path().join("identity")).expect("identity");
    let security = Security::Tls(other.client().expect("client"));
    let refusal = Connector::new(address.to_owned(), security).channel().await.map(|_| ());
    assert!(matches!(&refusal, Err(DialError::Identity(_))), "{refusal:?}");
    table.push(("another identity", format!("{:?}", refusal.expect_err("refused"))));

    let mut anonymous = rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("versions")
        .with_root_certificates(roots(&identity()))
        .with_no_client_auth();
    anonymous.alpn_protocols = vec![b"h2".to_vec()];
    let connector = Connector::new(address.to_owned(), Security::Tls(anonymous.into()));
    let got = match connector.channel().await {
        Err(error) => format!("{error:?}"),
        // With TLS 1.3 a client may learn of the refusal only with the first answer.
        Ok((mut client, _)) => match client.attend(tokio_stream::pending()).await {
            Err(status) => format!("cut off: {status}"),
            Ok(_) => panic!("no certificate, and let in"),
        },
    };
    table.push(("no certificate", got));

    let connector = Connector::new(address.to_owned(), Security::Plaintext);
    let got = match connector.channel().await {
        Err(error) => format!("{error:?}"),
        Ok((mut client, _)) => match client.attend(tokio_stream::pending()).await {
            Err(status) => format!("cut off: {status}"),
            Ok(_) => panic!("plaintext, and let in"),
        },
    };
    table.push(("plaintext gRPC", got));

    let one = |message: FromAgent| answer(address, vec![message.into()]);
    table.push(("no greeting", refused(one(FromAgent::Leaving("x".to_owned())).await)));
    let empty = answer(address, vec![pb::AgentMessage { body: None }]).await;
    table.push(("an empty message", refused(empty)));
    let named = Hello { name: "a b\n".to_owned(), ..hello("x", 1) };
    table.push(("a malformed greeting", refused(one(FromAgent::Hello(named)).await)));
    let huge = one(FromAgent::Goodbye("x".repeat(MESSAGE_BYTES_MAX + 1))).await;
    table.push(("a message of 8 MiB", refused(huge)));
    let again = [FromAgent::Hello(hello("twice", 2)), FromAgent::Hello(hello("twice", 2))].map(Into::into).to_vec();
    let mut client = trusted(address).await.expect("a channel");
    let messages = tokio_stream::iter(again).chain(tokio_stream::pending());
    let mut answers = client.attend(messages).await.expect("a stream").into_inner();
    let first = answers.message().await.expect("an answer").expect("an answer");
    assert!(matches!(FromCoordinator::try_from(first), Ok(FromCoordinator::Welcome(_))));
    while let Ok(Some(_)) = answers.message().await {}
    table.push(("two greetings", "welcomed, then hung up on".to_owned()));

    let mut client = trusted(address).await.expect("a channel");
    let beats = (0..1_000_000_u64).map(|n| Heartbeat { instance: [9; 16], sequence: n }.into());
    let mut seen = client.heartbeats(tokio_stream::iter(beats)).await.expect("a stream").into_inner();
    let status = seen.message().await.expect_err("of nobody");
    table.push(("heartbeats of nobody", status.to_string()));

    // Open many streams in one connection.
    let mut client = trusted(address).await.expect("a channel");
    let mut opened = 0;
    for _ in 0..10 {
        let stream = client.heartbeats(tokio_stream::pending::<pb::Heartbeat>());
        match tokio::time::timeout(Duration::from_millis(200), stream).await {
            Ok(Ok(stream)) => {
                opened += 1;
                // Keep the stream open.
                std::mem::forget(stream);
            }
            Ok(Err(_)) | Err(_) => break,
        }
    }
    assert_eq!(opened, 3, "streams in one connection");
    table.push(("ten streams in one connection", format!("{opened} of them opened")));
    table
}

fn roots(identity: &Identity) -> rustls::RootCertStore {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(agent::identity::certs::certificate(&identity.ca_pem()).expect("certificate")).expect("root");
    roots
}

#[test]
fn peers_that_are_none_are_refused_or_bounded_and_the_run_goes_on() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let (run, address) = waiting_run(&server, &out);
    let before = peak_kib(&run);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("runtime");
    let mut table: Vec<(&str, String, u64)> = Vec::new();
    for (what, got) in runtime.block_on(visits(&address)) {
        table.push((what, got, 0));
    }
    table.iter_mut().for_each(|row| row.2 = peak_kib(&run) - before);

    // Send bytes that are neither TLS nor gRPC.
    for (what, bytes) in [
        ("garbage", vec![0xAA; 4_096]),
        ("an HTTP request", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec()),
        ("half of a TLS greeting", vec![0x16, 3, 1, 2, 0, 1, 0, 1]),
    ] {
        let mut stream = TcpStream::connect(&address).expect("connected");
        stream.write_all(&bytes).expect("sent");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("limit");
        let mut rest = Vec::new();
        let got = match stream.read_to_end(&mut rest) {
            Ok(_) => format!("hung up on after {} bytes", rest.len()),
            Err(error) => format!("cut off: {:?}", error.kind()),
        };
        table.push((what, got, peak_kib(&run) - before));
    }

    // Thousands of peers connect and stay silent; an agent is still served.
    let silent: Vec<TcpStream> =
        (0..HALF_OPEN).map(|n| TcpStream::connect(&address).unwrap_or_else(|e| panic!("{n}: {e}"))).collect();
    // A trusted peer that reads none of its orders.
    let slow = runtime.block_on(async {
        let mut client = trusted(&address).await.expect("a channel");
        let greeting = tokio_stream::iter([FromAgent::Hello(hello("slow-reader", 3)).into()]);
        let stream = client.attend(greeting.chain(tokio_stream::pending())).await.expect("a stream");
        (client, stream)
    });
    let good = agent(&address, &["--name", "good"]);
    let ended = run_to_end(run, &mut table, before);
    drop((silent, slow));
    for (what, got, kib) in &table {
        eprintln!("{what:32} {kib:6} KiB  {got}");
    }
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    assert_eq!(good.end().code(), Some(0));
    assert!(table.iter().all(|(_, _, kib)| *kib < GROWTH_MAX_KIB), "{table:?}");
    for part in [
        "agent slow-reader was silent for 10 s",
        "it expects a coordinator of another identity",
        "it shows no identity",
        "it does not speak TLS",
    ] {
        assert!(ended.text.contains(part), "{part:?} in:\n{}", ended.text);
    }
    let rows = Results::of(&out).summary();
    assert!(rows.len() == 2 && rows.iter().all(|row| row["successful"] == "64"), "{rows:?}");
}

fn run_to_end(mut run: Process, table: &mut Vec<(&str, String, u64)>, before: u64) -> crate::support::Ended {
    run.line_with("    2/2 ");
    let grown = peak_kib(&run) - before;
    table.push(("2,000 that say nothing", "the oldest are dropped; an agent is welcomed meanwhile".to_owned(), grown));
    table.push(("a slow reader", "lost when its lease is over; the run goes on".to_owned(), grown));
    run.end()
}
