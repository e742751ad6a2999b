//! PURE: draws figures of 900 pixels' width as SVG. Only this module uses plotters.
//!
//! plotters' backend takes whole numbers, so the figure is drawn ten times as large and scaled down. Coordinates that
//! are NaN or outside of the figure are moved to its edge.

use plotters::backend::{DrawingBackend, SVGBackend};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{FontDesc, FontFamily, FontStyle, RGBAColor, ShapeStyle, TextStyle};

use super::font;
use super::theme::{Colour, FONTS, INK, LABEL_PX, MUTED, PAPER, SMALL_PX, TITLE_PX};

/// Width of every figure, in pixels.
pub(super) const WIDTH: f64 = 900.0;
/// Margin at the left and the right.
pub(super) const MARGIN: f64 = 16.0;
/// Top of the first element below the title.
pub(super) const TOP: f64 = 44.0;

/// Units of the SVG per pixel.
const FINE: f64 = 10.0;

/// The factor by which plotters divides the font size.
const POINTS: f64 = 1.24;

/// A colour and its opacity.
#[derive(Debug, Clone, Copy)]
pub(super) struct Paint(pub(super) Colour, pub(super) f64);

impl From<Colour> for Paint {
    fn from(colour: Colour) -> Self {
        Self(colour, 1.0)
    }
}

/// How a line is drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stroke {
    pub(super) paint: Paint,
    pub(super) width: f64,
    /// Lengths of dash and gap.
    pub(super) dash: Option<(f64, f64)>,
}

impl Stroke {
    pub(super) fn new(paint: impl Into<Paint>, width: f64) -> Self {
        Self { paint: paint.into(), width, dash: None }
    }

    pub(super) fn dashed(self, line: f64, gap: f64) -> Self {
        Self { dash: Some((line, gap)), ..self }
    }
}

/// How text is drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) size: f64,
    pub(super) colour: Colour,
    pub(super) side: Side,
}

/// The part of the text that is at its position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Middle,
    Right,
}

pub(super) const LABEL: Look = Look { size: LABEL_PX, colour: INK, side: Side::Left };
pub(super) const SMALL: Look = Look { size: SMALL_PX, colour: MUTED, side: Side::Left };

impl Look {
    pub(super) fn side(self, side: Side) -> Self {
        Self { side, ..self }
    }

    pub(super) fn colour(self, colour: Colour) -> Self {
        Self { colour, ..self }
    }

    pub(super) fn width(self, text: &str) -> f64 {
        font::width(text, self.size)
    }
}

/// One shape per colour, so that lines differ by more than their colour.
pub(super) const MARKS: [Mark; 6] = [Mark::Circle, Mark::Square, Mark::Up, Mark::Diamond, Mark::Down, Mark::Right];

/// The shape of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Circle,
    Square,
    Up,
    Diamond,
    Down,
    Right,
}

pub(super) type Point = (f64, f64);

/// The figure that is being drawn.
pub(super) struct Canvas<'a> {
    backend: SVGBackend<'a>,
    height: f64,
}

/// Draws a figure of this height in pixels and returns the SVG.
pub(super) fn draw(title: &str, height: f64, drawing: impl FnOnce(&mut Canvas<'_>)) -> String {
    let height = height.clamp(1.0, 100_000.0).ceil();
    let size = (units_u32(WIDTH), units_u32(height));
    let mut svg = String::new();
    {
        let mut canvas = Canvas { backend: SVGBackend::with_string(&mut svg, size), height };
        canvas.rect((0.0, 0.0), (WIDTH, height), PAPER);
        canvas.text((MARGIN, 22.0), title, Look { size: TITLE_PX, ..LABEL });
        drawing(&mut canvas);
        written(canvas.backend.present());
    }
    // Add a title for screen readers and a view box for scaling: plotters writes width and height in its own units.
    let body = svg.split_once('\n').map_or("", |(_, body)| body);
    let mut body = body.replace(" opacity=\"1\"", "").replace(" stroke=\"none\"", "");
    for height in [TITLE_PX, LABEL_PX, SMALL_PX].map(|px| px * FINE) {
        // The font size is 120 instead of 120.00000000000001.
        body = body.replace(&format!("font-size=\"{}\"", height * POINTS / POINTS), &format!("font-size=\"{height}\""));
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {} {}\" \
         role=\"img\">\n<title>{}</title>\n{body}",
        size.0,
        size.1,
        escaped(title)
    )
}

impl Canvas<'_> {
    /// Fills a rectangle between two corners.
    pub(super) fn rect(&mut self, from: Point, to: Point, paint: impl Into<Paint>) {
        let (from, to) = (self.at(from), self.at(to));
        let (from, to) = ((from.0.min(to.0), from.1.min(to.1)), (from.0.max(to.0), from.1.max(to.1)));
        written(self.backend.draw_rect(from, to, &shape(paint.into(), 1.0), true));
    }

    /// Draws the edge of a rectangle, inside of it.
    pub(super) fn frame(&mut self, from: Point, to: Point, stroke: Stroke) {
        let half = stroke.width / 2.0;
        let ((x0, y0), (x1, y1)) = ((from.0 + half, from.1 + half), (to.0 - half, to.1 - half));
        self.path(&[(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0 - half)], stroke);
    }

    /// Hatches a rectangle, to set it apart from measured values.
    pub(super) fn hatch(&mut self, from: Point, to: Point, stroke: Stroke) {
        let ((x0, y0), (x1, y1)) = (from, to);
        let (width, height) = (x1 - x0, y1 - y0);
        if !(width.is_finite() && height.is_finite()) || width <= 0.0 || height <= 0.0 {
            return;
        }
        // Each line has a constant x + y, from the left or lower edge to the upper or right one.
        let mut sum = 3.0;
        while sum < (width + height).min(4.0 * WIDTH) {
            let start = if sum <= height { (x0, y0 + sum) } else { (x0 + sum - height, y1) };
            let end = if sum <= width { (x0 + sum, y0) } else { (x1, y0 + sum - width) };
            self.path(&[start, end], stroke);
            sum += 6.0;
        }
    }

    pub(super) fn line(&mut self, from: Point, to: Point, stroke: Stroke) {
        self.path(&[from, to], stroke);
    }

    pub(super) fn path(&mut self, points: &[Point], stroke: Stroke) {
        let style = shape(stroke.paint, stroke.width);
        let pieces = match stroke.dash {
            Some((line, gap)) => dashes(points, line, gap),
            None => vec![points.to_vec()],
        };
        for piece in pieces {
            let mut at: Vec<(i32, i32)> = piece.into_iter().map(|point| self.at(point)).collect();
            at.dedup();
            if at.len() > 1 {
                written(self.backend.draw_path(at, &style));
            }
        }
    }

    pub(super) fn polygon(&mut self, points: &[Point], paint: impl Into<Paint>) {
        let mut at: Vec<(i32, i32)> = points.iter().map(|point| self.at(*point)).collect();
        at.dedup();
        written(self.backend.fill_polygon(at, &shape(paint.into(), 1.0)));
    }

    /// Draws a mark of this radius. A hollow one hides what is behind it.
    pub(super) fn mark(&mut self, mark: Mark, centre: Point, radius: f64, colour: Colour, hollow: bool) {
        let (x, y) = centre;
        let corners =
            |of: &[Point]| -> Vec<Point> { of.iter().map(|(dx, dy)| (x + dx * radius, y + dy * radius)).collect() };
        let corners = match mark {
            Mark::Circle => {
                let (at, radius) = (self.at(centre), units_u32(radius));
                let fill = if hollow { PAPER } else { colour };
                written(self.backend.draw_circle(at, radius, &shape(fill.into(), 1.0), true));
                if hollow {
                    written(self.backend.draw_circle(at, radius, &shape(colour.into(), 1.6), false));
                }
                return;
            }
            Mark::Square => corners(&[(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)]),
            Mark::Up => corners(&[(0.0, -1.2), (1.1, 0.8), (-1.1, 0.8)]),
            Mark::Diamond => corners(&[(0.0, -1.25), (1.25, 0.0), (0.0, 1.25), (-1.25, 0.0)]),
            Mark::Down => corners(&[(0.0, 1.2), (1.1, -0.8), (-1.1, -0.8)]),
            Mark::Right => corners(&[(1.2, 0.0), (-0.8, 1.1), (-0.8, -1.1)]),
        };
        self.polygon(&corners, if hollow { PAPER } else { colour });
        if hollow {
            let closed: Vec<Point> = corners.iter().chain(&corners[..2]).copied().collect();
            self.path(&closed, Stroke::new(colour, 1.6));
        }
    }

    /// Draws one line of text, vertically centred at the point.
    pub(super) fn text(&mut self, at: Point, text: &str, look: Look) {
        let text = shown(text);
        if text.trim().is_empty() {
            return;
        }
        let side = match look.side {
            Side::Left => HPos::Left,
            Side::Middle => HPos::Center,
            Side::Right => HPos::Right,
        };
        let font = FontDesc::new(FontFamily::Name(FONTS), look.size * FINE * POINTS, FontStyle::Normal);
        let colour = rgba(look.colour.into());
        let style = TextStyle::from(font).pos(Pos::new(side, VPos::Center)).color(&colour);
        // plotters centres text by the height of an x; capitals are centred a little lower.
        let at = self.at((at.0, at.1 + 0.1 * look.size));
        written(self.backend.draw_text(&text, &style, at));
    }

    /// Draws text on a background that hides the grid.
    pub(super) fn note(&mut self, at: Point, text: &str, look: Look) {
        let width = look.width(text);
        let left = match look.side {
            Side::Left => at.0,
            Side::Middle => at.0 - width / 2.0,
            Side::Right => at.0 - width,
        };
        let half = look.size * 0.55;
        self.rect((left - 2.0, at.1 - half), (left + width + 2.0, at.1 + half), PAPER);
        self.text(at, text, look);
    }

    /// Converts a point to units of the SVG, inside of the figure.
    #[expect(clippy::cast_possible_truncation, reason = "clamped to the picture")]
    fn at(&self, (x, y): Point) -> (i32, i32) {
        let inside = |value: f64, end: f64| {
            let value = if value.is_nan() { 0.0 } else { value.clamp(0.0, end) };
            (value * FINE).round() as i32
        };
        (inside(x, WIDTH), inside(y, self.height))
    }
}

/// Writing to a String does not fail.
fn written<E>(result: Result<(), E>) {
    debug_assert!(result.is_ok(), "a String takes everything");
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "of our own sizes")]
fn units_u32(px: f64) -> u32 {
    (px * FINE).round().max(1.0) as u32
}

#[expect(clippy::cast_possible_truncation, reason = "one byte each")]
fn rgba(Paint(colour, opacity): Paint) -> RGBAColor {
    let rgb = colour.light;
    RGBAColor((rgb >> 16) as u8, (rgb >> 8 & 0xFF) as u8, (rgb & 0xFF) as u8, opacity)
}

fn shape(paint: Paint, width: f64) -> ShapeStyle {
    ShapeStyle { color: rgba(paint), filled: true, stroke_width: units_u32(width) }
}

/// Replaces characters that XML 1.0 can't hold.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || matches!(c, '\u{FFFE}' | '\u{FFFF}') { '\u{FFFD}' } else { c }).collect()
}

fn escaped(text: &str) -> String {
    shown(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// The pieces of a dashed line.
fn dashes(points: &[Point], line: f64, gap: f64) -> Vec<Vec<Point>> {
    let mut pieces = Vec::new();
    let (mut drawn, mut left) = (true, line.max(1.0));
    let mut piece: Vec<Point> = points.first().copied().into_iter().collect();
    for pair in points.windows(2) {
        let (mut from, to) = (pair[0], pair[1]);
        loop {
            let length = (to.0 - from.0).hypot(to.1 - from.1);
            if !length.is_finite() || length <= left {
                left -= if length.is_finite() { length } else { 0.0 };
                if drawn {
                    piece.push(to);
                }
                break;
            }
            from = (from.0 + (to.0 - from.0) * left / length, from.1 + (to.1 - from.1) * left / length);
            if drawn {
                piece.push(from);
                pieces.push(std::mem::take(&mut piece));
            } else {
                piece = vec![from];
            }
            drawn = !drawn;
            left = if drawn { line } else { gap }.max(1.0);
        }
    }
    if drawn {
        pieces.push(piece);
    }
    pieces
}
