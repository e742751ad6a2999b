//! PURE: renders an SVG of this module as PNG.

use std::sync::{Arc, LazyLock};

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

use super::font::TTF;

/// Only the embedded font, so that a machine's installed fonts change nothing.
static FONTS: LazyLock<Arc<fontdb::Database>> = LazyLock::new(|| {
    let mut fonts = fontdb::Database::new();
    fonts.load_font_source(fontdb::Source::Binary(Arc::new(TTF)));
    Arc::new(fonts)
});

/// Most pixels of a figure, which takes 256 MiB while it is rendered.
const PIXELS_MAX: f32 = 64.0 * 1024.0 * 1024.0;

/// Renders the SVG as PNG, with `scale` pixels for each of the SVG's in both directions.
///
/// # Errors
/// If it is no SVG, or the figure would have no pixels or more than 64 Mi.
pub fn png(svg: &str, scale: f32) -> Result<Vec<u8>, String> {
    let options = Options { fontdb: FONTS.clone(), font_family: "Noto Sans".to_owned(), ..Options::default() };
    let tree = Tree::from_str(svg, &options).map_err(|error| format!("the SVG can't be read: {error}"))?;
    let (width, height) = (tree.size().width() * scale, tree.size().height() * scale);
    let pixels = (width.ceil() * height.ceil()).abs();
    let size = resvg::tiny_skia::Size::from_wh(width, height).filter(|_| pixels <= PIXELS_MAX);
    let size = size.ok_or_else(|| format!("a picture of {width} x {height} pixels can't be made"))?.to_int_size();
    let mut picture = Pixmap::new(size.width(), size.height()).ok_or("a picture of no size can't be made")?;
    resvg::render(&tree, Transform::from_scale(scale, scale), &mut picture.as_mut());
    // The png crate's generic code would be compiled in this crate, and be slow in debug builds.
    picture.encode_png().map_err(|error| error.to_string())
}
