//! Peers on the gRPC port that are not agents of this run.

use agent::control::link::{Connector, Security};
use proto::limits::MESSAGE_BYTES_MAX;
use proto::message::{Hello, RefusedWhy};
use proto::{Capacity, FromAgent, FromCoordinator, PlanHash, pb};
use tokio_stream::StreamExt as _;

use crate::support::{Process, Server, agent, coordinator, identity};

fn hello() -> Hello {
    Hello {
        protocol: proto::PROTOCOL,
        version: proto::VERSION.to_owned(),
        name: "peer".to_owned(),
        host: "host".to_owned(),
        pid: 1,
        instance: [1; 16],
        plan_hash: None,
        holding: None,
        capacity: Capacity {
            threads: 1,
            descriptors: 100,
            ports: 100,
            port_pool: "p".to_owned(),
            ..Capacity::default()
        },
    }
}

/// The coordinator's first answer to these messages.
fn answer(address: &str, messages: Vec<pb::AgentMessage>) -> Result<FromCoordinator, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let security = Security::Tls(identity().client().expect("client"));
        let (client, _) = Connector::new(address.to_owned(), security).channel().await.map_err(|e| format!("{e:?}"))?;
        let mut client = client.max_encoding_message_size(64 << 20);
        let messages = tokio_stream::iter(messages).chain(tokio_stream::pending());
        let mut answers = client.attend(messages).await.map_err(|status| status.message().to_owned())?.into_inner();
        let first = answers.message().await.map_err(|status| status.message().to_owned())?;
        FromCoordinator::try_from(first.ok_or("closed without a word")?).map_err(|invalid| invalid.to_string())
    })
}

#[test]
fn strangers_are_refused_with_a_reason_and_the_run_goes_on() {
    let server = Server::start(&[]);
    let dir = tempfile::tempdir().expect("dir");
    let mut command = coordinator();
    command
        .args(["run", "--target", &server.url, "--batch-sizes", "4", "--wait", "0", "--reps", "1", "--agents", "1"])
        .args(["--listen", "127.0.0.1:0", "--output"])
        .arg(dir.path().join("out"));
    let mut run = Process::start(command);
    let line = run.line_with("start each with: agent --coordinator ");
    let address = line.rsplit(' ').next().expect("address").to_owned();
    let one = |message: FromAgent| answer(&address, vec![message.into()]);

    let old = Hello { version: "0.0.1".to_owned(), ..hello() };
    let Ok(FromCoordinator::Refused(refused)) = one(FromAgent::Hello(old)) else { panic!("an old agent is refused") };
    assert_eq!(refused.why, RefusedWhy::Version);
    assert!(
        refused.message.contains("version 0.0.1") && refused.message.contains("install the same"),
        "{}",
        refused.message
    );

    let stale = Hello { plan_hash: Some(PlanHash([9; 32])), ..hello() };
    let Ok(FromCoordinator::Refused(refused)) = one(FromAgent::Hello(stale)) else { panic!("another plan is refused") };
    assert_eq!(refused.why, RefusedWhy::Plan);

    let rude = one(FromAgent::Leaving("now".to_owned()));
    assert!(matches!(rude, Ok(FromCoordinator::Refused(r)) if r.message.contains("not a greeting")));
    let nameless = one(FromAgent::Hello(Hello { name: "a b\n".to_owned(), ..hello() }));
    assert!(matches!(nameless, Ok(FromCoordinator::Refused(r)) if r.message.contains("name: ")));
    let empty = answer(&address, vec![pb::AgentMessage { body: None }]);
    assert!(matches!(empty, Ok(FromCoordinator::Refused(r)) if r.message.contains("body: missing")));
    let huge = one(FromAgent::Goodbye("x".repeat(MESSAGE_BYTES_MAX + 1)));
    assert!(matches!(huge, Ok(FromCoordinator::Refused(_)) | Err(_)), "{huge:?}");

    // After all of that, an agent is accepted.
    let agent = agent(&address, &["--name", "good"]);
    let ended = run.end();
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    for part in ["agent peer was refused: agent peer is version 0.0.1", "agents  1 ready: good"] {
        assert!(ended.text.contains(part), "{part:?} in:\n{}", ended.text);
    }
    assert_eq!(agent.end().code(), Some(0));
}
