//! The identity folder on disk. It is refused where other users could read its keys or change its files.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;

use super::certs::{self, Leaf};

pub const CA_CERT: &str = "ca.pem";
pub const CA_KEY: &str = "ca.key";
pub const AGENT_CERT: &str = "agent.pem";
pub const AGENT_KEY: &str = "agent.key";
pub const DIR_MODE: u32 = 0o700;
pub const KEY_MODE: u32 = 0o600;

/// Why an identity can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error(
        "no identity in {0}; on the machine that has one, or shares this home folder: `coordinator identity init`; for a \
         machine without a shared home folder: `coordinator identity issue-agent DIR`, copied here, and --identity DIR"
    )]
    Missing(PathBuf),
    #[error("{0}")]
    Unsafe(String),
    #[error("{0}")]
    Broken(String),
}

/// How the owner of a folder proves itself.
#[derive(Debug)]
pub(super) enum Credentials {
    /// The authority's certificate and key, PEM.
    Authority { cert: String, key: String },
    /// A certificate that was issued for an agent.
    Agent(Leaf),
}

/// Where an identity is looked for without `--identity`; `None` for a user without a home folder.
#[must_use]
pub fn default_dir() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    // XDG base directory specification: a relative path there is to be ignored.
    let config = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")))?;
    Some(config.join("muster").join("identity"))
}

/// Reads the authority's certificate and the credentials of a folder, and checks that nobody else can read its keys or
/// change its files.
///
/// # Errors
/// [`IdentityError::Missing`] if there is none; otherwise what is wrong with it, and the remedy.
pub(super) fn load(dir: &Path) -> Result<(CertificateDer<'static>, Credentials), IdentityError> {
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
    check_owner(&metadata, dir)?;
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
    let credentials = if let Some(key) = read(dir, CA_KEY, true)? {
        Credentials::Authority { cert: ca_pem, key }
    } else {
        let missing = || IdentityError::Missing(dir.to_path_buf());
        let key = read(dir, AGENT_KEY, true)?.ok_or_else(missing)?;
        let certificate = read(dir, AGENT_CERT, false)?.ok_or_else(missing)?;
        Credentials::Agent(certs::leaf(&certificate, &key).map_err(|error| broken(dir, AGENT_CERT, &error))?)
    };
    Ok((ca, credentials))
}

fn broken(dir: &Path, name: &str, error: &dyn std::error::Error) -> IdentityError {
    IdentityError::Broken(format!("{}: {error}; copy it again from where it was made", dir.join(name).display()))
}

/// Refuses what belongs to another user, who could change it.
fn check_owner(metadata: &fs::Metadata, path: &Path) -> Result<(), IdentityError> {
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

/// The text of a file; `None` if there is none. A secret file is refused if others can read it, any file if they can
/// change it.
fn read(dir: &Path, name: &str, secret: bool) -> Result<Option<String>, IdentityError> {
    let path = dir.join(name);
    let cant = |error: io::Error| IdentityError::Broken(format!("{}: {error}", path.display()));
    let mut file = match fs::File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(cant(error)),
    };
    // Metadata of the open file, so that the file that is checked is the one that is read.
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
    check_owner(&metadata, &path)?;
    let mut text = String::new();
    io::Read::read_to_string(&mut file, &mut text).map_err(cant)?;
    Ok(Some(text))
}
