//! PURE: a report as Markdown.

use super::document::{Block, Document, FIGURES};

/// Where the figures lie, seen from the file; `None` leaves them out.
pub type Figures<'a> = Option<&'a str>;

#[must_use]
pub fn render(document: &Document, figures: Figures<'_>) -> String {
    let mut text = format!("# {}\n", document.title);
    for block in &document.blocks {
        match block {
            // Without figures there is nothing below their title.
            Block::Heading(_, title) if title == FIGURES && figures.is_none() => {}
            Block::Heading(level, title) => text.push_str(&format!("\n{} {title}\n", "#".repeat((*level).into()))),
            Block::Paragraph(line) => text.push_str(&format!("\n{line}\n")),
            Block::Answer(line) => text.push_str(&format!("\n**{line}**\n")),
            Block::Warning(line) => text.push_str(&format!("\n> {line}\n")),
            Block::Bullets(lines) => {
                text.push('\n');
                for line in lines {
                    text.push_str(&format!("- {}\n", line.replace('\n', " ")));
                }
            }
            Block::Table(sheet) => text.push_str(&format!("\n{}\n", sheet.markdown())),
            Block::Code(code) => text.push_str(&format!("\n```bash\n{}```\n", code)),
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
