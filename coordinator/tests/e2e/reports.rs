//! What follows a finished run: reports, the log, completions and man pages.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Ended, Process, Server, coordinator, run, workspace};

/// A run of eight small batches against a server that holds six sessions per worker.
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

fn said_by(args: &[&str], paths: &[&Path]) -> Ended {
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

    // Repeated reports have the same bytes; `--print` changes nothing.
    for flags in [&["report", "--print"][..], &["report"], &["report", "-q"]] {
        let ended = said_by(flags, &[&out]);
        assert_eq!(ended.code(), Some(0), "{}", ended.text);
        assert_eq!(contents(&out), before, "{flags:?}");
        let quiet = flags.contains(&"-q");
        assert_eq!(quiet, ended.text == format!("{}/report.html\n", out.display()), "{}", ended.text);
        assert_eq!(!quiet, ended.text.contains("| Max Batch (95%+) |"), "{}", ended.text);
        assert_eq!(flags.contains(&"--print"), ended.text.contains("## How it was run"), "{}", ended.text);
    }
    // The folder is named by another path, and beside a run of the same day.
    let twin = dir.path().join("twin");
    fs::create_dir(&twin).expect("created");
    fs::copy(out.join("summary.csv"), twin.join("summary.csv")).expect("copied");
    fs::copy(out.join("run.json"), twin.join("run.json")).expect("copied");
    let mut relative = coordinator();
    relative.args(["report", "twin", "results/local-uvicorn/2026"]).current_dir(dir.path());
    let ended = run(relative);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    assert!(contents(&out) == before, "a report depends on its folder alone");
    let page = String::from_utf8(before[Path::new("report.html")].clone()).expect("text");
    assert!(page.contains("local-1") && page.contains("local-2"), "every agent is there");
    assert!(page.contains("measured by one Python process"), "what the published p99 contains is said");

    // The log is created and renewed, and keeps what a person wrote.
    let log = dir.path().join("reports/EXPERIMENT_LOG.md");
    fs::create_dir(log.parent().expect("parent")).expect("created");
    let put = || said_by(&["log", "--into", log.to_str().expect("text")], &[&out]);
    assert_eq!(put().code(), Some(0));
    let text = fs::read_to_string(&log).expect("log");
    assert!(
        text.contains("| local-uvicorn          | ✅ Complete    |") && text.contains("### Observations\n- "),
        "{text}"
    );
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

/// The links `[text](target)`, without those into the web.
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
    // Of the second run, keep only the files that a script leaves.
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
    assert!(ended.text.contains(&format!("{} does not exist", missing.display())), "{}", ended.text);
    let report = fs::read_to_string(all.join("report.md")).expect("a report");
    for said in [
        "slurm-single",
        "slurm-multi",
        "(published)",
        "What can be compared",
        "published, Python script",
        "The same batches: RPS",
    ] {
        assert!(report.contains(said), "{said}: {report}");
    }
    for said in ["Measured by", "(published)", "p99 Latency"] {
        assert!(ended.text.contains(said), "{said}: {}", ended.text);
    }
    for name in ["report.html", "report.md", "figures/max-batch.svg", "figures/batch-per-core.png"] {
        assert!(all.join(name).is_file(), "{name}");
    }
    assert!(!kept.join("report.md").exists(), "--output writes nothing elsewhere");
    let ended = said_by(&["report", "--output", one.to_str().expect("text")], &[&one, &kept]);
    assert_eq!(ended.code(), Some(2));
    assert!(ended.text.contains("whose own report would be lost"), "{}", ended.text);
    for (wrong, said) in
        [(one.join("report.md"), "is a file; give the results folder"), (dir.path().to_path_buf(), "; in it are ")]
    {
        let ended = said_by(&["report"], &[&wrong]);
        assert!(ended.text.contains(said), "{}", ended.text);
    }
}

/// A script's folder has no id, but the same folder is the same run. Runs that are logged at once wait for each other.
#[test]
fn a_log_takes_many_runs_at_once_and_each_once() {
    let dir = tempfile::tempdir().expect("dir");
    let log = dir.path().join("log/EXPERIMENT_LOG.md");
    let columns = "mode,url,num_requests,batch_size,wait_seconds,repetition,timestamp,hardware,successful,failed,error_rate,total_wall_time,\
                   connect_p50,connect_p95,connect_p99,reset_p50,reset_p95,reset_p99,step_p50,step_p95,step_p99,total_min,total_max,total_avg,\
                   total_p50,total_p90,total_p95,total_p99,requests_per_second,effective_concurrency,unique_pids,unique_sessions,unique_hosts";
    let folders: Vec<PathBuf> = (1..=4)
        .map(|n| {
            let folder = dir.path().join(format!("place{n}/2026-01-0{n}"));
            fs::create_dir_all(&folder).expect("created");
            let line = format!(
                "ws,http://h:8000,8,8,1.0,1,2026-01-0{n}T12:00:00.5Z,cpu-basic,8,0,0.0,1.2,0.1,0.1,0.1,0.1,0.1,0.1,1.0,1.0,1.0,1.1,1.2,1.15,1.15,1.2,1.2,1.2,6.7,6.7,1,8,1"
            );
            fs::write(folder.join("summary.csv"), format!("{columns}\n{line}\n")).expect("written");
            folder
        })
        .collect();
    for _ in 0..2 {
        let writers: Vec<Process> = folders
            .iter()
            .map(|folder| {
                let mut command = coordinator();
                command.arg("log").arg(folder).arg("--into").arg(&log);
                Process::start(command)
            })
            .collect();
        for writer in writers {
            let ended = writer.end();
            assert_eq!(ended.code(), Some(0), "{}", ended.text);
        }
        let text = fs::read_to_string(&log).expect("log");
        let entries: Vec<&str> = text.lines().filter(|line| line.starts_with("## Run: ")).collect();
        assert_eq!(entries, [4, 3, 2, 1].map(|n| format!("## Run: 2026-01-0{n}-place{n}")));
    }
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
    assert!(text.contains("> The run was interrupted; what follows is what was finished."), "{text}");
    assert!(text.contains("> Not whole: 2 of 4 batches were decided."), "{text}");
    assert!(ended.text.contains("not the whole run: 2 of 4 batches were decided"), "{}", ended.text);

    // A resumed run keeps the command that started it.
    let mut command = coordinator();
    command.args(["run", "--resume"]).arg(&out).current_dir(workspace());
    let mut process = Process::start(command);
    process.line_with("taken up again");
    process.signal(nix::sys::signal::Signal::SIGINT);
    process.end();
    let text = fs::read_to_string(out.join("report.md")).expect("a report");
    assert!(text.contains("coordinator run experiments/plans/quickstart.toml") && !text.contains("--resume"), "{text}");
}

#[test]
fn shells_and_manuals_know_every_command() {
    let dir = tempfile::tempdir().expect("dir");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ended = said_by(&["completions", shell], &[]);
        assert_eq!(ended.code(), Some(0));
        for name in ["report", "log", "batch-sizes"] {
            assert!(ended.text.contains(name), "{shell} lacks {name}");
        }
    }
    let script = dir.path().join("completions.bash");
    for program in ["coordinator", "agent", "refserver"] {
        let ended = said_by(&["completions", "bash", "--for", program], &[]);
        fs::write(&script, ended.text).expect("written");
        let mut bash = Command::new("bash");
        // The completions for a program's name and `--`.
        bash.arg("-c").arg(format!(
            "source {} && COMP_WORDS=({program} --) COMP_CWORD=1 && _{program} {program} -- {program} && echo \"${{COMPREPLY[@]}}\"",
            script.display()
        ));
        let said = run(bash);
        assert!(said.text.contains("--help"), "{program}: {}", said.text);
    }
    let ended = said_by(&["man", "--output"], &[dir.path()]);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    for page in ["coordinator.1", "coordinator-run.1", "coordinator-plan-init.1", "agent.1", "refserver.1"] {
        let text = fs::read_to_string(dir.path().join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
        assert!(text.contains(".TH"), "{page}");
    }
    assert!(said_by(&["man"], &[]).text.contains(".TH coordinator 1"));
    // Examples can be copied from the page: their lines are not filled, and hyphens are those of a shell.
    let page = fs::read_to_string(dir.path().join("coordinator-run.1")).expect("a page");
    for part in [
        ".SH \"EXAMPLES\"\n.nf\n  coordinator run experiments/plans/quickstart.toml\n",
        "coordinator run \\-\\-resume experiments/results/local/2026\\-11\\-24\n.fi\n",
        ".SH \"EXIT STATUS\"\n.nf\n  0 done ",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
}

/// The flags of the Python script.
#[test]
fn flags_of_the_script_are_understood() {
    let mut command = coordinator();
    command.args([
        "check",
        "--url",
        "http://127.0.0.1:1",
        "--requests-grid",
        "4,8",
        "--wait-grid",
        "0.5",
        "--reps",
        "2",
        "--compare",
    ]);
    let ended = run(command);
    assert_eq!(ended.code(), Some(0), "{}", ended.text);
    assert!(ended.text.contains("ws+http") && ended.text.contains("8 batches"), "{}", ended.text);
    let mut command = coordinator();
    command.args(["check", "--target", "http://127.0.0.1:1", "--batch-sizes", "4 8", "--wait", "x"]);
    let ended = run(command);
    assert!(ended.text.contains("whole numbers with commas between them"), "{}", ended.text);
}

/// `script` provides a terminal.
#[test]
fn colours_only_where_they_are_wanted() {
    let said = |no_color: Option<&str>| {
        let program = env!("CARGO_BIN_EXE_coordinator");
        let mut command = Command::new("script");
        // An agent without a coordinator reports an error at once, in colour.
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
