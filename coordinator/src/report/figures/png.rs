//! PURE: an SVG of this module as PNG.

use std::sync::{Arc, LazyLock};

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

use super::font::TTF;

/// Only the font that is compiled in: what a machine has installed changes nothing.
static FONTS: LazyLock<Arc<fontdb::Database>> = LazyLock::new(|| {
    let mut fonts = fontdb::Database::new();
    fonts.load_font_source(fontdb::Source::Binary(Arc::new(TTF)));
    Arc::new(fonts)
});

/// The most pixels of a picture: 256 MiB while it is drawn.
const PIXELS_MAX: f32 = 64.0 * 1024.0 * 1024.0;

/// The same picture as PNG; at `scale` 2 it has two pixels for each of the SVG's.
///
/// # Errors
/// If it is no SVG, or the picture would be of no size or of more than 64 Mi pixels.
pub fn png(svg: &str, scale: f32) -> Result<Vec<u8>, String> {
    let options = Options { fontdb: FONTS.clone(), font_family: "Noto Sans".to_owned(), ..Options::default() };
    let tree = Tree::from_str(svg, &options).map_err(|error| format!("the SVG can't be read: {error}"))?;
    let (width, height) = (tree.size().width() * scale, tree.size().height() * scale);
    let pixels = (width.ceil() * height.ceil()).abs();
    let size = resvg::tiny_skia::Size::from_wh(width, height).filter(|_| pixels <= PIXELS_MAX);
    let size = size.ok_or_else(|| format!("a picture of {width} x {height} pixels can't be made"))?.to_int_size();
    let mut picture = Pixmap::new(size.width(), size.height()).ok_or("a picture of no size can't be made")?;
    resvg::render(&tree, Transform::from_scale(scale, scale), &mut picture.as_mut());
    // Not by the png crate itself, which would be compiled into this crate, slow in debug builds.
    picture.encode_png().map_err(|error| error.to_string())
}
