//! PURE: a table, independent of Markdown and HTML.

use std::fmt;

use comfy_table::CellAlignment;
use comfy_table::presets::ASCII_MARKDOWN;

/// How a badge is coloured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Good,
    Doubt,
    Bad,
    Note,
    Quiet,
}

/// A word that a page sets apart in colour. Its text says the same as its colour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Badge {
    /// Stands before the text where there is no colour; not every machine has a font with these signs.
    pub sign: &'static str,
    pub text: String,
    pub tone: Tone,
}

impl Badge {
    #[must_use]
    pub fn new(text: impl Into<String>, tone: Tone) -> Self {
        Self { sign: "", text: text.into(), tone }
    }
}

/// A cell: text, and badges behind it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableCell {
    pub text: String,
    pub badges: Vec<Badge>,
}

impl TableCell {
    #[must_use]
    pub fn badges(text: impl Into<String>, badges: impl IntoIterator<Item = Badge>) -> Self {
        Self { text: text.into(), badges: badges.into_iter().collect() }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.badges.is_empty()
    }
}

impl<T: Into<String>> From<T> for TableCell {
    fn from(text: T) -> Self {
        Self { text: text.into(), badges: Vec::new() }
    }
}

impl From<Badge> for TableCell {
    fn from(badge: Badge) -> Self {
        Self::badges("", [badge])
    }
}

impl fmt::Display for TableCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        for (n, badge) in self.badges.iter().enumerate() {
            let between = if n == 0 { "" } else { ", " };
            write!(f, "{between}{}{}", badge.sign, badge.text)?;
        }
        Ok(())
    }
}

/// Cells of different kinds as one row.
#[macro_export]
macro_rules! cells {
    ($($cell:expr),* $(,)?) => {
        [$($crate::report::table::TableCell::from($cell)),*]
    };
}

/// Columns with their names, rows of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub header: Vec<String>,
    /// The columns with numbers, which are aligned to the right.
    pub numbers: std::ops::Range<usize>,
    /// Whether the last column is prose, which a page shows below its row.
    pub prose: bool,
    pub rows: Vec<Vec<TableCell>>,
}

impl Table {
    /// An empty table; the columns `numbers` are aligned to the right.
    #[must_use]
    pub fn new<T: Into<String>>(header: impl IntoIterator<Item = T>, numbers: std::ops::Range<usize>) -> Self {
        Self { header: header.into_iter().map(Into::into).collect(), numbers, prose: false, rows: Vec::new() }
    }

    /// The same table with prose in its last column.
    #[must_use]
    pub fn with_prose(self) -> Self {
        Self { prose: true, ..self }
    }

    pub fn row<T: Into<TableCell>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Formats as Markdown, without a final line end. Characters that would end a cell or act as markup are escaped.
    #[must_use]
    pub fn markdown(&self) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(ASCII_MARKDOWN).set_header(self.header.iter().map(|name| one_cell(name)));
        for row in &self.rows {
            table.add_row(row.iter().map(|cell| one_cell(&cell.to_string())));
        }
        for n in self.numbers.clone() {
            if let Some(column) = table.column_mut(n) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table.to_string()
    }
}

/// Escapes foreign text, so that Markdown shows it on one line without tags, links, code or emphasis.
#[must_use]
pub fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => shown.push_str("&lt;"),
            '*' | '`' | '[' => shown.extend(['\\', c]),
            '\n' | '\r' => shown.push(' '),
            _ => shown.push(c),
        }
    }
    shown
}

/// Puts `text` into a code fence that nothing in it can end.
#[must_use]
pub fn fenced(text: &str) -> String {
    let longest =
        text.lines().map(|line| line.trim_start().chars().take_while(|c| *c == '`').count()).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}bash\n{}\n{fence}\n", text.trim_end())
}

fn one_cell(text: &str) -> String {
    plain(text).replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_does_nothing() {
        assert_eq!(plain("<img src=x>\n**b** `c` [d](e)"), "&lt;img src=x> \\*\\*b\\*\\* \\`c\\` \\[d](e)");
        assert_eq!(fenced("a"), "```bash\na\n```\n");
        assert_eq!(fenced("```` x\nb\n"), "`````bash\n```` x\nb\n`````\n");
    }

    #[test]
    fn what_is_in_a_cell_stays_in_it() {
        let mut table = Table::new(["Name", "N"], 1..2);
        table.row(["a|b\nc", "1"]);
        table.row(["d", "1,000"]);
        insta::assert_snapshot!(table.markdown(), @r"
        | Name   |     N |
        |--------|-------|
        | a\|b c |     1 |
        | d      | 1,000 |
        ");
    }
}
