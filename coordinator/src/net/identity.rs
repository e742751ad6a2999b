//! The coordinator's identity folder. It is created atomically, so that several coordinators that start at once with
//! one home folder agree on one identity.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use agent::identity::{AGENT_CERT, AGENT_KEY, CA_CERT, CA_KEY, DIR_MODE, Identity, IdentityError, KEY_MODE, certs};

/// File mode of certificates, which are no secret.
const CERT_MODE: u32 = 0o644;

/// Loads the identity in `dir`, or creates it; `true` if it was created.
///
/// # Errors
/// If the folder is broken or unsafe, or can't be created.
pub fn load_or_create(dir: &Path) -> Result<(Identity, bool), IdentityError> {
    // A symbolic link is followed, not replaced.
    let dir = &fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    match Identity::load(dir) {
        Err(IdentityError::Missing(_)) => {}
        known => return known.map(|identity| (identity, false)),
    }
    let (cert, key) = certs::new_ca().map_err(|error| IdentityError::Broken(error.to_string()))?;
    let made = put_whole(dir, &[(CA_CERT, &cert, CERT_MODE), (CA_KEY, &key, KEY_MODE)]);
    let made = made.map_err(|error| IdentityError::Broken(cant(dir, &error)))?;
    Identity::load(dir).map(|identity| (identity, made))
}

/// Creates an identity folder, valid for `days`, for a machine that must not hold the authority's key.
///
/// # Errors
/// If `dir` exists or can't be created.
pub fn issue_agent(from: &Identity, dir: &Path, days: u32) -> Result<(), IdentityError> {
    let (cert, key) = from.issue_agent(days)?;
    let ca = from.ca_pem();
    let files = [(CA_CERT, ca.as_str(), CERT_MODE), (AGENT_CERT, &cert, CERT_MODE), (AGENT_KEY, &key, KEY_MODE)];
    match put_whole(dir, &files) {
        Ok(true) => Ok(()),
        Ok(false) => Err(IdentityError::Broken(format!("{} exists already; give a new folder", dir.display()))),
        Err(error) => Err(IdentityError::Broken(cant(dir, &error))),
    }
}

fn cant(dir: &Path, error: &io::Error) -> String {
    format!("the identity folder {} can't be made: {error}; give a place for it with --identity DIR", dir.display())
}

/// Creates a folder with these files under a temporary name and renames it to `dir`, which is atomic. Returns `false`
/// if `dir` exists: another process was first.
fn put_whole(dir: &Path, files: &[(&str, &str, u32)]) -> io::Result<bool> {
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(DIR_MODE).create(parent)?;
    let temporary = parent.join(format!(".muster-identity-{}", uuid::Uuid::new_v4()));
    let made = make(&temporary, files).and_then(|()| {
        match fs::rename(&temporary, dir) {
            Ok(()) => {
                File::open(parent)?.sync_all()?;
                Ok(true)
            }
            // rename(2) does not replace a folder that is not empty.
            Err(error) if matches!(error.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    });
    if !matches!(made, Ok(true)) {
        // No other process knows this name.
        let _ = fs::remove_dir_all(&temporary);
    }
    made
}

fn make(dir: &Path, files: &[(&str, &str, u32)]) -> io::Result<()> {
    DirBuilder::new().mode(DIR_MODE).create(dir)?;
    for (name, text, mode) in files {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(*mode).open(dir.join(name))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
    }
    File::open(dir)?.sync_all()
}

/// The identity folder: the one given by the flag, else the default in the user's home.
///
/// # Errors
/// If no folder is given and there is no home.
pub fn place(given: Option<&Path>) -> Result<PathBuf, IdentityError> {
    given.map(Path::to_path_buf).or_else(agent::identity::default_dir).ok_or_else(|| {
        IdentityError::Broken(
            "no home folder for an identity ($HOME is not set); give a place for it with --identity DIR".to_owned(),
        )
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn many_at_once_make_one() {
        let home = tempfile::tempdir().expect("dir");
        let dir = home.path().join("config/muster/identity");
        let barrier = Barrier::new(16);
        let made: Vec<(String, bool)> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..16)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        let (identity, made) = load_or_create(&dir).expect("identity");
                        (identity.ca_pem(), made)
                    })
                })
                .collect();
            all.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert_eq!(made.iter().filter(|(_, made)| *made).count(), 1);
        assert!(made.iter().all(|(ca, _)| *ca == made[0].0), "all have the same");
        let left: Vec<_> = fs::read_dir(dir.parent().expect("parent")).expect("list").collect();
        assert_eq!(left.len(), 1, "nothing half-made is left: {left:?}");
    }

    #[test]
    fn only_the_owner_can_read_it() {
        let home = tempfile::tempdir().expect("dir");
        let dir = home.path().join("identity");
        let (identity, made) = load_or_create(&dir).expect("identity");
        assert!(made);
        let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join(CA_KEY)), mode(&dir.join(CA_CERT))), (0o700, 0o600, 0o644));
        let issued = home.path().join("for-a-laptop");
        issue_agent(&identity, &issued, 30).expect("issued");
        assert_eq!((mode(&issued), mode(&issued.join(AGENT_KEY))), (0o700, 0o600));
        assert!(!issued.join(CA_KEY).exists());
        assert!(issue_agent(&identity, &issued, 30).expect_err("exists").to_string().contains("exists already"));
        assert!(Identity::load(&issued).expect("identity").client().is_ok());
    }

    #[test]
    fn a_place_that_can_not_be_names_itself_and_the_way_out() {
        let home = tempfile::tempdir().expect("dir");
        fs::write(home.path().join("file"), "").expect("written");
        let error = load_or_create(&home.path().join("file/identity")).expect_err("no folder").to_string();
        assert!(error.contains("file/identity") && error.contains("--identity"), "{error}");
    }
}
