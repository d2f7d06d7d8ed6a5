//! Reads one output pipe of the task and cuts it into records: at line ends where there is more than fits one record,
//! as it comes otherwise. Every byte is kept in order; nothing is taken for text.

use super::queue::Queue;
use super::record::{Kind, MAX_BODY_BYTES, Stamp};
use super::sys::{self, EINTR};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Instant;

/// Reads in a row before the other stream and the agent get their turn.
const READS_PER_TURN: usize = 16;

pub struct Stream {
    kind: Kind,
    pipe: Option<OwnedFd>,
    buffer: Box<[u8]>,
    /// Bytes at the front of the buffer that wait for the rest of their line.
    held: usize,
    /// The last turn ended before the pipe was found empty: poll may not know of what is held.
    unfinished: bool,
    /// The buffer is full: the pipe is left alone for a moment.
    held_off: bool,
}

impl Stream {
    pub fn new(kind: Kind, pipe: OwnedFd) -> Self {
        Self {
            kind,
            pipe: Some(pipe),
            buffer: vec![0; MAX_BODY_BYTES].into(),
            held: 0,
            unfinished: false,
            held_off: false,
        }
    }

    /// To be read again without waiting for the pipe.
    pub fn is_unfinished(&self) -> bool {
        self.unfinished
    }

    pub fn is_open(&self) -> bool {
        self.pipe.is_some()
    }

    /// To be read again in a moment, whatever poll says.
    pub fn is_held_off(&self) -> bool {
        self.held_off
    }

    /// What to poll.
    pub fn descriptor(&self) -> Option<RawFd> {
        self.pipe.as_ref().filter(|_| !self.held_off).map(AsRawFd::as_raw_fd)
    }

    /// Takes what is there, without waiting. True: there may be more at once.
    pub fn read(&mut self, queue: &Queue) -> bool {
        self.held_off = false;
        self.unfinished = self.read_turn(queue);
        self.unfinished || self.held_off
    }

    fn read_turn(&mut self, queue: &Queue) -> bool {
        for _ in 0..READS_PER_TURN {
            let Some(pipe) = self.pipe.as_ref() else { return false };
            if !queue.takes_more(Instant::now()) {
                self.held_off = true;
                return false;
            }
            match sys::read_fd(pipe.as_raw_fd(), &mut self.buffer[self.held..]) {
                Err(EINTR) => {}
                Ok(0) => {
                    self.close(queue);
                    return false;
                }
                Ok(length) => self.cut(self.held + length, queue),
                Err(_) => {
                    // Empty for now: a part of a line (a prompt, a progress bar) is shown.
                    self.emit(self.held, queue);
                    return false;
                }
            }
        }
        true
    }

    /// No more is read.
    pub fn close(&mut self, queue: &Queue) {
        self.emit(self.held, queue);
        self.pipe = None;
    }

    fn cut(&mut self, filled: usize, queue: &Queue) {
        self.held = filled;
        let end = match self.buffer[..filled].iter().rposition(|byte| *byte == b'\n') {
            Some(newline) if filled == self.buffer.len() => newline + 1,
            _ => filled,
        };
        self.emit(end, queue);
    }

    /// Hands over the first `end` bytes and moves the rest to the front.
    fn emit(&mut self, end: usize, queue: &Queue) {
        if end > 0 {
            let stamp = Stamp { realtime_ns: sys::realtime_ns() as i64, boottime_ns: sys::boottime_ns() };
            queue.push(self.kind, stamp, &self.buffer[..end]);
            self.buffer.copy_within(end..self.held, 0);
            self.held -= end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::queue::Entry;
    use super::*;

    /// What becomes of `bytes` that stand in the pipe when it is read.
    fn records(bytes: &[u8]) -> Vec<Vec<u8>> {
        let (out, into) = sys::pipe().unwrap();
        sys::grow_pipe(&into, 1 << 20);
        sys::set_nonblocking(&out).unwrap();
        assert_eq!(sys::write_fd(into.as_raw_fd(), bytes), Ok(bytes.len()));
        let (queue, mut stream) = (Queue::default(), Stream::new(Kind::Stdout, out));
        while stream.read(&queue) {}
        assert!(stream.is_open() && stream.held == 0);
        let pieces = queue.take().unwrap_or_default();
        pieces
            .into_iter()
            .filter_map(|entry| if let Entry::Output { bytes, .. } = entry { Some(bytes) } else { None })
            .collect()
    }

    #[test]
    fn much_output_is_cut_at_line_ends() {
        let line = [vec![b'x'; 999], vec![b'\n']].concat();
        let all = line.repeat(200);
        let found = records(&all);
        assert_eq!(found.concat(), all);
        assert_eq!(found.len(), 4);
        assert!(found.iter().all(|record| record.ends_with(b"\n")));
    }

    #[test]
    fn parts_of_lines_and_long_lines_come_as_they_are() {
        assert_eq!(records(b"Password: "), [b"Password: "]);
        let long = vec![0; 3 * MAX_BODY_BYTES + 1];
        let found = records(&long);
        assert_eq!((found.len(), found.concat() == long), (4, true));
    }
}
