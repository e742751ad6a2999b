//! PURE: a report as one HTML file that needs nothing else: no script, no font, no picture from anywhere.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::document::{Block, Document};
use super::figures::{Figure, dark_css};
use super::sheet::Sheet;

const STYLE: &str = include_str!("html.css");

/// Cells that are shown as badges; their text says the same as their colour.
const BADGES: [(&str, &str); 9] = [
    ("valid", "good"),
    ("none", "good"),
    ("generator-limited", "doubt"),
    ("generator", "doubt"),
    ("degraded", "bad"),
    ("invalid", "bad"),
    ("server", "note"),
    ("unknown", "quiet"),
    ("not judged", "quiet"),
];

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
            Block::Answer(text) => { p.answer { @for part in text.split("   ").map(str::trim).filter(|part| !part.is_empty()) { span { (part) } " " } } }
            Block::Warning(text) => { p.warning role="alert" { (text) } }
            Block::Bullets(lines) => { ul { @for line in lines { li { (line) } } } }
            Block::Table(sheet) => { (table(sheet)) }
            Block::Code(text) => { pre { code { (text) } } }
            Block::Figure(figure) => { (picture(figure)) }
        }
    }
}

/// Inlined: the page stays one file, and its style reaches the picture.
fn picture(figure: &Figure) -> Markup {
    html! {
        figure {
            (PreEscaped(without_prolog(&figure.svg)))
            figcaption { b { (figure.title) } " " (figure.caption) }
        }
    }
}

fn without_prolog(svg: &str) -> &str {
    svg.find("<svg").map_or(svg, |at| &svg[at..])
}

fn table(sheet: &Sheet) -> Markup {
    let class = |n: usize| if sheet.numbers.contains(&n) { Some("number") } else { None };
    html! {
        div.scroll tabindex="0" {
            table {
                thead { tr { @for (n, name) in sheet.header.iter().enumerate() { th scope="col" class=[class(n)] { (name) } } } }
                tbody {
                    @for row in &sheet.rows {
                        tr { @for (n, cell) in row.iter().enumerate() { td class=[class(n)] { (badged(cell)) } } }
                    }
                }
            }
        }
    }
}

/// `valid, generator-limited` is two badges.
fn badged(cell: &str) -> Markup {
    let parts: Vec<&str> = cell.split(", ").collect();
    let badges: Option<Vec<(&str, &str)>> =
        parts.iter().map(|part| BADGES.iter().find(|(text, _)| text == part).copied()).collect();
    match badges {
        Some(badges) => html! { @for (text, class) in badges { span class=(format!("badge {class}")) { (text) } " " } },
        None => html! { (cell) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_said_is_text_and_nothing_else() {
        let mut sheet = Sheet::new(["<b>", "n"], 1..2);
        sheet.row(["<script>alert(1)</script>", "valid, invalid"]);
        let document = Document {
            title: "a & b</title>".to_owned(),
            blocks: vec![
                Block::Heading(2, "\"x\"".to_owned()),
                Block::Table(sheet),
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
