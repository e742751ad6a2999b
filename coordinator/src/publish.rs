//! Writes reports and figures into folders.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::report::charts::{self, Extent};
use crate::report::document::Document;
use crate::report::figures::{Figure, png};
use crate::report::{html, markdown};
use crate::store::named;

/// PNG pixels per SVG pixel, for high-density screens.
const PNG_SCALE: f32 = 2.0;

pub const REPORT: &str = "report.md";
pub const PAGE: &str = "report.html";
pub const FIGURES: &str = "figures";

/// Writes report.md, report.html and figures/ into `dir`, which is created if needed. Returns the written files.
///
/// # Errors
/// The error names the path that could not be written.
pub fn report(dir: &Path, document: &Document) -> io::Result<Vec<PathBuf>> {
    fs::create_dir_all(dir).map_err(named(dir))?;
    let mut written = figures(&dir.join(FIGURES), &document.figures())?;
    let (text, page) = (dir.join(REPORT), dir.join(PAGE));
    replace(&text, markdown::render(document, Some(&format!("{FIGURES}/"))).as_bytes())?;
    replace(&page, html::render(document).as_bytes())?;
    written.extend([text, page]);
    Ok(written)
}

/// Writes every figure as SVG and as PNG, and returns their paths. Outdated figures of an earlier report are removed.
///
/// # Errors
/// The error names the path that could not be written.
pub fn figures(dir: &Path, figures: &[&Figure]) -> io::Result<Vec<PathBuf>> {
    fs::create_dir_all(dir).map_err(named(dir))?;
    let mut written = Vec::new();
    for figure in figures {
        let pixels =
            png(&figure.svg, PNG_SCALE).map_err(|error| io::Error::other(format!("{}: {error}", figure.name)))?;
        for (kind, bytes) in [("svg", figure.svg.as_bytes()), ("png", &pixels)] {
            let path = dir.join(format!("{}.{kind}", figure.name));
            replace(&path, bytes)?;
            written.push(path);
        }
    }
    for entry in fs::read_dir(dir).map_err(named(dir))? {
        let path = entry.map_err(named(dir))?.path();
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        let drawn = path.extension().is_some_and(|extension| extension == "svg" || extension == "png");
        // Only what has the name of a figure of some batch or mode: others may keep their own pictures here.
        let mut each = charts::FIGURES.iter().filter(|kind| kind.extent == Extent::EachOfRun);
        let of_ours = each.any(|kind| stem.starts_with(kind.stem));
        if drawn && of_ours && !figures.iter().any(|figure| figure.name == stem) {
            fs::remove_file(&path).map_err(named(&path))?;
        }
    }
    Ok(written)
}

/// Replaces a file atomically, so that readers see either the old or the new text. A symbolic link stays a link, and
/// the file keeps its permissions.
///
/// # Errors
/// The error names the path that could not be written.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let place = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    // Other processes may write the same file.
    let mut temporary = place.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = Path::new(&temporary);
    let write = || {
        fs::write(temporary, bytes)?;
        if let Ok(before) = fs::metadata(&place) {
            fs::set_permissions(temporary, before.permissions())?;
        }
        fs::rename(temporary, &place)
    };
    write().map_err(named(path)).inspect_err(|_| {
        // A partial file is of no use.
        let _ = fs::remove_file(temporary);
    })
}
