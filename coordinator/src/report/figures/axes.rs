//! PURE: draws axes, keys and labels that do not overlap.

use super::Source;
use super::canvas::{Canvas, LABEL, Look, MARGIN, Mark, Point, SMALL, Side, Stroke};
use super::font;
use super::scale::{Scale, count_of};
use super::theme::{AXIS, GRID, INK, MUTED};

/// Least space between two labels of one axis, in pixels.
const APART: f64 = 8.0;

/// Distance between two rows of an axis' labels.
pub(super) const LABEL_ROW: f64 = 15.0;

/// Draws ticks and their labels below `y`; of overlapping labels the later one is kept.
pub(super) fn below(canvas: &mut Canvas<'_>, scale: &Scale, y: f64, ticks: &[(f64, String)]) {
    below_in(canvas, scale, y, ticks, &label_rows(scale, ticks, 1));
}

/// Draws ticks below `y`, with each label in its row.
pub(super) fn below_in(
    canvas: &mut Canvas<'_>,
    scale: &Scale,
    y: f64,
    ticks: &[(f64, String)],
    rows: &[Option<usize>],
) {
    for ((value, label), row) in ticks.iter().zip(rows) {
        let x = scale.at(*value);
        canvas.line((x, y), (x, y + 4.0), Stroke::new(AXIS, 1.0));
        if let Some(row) = row {
            let at = (label_at(scale, *value, label).0, y + 14.0 + LABEL_ROW * count_of(*row));
            canvas.text(at, label, SMALL.side(Side::Middle));
        }
    }
}

/// Chooses the first row with room for each label, from the last label back; `None` if no row has room.
pub(super) fn label_rows(scale: &Scale, ticks: &[(f64, String)], rows: usize) -> Vec<Option<usize>> {
    let mut free_until = vec![f64::INFINITY; rows];
    let row = |(value, label): &(f64, String)| {
        let (x, half) = label_at(scale, *value, label);
        let row = free_until.iter().position(|free| x + half + APART <= *free)?;
        free_until[row] = x - half;
        Some(row)
    };
    let mut found: Vec<Option<usize>> = ticks.iter().rev().map(row).collect();
    found.reverse();
    found
}

/// The middle of a tick's label and half of its width. At the figure's edge the label is moved inwards.
fn label_at(scale: &Scale, value: f64, label: &str) -> Point {
    let half = SMALL.width(label) / 2.0;
    (scale.at(value).clamp(half + 2.0, (super::canvas::WIDTH - half - 2.0).max(half + 2.0)), half)
}

/// Draws labels above `y`, for an axis that is far below.
pub(super) fn above(canvas: &mut Canvas<'_>, scale: &Scale, y: f64, ticks: &[(f64, String)]) {
    for (value, label) in ticks {
        canvas.text((scale.at(*value), y - 9.0), label, SMALL.side(Side::Middle));
    }
}

/// Draws horizontal lines, with their labels to the left of `x0`, from the bottom up. Of overlapping labels the first
/// is kept.
pub(super) fn across(canvas: &mut Canvas<'_>, scale: &Scale, (x0, x1): Point, ticks: &[(f64, String)]) {
    let mut taken: Vec<f64> = Vec::new();
    for (value, label) in ticks {
        let y = scale.at(*value);
        canvas.line((x0, y), (x1, y), Stroke::new(GRID, 1.0));
        if taken.iter().all(|other| (other - y).abs() >= 15.0) {
            canvas.text((x0 - 8.0, y), label, SMALL.side(Side::Right));
            taken.push(y);
        }
    }
}

/// Draws vertical lines from `y0` to `y1`.
pub(super) fn down(canvas: &mut Canvas<'_>, scale: &Scale, (y0, y1): Point, ticks: &[(f64, String)]) {
    for (value, _) in ticks {
        canvas.line((scale.at(*value), y0), (scale.at(*value), y1), Stroke::new(GRID, 1.0));
    }
}

/// The ticks of a scale, with their numbers.
pub(super) fn numbered(scale: &Scale, at_most: f64) -> Vec<(f64, String)> {
    let ticks = scale.ticks(at_most);
    let step = ticks.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
    let step = if step.is_finite() { step } else { 1.0 };
    ticks.into_iter().map(|value| (value, super::scale::number(value, step))).collect()
}

/// Ticks of a logarithmic scale whose labels all have room: 1, 2, 5 in each decade, or decades only, or fewer.
pub(super) fn fitting(scale: &Scale) -> Vec<(f64, String)> {
    let all_fit = |ticks: &Vec<(f64, String)>| label_rows(scale, ticks, 1).iter().all(Option::is_some);
    [40.0, 10.0, 5.0]
        .into_iter()
        .map(|at_most| numbered(scale, at_most))
        .find(all_fit)
        .unwrap_or_else(|| numbered(scale, 3.0))
}

/// Moves heights apart: at least `pitch` from each other, in the same order, and within `low..=high` as far as they fit
/// there.
pub(super) fn spread(wanted: &[f64], pitch: f64, low: f64, high: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
    let mut places = vec![0.0; wanted.len()];
    let mut next = low;
    for n in &order {
        places[*n] = wanted[*n].max(next);
        next = places[*n] + pitch;
    }
    let mut last = high.max(low + pitch * (count_of(wanted.len()) - 1.0).max(0.0));
    for n in order.iter().rev() {
        places[*n] = places[*n].min(last);
        last = places[*n] - pitch;
    }
    places
}

/// Distance between two entries of a key.
pub(super) const KEY_PITCH: f64 = 18.0;
/// Longest connection between a line's end and its name, in pixels.
const LEADER_MAX: f64 = 60.0;

/// An entry of a key, to the right of a panel.
pub(super) struct Entry {
    pub(super) label: String,
    pub(super) tag: &'static str,
    pub(super) stroke: Stroke,
    pub(super) mark: Option<(Mark, bool)>,
    /// The end of the entry's line.
    pub(super) end: Point,
}

/// Names lines at their ends instead of in a separate box: from `x` to the right edge of the figure.
pub(super) fn key(canvas: &mut Canvas<'_>, x: f64, (low, high): Point, entries: &[Entry]) {
    let wanted: Vec<f64> = entries.iter().map(|entry| entry.end.1).collect();
    for (entry, y) in entries.iter().zip(spread(&wanted, KEY_PITCH, low, high)) {
        // A longer connection would look like one more line.
        if x - entry.end.0 < LEADER_MAX {
            canvas.line(entry.end, (x, y), Stroke::new(super::theme::GHOST, 1.0));
        }
        canvas.line((x, y), (x + 26.0, y), entry.stroke);
        if let Some((mark, hollow)) = entry.mark {
            canvas.mark(mark, (x + 13.0, y), 4.0, entry.stroke.paint.0, hollow);
        }
        let name = named(&entry.label, entry.tag, super::canvas::WIDTH - MARGIN - x - 32.0);
        canvas.text((x + 32.0, y), &name, LABEL);
    }
}

/// The room that `key` needs for these labels and tags, in pixels.
pub(super) fn key_room<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> f64 {
    let widths = labels.map(|(label, tag)| LABEL.width(&named(label, tag, f64::INFINITY)));
    widths.fold(40.0, f64::max).min(275.0) + 32.0
}

/// A label with a tag in brackets, in at most this room: the label is cut, the tag is not.
pub(super) fn named(label: &str, tag: &str, room: f64) -> String {
    if tag.is_empty() {
        return font::fit(label, LABEL.size, room);
    }
    let tag = format!(" ({tag})");
    font::fit(label, LABEL.size, room - LABEL.width(&tag)) + &tag
}

/// The tag of a source, beside a label.
pub(super) fn tag(source: Source) -> &'static str {
    match source {
        Source::Here => "",
        Source::Published => "published",
    }
}

/// The labels of rows, at the left, in one or two lines each.
pub(super) struct Rows {
    lines: Vec<Vec<String>>,
    /// The right end of the labels, where the data may begin.
    pub(super) right: f64,
    /// The middle of each row.
    pub(super) middles: Vec<f64>,
    /// The lower end of the rows.
    pub(super) bottom: f64,
}

impl Rows {
    /// Rows from `top` on, of at least the height `pitch`, and higher for labels of two lines.
    pub(super) fn new<'a>(
        labels: impl Iterator<Item = (&'a str, Source)>,
        top: f64,
        pitch: f64,
        room_max: f64,
    ) -> Self {
        let lines: Vec<Vec<String>> = labels.map(|(label, source)| row_label(label, source, room_max)).collect();
        let widths = lines.iter().flatten().map(|line| LABEL.width(line));
        let right = MARGIN + widths.fold(0.0, f64::max);
        let mut bottom = top;
        let height = |lines: &Vec<String>| pitch.max(if lines.len() > 1 { 39.0 } else { 0.0 });
        let middles = lines.iter().map(|lines| {
            bottom += height(lines);
            bottom - height(lines) / 2.0
        });
        let middles = middles.collect();
        Self { lines, right, middles, bottom }
    }

    pub(super) fn draw(&self, canvas: &mut Canvas<'_>) {
        for (lines, middle) in self.lines.iter().zip(&self.middles) {
            let first = middle - 8.0 * (count_of(lines.len()) - 1.0);
            for (n, line) in lines.iter().enumerate() {
                canvas.text((self.right, first + 16.0 * count_of(n)), line, LABEL.side(Side::Right));
            }
        }
    }
}

fn row_label(label: &str, source: Source, room: f64) -> Vec<String> {
    match tag(source) {
        "" => font::wrap(label, LABEL.size, room),
        tag => {
            let tag = format!(" ({tag})");
            let mut lines = font::wrap(label, LABEL.size, room - LABEL.width(&tag));
            if let Some(line) = lines.last_mut() {
                line.push_str(&tag);
            }
            lines
        }
    }
}

/// Draws the title of an axis, small and horizontal.
pub(super) fn title(canvas: &mut Canvas<'_>, at: Point, text: &str, side: Side) {
    canvas.text(at, text, Look { colour: MUTED, ..SMALL }.side(side));
}

/// The style of a number beside a mark.
pub(super) const VALUE: Look = Look { size: super::theme::LABEL_PX, colour: INK, side: Side::Left };

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn labels_that_would_touch_move_apart() {
        assert_eq!(spread(&[50.0, 50.0, 10.0], 10.0, 0.0, 100.0), [50.0, 60.0, 10.0]);
        assert_eq!(spread(&[100.0, 100.0], 10.0, 0.0, 100.0), [90.0, 100.0]);
        assert!(spread(&[], 10.0, 0.0, 100.0).is_empty());
    }

    proptest! {
        #[test]
        fn spread_labels_never_touch_and_stay_inside(wanted in prop::collection::vec(0.0..100.0, 1..11)) {
            let places = spread(&wanted, 10.0, 0.0, 100.0);
            let mut sorted = places.clone();
            sorted.sort_by(f64::total_cmp);
            prop_assert!(sorted.windows(2).all(|pair| pair[1] - pair[0] > 9.999), "{sorted:?}");
            prop_assert!(places.iter().all(|y| (-0.001..=100.001).contains(y)), "{places:?}");
        }
    }
}
