//! PURE: the colours of the figures, for light and dark pages, and the sizes of text.

use std::fmt::Write as _;

/// The colour of one role as 0xRRGGBB, on a white and on a dark page.
///
/// The SVG has the light value. It is unique to its role, so that a dark page can find it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Colour {
    pub(super) light: u32,
    pub(super) dark: u32,
}

const fn colour(light: u32, dark: u32) -> Colour {
    Colour { light, dark }
}

/// The background.
pub(super) const PAPER: Colour = colour(0xFFFFFF, 0x0D1117);
/// Labels and numbers.
pub(super) const INK: Colour = colour(0x1B1F24, 0xE6EDF3);
/// Titles of axes, ticks and remarks.
pub(super) const MUTED: Colour = colour(0x59636E, 0x9BA7B4);
/// Base lines and other bounds of the data.
pub(super) const AXIS: Colour = colour(0x9AA4AF, 0x57626E);
pub(super) const GRID: Colour = colour(0xE6EAEE, 0x262D35);
/// Other lines, behind the one that is shown.
pub(super) const GHOST: Colour = colour(0xD3D9DF, 0x363F49);

/// The only series of a figure.
pub(super) const MAIN: Colour = SERIES[0];
/// Failures.
pub(super) const BAD: Colour = SERIES[1];

/// The colours of Okabe and Ito, dark enough for thin lines on white. Neighbours also differ in lightness.
pub(super) const SERIES: [Colour; 6] = [
    colour(0x0072B2, 0x58A6E8),
    colour(0xD55E00, 0xFF8A4C),
    colour(0x00916A, 0x35C79B),
    colour(0xB4569A, 0xE39AD0),
    colour(0xBF8300, 0xE8BB3F),
    colour(0x4A5568, 0xB3BECC),
];

/// The colours from little to much, in one hue: lightness alone shows the order. On a dark page much is light.
pub(super) const HEAT: [Colour; 7] = [
    colour(0xF1F6FA, 0x16222E),
    colour(0xD8E7F2, 0x1A2F43),
    colour(0xB3D2E8, 0x1E405D),
    colour(0x85B7DB, 0x24547B),
    colour(0x5799CA, 0x2D6896),
    colour(0x1F659F, 0x62A2D4),
    colour(0x0B3F70, 0xB9DBF4),
];
/// Numbers on the lighter cells of `HEAT`; below it, those on darker cells.
const ON_LIGHT: Colour = colour(0x1C2025, 0xE5ECF2);
const ON_DARK: Colour = colour(0xFEFEFE, 0x0E1218);

/// The colour of a number on this step of `HEAT`.
pub(super) const fn on_heat(step: usize) -> Colour {
    if step < 5 { ON_LIGHT } else { ON_DARK }
}

/// All colours.
pub(super) fn palette() -> impl Iterator<Item = Colour> {
    [PAPER, INK, MUTED, AXIS, GRID, GHOST, ON_LIGHT, ON_DARK].into_iter().chain(SERIES).chain(HEAT)
}

/// Heights of text in pixels, for a figure of 900 pixels' width.
pub(super) const TITLE_PX: f64 = 17.0;
pub(super) const LABEL_PX: f64 = 13.0;
pub(super) const SMALL_PX: f64 = 12.0;

/// Font families for browsers: the embedded font first, then fonts of about the same width or narrower.
pub(super) const FONTS: &str = "Noto Sans, Helvetica, Arial, sans-serif";

/// CSS rules that recolour inlined figures for a dark page; `scope` selects the SVGs, such as `figure svg`.
///
/// They use attribute selectors, so that the SVG stays unchanged. They apply unconditionally: wrap them in
/// `@media (prefers-color-scheme: dark)` as needed.
#[must_use]
pub fn dark_css(scope: &str) -> String {
    let mut css = String::new();
    for Colour { light, dark } in palette() {
        for attribute in ["fill", "stroke"] {
            let rule = writeln!(css, "{scope} [{attribute}=\"#{light:06X}\"]{{{attribute}:#{dark:06x}}}");
            debug_assert!(rule.is_ok(), "a String takes everything");
        }
    }
    css
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// WCAG's relative luminance, 0 to 1.
    fn luminance(rgb: u32) -> f64 {
        let part = |shift: u32| {
            let value = f64::from(rgb >> shift & 0xFF) / 255.0;
            if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
        };
        0.2126 * part(16) + 0.7152 * part(8) + 0.0722 * part(0)
    }

    /// WCAG's contrast of two colours, 1 to 21.
    fn contrast(a: u32, b: u32) -> f64 {
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn a_light_colour_says_which_role_it_is() {
        let lights: BTreeSet<u32> = palette().map(|colour| colour.light).collect();
        assert_eq!(lights.len(), palette().count());
        let css = dark_css("figure svg");
        assert!(css.contains("figure svg [fill=\"#1B1F24\"]{fill:#e6edf3}\n"), "{css}");
        assert_eq!(css.lines().count(), 2 * palette().count());
    }

    #[test]
    fn text_and_marks_stand_out_on_light_and_dark_pages() {
        for text in [INK, MUTED] {
            assert!(contrast(text.light, PAPER.light) >= 4.5 && contrast(text.dark, PAPER.dark) >= 4.5, "{text:?}");
        }
        for mark in SERIES {
            assert!(contrast(mark.light, PAPER.light) >= 3.0 && contrast(mark.dark, PAPER.dark) >= 3.0, "{mark:x?}");
        }
        for (step, cell) in HEAT.into_iter().enumerate() {
            let text = on_heat(step);
            let (light, dark) = (contrast(text.light, cell.light), contrast(text.dark, cell.dark));
            assert!(light >= 4.5 && dark >= 4.5, "step {step}: {light:.1} {dark:.1}");
        }
        for pair in HEAT.windows(2) {
            assert!(luminance(pair[0].light) > luminance(pair[1].light), "{pair:x?}");
            assert!(luminance(pair[0].dark) < luminance(pair[1].dark), "{pair:x?}");
        }
    }
}
