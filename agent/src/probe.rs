//! The readiness check: one whole session out of every url, tried again until it works or the time is up.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use proto::base_url::BaseUrl;
use proto::message::{Probe, ProbeResult};
use proto::{FailureKind, Mode, Outcome, Script, SessionRecord, Target};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::allow::{self, AllowRule};
use crate::driver::Dialer;
use crate::driver::http::HttpDriver;
use crate::driver::ws::WsDriver;
use crate::load::recorder::Counters;
use crate::load::session;
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

/// Runs the check on a thread of its own; results come as they are known, each time for every (url, mode).
pub fn start(probe: Probe, means: Means, cancel: CancellationToken) -> mpsc::Receiver<Vec<ProbeResult>> {
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

async fn check(probe: &Probe, means: &Means, tell: &mpsc::Sender<Vec<ProbeResult>>) {
    let deadline = Instant::now() + probe.deadline;
    let script = Arc::new(Script {
        // One short session: it proves the way, it does not measure.
        steps: probe.script.steps.min(1),
        wait: Duration::ZERO,
        think: Duration::ZERO,
        total_timeout: Some(probe.deadline),
        ..probe.script.clone()
    });
    let mut results: Vec<ProbeResult> = Vec::new();
    for url in &probe.target.urls {
        for mode in &probe.modes {
            results.push(ProbeResult {
                url: url.clone(),
                mode: *mode,
                ready: false,
                last_word: false,
                problem: "not tried yet".to_owned(),
                addresses: Vec::new(),
            });
        }
    }
    let started = Instant::now();
    let mut last_told = Instant::now();
    loop {
        for result in results.iter_mut().filter(|result| !result.last_word) {
            let now = Instant::now();
            match try_once(result, probe, means, &script).await {
                Ok(()) => {
                    result.ready = true;
                    result.last_word = true;
                    result.problem.clear();
                }
                Err((problem, hopeless)) => {
                    result.problem = problem;
                    let grace = if hopeless { WRONG_SERVER_GRACE.min(probe.deadline) } else { probe.deadline };
                    result.last_word = now >= deadline || now.duration_since(started) >= grace;
                }
            }
        }
        let over = results.iter().all(|result| result.last_word);
        if over || last_told.elapsed() >= TELL {
            last_told = Instant::now();
            if tell.send(results.clone()).await.is_err() || over {
                return;
            }
        }
        tokio::time::sleep_until((Instant::now() + RETRY).min(deadline)).await;
    }
}

/// One session; the error says whether more tries are hopeless.
async fn try_once(
    result: &mut ProbeResult,
    probe: &Probe,
    means: &Means,
    script: &Arc<Script>,
) -> Result<(), (String, bool)> {
    let target = Target { urls: vec![result.url.clone()], ca_pem: probe.target.ca_pem.clone() };
    let endpoints = means.endpoints(&target, result.mode).await.map_err(|error| {
        let hopeless = !matches!(error, TargetError::Resolve { .. });
        (error.to_string(), hopeless)
    })?;
    result.addresses = endpoints.list[0].addresses.iter().map(ToString::to_string).collect();
    let dialer = Dialer { endpoints, source_ips: means.source_ips.clone() };
    let (cancel, counters, now) = (CancellationToken::new(), Counters::default(), Instant::now());
    let record = match result.mode {
        Mode::Ws => {
            let driver = WsDriver::new(dialer, Duration::ZERO);
            session::live(&driver, script, 0, now, 0, &cancel, &counters).await
        }
        Mode::Http => session::live(&HttpDriver::new(dialer), script, 0, now, 0, &cancel, &counters).await,
    };
    judge(&record)
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
