//! PURE: formats a report as Markdown.

use crate::report::document::{Block, Document, FIGURES};
use crate::report::table::{fenced, plain};

/// The path from the file to the figures; `None` leaves them out.
pub type Figures<'a> = Option<&'a str>;

#[must_use]
pub fn render(document: &Document, figures: Figures<'_>) -> String {
    let mut text = format!("# {}\n", document.title);
    for block in &document.blocks {
        match block {
            // Without figures their heading would be empty.
            Block::Heading(_, title) if title == FIGURES && figures.is_none() => {}
            Block::Heading(level, title) => text.push_str(&format!("\n{} {title}\n", "#".repeat((*level).into()))),
            Block::Paragraph(line) => text.push_str(&format!("\n{}\n", plain(line))),
            Block::Answer(answer) => text.push_str(&format!("\n**{}**\n", plain(&answer.to_string()))),
            Block::Warning(line) => text.push_str(&format!("\n> {}\n", plain(line))),
            Block::Bullets(lines) => {
                text.push('\n');
                for line in lines {
                    text.push_str(&format!("- {}\n", plain(line)));
                }
            }
            Block::Table(sheet) => text.push_str(&format!("\n{}\n", sheet.markdown())),
            Block::Code(code) => text.push_str(&format!("\n{}", fenced(code))),
            Block::Figure(figure) => {
                if let Some(folder) = figures {
                    let name = &figure.name;
                    text.push_str(&format!("\n![{}]({folder}{name}.svg)\n\n{}\n", figure.title, figure.caption));
                }
            }
        }
    }
    text
}
