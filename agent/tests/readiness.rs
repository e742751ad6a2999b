//! The readiness check against servers that are not ready: how often they are asked, and what is told of them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use agent::control::probe::Prober;
use agent::net::resolver::TargetResolver;
use proto::message::{Probe, ProbeResult};
use proto::{Mode, Phase, PlanHash, Target};
use tokio_util::sync::CancellationToken;

#[expect(dead_code, reason = "each test file needs a part of it")]
mod support;

use support::peer::{TEXT, frame, http};
use support::{bounded, nobody, raw, script, url};

/// The last word on `url`, and what was told before it.
async fn asked(url: &str, mode: Mode, deadline: Duration) -> (ProbeResult, Vec<String>) {
    let probe = Probe {
        plan_hash: PlanHash([0; 32]),
        target: Target { urls: vec![url.to_owned()], ca_pem: Vec::new() },
        modes: vec![mode],
        deadline,
        script: script(),
        sessions: 1,
    };
    let mut told = Prober::default().start(probe, TargetResolver::default(), CancellationToken::new());
    let mut before = Vec::new();
    while let Some(results) = told.recv().await {
        let result = results.into_iter().next().expect("one url, one mode");
        if result.last_word {
            return (result, before);
        }
        before.push(result.problem);
    }
    panic!("no last word");
}

const REFUSED: &str = r#"{"type":"error","data":{"message":"Invalid message","code":"VALIDATION_ERROR","errors":[
    {"type":"missing","loc":["data","tool_name"],"msg":"Field required","input":{"wait_seconds":0.0}}]}}"#;

#[test]
fn an_action_that_is_refused_is_asked_once_and_its_fields_are_told() {
    bounded(async {
        let connections = Rc::new(Cell::new(0));
        let goodbyes = Rc::new(RefCell::new(Vec::new()));
        let (counted, said) = (connections.clone(), goodbyes.clone());
        let place = raw(move |mut peer| {
            counted.set(counted.get() + 1);
            let said = said.clone();
            async move {
                peer.ws_until(Phase::Step).await;
                peer.send(frame(TEXT, REFUSED)).await;
                let message = peer.message().await;
                said.borrow_mut().push(message);
            }
        })
        .await;
        let (result, _) = asked(&place, Mode::Ws, Duration::from_secs(30)).await;
        assert!(!result.ready && result.problem.contains("data.tool_name: Field required"), "{}", result.problem);
        assert_eq!(connections.get(), 1, "the answer will not change");
        assert_eq!(*goodbyes.borrow(), [r#"{"type":"close"}"#], "and the session ends as one should");
    });
}

#[test]
fn what_a_server_said_of_a_request_is_told() {
    bounded(async {
        let detail = r#"{"detail":[{"type":"missing","loc":["body","action"],"msg":"Field required"}]}"#;
        let place = raw(move |mut peer| async move {
            peer.http_until(Phase::Step).await;
            peer.send(http(422, detail)).await;
            peer.silent().await;
        })
        .await;
        let (result, _) = asked(&place, Mode::Http, Duration::from_secs(30)).await;
        assert!(result.problem.contains("body.action: Field required"), "{}", result.problem);
    });
}

/// Asked again after a quarter of a second, half a second, and then once a second.
#[test]
fn a_server_that_is_not_ready_is_not_flooded() {
    bounded(async {
        let connections = Rc::new(Cell::new(0));
        let counted = connections.clone();
        let place = raw(move |mut peer| {
            counted.set(counted.get() + 1);
            async move {
                peer.head().await;
                peer.send("HTTP/1.1 503 Service Unavailable\r\n\r\n").await;
                peer.silent().await;
            }
        })
        .await;
        let (result, _) = asked(&place, Mode::Ws, Duration::from_millis(3_900)).await;
        assert!(result.problem.contains("503"), "{}", result.problem);
        assert!((3..=6).contains(&connections.get()), "{} connections in four seconds", connections.get());
    });
}

#[test]
fn a_port_where_nothing_listens_is_named_while_it_is_waited_for() {
    bounded(async {
        let (address, _held) = nobody();
        let (result, before) = asked(&url(address), Mode::Ws, Duration::from_millis(2_500)).await;
        let named = format!("nothing listens on {address}");
        assert!(before[0].contains(&named) && before[0].contains("waiting up to 2 s"), "{before:?}");
        assert!(result.problem.contains(&named) && !result.problem.contains("waiting"), "{}", result.problem);
        assert!(result.refused_connects >= 3, "{}", result.refused_connects);
    });
}
