//! One row in a process of its own: how it is started, what it does, what it tells.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use proto::units::micros;
use proto::{Outcome, Phase, Script, SessionRecord, limits};
use tokio_util::sync::CancellationToken;

use crate::rows::Row;
use crate::support::{bounded, dialer, live, reference, run, script};
use crate::{ALONE_KIB_MAX, class, crowd, rows, server};

const VARIABLE: &str = "MUSTER_TEST_HOSTILE";
const MARK: &str = "grown by ";
/// Of a phase that never ends.
const SHORT: Duration = Duration::from_millis(400);
/// The same on a paused clock: many drips.
const LONG: Duration = Duration::from_secs(30);

/// What a process is told to do.
pub(crate) struct ProbeUpdates {
    row: usize,
    sessions: u64,
    elsewhere: String,
}

/// If this process is one of those.
pub(crate) fn told() -> Option<ProbeUpdates> {
    let text = std::env::var(VARIABLE).ok()?;
    let mut parts = text.splitn(3, ' ');
    let mut next = || parts.next().expect("three parts");
    Some(ProbeUpdates {
        row: next().parse().expect("a row's number"),
        sessions: next().parse().expect("a number of sessions"),
        elsewhere: next().to_owned(),
    })
}

/// A process that runs a row.
pub(crate) struct Started(Child);

pub(crate) fn start(row: usize, sessions: u64, elsewhere: &str) -> Started {
    let child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "every_server_gets_its_class_and_no_memory", "--nocapture"])
        .env("RUST_BACKTRACE", "0")
        .env(VARIABLE, format!("{row} {sessions} {elsewhere}"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this program starts");
    Started(child)
}

impl Started {
    /// By how many KiB its memory grew, or what went wrong.
    pub(crate) fn result(self) -> Result<u64, String> {
        let output = self.0.wait_with_output().expect("this program ends");
        let said = String::from_utf8_lossy(&output.stderr);
        let grown = said.lines().find_map(|line| line.split_once(MARK)).and_then(|(_, kib)| kib.parse().ok());
        match grown {
            Some(kib) if output.status.success() => Ok(kib),
            _ => Err(said.into_owned()),
        }
    }
}

/// The most memory that this process had resident since [`forget_peak`], in KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Where this is not allowed, what went before hides a part of what comes.
fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Runs a row and prints by how much the memory grew; panics if a session's class is another.
pub(crate) fn carry_out(told: &ProbeUpdates) {
    let rows = rows::all(&told.elsewhere);
    let row = &rows[told.row];
    bounded(async {
        let (good, _server) = reference(refserver::Options::default());
        // A good session first, the same way: what any session takes is not the hostile server's doing.
        if told.sessions == 1 {
            assert_eq!(run(row.mode, &good, &script()).await.outcome, Outcome::Succeeded);
        } else {
            crowd::run(row.mode, &[good], "", 1, &script()).await;
        }
        let place = server::start(row, told.sessions == 1).await;
        let script = limited(row);
        forget_peak();
        let before = peak_kib();
        let (records, kib_max) = if told.sessions == 1 {
            let dialer = dialer(&place.url, &place.ca_pem).await;
            (vec![live(row.mode, dialer, 0, &script, &CancellationToken::new()).await], ALONE_KIB_MAX)
        } else {
            let each = row.crowd_kib_max.expect("a bound for each of many");
            let measured = crowd::run(row.mode, &[place.url], &place.ca_pem, told.sessions, &script).await;
            (measured.records, each * told.sessions)
        };
        let grown = peak_kib() - before;
        assert_eq!(records.len() as u64, told.sessions);
        for record in &records {
            judge(row, record);
            if let Outcome::TimedOut(_) = row.class {
                assert!(record.total_us >= Some(micros(limit(row))), "cut before its time: {record:?}");
            }
        }
        assert!(grown <= kib_max, "{grown} KiB more, at most {kib_max}");
        eprintln!("\n{MARK}{grown}");
    });
}

fn limit(row: &Row) -> Duration {
    if row.drips() { LONG } else { SHORT }
}

/// Limits that are never reached, but in the phase that a row hangs in.
fn limited(row: &Row) -> Script {
    let mut script = script();
    if let Outcome::TimedOut(phase) = row.class {
        *match phase {
            Phase::Connect => &mut script.connect_timeout,
            Phase::Reset => &mut script.reset_timeout,
            Phase::Step => &mut script.step_timeout,
            Phase::Close => &mut script.close_timeout,
        } = limit(row);
    }
    script
}

/// Whether a session's record is what its row says.
pub(crate) fn judge(row: &Row, record: &SessionRecord) {
    let message = &record.error_message;
    assert_eq!(class(&record.outcome), class(&row.class), "session {}: {message}", record.session);
    assert_eq!(record.outcome == Outcome::Succeeded, message.is_empty(), "a failure says why: {message:?}");
    assert!(message.contains(row.said), "{:?} is to be said: {message:?}", row.said);
    // It is printed on terminals and goes into tables.
    let told = record.outcome.error_type().unwrap_or_default();
    assert!(!message.chars().chain(told.chars()).any(char::is_control), "control characters: {told:?} {message:?}");
    assert!(message.len() <= limits::ERROR_BYTES_MAX && told.len() <= limits::TEXT_BYTES_MAX);
}
