//! The readiness check: runs one whole session with every address of every url, and tries again until it works or the
//! time is up.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use proto::limits::TEXT_BYTES_MAX;
use proto::message::{Probe, ProbeResult, Served};
use proto::{FailureKind, Mode, Outcome, Phase, Script, Target};
use tokio::sync::mpsc;
use tokio::task::LocalSet;
use tokio::time::{Instant, interval_at, timeout};
use tokio_util::sync::CancellationToken;

use crate::drivers::fault::clipped;
use crate::drivers::{Dialer, Driver, Refusal, Route};
use crate::drivers::{DriverTask, with_driver};
use crate::load::recorder::Counters;
use crate::load::session::{self, EndedSession, SessionContext};
use crate::net::resolver::TargetResolver;
use crate::net::target::{Endpoints, TargetError};

/// Pauses between two tries. The last one is repeated: a server that is coming up must not be flooded.
const RETRIES: [Duration; 3] = [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1)];
/// When results are sent the first time although they are not final, and how often after that.
const FIRST_UPDATE: Duration = Duration::from_secs(1);
const UPDATE_EVERY: Duration = Duration::from_secs(2);
/// A server that answers, but not as OpenEnv does, is most likely the wrong one. It is tried for this long only.
const WRONG_SERVER_GRACE: Duration = Duration::from_secs(5);
/// How long a server may take to close a connection before the next one is opened.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Results so far, each time of every (url, mode).
pub type ProbeUpdates = mpsc::Receiver<Vec<ProbeResult>>;

/// Checks a target. The default uses sockets; a simulation brings its own.
#[derive(Clone)]
pub struct Prober(Arc<dyn Fn(Probe, TargetResolver, CancellationToken) -> ProbeUpdates + Send + Sync>);

impl Prober {
    pub fn new(
        check: impl Fn(Probe, TargetResolver, CancellationToken) -> ProbeUpdates + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(check))
    }

    /// Starts a check. `cancel` ends it early.
    #[must_use]
    pub fn start(&self, probe: Probe, resolver: TargetResolver, cancel: CancellationToken) -> ProbeUpdates {
        (self.0)(probe, resolver, cancel)
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
fn start(probe: Probe, resolver: TargetResolver, cancel: CancellationToken) -> ProbeUpdates {
    let (updates_tx, updates) = mpsc::channel(8);
    let spawned = std::thread::Builder::new().name("probe".to_owned()).spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        LocalSet::new().block_on(&runtime, async {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = check(&probe, &resolver, &updates_tx) => {}
            }
        });
    });
    if let Err(error) = spawned {
        tracing::error!("the readiness check can't start: {error}");
    }
    updates
}

/// Checks every (url, mode) at the same time, so that one that hangs delays no other.
async fn check(probe: &Probe, resolver: &TargetResolver, updates: &mpsc::Sender<Vec<ProbeResult>>) {
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
        results.iter().map(|result| try_until_final(result, probe, resolver, deadline)).collect();
    let mut update = interval_at(Instant::now() + FIRST_UPDATE, UPDATE_EVERY);
    loop {
        tokio::select! {
            ended = tries.next() => {
                if ended.is_none() {
                    break;
                }
            }
            _ = update.tick() => {
                if updates.send(all()).await.is_err() {
                    return;
                }
            }
        }
    }
    // The connection that asked may be gone.
    let _ = updates.send(all()).await;
}

/// Why a try gave no whole session.
struct TryError {
    problem: String,
    retry: Retry,
}

/// Whether another try may help.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Retry {
    /// The server may come up, or the problem may pass; not before this time, if the server says one.
    Later(Option<Duration>),
    /// The same answer will most likely come again: try for [`WRONG_SERVER_GRACE`] only.
    Briefly,
    /// The answer will not change.
    Never,
}

/// Tries one (url, mode) until its result is final.
async fn try_until_final(result: &RefCell<ProbeResult>, probe: &Probe, resolver: &TargetResolver, deadline: Instant) {
    // Since when every answer was one that will most likely come again.
    let mut wrong_since = None;
    let (url, mode) = {
        let known = result.borrow();
        (known.url.clone(), known.mode)
    };
    for tried in 0_usize.. {
        let outcome = try_once(result, &url, mode, probe, resolver, deadline).await;
        let now = Instant::now();
        let pause = {
            let mut known = result.borrow_mut();
            let Err(TryError { problem, retry }) = outcome else {
                known.ready = true;
                known.last_word = true;
                known.problem.clear();
                return;
            };
            let may_pass = matches!(retry, Retry::Later(_));
            wrong_since = if may_pass { None } else { wrong_since.or(Some(now)) };
            let usual = RETRIES[tried.min(RETRIES.len() - 1)];
            let left = deadline.saturating_duration_since(now);
            let (pause, stop) = match retry {
                // One try before the deadline, also if the server asks for a longer pause.
                Retry::Later(Some(after)) => (after.max(usual).min(left.saturating_sub(usual)).max(usual), false),
                Retry::Later(None) => (usual, false),
                Retry::Briefly => {
                    (usual, wrong_since.is_some_and(|since| now.duration_since(since) >= WRONG_SERVER_GRACE))
                }
                Retry::Never => (usual, true),
            };
            known.last_word = stop || now + pause >= deadline;
            let problem = if known.last_word || !may_pass {
                problem
            } else {
                format!("{problem}; waiting up to {} s (target.ready_timeout_seconds)", probe.deadline.as_secs())
            };
            known.problem = clipped(problem, TEXT_BYTES_MAX);
            if known.last_word {
                return;
            }
            pause
        };
        tokio::time::sleep(pause).await;
    }
}

/// Runs whole sessions with every address of the url before `deadline`. What is learned is kept in `result`.
async fn try_once(
    result: &RefCell<ProbeResult>,
    url: &str,
    mode: Mode,
    probe: &Probe,
    resolver: &TargetResolver,
    deadline: Instant,
) -> Result<(), TryError> {
    let target = Target { urls: vec![url.to_owned()], ca_pem: probe.target.ca_pem.clone() };
    let endpoints = resolver.endpoints(&target).await.map_err(|error| TryError {
        problem: error.to_string(),
        retry: match error {
            TargetError::Resolve { .. } => Retry::Later(None),
            TargetError::SourceFamily { .. } | TargetError::TrustRoot(_) => Retry::Never,
            TargetError::Url(_) | TargetError::NotAllowed { .. } => Retry::Briefly,
        },
    })?;
    let addresses: Vec<String> = endpoints.list[0].addresses.iter().map(ToString::to_string).collect();
    result.borrow_mut().addresses.clone_from(&addresses);
    let mut served_by = Vec::new();
    for (number, address) in (0..).zip(&addresses) {
        for _ in 0..probe.sessions {
            let one = one_session(number, mode, probe, resolver, &endpoints, deadline).await;
            match &one.record.outcome {
                Outcome::Failed(kind, _) if is_unreachable(kind) => result.borrow_mut().refused_connects += 1,
                // With several sessions, those before have shown who serves; a refusal shows that the server is there.
                Outcome::Failed(kind, _) if probe.sessions > 1 && kind.is_answer() => break,
                _ => {}
            }
            check_session(&one, address).map_err(|error| {
                let prefix = if addresses.len() > 1 { format!("{address}: ") } else { String::new() };
                TryError { problem: format!("{prefix}{}", error.problem), ..error }
            })?;
            served_by.push(Served { host_url: one.record.host_url, pid: one.record.pid });
        }
    }
    result.borrow_mut().served_by = served_by;
    Ok(())
}

/// Whether no server accepted the connection, or only a proxy without a server behind it.
fn is_unreachable(kind: &FailureKind) -> bool {
    matches!(kind, FailureKind::Refused | FailureKind::UpgradeRefused(502..=504) | FailureKind::HttpStatus(502..=504))
}

/// Runs one short session, which is not measured. It ends its connection in an orderly way, also when it fails.
async fn one_session(
    number: u64,
    mode: Mode,
    probe: &Probe,
    resolver: &TargetResolver,
    endpoints: &Endpoints,
    deadline: Instant,
) -> EndedSession<()> {
    let script = Script {
        steps: probe.script.steps.min(1),
        wait: Duration::ZERO,
        think: Duration::ZERO,
        total_timeout: Some(deadline.saturating_duration_since(Instant::now())),
        ..probe.script.clone()
    };
    let route = Route { endpoints: endpoints.clone(), source_ips: resolver.source_ips.clone() };
    let dialer = Dialer::for_single_sessions(route, script.message_bytes_max);
    let wait = script.wait;
    with_driver(mode, dialer, wait, WholeSession { script, number }).await
}

/// One session with whatever driver, and the end of its connection.
struct WholeSession {
    script: Script,
    number: u64,
}

impl DriverTask for WholeSession {
    type Output = EndedSession<()>;

    async fn run<D: Driver>(self, driver: D) -> EndedSession<()> {
        let (cancel, counters, origin) = (CancellationToken::new(), Counters::default(), Instant::now());
        let context = SessionContext {
            script: &self.script,
            origin,
            cancel: &cancel,
            counters: &counters,
            kernel_timestamps: false,
        };
        let EndedSession { record, errno, fault, connection } =
            session::run_session(&driver, &context, self.number, 0).await;
        if let Some(connection) = connection {
            let _ = timeout(CLOSE_TIMEOUT, driver.wait_closed(connection)).await;
        }
        EndedSession { record, errno, fault, connection: None }
    }
}

/// Whether a session succeeded; if not, what to tell the user.
fn check_session(ended: &EndedSession<()>, address: &str) -> Result<(), TryError> {
    let record = &ended.record;
    let Some(kind) = record.outcome.error_type() else { return Ok(()) };
    let phase = record.outcome.phase().map_or("", |phase| phase.as_str());
    let problem = format!("{kind} at {phase}: {}", record.error_message);
    let refusal = ended.fault.as_ref().and_then(|fault| fault.refusal.as_deref());
    let (advice, retry) = match &record.outcome {
        Outcome::Failed(FailureKind::Refused, Phase::Connect) => {
            let problem = format!("nothing listens on {address}: is the server up, is the port right?");
            return Err(TryError { problem, retry: Retry::Later(None) });
        }
        Outcome::Failed(kind, _) => advice(kind, refusal),
        Outcome::TimedOut(Phase::Connect) => (proxy_unused(|name| std::env::var_os(name)), Retry::Later(None)),
        _ => (String::new(), Retry::Later(None)),
    };
    Err(TryError { problem: format!("{problem}{advice}"), retry })
}

/// What to add to the problem, by kind of failure, and whether to try again.
fn advice(kind: &FailureKind, refusal: Option<&Refusal>) -> (String, Retry) {
    let location = refusal.and_then(|refusal| refusal.location.as_deref());
    let after = refusal.and_then(|refusal| refusal.retry_after_seconds).map(Duration::from_secs);
    let wait = Retry::Later(None);
    let (text, retry) = match kind {
        FailureKind::UpgradeRefused(status) | FailureKind::HttpStatus(status) => match (*status, kind) {
            // These pass: something is starting, or was asked too often.
            (408 | 425 | 429 | 502..=504, _) => ("", Retry::Later(after)),
            (401, _) => ("; it needs a token, which agents do not send", Retry::Briefly),
            (403, FailureKind::UpgradeRefused(_)) => {
                ("; it needs a token, which agents do not send, or the path of the URL is wrong", Retry::Briefly)
            }
            (403, _) => ("; it needs a token, which agents do not send", Retry::Briefly),
            (300..=399, _) => match location {
                Some(place) => {
                    let text = format!("; it says to go to {place}, which is not followed: is that the URL?");
                    return (text, Retry::Briefly);
                }
                None => ("; redirections are not followed: is the URL right?", Retry::Briefly),
            },
            (404, FailureKind::UpgradeRefused(_)) => ("; there is no /ws at this URL: is it right?", Retry::Briefly),
            (404, _) => ("; there is no /reset or /step at this URL: is it right?", Retry::Briefly),
            (422, _) => ("; the environment does not take this request", Retry::Never),
            (426, FailureKind::UpgradeRefused(_)) | (200..=299, FailureKind::UpgradeRefused(_)) => {
                ("; this does not look like an OpenEnv server: is the URL right?", Retry::Briefly)
            }
            (400..=499, _) => ("", Retry::Briefly),
            _ => ("", wait),
        },
        FailureKind::BadReply => ("; this does not look like an OpenEnv server: is the URL right?", Retry::Briefly),
        FailureKind::ServerError(code) if code == "VALIDATION_ERROR" => {
            ("; the environment does not take this request", Retry::Never)
        }
        FailureKind::ClientLimit => ("", Retry::Never),
        FailureKind::Tls => (
            "; is the scheme right (https/wss only where TLS is spoken)? target.ca_file adds a trust root",
            Retry::Briefly,
        ),
        FailureKind::Closed(1006) | FailureKind::Reset => {
            ("; if the server speaks TLS, the URL must start with https:// or wss://", wait)
        }
        FailureKind::CapacityReached => ("; the server is full: is another client using it?", wait),
        FailureKind::Unreachable => return (proxy_unused(|name| std::env::var_os(name)), wait),
        FailureKind::Refused
        | FailureKind::PortExhausted
        | FailureKind::FdExhausted
        | FailureKind::Dns
        | FailureKind::ServerError(_)
        | FailureKind::Closed(_)
        | FailureKind::Cancelled
        | FailureKind::Io => ("", wait),
    };
    (text.to_owned(), retry)
}

/// A hint for users of a proxy: agents do not use one.
fn proxy_unused(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> String {
    const NAMES: [&str; 6] = ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    let name = NAMES.into_iter().find(|name| variable(name).is_some_and(|value| !value.is_empty()));
    name.map_or_else(String::new, |name| {
        format!("; agents connect directly and do not use {name}: is there a way to the target without the proxy?")
    })
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
        let wait = Retry::Later(None);
        for status in [408, 425, 429, 502, 503, 504] {
            assert_eq!(advice(&FailureKind::UpgradeRefused(status), None).1, wait, "{status}");
            assert_eq!(advice(&FailureKind::HttpStatus(status), None), (String::new(), wait), "{status}");
        }
        let later = Refusal { retry_after_seconds: Some(7), location: None };
        assert_eq!(advice(&FailureKind::HttpStatus(429), Some(&later)).1, Retry::Later(Some(Duration::from_secs(7))));
        let moved = Refusal { retry_after_seconds: None, location: Some("https://h/x".to_owned()) };
        assert!(advice(&FailureKind::UpgradeRefused(301), Some(&moved)).0.contains("https://h/x"));
        for status in [401, 403] {
            assert!(advice(&FailureKind::UpgradeRefused(status), None).0.contains("needs a token"), "{status}");
        }
        for kind in [FailureKind::HttpStatus(422), FailureKind::ServerError("VALIDATION_ERROR".to_owned())] {
            assert_eq!(advice(&kind, None).1, Retry::Never);
        }
        let looks = |kind: FailureKind| advice(&kind, None).0.contains("does not look like");
        assert!(looks(FailureKind::BadReply) && looks(FailureKind::UpgradeRefused(200)));
        for status in [400, 401, 403, 404, 418, 422, 500, 503] {
            assert!(!looks(FailureKind::UpgradeRefused(status)), "{status}: nothing like that was seen");
        }
    }

    #[test]
    fn a_long_problem_is_cut_to_what_a_message_holds() {
        assert!(clipped("é".repeat(TEXT_BYTES_MAX), TEXT_BYTES_MAX).len() <= TEXT_BYTES_MAX);
    }
}
