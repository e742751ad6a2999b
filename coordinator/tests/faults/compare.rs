//! Compares two runs of one plan: every count, outcome and row must be equal, whatever the times.

use crate::support::Results;

/// One line per batch, without what depends on times, ports, or the number of agents.
pub(crate) fn table(results: &Results) -> Vec<String> {
    const SAME: [&str; 14] = [
        "mode",
        "num_requests",
        "batch_size",
        "wait_seconds",
        "repetition",
        "successful",
        "failed",
        "error_rate",
        "timed_out",
        "lost",
        "never_started",
        "unique_sessions",
        "over_range",
        "accepted",
    ];
    results
        .summary()
        .iter()
        .map(|row| SAME.iter().map(|name| format!("{name}={}", row[*name])).collect::<Vec<_>>().join(" "))
        .collect()
}

/// One line per session: which one it is, and its outcome.
pub(crate) fn rows(results: &Results) -> Vec<String> {
    const SAME: [&str; 8] =
        ["mode", "batch_size", "wait_requested", "repetition", "request_id", "outcome", "error_type", "phase"];
    results
        .raw()
        .iter()
        .map(|row| SAME.iter().map(|name| row[*name].to_string()).collect::<Vec<_>>().join(" "))
        .collect()
}

/// Asserts that a run has the results of the undisturbed one, that every attempt's ledger balances, and that accepted
/// attempts are valid.
pub(crate) fn assert_same(undisturbed: &Results, other: &Results, what: &str) {
    assert_eq!(table(undisturbed), table(other), "{what}: the final table");
    assert_eq!(rows(undisturbed), rows(other), "{what}: the rows");
    for line in other.journal() {
        let ledger = &line["summary"]["ledger"];
        let sum: u64 = ["succeeded", "failed", "timed_out", "lost", "never_started"]
            .iter()
            .map(|name| ledger[*name].as_u64().expect("a count"))
            .sum();
        assert_eq!(Some(sum), ledger["planned"].as_u64(), "{what}: {ledger}");
        let worth = line["summary"]["verdict"]["worth"].as_str().expect("a verdict");
        let accepted = line["accepted"].as_bool().expect("accepted");
        let right = if accepted { ["valid", "generator-limited"] } else { ["degraded", "invalid"] };
        assert!(right.contains(&worth), "{what}: accepted: {accepted}, verdict {worth}: {line}");
    }
    other.check_with_python();
}
