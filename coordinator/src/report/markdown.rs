//! PURE: a report as Markdown.

use super::document::{Block, Document};

/// Where the figures lie, seen from the file; `None` leaves them out.
pub type Figures<'a> = Option<&'a str>;

#[must_use]
pub fn render(document: &Document, figures: Figures<'_>) -> String {
    let mut text = format!("# {}\n", document.title);
    for (n, block) in document.blocks.iter().enumerate() {
        // A title over nothing is not worth a line.
        if let Block::Heading(level, title) = block {
            let empty = document.blocks[n + 1..]
                .iter()
                .find(|next| figures.is_some() || !matches!(next, Block::Figure(_)))
                .is_none_or(|next| matches!(next, Block::Heading(next, _) if next <= level));
            if !empty {
                text.push_str(&format!("\n{} {title}\n", "#".repeat((*level).into())));
            }
            continue;
        }
        match block {
            Block::Heading(..) => {}
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
