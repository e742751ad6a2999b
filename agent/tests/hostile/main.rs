//! A server may do what it likes for as long as it likes: the session gets the right class within its limits, the
//! memory stays flat, and nobody else's session notices.
//!
//! [`rows`] is the table. Each row runs in a process of its own (this program again), because the most memory ever used
//! belongs to a whole process: once with one session, once more with many at once where the server sends without an end.

mod crowd;
mod neighbours;
mod process;
mod rows;
mod server;
#[expect(dead_code, reason = "each test file needs a part of it")]
#[path = "../support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};

use proto::Outcome;

/// Sessions at once against a server that sends without an end.
const CROWD: u64 = 200;
/// What one session may add to a process that has seen a good one.
const ALONE_KIB_MAX: u64 = 3 << 10;

#[test]
fn every_server_gets_its_class_and_no_memory() {
    if let Some(told) = process::told() {
        return process::carry_out(&told);
    }
    // Redirections lead here, and no session may follow one.
    let elsewhere = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    elsewhere.set_nonblocking(true).expect("nonblocking");
    let elsewhere_url = format!("http://{}", elsewhere.local_addr().expect("address"));
    let mut table = format!("\n{:4}  {:48}  {:30}  {:>9}  {CROWD} at once, each\n", "mode", "server", "class", "alone");
    let mut wrong = String::new();
    let rows = rows::all(&elsewhere_url);
    // As many at a time as there are processors on a small machine.
    for (numbers, pair) in (0..rows.len()).collect::<Vec<_>>().chunks(2).zip(rows.chunks(2)) {
        let started: Vec<_> = numbers.iter().map(|number| process::start(*number, 1, &elsewhere_url)).collect();
        for ((number, row), started) in numbers.iter().zip(pair).zip(started) {
            let alone = started.result();
            let crowd = row.crowd_kib_max.map(|_| process::start(*number, CROWD, &elsewhere_url).result());
            let kib = |told: &Result<u64, String>| told.as_ref().map_or("-".to_owned(), |kib| format!("{kib} KiB"));
            let each = crowd.as_ref().map_or(String::new(), |told| kib(&told.clone().map(|kib| kib.div_ceil(CROWD))));
            let _ = writeln!(
                table,
                "{:4}  {:48}  {:30}  {:>9}  {each:>9}",
                row.mode,
                row.what,
                class(&row.class),
                kib(&alone)
            );
            for told in [Some(alone), crowd].into_iter().flatten() {
                if let Err(why) = told {
                    let _ = writeln!(wrong, "{} {}: {why}", row.mode, row.what);
                }
            }
        }
    }
    eprintln!("{table}");
    assert!(wrong.is_empty(), "not as in the table:\n{wrong}");
    let followed = elsewhere.accept().map(|(_, from)| from);
    assert!(followed.is_err(), "a redirection was followed: a connection from {followed:?}");
}

/// As in the records: the kind, and where.
fn class(outcome: &Outcome) -> String {
    match (outcome.error_type(), outcome.phase()) {
        (Some(kind), Some(phase)) => format!("{kind} at {phase}"),
        _ => outcome.as_str().to_owned(),
    }
}
