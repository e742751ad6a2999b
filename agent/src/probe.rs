//! The readiness check: one whole session out of every url, tried again until it works or the time is up.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use proto::base_url::BaseUrl;
use proto::limits::TEXT_BYTES_MAX;
use proto::message::{Probe, ProbeResult, Served};
use proto::{FailureKind, Mode, Outcome, Phase, Script, Target};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{Instant, interval_at, timeout};
use tokio_util::sync::CancellationToken;

use crate::allow::{self, AllowRule};
use crate::driver::http::HttpDriver;
use crate::driver::ws::WsDriver;
use crate::driver::{Dialer, Driver, Refusal, Way};
use crate::family;
use crate::load::recorder::Counters;
use crate::load::session::{self, Course, Ended};
use crate::target::{Endpoint, Endpoints, TargetError, resolve};
use crate::trust::tls_config;

/// Pauses between two tries, the last one from then on: a server that answers at all is not to be flooded.
const RETRIES: [Duration; 3] = [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1)];
/// When "still trying" is told first, and how often then.
const TELL_FIRST: Duration = Duration::from_secs(1);
const TELL: Duration = Duration::from_secs(2);
/// A server that answers, but not as OpenEnv does, is most likely the wrong one: it gets this long and no longer.
const WRONG_SERVER_GRACE: Duration = Duration::from_secs(5);
/// How long a server may take to let go of a connection before the next one is made.
const LET_GO: Duration = Duration::from_secs(1);

/// What this agent brings to any target.
#[derive(Debug, Clone, Default)]
pub struct Means {
    pub allow: Vec<AllowRule>,
    pub source_ips: Vec<IpAddr>,
    /// Whether a host with addresses of both families was dialled by IPv4 last.
    pub families: Arc<Mutex<BTreeMap<(String, u16), bool>>>,
}

impl Means {
    /// Looks every url up, checks it against the allow-list, takes one family of its addresses and builds the TLS
    /// configuration if one is needed.
    ///
    /// # Errors
    /// See [`TargetError`].
    pub async fn endpoints(&self, target: &Target, mode: Mode) -> Result<Endpoints, TargetError> {
        let mut list = Vec::with_capacity(target.urls.len());
        for text in &target.urls {
            let url = BaseUrl::parse(text)?;
            let addresses = resolve(&url).await?;
            // All of them, before any is dialled.
            allow::check(&self.allow, &url, &addresses).await?;
            let addresses = family::chosen(&url.host, self.as_before(&url, addresses), &self.source_ips).await?;
            self.remember(&url, &addresses);
            list.push(Endpoint { url, addresses });
        }
        let tls = if list.iter().any(|endpoint| endpoint.url.tls) { Some(tls_config(&target.ca_pem)?) } else { None };
        Ok(Endpoints { mode, list, tls })
    }
}

impl Means {
    /// The family that answered before comes first: where none does just now, the server is still where it was.
    fn as_before(&self, url: &BaseUrl, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
        let families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ipv4) = families.get(&(url.host.clone(), url.port)) {
            addresses.sort_by_key(|address| address.is_ipv4() != *ipv4);
        }
        addresses
    }

    fn remember(&self, url: &BaseUrl, addresses: &[SocketAddr]) {
        let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = addresses.first() {
            families.insert((url.host.clone(), url.port), first.is_ipv4());
        }
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
                served_by: Vec::new(),
                refused_connects: 0,
            })
        })
        .collect();
    let all = || results.iter().map(|result| result.borrow().clone()).collect::<Vec<_>>();
    let mut tries: FuturesUnordered<_> =
        results.iter().map(|result| until_known(result, probe, means, deadline)).collect();
    let mut told = interval_at(Instant::now() + TELL_FIRST, TELL);
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

/// Why a try gave no whole session.
struct Problem {
    what: String,
    then: Then,
}

/// What more tries are good for.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Then {
    /// It may come up, or pass; not before this, if the server says so.
    Wait(Option<Duration>),
    /// The same answer is most likely to come again.
    WaitLittle,
    /// It will not change.
    Stop,
}

/// Tries until there is a last word.
async fn until_known(result: &RefCell<ProbeResult>, probe: &Probe, means: &Means, deadline: Instant) {
    // Since when the answer was one that is most likely to come again.
    let mut wrong_since = None;
    let (url, mode) = {
        let known = result.borrow();
        (known.url.clone(), known.mode)
    };
    for tried in 0_usize.. {
        let outcome = try_once(result, &url, mode, probe, means, deadline).await;
        let now = Instant::now();
        let pause = {
            let mut known = result.borrow_mut();
            match outcome {
                Ok(()) => {
                    known.ready = true;
                    known.last_word = true;
                    known.problem.clear();
                    return;
                }
                Err(Problem { what, then }) => {
                    let retry = RETRIES[tried.min(RETRIES.len() - 1)];
                    let left = deadline.saturating_duration_since(now);
                    let waits = matches!(then, Then::Wait(_));
                    wrong_since = if waits { None } else { wrong_since.or(Some(now)) };
                    let (pause, enough) = match then {
                        // Once more before the time is up, also where the server asks for longer.
                        Then::Wait(Some(after)) => (after.max(retry).min(left.saturating_sub(retry)).max(retry), false),
                        Then::Wait(None) => (retry, false),
                        Then::WaitLittle => {
                            (retry, wrong_since.is_some_and(|since| now.duration_since(since) >= WRONG_SERVER_GRACE))
                        }
                        Then::Stop => (retry, true),
                    };
                    known.last_word = enough || now + pause >= deadline;
                    known.problem = clipped(if known.last_word || !waits {
                        what
                    } else {
                        format!("{what}; waiting up to {} s (target.ready_timeout_seconds)", probe.deadline.as_secs())
                    });
                    if known.last_word {
                        return;
                    }
                    pause
                }
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// To what a message may hold.
fn clipped(text: String) -> String {
    crate::driver::clipped(text, TEXT_BYTES_MAX)
}

/// Whole sessions with every address behind the url, within what is left of the time. What is learned goes to `result`.
async fn try_once(
    result: &RefCell<ProbeResult>,
    url: &str,
    mode: Mode,
    probe: &Probe,
    means: &Means,
    deadline: Instant,
) -> Result<(), Problem> {
    let target = Target { urls: vec![url.to_owned()], ca_pem: probe.target.ca_pem.clone() };
    let endpoints = means.endpoints(&target, mode).await.map_err(|error| Problem {
        what: error.to_string(),
        then: match error {
            TargetError::Resolve { .. } => Then::Wait(None),
            TargetError::SourceFamily { .. } | TargetError::TrustRoot(_) => Then::Stop,
            TargetError::Url(_) | TargetError::NotAllowed { .. } => Then::WaitLittle,
        },
    })?;
    let addresses: Vec<String> = endpoints.list[0].addresses.iter().map(ToString::to_string).collect();
    result.borrow_mut().addresses.clone_from(&addresses);
    let mut served_by = Vec::new();
    for (number, address) in (0..).zip(&addresses) {
        for _ in 0..probe.sessions {
            let one = one_session(number, mode, probe, means, &endpoints, deadline).await;
            match &one.record.outcome {
                Outcome::Failed(kind, _) if found_nobody(kind) => result.borrow_mut().refused_connects += 1,
                // Of several sessions the others have shown what there is to see, and one that is refused shows that the
                // server is there.
                Outcome::Failed(kind, _) if probe.sessions > 1 && kind.is_answer() => break,
                _ => {}
            }
            judge(&one, address).map_err(|problem| {
                let whose = if addresses.len() > 1 { format!("{address}: ") } else { String::new() };
                Problem { what: format!("{whose}{}", problem.what), ..problem }
            })?;
            served_by.push(Served { host_url: one.record.host_url, pid: one.record.pid });
        }
    }
    result.borrow_mut().served_by = served_by;
    Ok(())
}

/// Nobody took the connection; or a proxy did, and had nobody behind it.
fn found_nobody(kind: &FailureKind) -> bool {
    matches!(kind, FailureKind::Refused | FailureKind::UpgradeRefused(502..=504) | FailureKind::HttpStatus(502..=504))
}

/// One short session: it proves the way, it does not measure. It ends as a session should, also when it fails.
async fn one_session(
    number: u64,
    mode: Mode,
    probe: &Probe,
    means: &Means,
    endpoints: &Endpoints,
    deadline: Instant,
) -> Ended<()> {
    let script = Script {
        steps: probe.script.steps.min(1),
        wait: Duration::ZERO,
        think: Duration::ZERO,
        total_timeout: Some(deadline.saturating_duration_since(Instant::now())),
        ..probe.script.clone()
    };
    let way = Way { endpoints: endpoints.clone(), source_ips: means.source_ips.clone() };
    let dialer = Dialer::alone(way, script.message_bytes_max);
    match mode {
        Mode::Ws => whole(&WsDriver::new(dialer, Duration::ZERO), &script, number).await,
        Mode::Http => whole(&HttpDriver::new(dialer), &script, number).await,
    }
}

async fn whole<D: Driver>(driver: &D, script: &Script, number: u64) -> Ended<()> {
    let (cancel, counters, origin) = (CancellationToken::new(), Counters::default(), Instant::now());
    let course = Course { script, origin, cancel: &cancel, counters: &counters, wire: false };
    let Ended { record, errno, fault, rest } = session::live(driver, &course, number, 0).await;
    if let Some(rest) = rest {
        let _ = timeout(LET_GO, driver.settle(rest)).await;
    }
    Ended { record, errno, fault, rest: None }
}

fn judge(ended: &Ended<()>, address: &str) -> Result<(), Problem> {
    let record = &ended.record;
    let Some(kind) = record.outcome.error_type() else { return Ok(()) };
    let phase = record.outcome.phase().map_or("", |phase| phase.as_str());
    let what = format!("{kind} at {phase}: {}", record.error_message);
    let refusal = ended.fault.as_ref().and_then(|fault| fault.refusal.as_deref());
    let (advice, then) = match &record.outcome {
        Outcome::Failed(FailureKind::Refused, Phase::Connect) => {
            let what = format!("nothing listens on {address}: is the server up, is the port right?");
            return Err(Problem { what, then: Then::Wait(None) });
        }
        Outcome::Failed(kind, _) => advice(kind, refusal),
        Outcome::TimedOut(Phase::Connect) => (proxy_unused(variable), Then::Wait(None)),
        _ => (String::new(), Then::Wait(None)),
    };
    Err(Problem { what: format!("{what}{advice}"), then })
}

fn advice(kind: &FailureKind, refusal: Option<&Refusal>) -> (String, Then) {
    let location = refusal.and_then(|refusal| refusal.location.as_deref());
    let after = refusal.and_then(|refusal| refusal.retry_after_seconds).map(Duration::from_secs);
    let wait = Then::Wait(None);
    let (text, then) = match kind {
        FailureKind::UpgradeRefused(status) | FailureKind::HttpStatus(status) => match (*status, kind) {
            // They pass: something is starting, or was asked too often.
            (408 | 425 | 429 | 502..=504, _) => ("", Then::Wait(after)),
            (401, _) => ("; it needs a token, which agents do not send", Then::WaitLittle),
            (403, FailureKind::UpgradeRefused(_)) => {
                ("; it needs a token, which agents do not send, or the path of the URL is wrong", Then::WaitLittle)
            }
            (403, _) => ("; it needs a token, which agents do not send", Then::WaitLittle),
            (300..=399, _) => match location {
                Some(place) => {
                    let text = format!("; it says to go to {place}, which is not followed: is that the URL?");
                    return (text, Then::WaitLittle);
                }
                None => ("; redirections are not followed: is the URL right?", Then::WaitLittle),
            },
            (404, FailureKind::UpgradeRefused(_)) => ("; there is no /ws at this URL: is it right?", Then::WaitLittle),
            (404, _) => ("; there is no /reset or /step at this URL: is it right?", Then::WaitLittle),
            (422, _) => ("; the environment does not take this request", Then::Stop),
            (426, FailureKind::UpgradeRefused(_)) | (200..=299, FailureKind::UpgradeRefused(_)) => {
                ("; this does not look like an OpenEnv server: is the URL right?", Then::WaitLittle)
            }
            (400..=499, _) => ("", Then::WaitLittle),
            _ => ("", wait),
        },
        FailureKind::BadReply => ("; this does not look like an OpenEnv server: is the URL right?", Then::WaitLittle),
        FailureKind::ServerError(code) if code == "VALIDATION_ERROR" => {
            ("; the environment does not take this request", Then::Stop)
        }
        FailureKind::ClientLimit => ("", Then::Stop),
        FailureKind::Tls => (
            "; is the scheme right (https/wss only where TLS is spoken)? target.ca_file adds a trust root",
            Then::WaitLittle,
        ),
        FailureKind::Closed(1006) | FailureKind::Reset => {
            ("; if the server speaks TLS, the URL must start with https:// or wss://", wait)
        }
        FailureKind::CapacityReached => ("; the server is full: is another client using it?", wait),
        FailureKind::Unreachable => return (proxy_unused(variable), wait),
        _ => ("", wait),
    };
    (text.to_owned(), then)
}

/// Whoever is used to a proxy may wonder.
fn proxy_unused(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> String {
    const NAMES: [&str; 6] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    let name = NAMES.into_iter().find(|name| variable(name).is_some_and(|value| !value.is_empty()));
    name.map_or_else(String::new, |name| {
        format!("; agents connect directly and do not use {name}: is there a way to the target without the proxy?")
    })
}

fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_is_not_used_is_named() {
        let set = |name: &str| (name == "https_proxy").then(|| "http://proxy:3128".into());
        assert!(proxy_unused(set).contains("do not use https_proxy"));
        assert_eq!(proxy_unused(|_| None), "");
        assert_eq!(proxy_unused(|_| Some("".into())), "");
    }

    #[test]
    fn what_passes_is_waited_for_and_what_does_not_change_ends_the_wait() {
        let wait = Then::Wait(None);
        for status in [408, 425, 429, 502, 503, 504] {
            assert_eq!(advice(&FailureKind::UpgradeRefused(status), None).1, wait, "{status}");
            assert_eq!(advice(&FailureKind::HttpStatus(status), None), (String::new(), wait), "{status}");
        }
        let later = Refusal { retry_after_seconds: Some(7), location: None };
        assert_eq!(advice(&FailureKind::HttpStatus(429), Some(&later)).1, Then::Wait(Some(Duration::from_secs(7))));
        let moved = Refusal { retry_after_seconds: None, location: Some("https://h/x".to_owned()) };
        assert!(advice(&FailureKind::UpgradeRefused(301), Some(&moved)).0.contains("https://h/x"));
        for status in [401, 403] {
            assert!(advice(&FailureKind::UpgradeRefused(status), None).0.contains("needs a token"), "{status}");
        }
        for kind in [FailureKind::HttpStatus(422), FailureKind::ServerError("VALIDATION_ERROR".to_owned())] {
            assert_eq!(advice(&kind, None).1, Then::Stop);
        }
        let looks = |kind: FailureKind| advice(&kind, None).0.contains("does not look like");
        assert!(looks(FailureKind::BadReply) && looks(FailureKind::UpgradeRefused(200)));
        for status in [400, 401, 403, 404, 418, 422, 500, 503] {
            assert!(!looks(FailureKind::UpgradeRefused(status)), "{status}: nothing like that was seen");
        }
    }

    #[test]
    fn a_long_problem_is_cut_to_what_a_message_holds() {
        assert!(clipped("é".repeat(TEXT_BYTES_MAX)).len() <= TEXT_BYTES_MAX);
    }
}
