//! Disks that are full or can't be written to, as mounts of the test.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Ended, Results, Server, coordinator, run};

/// A mount that is removed when this is dropped.
struct Mount(PathBuf);

impl Mount {
    fn small(at: PathBuf, size: &str) -> Self {
        std::fs::create_dir(&at).expect("dir");
        mount(&["-t", "tmpfs", "-o", &format!("size={size}"), "muster-test", at.to_str().expect("path")]);
        Self(at)
    }

    fn read_only(at: PathBuf, of: &Path) -> Self {
        std::fs::create_dir(&at).expect("dir");
        let at_text = at.to_str().expect("path");
        mount(&["--bind", of.to_str().expect("path"), at_text]);
        mount(&["-o", "remount,ro,bind", at_text]);
        Self(at)
    }

    fn resize(&self, size: &str) {
        mount(&["-o", &format!("remount,size={size}"), self.0.to_str().expect("path")]);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // It must also be removed if the test fails.
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn mount(words: &[&str]) {
    let ended = run({
        let mut command = Command::new("mount");
        command.args(words);
        command
    });
    assert!(ended.status.success(), "mount {words:?}: {}", ended.text);
}

fn begin(server: &Server, out: &Path) -> Ended {
    let mut command = coordinator();
    command
        .args(["run", "--target", &server.url, "--batch-sizes", "16,600", "--wait", "0", "--reps", "1", "--local", "1"])
        .args(["--set", "grid.warmup=false", "--set", "measure.max_clock_error_ms=500", "--output"])
        .arg(out);
    run(command)
}

#[test]
fn a_full_disk_keeps_what_is_whole_says_how_much_it_needs_and_the_run_goes_on_later() {
    let server = Server::start(&["--max-concurrent-envs", "0"]);
    let dir = tempfile::tempdir().expect("dir");
    let disk = Mount::small(dir.path().join("disk"), "256k");
    let out = disk.0.join("out");
    let ended = begin(&server, &out);
    assert_eq!(ended.code(), Some(1), "{}", ended.text);
    for part in [
        "out/raw.jsonl: No space left on device",
        "the batch needs ",
        " bytes in ",
        "go on with: coordinator run --resume ",
    ] {
        assert!(ended.text.contains(part), "{part:?} in:\n{}", ended.text);
    }
    assert!(!ended.text.contains("panicked"), "{}", ended.text);
    let needed: u64 = {
        let after = ended.text.split("the batch needs ").nth(1).expect("a number");
        after.split(' ').next().expect("a number").replace(',', "").parse().expect("a number")
    };
    assert!((300_000..3_000_000).contains(&needed), "600 records of about 900 bytes: {needed}");
    let results = Results::of(&out);
    assert_eq!((results.summary().len(), results.raw().len(), results.journal().len()), (1, 16, 1));

    disk.resize("16m");
    let mut command = coordinator();
    command.arg("run").arg("--resume").arg(&out);
    let ended = run(command);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    assert_eq!((results.summary().len(), results.raw().len(), results.journal().len()), (2, 616, 2));
    results.check_with_python();
}

#[test]
fn a_disk_that_is_full_from_the_start_leaves_nothing_behind() {
    let server = Server::start(&["--max-concurrent-envs", "0"]);
    let dir = tempfile::tempdir().expect("dir");
    let disk = Mount::small(dir.path().join("disk"), "16k");
    std::fs::write(disk.0.join("filler"), vec![0; 8 << 10]).expect("written");
    let ended = begin(&server, &disk.0.join("out"));
    assert_eq!(ended.code(), Some(1), "{}", ended.text);
    assert!(ended.text.contains("No space left on device") && !ended.text.contains("panicked"), "{}", ended.text);
}

#[test]
fn a_disk_that_can_not_be_written_to_is_named_before_anything_begins() {
    let server = Server::start(&["--max-concurrent-envs", "0"]);
    let dir = tempfile::tempdir().expect("dir");
    let of = dir.path().join("of");
    std::fs::create_dir(&of).expect("dir");
    let disk = Mount::read_only(dir.path().join("disk"), &of);
    let ended = begin(&server, &disk.0.join("out"));
    assert_eq!(ended.code(), Some(1), "{}", ended.text);
    for part in ["out can't be created", "Read-only file system", "--output"] {
        assert!(ended.text.contains(part), "{part:?} in:\n{}", ended.text);
    }
}
