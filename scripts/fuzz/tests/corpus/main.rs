//! Every target over its seeds, and over mutations of them.
//!
//! `FUZZ_CASES` is the number of mutations of a target (2000), `FUZZ_SEED` repeats a run.

mod mutate;

use std::hash::{BuildHasher as _, Hasher as _};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use fuzz_bodies::{Accepts, TARGETS};

const CASES: u64 = 2_000;

fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)
}

/// Name and content, in the order of the names.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut seeds: Vec<_> = std::fs::read_dir(folder(target))
        .unwrap_or_else(|error| panic!("corpus/{target}: {error}; make the folder and put seeds into it"))
        .map(|entry| entry.expect("an entry").path())
        .map(|path| {
            (path.file_name().expect("a name").to_string_lossy().into_owned(), std::fs::read(path).expect("a file"))
        })
        .collect();
    seeds.sort();
    seeds
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text}: give a whole number")))
}

fn accepts(target: &str) -> Accepts {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    found.unwrap_or_else(|| panic!("{target} is no target; add it to TARGETS")).1
}

fn run(target: &str) {
    let accepts = accepts(target);
    let seeds = seeds(target);
    assert!(seeds.iter().any(|(name, _)| name.starts_with("good")), "no good seed: mutations of it go deepest");
    for (name, data) in &seeds {
        let taken = accepts(data);
        assert_eq!(taken, name.starts_with("good"), "corpus/{target}/{name}: names tell what is taken");
    }
    let seed = number("FUZZ_SEED").unwrap_or_else(|| std::hash::RandomState::new().build_hasher().finish());
    let cases = number("FUZZ_CASES").unwrap_or(CASES);
    eprintln!("{target}: {} seeds, {cases} mutations, FUZZ_SEED={seed}", seeds.len());
    let mut taken = 0;
    for case in 0..cases {
        let data = mutate::of(&seeds, seed, case);
        match catch_unwind(|| accepts(&data)) {
            Ok(yes) => taken += u64::from(yes),
            Err(_) => {
                let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{target}-{seed}-{case}"));
                std::fs::write(&kept, &data).expect("the input is kept");
                panic!(
                    "{target}: case {case} of FUZZ_SEED={seed} does not hold, see above; the input is in {}, copy it to \
                     corpus/{target}/ when it is mended:\n{}",
                    kept.display(),
                    data.escape_ascii()
                );
            }
        }
    }
    eprintln!("{target}: {taken} of {cases} mutations were taken");
}

macro_rules! targets {
    ($($target:ident),+ $(,)?) => {
        $(#[test]
        fn $target() {
            run(stringify!($target));
        })+

        const TESTED: &[&str] = &[$(stringify!($target)),+];
    };
}

targets!(
    plan,
    agent_message,
    coordinator_message,
    hello,
    heartbeat,
    histograms,
    upgrade_answer,
    ws_reply,
    http_reply,
    journal,
    hlog,
);

#[test]
fn no_target_is_forgotten() {
    let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, TESTED, "every target has a test");
    let manifest = include_str!("../../cargo-fuzz/Cargo.toml");
    for name in names {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in cargo-fuzz/Cargo.toml");
        let file = format!("{}/cargo-fuzz/fuzz_targets/{name}.rs", env!("CARGO_MANIFEST_DIR"));
        assert!(Path::new(&file).is_file(), "{file} is missing");
    }
}
