//! Tables for people: plain columns that fit 100 characters, colour only on a terminal.

use crate::domain::time::Timestamp;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use std::time::Duration;

/// Widest table, whatever the terminal.
const WIDTH: u16 = 100;

/// A table without lines.
pub fn table<const N: usize>(headings: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(WIDTH)
        .set_header(headings);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

/// Adds a row of one line: what does not fit is cut.
pub fn row<const N: usize>(table: &mut Table, cells: [String; N]) {
    let mut row = comfy_table::Row::from(cells.map(|cell| one_line(&cell)));
    row.max_height(1);
    table.add_row(row);
}

/// `text` without what would move the cursor or start another line.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim_end().to_owned()
}

/// Numbers read better aligned at their ends.
pub fn right(table: &mut Table, columns: &[usize]) {
    for index in columns {
        if let Some(column) = table.column_mut(*index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// The table as text, without blanks at the ends of lines.
pub fn text(table: &Table) -> String {
    let mut text = String::new();
    for line in table.to_string().lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Colours whole words that are states, after the layout is done.
pub fn paint(text: String, color: bool) -> String {
    if !color {
        return text;
    }
    const COLORS: [(&str, &str); 12] = [
        ("SUCCEEDED", "32"),
        ("RUNNING", "32"),
        ("READY", "32"),
        ("FREE", "32"),
        ("FAILED", "31"),
        ("UNREACHABLE", "31"),
        ("FAULTY", "31"),
        ("LOST", "31"),
        ("STOPPED", "33"),
        ("STOPPING", "33"),
        ("WAITING", "36"),
        ("HELD", "36"),
    ];
    let paint_word = |word: &str| match COLORS.iter().find(|(name, _)| *name == word) {
        Some((_, code)) => format!("\x1b[{code}m{word}\x1b[0m"),
        None => word.to_owned(),
    };
    text.lines().map(|line| line.split(' ').map(paint_word).collect::<Vec<_>>().join(" ") + "\n").collect()
}

/// `3 s`, `12 min`, `5 h`, `9 d`: how long, roughly.
pub fn span(duration: Duration) -> String {
    match duration.as_secs() {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s @ 7200..=172_799 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

/// How long something ran, or runs until now.
pub fn ran(started: Option<Timestamp>, ended: Option<Timestamp>) -> String {
    started.map_or_else(|| "-".to_owned(), |started| span(ended.unwrap_or_else(now).since(started)))
}

/// `text` after `head`, in lines that fit, the later ones indented as far as the head.
pub fn paragraph(head: &str, text: &str) -> String {
    let (indent, mut out, mut width) = (head.chars().count(), head.to_owned(), head.chars().count());
    for (i, word) in one_line(text).split_whitespace().enumerate() {
        let length = word.chars().count();
        if i > 0 && width + 1 + length > usize::from(WIDTH) {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            width = indent;
        } else if i > 0 {
            out.push(' ');
            width += 1;
        }
        out.push_str(word);
        width += length;
    }
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

/// Time since `then` by this machine's clock.
pub fn ago(then: Timestamp) -> String {
    span(now().since(then))
}

/// This machine's time, for display only.
pub fn now() -> Timestamp {
    use crate::telemetry::clock::{Clock, SystemClock};
    SystemClock.now()
}

/// `text` in at most `width` characters.
pub fn short(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_fit_a_hundred_columns() {
        let mut table = table(["ID", "NAME", "REASON"]);
        table.add_row(["1", &"n".repeat(80), &"long words ".repeat(20)]);
        assert!(text(&table).lines().all(|line| line.chars().count() <= 100));
    }

    #[test]
    fn without_colour_nothing_is_added() {
        assert_eq!(paint("1 RUNNING x\n".into(), false), "1 RUNNING x\n");
        assert_eq!(paint("1 RUNNING x\n".into(), true), "1 \x1b[32mRUNNING\x1b[0m x\n");
    }

    #[test]
    fn spans_are_rough() {
        for (seconds, shown) in [(5, "5 s"), (119, "119 s"), (600, "10 min"), (7200, "2 h"), (200_000, "2 d")] {
            assert_eq!(span(Duration::from_secs(seconds)), shown);
        }
    }
}
