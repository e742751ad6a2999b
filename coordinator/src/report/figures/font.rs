//! PURE: the embedded font, and the width of text in it.

use std::sync::LazyLock;

use skrifa::charmap::Charmap;
use skrifa::instance::{LocationRef, Size};
use skrifa::metrics::GlyphMetrics;
use skrifa::{FontRef, MetadataProvider};

/// Noto Sans Regular, under the SIL Open Font License 1.1, which is part of the crate.
pub(super) const TTF: &[u8] = notosans::REGULAR_TTF;

static METRICS: LazyLock<Option<(Charmap<'_>, GlyphMetrics<'_>)>> = LazyLock::new(|| {
    let font = FontRef::new(TTF).ok()?;
    Some((font.charmap(), font.glyph_metrics(Size::new(1.0), LocationRef::default())))
});

/// How much wider the fonts are that a browser may use instead, such as DejaVu Sans.
const SLACK: f64 = 1.13;

/// The room that one line of text needs in any usual font, in the unit of `height`.
pub(super) fn width(text: &str, height: f64) -> f64 {
    let advance = |c: char| {
        let (signs, metrics) = METRICS.as_ref()?;
        signs.map(c).and_then(|glyph| metrics.advance_width(glyph))
    };
    // A browser takes missing characters from another font, in which most are as wide as they are high.
    text.chars().map(|c| advance(c).map_or(1.0, f64::from)).sum::<f64>() * height * SLACK
}

/// Most characters of a foreign name that are looked at.
const SIGNS_MAX: usize = 300;

/// The text, or the parts of its beginning and end that fit around an ellipsis: long names may differ in either of
/// them.
pub(super) fn fit(text: &str, height: f64, room: f64) -> String {
    let signs: Vec<char> = text.chars().take(SIGNS_MAX + 1).collect();
    if signs.len() <= SIGNS_MAX && width(text, height) <= room {
        return text.to_owned();
    }
    for kept in (0..signs.len().min(SIGNS_MAX)).rev() {
        let tail = kept / 3;
        let head: String = signs[..kept - tail].iter().collect();
        let end: String = signs[signs.len() - tail..].iter().collect();
        let shown = format!("{}…{}", head.trim_end(), end.trim_start());
        if width(&shown, height) <= room {
            return shown;
        }
    }
    String::new()
}

/// The text in at most two lines of at most `room`, broken at a space and cut by `fit`.
pub(super) fn wrap(text: &str, height: f64, room: f64) -> Vec<String> {
    let short = text.chars().nth(SIGNS_MAX).is_none();
    if short && width(text, height) > room {
        let breaks = text.match_indices(' ').map(|(at, _)| text.split_at(at));
        if let Some((first, second)) = breaks.take_while(|(first, _)| width(first, height) <= room).last() {
            return vec![first.to_owned(), fit(second.trim_start(), height, room)];
        }
    }
    vec![fit(text, height, room)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_the_fonts_own() {
        let figures = width("0123456789", 10.0) / SLACK;
        assert!((figures - 57.2).abs() < 0.1, "all of one width: {figures}");
        assert!(width("iiii", 10.0) < width("WWWW", 10.0) / 3.0);
        for sign in "≥≤×–—·…±µ%".chars() {
            assert!(METRICS.as_ref().is_some_and(|(signs, _)| signs.map(sign).is_some()), "{sign}");
        }
    }

    #[test]
    fn what_is_too_long_keeps_its_beginning_and_its_end() {
        let name = "hf-space-cpu-upgrade-eu-west-1-replica-12";
        let shown = fit(name, 13.0, 160.0);
        assert!(shown.starts_with("hf-space") && shown.ends_with("-12") && width(&shown, 13.0) <= 160.0, "{shown}");
        assert_eq!(fit("short", 13.0, 160.0), "short");
        assert_eq!(wrap("SLURM, two nodes, HAProxy", 13.0, 135.0), ["SLURM, two nodes,", "HAProxy"]);
        assert_eq!(fit(name, 13.0, 1.0), "");
        assert!(wrap(&"x ".repeat(10_000), 13.0, 100.0).iter().all(|line| width(line, 13.0) <= 100.0));
    }
}
