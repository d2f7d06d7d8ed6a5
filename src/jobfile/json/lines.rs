//! From byte offsets to the lines and columns that editors show.

/// Where the lines of a text begin.
#[derive(Debug)]
pub struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub fn of(text: &'a str) -> Self {
        let after_breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(after_breaks).collect() }
    }

    /// The line of a byte offset, from 1.
    pub fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at)
    }

    /// Line and column of a byte offset, both from 1; columns count characters. Takes time with the length of
    /// the line, so it is for single places, not for every value of a file.
    pub fn position(&self, at: usize) -> (usize, usize) {
        let line = self.line(at);
        let start = self.starts.get(line - 1).copied().unwrap_or(0);
        let before = self.text.get(start..at).unwrap_or("");
        (line, before.chars().count() + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::Lines;

    #[test]
    fn offsets_become_lines_and_columns() {
        let lines = Lines::of("a\nbé,\n\nx");
        assert_eq!([lines.line(0), lines.line(1), lines.line(2), lines.line(7)], [1, 1, 2, 3]);
        assert_eq!(lines.position(0), (1, 1));
        assert_eq!(lines.position(5), (2, 3), "columns count characters");
        assert_eq!(lines.position(8), (4, 1));
        assert_eq!(Lines::of("").position(0), (1, 1));
    }
}
