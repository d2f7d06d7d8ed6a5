//! Log records as text for people: whole lines, each with a prefix and a time if wanted. The bytes of the task go
//! through unchanged.

use super::lines::{Line, LineSplitter};
use crate::api::stream::{LogContent, LogRecord, LogStream};
use crate::domain::time::Timestamp;

/// Renders the records of one task. The caller writes each piece to the stream that it names, or all to one.
#[derive(Debug)]
pub struct LineRenderer {
    /// Put before every line as it is, with its own separator.
    prefix: String,
    timestamps: bool,
    stdout: Side,
    stderr: Side,
}

#[derive(Debug, Default)]
struct Side {
    splitter: LineSplitter,
    /// When the line that is kept began.
    began: Timestamp,
    /// The last piece handed out had no newline.
    open: bool,
}

impl LineRenderer {
    pub fn new(prefix: impl Into<String>, timestamps: bool) -> Self {
        Self { prefix: prefix.into(), timestamps, stdout: Side::default(), stderr: Side::default() }
    }

    /// The lines that this record completes.
    pub fn render(&mut self, record: &LogRecord) -> Vec<(LogStream, Vec<u8>)> {
        match &record.content {
            LogContent::Output { stream, bytes } => {
                let side = self.side(*stream);
                if side.splitter.is_empty() {
                    side.began = record.time;
                }
                let lines = side.splitter.push(bytes);
                let mut out = Vec::with_capacity(lines.len());
                for line in lines {
                    out.push((*stream, self.dress(*stream, &line)));
                    self.side(*stream).began = record.time;
                }
                out
            }
            LogContent::Gap { lost_records, lost_bytes } => {
                let mut out = self.flush();
                let open = self.stderr.open || self.stdout.open;
                let newline = if open { "\n" } else { "" };
                (self.stdout, self.stderr) = (Side::default(), Side::default());
                let notice = format!("{lost_bytes} bytes of output in {lost_records} records are lost here");
                let head = self.head(record.time);
                out.push((LogStream::Stderr, format!("{newline}{head}[wharf: {notice}]\n").into_bytes()));
                out
            }
        }
    }

    /// Lines that are not complete, as they are: at the end, or when a prompt has waited long enough.
    pub fn flush(&mut self) -> Vec<(LogStream, Vec<u8>)> {
        let mut out = Vec::new();
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            if let Some(line) = self.side(stream).splitter.flush() {
                out.push((stream, self.dress(stream, &line)));
            }
        }
        out
    }

    fn side(&mut self, stream: LogStream) -> &mut Side {
        match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
        }
    }

    fn dress(&mut self, stream: LogStream, line: &Line) -> Vec<u8> {
        let began = self.side(stream).began;
        self.side(stream).open = !line.ends();
        let mut bytes = if line.begins { self.head(began).into_bytes() } else { Vec::new() };
        bytes.extend_from_slice(&line.bytes);
        bytes
    }

    fn head(&self, time: Timestamp) -> String {
        if self.timestamps { format!("{}{} ", self.prefix, time.to_rfc3339()) } else { self.prefix.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(second: i64, content: LogContent) -> LogRecord {
        LogRecord { sequence: 1, time: Timestamp(second * 1_000_000_000), content, cursor: String::new() }
    }

    fn output(second: i64, stream: LogStream, text: &str) -> LogRecord {
        record(second, LogContent::Output { stream, bytes: text.as_bytes().to_vec() })
    }

    fn text(pieces: Vec<(LogStream, Vec<u8>)>) -> String {
        pieces.into_iter().map(|(_, bytes)| String::from_utf8(bytes).unwrap()).collect()
    }

    #[test]
    fn streams_are_cut_into_lines_of_their_own() {
        let mut renderer = LineRenderer::new("worker[0] ", false);
        assert_eq!(text(renderer.render(&output(1, LogStream::Stdout, "one"))), "");
        assert_eq!(text(renderer.render(&output(2, LogStream::Stderr, "err\n"))), "worker[0] err\n");
        assert_eq!(text(renderer.render(&output(3, LogStream::Stdout, "\ntwo"))), "worker[0] one\n");
        assert_eq!(text(renderer.flush()), "worker[0] two");
    }

    #[test]
    fn a_line_has_the_time_of_its_beginning() {
        let mut renderer = LineRenderer::new("", true);
        renderer.render(&output(1, LogStream::Stdout, "a"));
        let lines = text(renderer.render(&output(2, LogStream::Stdout, "b\nc\n")));
        assert_eq!(lines, "1970-01-01T00:00:01.000Z ab\n1970-01-01T00:00:02.000Z c\n");
    }

    #[test]
    fn a_gap_is_a_line_of_its_own() {
        let mut renderer = LineRenderer::new("> ", false);
        renderer.render(&output(1, LogStream::Stdout, "a"));
        let lines = text(renderer.render(&record(2, LogContent::Gap { lost_records: 2, lost_bytes: 30 })));
        assert_eq!(lines, "> a\n> [wharf: 30 bytes of output in 2 records are lost here]\n");
        assert_eq!(text(renderer.render(&output(3, LogStream::Stdout, "b\n"))), "> b\n");
    }
}
