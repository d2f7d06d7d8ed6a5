//! Cuts pieces of output into lines for people. What comes out, put together, is what went in.

use std::mem;

/// A longer line passes through in parts of about this size.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// A line with its newline, or a part of one. Any bytes; carriage returns are left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// It begins a line: the place for a prefix.
    pub begins: bool,
    pub bytes: Vec<u8>,
}

impl Line {
    /// It ends with the newline.
    pub fn ends(&self) -> bool {
        self.bytes.last() == Some(&b'\n')
    }
}

/// Splits one stream. Keeps at most [`MAX_LINE_BYTES`].
#[derive(Debug, Default)]
pub struct LineSplitter {
    partial: Vec<u8>,
    /// A part of the present line has been handed out.
    inside: bool,
}

impl LineSplitter {
    pub fn new() -> Self {
        Self::default()
    }

    /// The lines that `bytes` complete. A rest without newline is kept, unless it grows too long.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            for part in piece.chunks(MAX_LINE_BYTES) {
                if self.partial.len() + part.len() > MAX_LINE_BYTES {
                    lines.extend(self.flush());
                }
                self.partial.extend_from_slice(part);
            }
            if piece.ends_with(b"\n") {
                lines.extend(self.flush());
            }
        }
        lines
    }

    /// What is kept now, without adding a newline: at the end, or when a prompt has waited long enough.
    pub fn flush(&mut self) -> Option<Line> {
        if self.partial.is_empty() {
            return None;
        }
        let line = Line { begins: !self.inside, bytes: mem::take(&mut self.partial) };
        self.inside = !line.ends();
        Some(line)
    }

    /// Nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.partial.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(begins: bool, text: &str) -> Line {
        Line { begins, bytes: text.as_bytes().to_vec() }
    }

    #[test]
    fn lines_are_put_together_from_pieces() {
        let mut splitter = LineSplitter::new();
        assert_eq!(splitter.push(b"a"), []);
        assert_eq!(splitter.push(b"b\r\n\nc\rd"), [line(true, "ab\r\n"), line(true, "\n")]);
        assert_eq!(splitter.flush(), Some(line(true, "c\rd")));
        assert_eq!(splitter.flush(), None);
        assert_eq!(splitter.push(b"e\nf"), [line(false, "e\n")]);
        assert_eq!(splitter.flush(), Some(line(true, "f")));
    }

    #[test]
    fn a_long_line_passes_through_in_parts() {
        let mut splitter = LineSplitter::new();
        let (mut out, mut begun) = (0, 0);
        for _ in 0..1000 {
            for line in splitter.push(&[b'x'; 10_000]) {
                assert!(line.bytes.len() <= MAX_LINE_BYTES);
                out += line.bytes.len();
                begun += u32::from(line.begins);
            }
        }
        let last = splitter.push(b"\n");
        out += last.iter().map(|line| line.bytes.len()).sum::<usize>();
        assert_eq!((out, begun), (10_000_001, 1));
        assert!(last.last().unwrap().ends() && splitter.is_empty());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_added(pieces in prop::collection::vec("[ab\n\r]{0,8}", 0..20)) {
            let mut splitter = LineSplitter::new();
            let mut lines: Vec<Line> = pieces.iter().flat_map(|piece| splitter.push(piece.as_bytes())).collect();
            prop_assert!(lines.iter().all(|line| line.begins && line.ends()));
            lines.extend(splitter.flush());
            let out: Vec<u8> = lines.into_iter().flat_map(|line| line.bytes).collect();
            prop_assert_eq!(out, pieces.concat().into_bytes());
        }
    }
}
