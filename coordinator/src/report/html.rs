//! PURE: renders a report as one HTML file without scripts and without external fonts, styles or images.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::report::document::{Block, Document};
use crate::report::figures::{Figure, dark_css};
use crate::report::table::{Table, TableCell, Tone};

const STYLE: &str = include_str!("html.css");

/// Tables with more columns than this use a smaller font.
const WIDE: usize = 12;

#[must_use]
pub fn render(document: &Document) -> String {
    let dark = format!("@media screen and (prefers-color-scheme: dark) {{\n{}\n}}\n", dark_css("figure svg"));
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="generator" content=(format!("muster {}", proto::VERSION));
                title { (document.title) }
                style { (PreEscaped(STYLE)) (PreEscaped(dark)) }
            }
            body {
                header {
                    p.program { "Muster" }
                    h1 { (document.title) }
                    nav aria-label="Contents" { (contents(document)) }
                }
                main {
                    @for (n, block) in document.blocks.iter().enumerate() { (of(n, block)) }
                }
                footer { p { "Written by Muster " (proto::VERSION) " from stored records alone." } }
            }
        }
    }
    .into_string()
}

fn contents(document: &Document) -> Markup {
    html! {
        @for (n, block) in document.blocks.iter().enumerate() {
            @if let Block::Heading(2, title) = block { a href=(format!("#s{n}")) { (title) } " " }
        }
    }
}

fn of(n: usize, block: &Block) -> Markup {
    html! {
        @match block {
            Block::Heading(2, title) => { h2 id=(format!("s{n}")) { (title) } }
            Block::Heading(_, title) => { h3 { (title) } }
            Block::Paragraph(text) => { p { (text) } }
            Block::Answer(answer) => { p.answer { @for part in answer.parts.iter().chain(&answer.per_core) { span { (part) } " " } } }
            Block::Warning(text) => { p.warning role="alert" { (text) } }
            Block::Bullets(lines) => { ul { @for line in lines { li { (line) } } } }
            Block::Table(of) => { (table(of)) }
            Block::Code(text) => { pre { code { (text) } } }
            Block::Figure(figure) => { (picture(figure)) }
        }
    }
}

/// Renders a figure as inline SVG: the page stays one file and its style sheet applies to the figure.
fn picture(figure: &Figure) -> Markup {
    html! {
        figure {
            (PreEscaped(without_prolog(&figure.svg)))
            figcaption { (figure.caption) }
        }
    }
}

fn without_prolog(svg: &str) -> &str {
    svg.find("<svg").map_or(svg, |at| &svg[at..])
}

fn table(table: &Table) -> Markup {
    let class = |n: usize| if table.numbers.contains(&n) { Some("number") } else { None };
    let columns = table.header.len() - usize::from(table.prose);
    html! {
        div.scroll tabindex="0" {
            table class=[(columns > WIDE).then_some("wide")] {
                thead {
                    tr { @for (n, name) in table.header[..columns].iter().enumerate() { th scope="col" class=[class(n)] { (name) } } }
                }
                tbody {
                    @for row in &table.rows {
                        @let prose = row.get(columns).filter(|cell| !cell.is_empty());
                        tr class=[prose.map(|_| "told")] {
                            @for (n, cell) in row.iter().take(columns).enumerate() { td class=[class(n)] { (badged(cell)) } }
                        }
                        @if let Some(text) = prose { tr { td.prose colspan=(columns) { (text.text) } } }
                    }
                }
            }
        }
    }
}

fn badged(cell: &TableCell) -> Markup {
    // The badges are coloured, so the colon before them is omitted.
    let head = cell.text.strip_suffix(": ").filter(|_| !cell.badges.is_empty());
    html! {
        @if let Some(head) = head { (head) " " } @else { (cell.text) }
        @for badge in &cell.badges { span class=(format!("badge {}", class(badge.tone))) { (badge.text) } " " }
    }
}

fn class(tone: Tone) -> &'static str {
    match tone {
        Tone::Good => "good",
        Tone::Doubt => "doubt",
        Tone::Bad => "bad",
        Tone::Note => "note",
        Tone::Quiet => "quiet",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cells;
    use crate::report::table::Badge;
    use crate::results::verdict::Validity;

    #[test]
    fn what_others_said_is_text_and_nothing_else() {
        let mut table = Table::new(["<b>", "n"], 1..2);
        table.row(cells![
            "<script>alert(1)</script>",
            TableCell::badges("", [Validity::Valid, Validity::Invalid].map(Badge::from))
        ]);
        let document = Document {
            title: "a & b</title>".to_owned(),
            blocks: vec![
                Block::Heading(2, "\"x\"".to_owned()),
                Block::Table(table),
                Block::Warning("<img src=x>".to_owned()),
                Block::Code("echo '<'\n".to_owned()),
            ],
        };
        let page = render(&document);
        for never in ["<script", "<img", "</title></title>", "http://", "https://", "<link", "@import", "url("] {
            assert!(!page.contains(never), "{never}");
        }
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"));
        assert!(page.contains("<span class=\"badge good\">valid</span> <span class=\"badge bad\">invalid</span>"));
    }
}
