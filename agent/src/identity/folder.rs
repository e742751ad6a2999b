//! The folder on disk: found, read, and refused where others could read or change it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::certs;
use super::{Holds, Identity, IdentityError};

pub const CA_CERT: &str = "ca.pem";
pub const CA_KEY: &str = "ca.key";
pub const AGENT_CERT: &str = "agent.pem";
pub const AGENT_KEY: &str = "agent.key";
pub const DIR_MODE: u32 = 0o700;
pub const KEY_MODE: u32 = 0o600;

/// Where the identity is looked for without `--identity`; `None` where a user has no home folder.
#[must_use]
pub fn default_dir() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    // XDG base directory specification: a relative path there is to be ignored.
    let config = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")))?;
    Some(config.join("muster").join("identity"))
}

pub(super) fn load(dir: &Path) -> Result<Identity, IdentityError> {
    let metadata = match fs::metadata(dir) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(IdentityError::Missing(dir.to_path_buf()));
        }
        Err(error) => {
            let text = format!("{}: {error}; give another identity folder with --identity DIR", dir.display());
            return Err(IdentityError::Broken(text));
        }
    };
    if !metadata.is_dir() {
        return Err(IdentityError::Broken(format!("{} is no folder; give an identity folder", dir.display())));
    }
    own(&metadata, dir)?;
    if metadata.mode() & 0o022 != 0 {
        return Err(IdentityError::Unsafe(format!(
            "{} can be written by others (mode {:03o}): they could put another identity there; run `chmod 700 {}`",
            dir.display(),
            metadata.mode() & 0o777,
            dir.display()
        )));
    }
    let ca_pem = read(dir, CA_CERT, false)?.ok_or_else(|| IdentityError::Missing(dir.to_path_buf()))?;
    let ca = certs::certificate(&ca_pem).map_err(|error| broken(dir, CA_CERT, &error))?;
    let holds = if let Some(key) = read(dir, CA_KEY, true)? {
        Holds::CaKey { cert: ca_pem, key }
    } else {
        let missing = || IdentityError::Missing(dir.to_path_buf());
        let key = read(dir, AGENT_KEY, true)?.ok_or_else(missing)?;
        let certificate = read(dir, AGENT_CERT, false)?.ok_or_else(missing)?;
        Holds::AgentLeaf(certs::leaf(&certificate, &key).map_err(|error| broken(dir, AGENT_CERT, &error))?)
    };
    Ok(Identity { dir: dir.to_path_buf(), ca, holds })
}

fn broken(dir: &Path, name: &str, error: &dyn std::error::Error) -> IdentityError {
    IdentityError::Broken(format!("{}: {error}; copy it again from where it was made", dir.join(name).display()))
}

/// Whatever belongs to another user can be changed by that user.
fn own(metadata: &fs::Metadata, path: &Path) -> Result<(), IdentityError> {
    let own = nix::unistd::geteuid().as_raw();
    if metadata.uid() == own || metadata.uid() == 0 {
        return Ok(());
    }
    Err(IdentityError::Unsafe(format!(
        "{} belongs to another user (uid {}, this is {own}); use an identity folder of your own",
        path.display(),
        metadata.uid()
    )))
}

/// A file's text; a secret one only if nobody else can read or change it.
fn read(dir: &Path, name: &str, secret: bool) -> Result<Option<String>, IdentityError> {
    let path = dir.join(name);
    let cant = |error: io::Error| IdentityError::Broken(format!("{}: {error}", path.display()));
    let mut file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cant(error)),
    };
    // Of the open file: what is judged is what is read.
    let metadata = file.metadata().map_err(cant)?;
    let forbidden = if secret { 0o077 } else { 0o022 };
    if metadata.mode() & forbidden != 0 {
        return Err(IdentityError::Unsafe(format!(
            "{} can be {} by others (mode {:03o}); run `chmod {} {}`, and if they may have {} it, make a new identity",
            path.display(),
            if secret { "read" } else { "changed" },
            metadata.mode() & 0o777,
            if secret { "600" } else { "644" },
            path.display(),
            if secret { "read" } else { "changed" },
        )));
    }
    own(&metadata, &path)?;
    let mut text = String::new();
    io::Read::read_to_string(&mut file, &mut text).map_err(cant)?;
    Ok(Some(text))
}
