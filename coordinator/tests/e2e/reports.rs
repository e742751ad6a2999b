//! What becomes of a finished run: reports, the log, and what the command line offers around them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Ended, Process, Server, coordinator, run, workspace};

/// A run of eight small batches against a server that holds six sessions a worker.
fn small_run(out: &Path, infrastructure: &str) -> Ended {
    let server = Server::start(&["--workers", "2", "--max-concurrent-envs", "6"]);
    let mut command = coordinator();
    command
        .args([
            "run",
            "--target",
            &server.url,
            "--batch-sizes",
            "4,40",
            "--wait",
            "0.1,0.2",
            "--reps",
            "2",
            "--local",
            "2",
        ])
        .args(["--set", &format!("experiment.infrastructure={infrastructure}"), "--set", "experiment.cores=2"])
        .args([
            "--set",
            "server.start_command='refserver --workers 2 --max-concurrent-envs 6'",
            "--set",
            "server.workers=2",
        ])
        .args(["--set", "grid.cooldown_seconds=0", "--output"])
        .arg(out);
    run(command)
}

/// Every file below a folder, with its bytes.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut folders = vec![dir.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("folder") {
            let path = entry.expect("entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                all.insert(path.strip_prefix(dir).expect("below").to_path_buf(), fs::read(&path).expect("bytes"));
            }
        }
    }
    all
}

fn command(args: &[&str], paths: &[&Path]) -> Ended {
    let mut command = coordinator();
    command.args(args).args(paths);
    run(command)
}

#[test]
fn a_run_ends_with_a_report_that_can_be_made_again_and_put_into_the_log() {
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("results/local-uvicorn/2026");
    let ended = small_run(&out, "local-uvicorn");
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    assert!(ended.text.contains(&format!("report in {}/report.html", out.display())), "{}", ended.text);
    let before = contents(&out);
    for name in ["report.md", "report.html", "figures/scaling.svg", "figures/scaling.png", "figures/timeline-ws-4.svg"]
    {
        assert!(before.contains_key(Path::new(name)), "{name}: {:?}", before.keys());
    }

    // Again and again the same bytes; on paper nothing changes.
    for flags in [&["report", "--print"][..], &["report"], &["report", "-q"]] {
        let ended = command(flags, &[&out]);
        assert_eq!(ended.code(), Some(0), "{}", ended.text);
        assert_eq!(contents(&out), before, "{flags:?}");
        let quiet = flags.contains(&"-q");
        assert_eq!(quiet, ended.text == format!("{}/report.html\n", out.display()), "{}", ended.text);
        assert_eq!(!quiet, ended.text.contains("| Max Batch (95%+) |"), "{}", ended.text);
    }
    let page = String::from_utf8(before[Path::new("report.html")].clone()).expect("text");
    assert!(page.contains("local-1") && page.contains("local-2"), "every agent is there");
    assert!(page.contains("measured by one Python process"), "what the published p99 contains is said");

    // The log: begun, renewed, and what a person wrote is kept.
    let log = dir.path().join("reports/EXPERIMENT_LOG.md");
    fs::create_dir(log.parent().expect("parent")).expect("created");
    let put = || command(&["log", "--into", log.to_str().expect("text")], &[&out]);
    assert_eq!(put().code(), Some(0));
    let text = fs::read_to_string(&log).expect("log");
    assert!(text.contains("| local-uvicorn  | ✅ Complete |") && text.contains("### Observations\n- "), "{text}");
    assert!(text.contains("refserver --workers 2 --max-concurrent-envs 6\n"), "how the server was started");
    assert!(text.contains("coordinator run \\\n    --target http://127.0.0.1:"), "how the run was: {text}");
    for (from, to) in links(&text) {
        assert!(log.parent().expect("parent").join(&to).exists(), "{from} leads to {to}, which is not there");
    }
    let edited = text.replace("### Observations\n", "### Observations\n- The room was warm.\n");
    fs::write(&log, &edited).expect("written");
    let again = put();
    assert!(again.text.contains("1 line written by hand kept"), "{}", again.text);
    let renewed = fs::read_to_string(&log).expect("log");
    assert_eq!(renewed.matches("- The room was warm.").count(), 1);
    put();
    assert_eq!(fs::read_to_string(&log).expect("log"), renewed);
}

/// `[text](target)`, without those that lead into the web.
fn links(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for part in text.split('[').skip(1) {
        if let Some((name, rest)) = part.split_once("](")
            && let Some((target, _)) = rest.split_once(')')
        {
            found.push((name.to_owned(), target.to_owned()));
        }
    }
    assert!(found.len() > 5, "{text}");
    found
}

#[test]
fn several_runs_in_one_report_and_folders_that_are_none() {
    let dir = tempfile::tempdir().expect("dir");
    let (one, two, all) = (dir.path().join("one"), dir.path().join("two"), dir.path().join("all"));
    small_run(&one, "slurm-single");
    // Of the second only what a script would have left.
    small_run(&two, "slurm-multi");
    let kept = dir.path().join("slurm-multi/2026-01-13");
    fs::create_dir_all(&kept).expect("created");
    for name in ["summary.csv", "raw.jsonl"] {
        fs::copy(two.join(name), kept.join(name)).expect("copied");
    }
    let missing = dir.path().join("missing");
    let mut command = coordinator();
    command.arg("report").args([&one, &kept, &missing]).arg("--output").arg(&all);
    let ended = run(command);
    assert_eq!(ended.code(), Some(2), "{}", ended.text);
    assert!(ended.text.contains("there is neither a run.json nor a summary.csv"), "{}", ended.text);
    for said in ["slurm-single", "slurm-multi", "(published)", "What can be compared", "published, Python script"] {
        assert!(ended.text.contains(said), "{said}: {}", ended.text);
    }
    for name in ["report.html", "report.md", "figures/max-batch.svg", "figures/batch-per-core.png"] {
        assert!(all.join(name).is_file(), "{name}");
    }
    assert!(!kept.join("report.md").exists(), "--output writes nothing elsewhere");
}

#[test]
fn a_run_that_was_interrupted_has_a_report_of_what_was_finished() {
    let dir = tempfile::tempdir().expect("dir");
    let out = dir.path().join("out");
    let mut command = coordinator();
    command
        .args(["run", "experiments/plans/quickstart.toml", "--set", "grid.batch_sizes=[4]", "--wait", "0.1,20"])
        .args(["--mode", "ws", "--output"])
        .arg(&out)
        .current_dir(workspace());
    let mut process = Process::start(command);
    process.line_with("     4    ws   0.1 s    2/2");
    process.signal(nix::sys::signal::Signal::SIGINT);
    let ended = process.end();
    assert_eq!(ended.code(), Some(130), "{}", ended.text);
    let text = fs::read_to_string(out.join("report.md")).expect("a report");
    assert!(text.contains("> The run is interrupted; what follows is what was finished."), "{text}");
    assert!(text.contains("> Not whole: 2 of 4 batches were decided."), "{text}");
}

#[test]
fn shells_and_manuals_know_every_command() {
    let dir = tempfile::tempdir().expect("dir");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ended = command(&["completions", shell], &[]);
        assert_eq!(ended.code(), Some(0));
        for name in ["report", "log", "batch-sizes"] {
            assert!(ended.text.contains(name), "{shell} lacks {name}");
        }
    }
    let script = dir.path().join("completions.bash");
    for program in ["coordinator", "agent", "refserver"] {
        let ended = command(&["completions", "bash", "--for", program], &[]);
        fs::write(&script, ended.text).expect("written");
        let mut bash = Command::new("bash");
        // What a person gets who types the name and asks.
        bash.arg("-c").arg(format!(
            "source {} && COMP_WORDS=({program} --) COMP_CWORD=1 && _{program} {program} -- {program} && echo \"${{COMPREPLY[@]}}\"",
            script.display()
        ));
        let said = run(bash);
        assert!(said.text.contains("--help"), "{program}: {}", said.text);
    }
    let ended = command(&["man", "--output"], &[dir.path()]);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    for page in ["coordinator.1", "coordinator-run.1", "coordinator-plan-init.1", "agent.1", "refserver.1"] {
        let text = fs::read_to_string(dir.path().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".TH"), "{page}");
    }
    assert!(command(&["man"], &[]).text.contains(".TH coordinator 1"));
}

/// On a terminal; `script` is one.
#[test]
fn colours_only_where_they_are_wanted() {
    let said = |no_color: Option<&str>| {
        let program = env!("CARGO_BIN_EXE_coordinator");
        let mut command = Command::new("script");
        // An agent that can't reach anybody says so at once, in colour.
        let line = format!(
            "{program} __agent --coordinator 127.0.0.1:9 --insecure-plaintext --allow-target h --reconnect-for 0.2; {program} run --no-such"
        );
        command.args(["-qec", &line, "/dev/null"]).env_remove("NO_COLOR").env("TERM", "xterm");
        if let Some(value) = no_color {
            command.env("NO_COLOR", value);
        }
        run(command).text
    };
    let (plain, coloured, empty) = (said(Some("1")), said(None), said(Some("")));
    assert!(coloured.contains("\u{1b}[") && empty.contains("\u{1b}["), "{coloured:?} {empty:?}");
    assert!(plain.contains("no-such") && !plain.contains('\u{1b}'), "{plain:?}");
}
