//! The path of the results folder: every run gets a new one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::plan::Plan;

/// Most suffixes that are tried.
const SAME_NAME_MAX: u32 = 10_000;

/// The path of `output.dir` with its placeholders filled in. `date` is `YYYY-MM-DD`.
#[must_use]
pub fn resolve(plan: &Plan, date: &str) -> PathBuf {
    let experiment = &plan.experiment;
    let infrastructure = if experiment.variant.is_empty() || plan.output.dir.contains("{variant}") {
        experiment.infrastructure.clone()
    } else {
        format!("{}-{}", experiment.infrastructure, experiment.variant)
    };
    let filled = plan
        .output
        .dir
        .replace("{infrastructure}", &infrastructure)
        .replace("{variant}", &experiment.variant)
        .replace("{date}", date);
    PathBuf::from(filled)
}

/// Creates `wanted`, or the first of `wanted-2`, `wanted-3`, ... that does not exist.
///
/// # Errors
/// If the folder can't be created.
pub fn create(wanted: &Path) -> io::Result<PathBuf> {
    let named = |path: &Path, error: io::Error| {
        io::Error::new(
            error.kind(),
            format!("{} can't be created: {error}; give another folder with --output", path.display()),
        )
    };
    if let Some(parent) = wanted.parent() {
        fs::create_dir_all(parent).map_err(|error| named(parent, error))?;
    }
    let base = wanted.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    for n in 1..=SAME_NAME_MAX {
        let path = if n == 1 { wanted.to_path_buf() } else { wanted.with_file_name(format!("{base}-{n}")) };
        match fs::create_dir(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(named(&path, error)),
        }
    }
    Err(named(wanted, io::Error::other(format!("{SAME_NAME_MAX} folders of that name exist"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::check::plan_of;

    #[test]
    fn a_folder_that_exists_is_left_alone() {
        let dir = tempfile::tempdir().expect("dir");
        let wanted = dir.path().join("results/2026-11-24");
        let made: Vec<PathBuf> = (0..3).map(|_| create(&wanted).expect("created")).collect();
        let names: Vec<_> = made.iter().map(|path| path.file_name().expect("name").to_owned()).collect();
        assert_eq!(names, ["2026-11-24", "2026-11-24-2", "2026-11-24-3"]);
    }

    #[test]
    fn a_folder_that_can_not_be_names_itself_and_the_way_out() {
        let dir = tempfile::tempdir().expect("dir");
        let file = dir.path().join("file");
        fs::write(&file, "").expect("written");
        let error = create(&file.join("results")).expect_err("a file is no folder").to_string();
        assert!(error.contains("file") && error.contains("--output"), "{error}");
    }

    #[test]
    fn placeholders_are_filled_in() {
        let plan = |text: &str| {
            plan_of(&format!("[target]\nurls=\"http://h\"\n[grid]\nbatch_sizes=[1]\n{text}")).expect("plan")
        };
        let path = |text: &str| resolve(&plan(text), "2026-11-24").display().to_string();
        assert_eq!(path(""), "experiments/results/local/2026-11-24");
        assert_eq!(path("[experiment]\nvariant=\"big\""), "experiments/results/local-big/2026-11-24");
        assert_eq!(
            path("[experiment]\nvariant=\"big\"\n[output]\ndir=\"/r/{variant}/{infrastructure}-{date}\""),
            "/r/big/local-2026-11-24"
        );
    }
}
