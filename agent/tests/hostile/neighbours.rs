//! One load over a good server and every hostile one: each url's sessions get its class, those of the good one succeed.

use std::time::Duration;

use proto::{Ledger, Metric, Mode, Outcome, Script};
use tokio_util::sync::CancellationToken;

use crate::rows::{self, Dress, Row};
use crate::support::{DEADLINE, bounded, script, url};
use crate::{crowd, process, server};

/// Of every phase: those that hang are cut here, all others are far from it.
const LIMIT: Duration = Duration::from_secs(15);
/// Need a turn or two a chunk; with so many others in between they end at their limit.
const SLOW: [&str; 2] = ["endless small chunks", "endless chunks"];
/// Sessions of every hostile url.
const EACH: u64 = 2;

/// A good server with a thread of its own, which no hostile one can keep busy.
fn good() -> (String, tokio_util::sync::DropGuard) {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).expect("bind");
    let url = url(listener.local_addr().expect("address"));
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let options = refserver::Options { max_concurrent_envs: 10_000, ..refserver::Options::default() };
        runtime.block_on(refserver::run(listener, options, stopped))
    });
    (url, stop.drop_guard())
}

#[test]
fn sessions_of_a_good_server_do_not_notice_hostile_ones() {
    for mode in [Mode::Ws, Mode::Http] {
        bounded(async {
            let (good, _server) = good();
            // Another root of trust would be another load.
            let plain = |row: &Row| row.mode == mode && matches!(row.dress, Dress::Plain | Dress::TlsWanted);
            let rows: Vec<Row> =
                rows::all(&good).into_iter().filter(|row| plain(row) && !SLOW.contains(&row.what)).collect();
            let mut places = Vec::new();
            for row in &rows {
                places.push(server::start(row, false).await);
            }
            // Every second session is the good server's.
            let urls: Vec<String> = places.iter().flat_map(|place| [good.clone(), place.url.clone()]).collect();
            let limits = Script {
                connect_timeout: LIMIT,
                reset_timeout: LIMIT,
                step_timeout: LIMIT,
                close_timeout: LIMIT,
                total_timeout: Some(DEADLINE),
                message_bytes_max: 600 << 10,
                ..script()
            };
            let sessions = urls.len() as u64 * EACH;
            let measured = crowd::run(mode, &urls, "", sessions, &limits).await;
            let mut expected = Ledger::planned(sessions);
            for record in &measured.records {
                let at = usize::try_from(record.session).expect("small") % urls.len();
                if at.is_multiple_of(2) {
                    assert_eq!(record.outcome, Outcome::Succeeded, "{mode}: {}", record.error_message);
                    expected.count(&Outcome::Succeeded);
                } else {
                    let row = &rows[at / 2];
                    process::judge(row, record);
                    expected.count(&row.class);
                }
            }
            eprintln!("{mode}, {} urls: {}", urls.len(), measured.ledger);
            assert_eq!(measured.ledger, expected);
            assert_eq!(measured.histograms.get(Metric::Total).len(), expected.succeeded, "{mode}");
        });
    }
}
