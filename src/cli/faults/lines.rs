//! Lines of bounded length from anything that can be read.

use std::io::{self, BufRead, BufReader, Read};

/// Longest line; the kernel's have at most 2 KiB, and 8 KiB as `/dev/kmsg` writes them. What is longer is cut.
const MAX_LINE_BYTES: usize = 16 << 10;

/// Reads lines. `/dev/kmsg` ends where it would wait, and goes on after records that were overwritten meanwhile.
pub struct Lines<R> {
    source: BufReader<R>,
    line: Vec<u8>,
}

impl<R: Read> Lines<R> {
    pub fn new(source: R) -> Self {
        // A record of /dev/kmsg has to fit into one read.
        Self { source: BufReader::with_capacity(4 * MAX_LINE_BYTES, source), line: Vec::new() }
    }

    /// Adds up to `count` lines to `batch`; false once there are no more. What can be had without waiting is not kept
    /// back for the sake of a full batch.
    pub fn fill(&mut self, batch: &mut Vec<String>, count: usize) -> io::Result<bool> {
        while batch.len() < count {
            if !batch.is_empty() && self.source.buffer().is_empty() {
                return Ok(true);
            }
            if !self.next()? {
                return Ok(false);
            }
            batch.push(String::from_utf8_lossy(&self.line).into_owned());
        }
        Ok(true)
    }

    fn next(&mut self) -> io::Result<bool> {
        self.line.clear();
        let mut any = false;
        loop {
            let bytes = match self.source.fill_buf() {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(any),
                Err(error) => return Err(error),
            };
            if bytes.is_empty() {
                return Ok(any);
            }
            any = true;
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let text = &bytes[..end.unwrap_or(bytes.len())];
            let room = MAX_LINE_BYTES.saturating_sub(self.line.len()).min(text.len());
            self.line.extend_from_slice(&text[..room]);
            let used = text.len() + usize::from(end.is_some());
            self.source.consume(used);
            if end.is_some() {
                return Ok(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(source: impl Read) -> Vec<String> {
        let (mut lines, mut batch, mut all) = (Lines::new(source), Vec::new(), Vec::new());
        loop {
            let more = lines.fill(&mut batch, 2).unwrap();
            all.append(&mut batch);
            if !more {
                return all;
            }
        }
    }

    #[test]
    fn lines_end_where_they_end() {
        assert_eq!(all(&b"a\n\nb"[..]), ["a", "", "b"]);
        assert_eq!(all(&b"a\n"[..]), ["a"]);
        assert!(all(&b""[..]).is_empty());
        assert_eq!(all(&b"\xff\n"[..]), ["\u{fffd}"]);
    }

    #[test]
    fn long_lines_are_cut_and_the_next_one_is_whole() {
        let mut text = vec![b'x'; 1 << 20];
        text.extend_from_slice(b"\nnext\n");
        let lines = all(&text[..]);
        assert_eq!((lines[0].len(), lines[1].as_str(), lines.len()), (MAX_LINE_BYTES, "next", 2));
    }

    #[test]
    fn what_is_lost_is_stepped_over_and_what_would_wait_is_the_end() {
        struct Kmsg(Vec<io::Result<&'static [u8]>>);
        impl Read for Kmsg {
            fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
                let bytes = self.0.remove(0)?;
                to[..bytes.len()].copy_from_slice(bytes);
                Ok(bytes.len())
            }
        }
        let lost = || Err(io::Error::from_raw_os_error(libc::EPIPE));
        let source = Kmsg(vec![lost(), Ok(b"a\n"), lost(), Ok(b"b\n"), Err(io::ErrorKind::WouldBlock.into())]);
        assert_eq!(all(source), ["a", "b"]);
    }
}
