//! The readiness check: one whole session out of every url, tried again until it works or the time is up.

use std::cell::RefCell;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use proto::base_url::BaseUrl;
use proto::message::{Probe, ProbeResult};
use proto::{FailureKind, Mode, Outcome, Script, SessionRecord, Target};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;

use crate::allow::{self, AllowRule};
use crate::driver::Dialer;
use crate::driver::http::HttpDriver;
use crate::driver::ws::WsDriver;
use crate::load::recorder::Counters;
use crate::load::session::{self, Course};
use crate::target::{Endpoint, Endpoints, TargetError, resolve, tls_config};

/// Pause between two tries.
const RETRY: Duration = Duration::from_millis(250);
/// How often "still trying" is told.
const TELL: Duration = Duration::from_secs(2);
/// A server that answers, but not as OpenEnv does, is most likely the wrong one: it gets this long and no longer.
const WRONG_SERVER_GRACE: Duration = Duration::from_secs(5);

/// What this agent brings to any target.
#[derive(Debug, Clone, Default)]
pub struct Means {
    pub allow: Vec<AllowRule>,
    pub source_ips: Vec<IpAddr>,
}

impl Means {
    /// Looks every url up, checks it against the allow-list and builds the TLS configuration if one is needed.
    ///
    /// # Errors
    /// See [`TargetError`].
    pub async fn endpoints(&self, target: &Target, mode: Mode) -> Result<Endpoints, TargetError> {
        let mut list = Vec::with_capacity(target.urls.len());
        for text in &target.urls {
            let url = BaseUrl::parse(text)?;
            let addresses = resolve(&url).await?;
            allow::check(&self.allow, &url, &addresses).await?;
            list.push(Endpoint { url, addresses });
        }
        let tls = if list.iter().any(|endpoint| endpoint.url.tls) { Some(tls_config(&target.ca_pem)?) } else { None };
        Ok(Endpoints { mode, list, tls })
    }
}

/// Results as they are known, each time for every (url, mode).
pub type Told = mpsc::Receiver<Vec<ProbeResult>>;

/// How a target is checked: over sockets, unless a simulation has its own way.
#[derive(Clone)]
pub struct Prober(Arc<dyn Fn(Probe, Means, CancellationToken) -> Told + Send + Sync>);

impl Prober {
    pub fn new(check: impl Fn(Probe, Means, CancellationToken) -> Told + Send + Sync + 'static) -> Self {
        Self(Arc::new(check))
    }

    #[must_use]
    pub fn start(&self, probe: Probe, means: Means, cancel: CancellationToken) -> Told {
        (self.0)(probe, means, cancel)
    }
}

impl Default for Prober {
    fn default() -> Self {
        Self::new(start)
    }
}

impl fmt::Debug for Prober {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prober")
    }
}

/// Runs the check on a thread of its own.
fn start(probe: Probe, means: Means, cancel: CancellationToken) -> Told {
    let (tell, told) = mpsc::channel(8);
    let spawned = std::thread::Builder::new().name("probe".to_owned()).spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        LocalSet::new().block_on(&runtime, async {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = check(&probe, &means, &tell) => {}
            }
        });
    });
    if let Err(error) = spawned {
        tracing::error!("the readiness check can't start: {error}");
    }
    told
}

/// Every (url, mode) by itself: one that hangs keeps no other waiting.
async fn check(probe: &Probe, means: &Means, tell: &mpsc::Sender<Vec<ProbeResult>>) {
    let deadline = Instant::now() + probe.deadline;
    let results: Vec<RefCell<ProbeResult>> = probe
        .target
        .urls
        .iter()
        .flat_map(|url| probe.modes.iter().map(move |mode| (url, mode)))
        .map(|(url, mode)| {
            RefCell::new(ProbeResult {
                url: url.clone(),
                mode: *mode,
                ready: false,
                last_word: false,
                problem: "no answer yet".to_owned(),
                addresses: Vec::new(),
            })
        })
        .collect();
    let all = || results.iter().map(|result| result.borrow().clone()).collect::<Vec<_>>();
    let mut tries: FuturesUnordered<_> =
        results.iter().map(|result| until_known(result, probe, means, deadline)).collect();
    let mut told = interval(TELL);
    told.tick().await;
    loop {
        tokio::select! {
            ended = tries.next() => {
                if ended.is_none() {
                    break;
                }
            }
            _ = told.tick() => {
                if tell.send(all()).await.is_err() {
                    return;
                }
            }
        }
    }
    // Whoever asked may be gone.
    let _ = tell.send(all()).await;
}

/// Tries until there is a last word.
async fn until_known(result: &RefCell<ProbeResult>, probe: &Probe, means: &Means, deadline: Instant) {
    let started = Instant::now();
    let (url, mode) = {
        let known = result.borrow();
        (known.url.clone(), known.mode)
    };
    loop {
        let (addresses, outcome) = try_once(&url, mode, probe, means, deadline).await;
        let now = Instant::now();
        {
            let mut known = result.borrow_mut();
            if !addresses.is_empty() {
                known.addresses = addresses;
            }
            match outcome {
                Ok(()) => {
                    known.ready = true;
                    known.last_word = true;
                    known.problem.clear();
                }
                Err((problem, hopeless)) => {
                    known.problem = problem;
                    let grace = if hopeless { WRONG_SERVER_GRACE.min(probe.deadline) } else { probe.deadline };
                    known.last_word = now + RETRY >= deadline || now.duration_since(started) >= grace;
                }
            }
            if known.last_word {
                return;
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// One session to every address behind the url, within what is left of the time. Returns the addresses; an error says
/// whether more tries are hopeless.
async fn try_once(
    url: &str,
    mode: Mode,
    probe: &Probe,
    means: &Means,
    deadline: Instant,
) -> (Vec<String>, Result<(), (String, bool)>) {
    let target = Target { urls: vec![url.to_owned()], ca_pem: probe.target.ca_pem.clone() };
    let endpoints = match means.endpoints(&target, mode).await {
        Ok(endpoints) => endpoints,
        Err(error) => {
            let hopeless = !matches!(error, TargetError::Resolve { .. });
            return (Vec::new(), Err((error.to_string(), hopeless)));
        }
    };
    let addresses: Vec<String> = endpoints.list[0].addresses.iter().map(ToString::to_string).collect();
    for (number, address) in (0..).zip(&addresses) {
        let left = deadline.saturating_duration_since(Instant::now());
        // One short session: it proves the way, it does not measure.
        let script = Script {
            steps: probe.script.steps.min(1),
            wait: Duration::ZERO,
            think: Duration::ZERO,
            total_timeout: Some(left),
            ..probe.script.clone()
        };
        let dialer = Dialer { endpoints: endpoints.clone(), source_ips: means.source_ips.clone() };
        let (cancel, counters, origin) = (CancellationToken::new(), Counters::default(), Instant::now());
        let course = Course { script: &script, origin, cancel: &cancel, counters: &counters, wire: false };
        let ended = match mode {
            Mode::Ws => {
                let driver = WsDriver::new(dialer, Duration::ZERO);
                session::live(&driver, &course, number, 0).await
            }
            Mode::Http => session::live(&HttpDriver::new(dialer), &course, number, 0).await,
        };
        if let Err((problem, hopeless)) = judge(&ended.record) {
            let whose = if addresses.len() > 1 { format!("{address}: ") } else { String::new() };
            return (addresses.clone(), Err((format!("{whose}{problem}"), hopeless)));
        }
    }
    (addresses, Ok(()))
}

fn judge(record: &SessionRecord) -> Result<(), (String, bool)> {
    let Some(kind) = record.outcome.error_type() else { return Ok(()) };
    let phase = record.outcome.phase().map_or("", |phase| phase.as_str());
    let (advice, hopeless) = match &record.outcome {
        Outcome::Failed(kind, _) => advice(kind),
        _ => ("", false),
    };
    Err((format!("{kind} at {phase}: {}{advice}", record.error_message), hopeless))
}

fn advice(kind: &FailureKind) -> (&'static str, bool) {
    match kind {
        FailureKind::Refused => ("; nothing listens there: is the server up, is the port right?", false),
        FailureKind::UpgradeRefused(404 | 426) => ("; an HTTP server without OpenEnv's /ws: is the URL right?", true),
        FailureKind::UpgradeRefused(200..=499) | FailureKind::HttpStatus(200..=499) | FailureKind::BadReply => {
            ("; this does not look like an OpenEnv server: is the URL right?", true)
        }
        FailureKind::Tls => {
            ("; is the scheme right (https/wss only where TLS is spoken)? target.ca_file adds a trust root", true)
        }
        FailureKind::Closed(1006) | FailureKind::Reset => {
            ("; if the server speaks TLS, the URL must start with https:// or wss://", false)
        }
        FailureKind::CapacityReached => ("; the server is full: is another client using it?", false),
        _ => ("", false),
    }
}
