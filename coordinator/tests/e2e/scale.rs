//! Sixteen thousand sessions at once.

use crate::support::{Results, Server, coordinator, run};

#[test]
fn sixteen_thousand_sessions_over_four_agents_back_to_back() {
    let server = Server::start(&["--max-concurrent-envs", "0"]);
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let mut command = coordinator();
    command
        .args([
            "run",
            "--target",
            &server.url,
            "--batch-sizes",
            "16384",
            "--wait",
            "1,8",
            "--reps",
            "3",
            "--local",
            "4",
        ])
        .args(["--set", "grid.cooldown_seconds=0", "--output"])
        .arg(&out);
    let ended = run(command);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    let results = Results::of(&out);
    let summary = results.summary();
    assert_eq!(summary.len(), 6);
    for row in &summary {
        assert_eq!((row["successful"].as_str(), row["failed"].as_str()), ("16384", "0"), "{row:?}");
        assert_eq!(row["unique_sessions"], "16384");
        assert_eq!(row["agents"], "4");
        if row["wait_seconds"] == "8.0" {
            assert_eq!(row["open_max"], "16384", "all open at one instant: {row:?}");
        }
    }
    results.check_with_python();
}
