//! The bounded buffer between the task's output and the disk. Pushing never waits: what does not fit is dropped and
//! counted, and takes its place in the log as one exact gap.
//!
//! A task that is faster than a good disk is held for a moment rather than cut: reading pauses when the buffer is full,
//! but if half of it is not free within 50 ms (the disk takes less than 80 MB/s), output is dropped without any more
//! pause until half is free. So no disk, however slow, holds a task for longer than that, or more than half the time.

use super::exit::OutputTotals;
use super::record::{Kind, MAX_BODY_BYTES, Stamp};
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Memory for output that the disk has not taken yet.
pub const CAPACITY_BYTES: usize = 8 * 1024 * 1024;
/// Once output was dropped, it is taken again when this much is free: few long gaps instead of many short ones.
const RESUME_BYTES: usize = CAPACITY_BYTES / 2;
/// What an entry costs beside its bytes, so that single letters cannot fill the memory.
const ENTRY_BYTES: usize = 128;
/// How long a full buffer may keep the task waiting.
const PATIENCE: Duration = Duration::from_millis(50);

pub enum Entry {
    Output { kind: Kind, stamp: Stamp, bytes: Vec<u8> },
    Gap { stamp: Stamp, lost_records: u64, lost_bytes: u64 },
}

impl Entry {
    fn cost(&self) -> usize {
        match self {
            Self::Output { bytes, .. } => bytes.len() + ENTRY_BYTES,
            Self::Gap { .. } => ENTRY_BYTES,
        }
    }
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Entry>,
    /// Cost of what waits and of what the writer has in its hands.
    held_bytes: usize,
    /// Dropped since the last entry: when it began, records, bytes.
    gap: Option<(Stamp, u64, u64)>,
    /// Until half is free again.
    dropping: bool,
    full_since: Option<Instant>,
    /// Everything that was ever pushed, dropped or not.
    pushed: (u64, u64),
    written: (u64, u64),
    closing: bool,
    gave_up: bool,
    finished: bool,
}

#[derive(Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

/// How the writer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub written_bytes: u64,
    pub finished: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Panics abort the program; a poisoned lock cannot be seen.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn push(&self, kind: Kind, stamp: Stamp, bytes: &[u8]) {
        let mut state = self.lock();
        state.pushed.0 += 1;
        state.pushed.1 += bytes.len() as u64;
        state.dropping &= state.held_bytes > RESUME_BYTES;
        if state.dropping || state.held_bytes + bytes.len() + ENTRY_BYTES > CAPACITY_BYTES {
            state.dropping = true;
            let gap = state.gap.get_or_insert((stamp, 0, 0));
            gap.1 += 1;
            gap.2 += bytes.len() as u64;
            return;
        }
        state.put_gap();
        state.put(Entry::Output { kind, stamp, bytes: bytes.to_vec() });
        drop(state);
        self.changed.notify_one();
    }

    /// Is it time to read more from the task, to keep or to drop it? Otherwise ask again in a millisecond.
    pub fn takes_more(&self, now: Instant) -> bool {
        let mut state = self.lock();
        let room = if state.full_since.is_some() { RESUME_BYTES } else { CAPACITY_BYTES };
        if state.dropping || state.held_bytes + MAX_BODY_BYTES + ENTRY_BYTES <= room {
            state.full_since = None;
            return true;
        }
        let since = *state.full_since.get_or_insert(now);
        state.dropping = now.saturating_duration_since(since) >= PATIENCE;
        state.dropping
    }

    /// For the writer: everything that waits, at least one entry. `None`: closed and empty, or given up.
    pub fn take(&self) -> Option<VecDeque<Entry>> {
        let mut state = self.lock();
        loop {
            if state.gave_up {
                return None;
            }
            if state.waiting.is_empty() && state.held_bytes == 0 {
                state.put_gap();
            }
            if !state.waiting.is_empty() {
                return Some(std::mem::take(&mut state.waiting));
            }
            if state.closing {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// For the writer: these entries are with the kernel.
    pub fn wrote(&self, cost: usize, records: u64, bytes: u64) {
        let mut state = self.lock();
        state.held_bytes -= cost;
        state.written.0 += records;
        state.written.1 += bytes;
    }

    /// For the writer, after an error of the disk: waits a little. False: do not try again.
    pub fn pause(&self, time: Duration) -> bool {
        let state = self.lock();
        let result = self.changed.wait_timeout_while(state, time, |state| !state.gave_up);
        !result.unwrap_or_else(PoisonError::into_inner).0.gave_up
    }

    /// For the writer: the last word.
    pub fn finish(&self) {
        self.lock().finished = true;
    }

    /// Nothing is pushed any more.
    pub fn close(&self) {
        self.lock().closing = true;
        self.changed.notify_one();
    }

    /// The disk has had its time.
    pub fn give_up(&self) {
        self.lock().gave_up = true;
        self.changed.notify_one();
    }

    pub fn progress(&self) -> Progress {
        let state = self.lock();
        Progress { written_bytes: state.written.1, finished: state.finished }
    }

    /// Exact: what was read from the task is either written or lost.
    pub fn totals(&self) -> OutputTotals {
        let state = self.lock();
        OutputTotals {
            records: state.written.0,
            bytes: state.written.1,
            lost_records: state.pushed.0 - state.written.0,
            lost_bytes: state.pushed.1 - state.written.1,
        }
    }
}

impl State {
    fn put(&mut self, entry: Entry) {
        self.held_bytes += entry.cost();
        self.waiting.push_back(entry);
    }

    fn put_gap(&mut self) {
        if let Some((stamp, lost_records, lost_bytes)) = self.gap.take() {
            self.put(Entry::Gap { stamp, lost_records, lost_bytes });
        }
    }
}

/// What [`Queue::wrote`] is told for an entry: cost, records, bytes.
pub fn account(entry: &Entry) -> (usize, u64, u64) {
    match entry {
        Entry::Output { bytes, .. } => (entry.cost(), 1, bytes.len() as u64),
        Entry::Gap { .. } => (entry.cost(), 0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(queue: &Queue) -> Vec<(u64, u64)> {
        let mut seen = Vec::new();
        for entry in queue.take().unwrap_or_default() {
            let (cost, records, bytes) = account(&entry);
            queue.wrote(cost, records, bytes);
            seen.push(match entry {
                Entry::Output { bytes, .. } => (0, bytes.len() as u64),
                Entry::Gap { lost_records, lost_bytes, .. } => (lost_records, lost_bytes),
            });
        }
        seen
    }

    #[test]
    fn what_does_not_fit_is_one_exact_gap_in_its_place() {
        let queue = Queue::default();
        let piece = vec![b'x'; 64 * 1024];
        let fit = CAPACITY_BYTES / (piece.len() + ENTRY_BYTES);
        (0..fit + 10).for_each(|_| queue.push(Kind::Stdout, Stamp::default(), &piece));
        assert_eq!(taken(&queue).len(), fit);
        // The disk is idle again: the gap is told although the task is silent.
        assert_eq!(taken(&queue), [(10, 10 * 65_536)]);
        queue.push(Kind::Stderr, Stamp::default(), b"on");
        assert_eq!(taken(&queue), [(0, 2)]);
        let totals = queue.totals();
        assert_eq!((totals.records, totals.lost_records, totals.lost_bytes), (fit as u64 + 1, 10, 10 * 65_536));
    }

    #[test]
    fn a_full_buffer_holds_the_task_for_a_moment_only() {
        let (queue, piece, now) = (Queue::default(), vec![b'x'; 64 * 1024], Instant::now());
        while queue.takes_more(now) {
            queue.push(Kind::Stdout, Stamp::default(), &piece);
        }
        assert!(!queue.takes_more(now + PATIENCE / 2));
        assert!(queue.takes_more(now + PATIENCE), "from here on output is dropped");
        queue.push(Kind::Stdout, Stamp::default(), b"lost");
        assert!(queue.takes_more(now + PATIENCE));
        taken(&queue);
        assert_eq!(taken(&queue), [(1, 4)]);
        assert!(queue.takes_more(now + PATIENCE));
        queue.push(Kind::Stdout, Stamp::default(), b"kept");
        assert_eq!(taken(&queue), [(0, 4)]);
    }

    #[test]
    fn what_was_not_written_at_the_end_is_lost() {
        let queue = Queue::default();
        queue.push(Kind::Stdout, Stamp::default(), b"abc");
        queue.close();
        queue.give_up();
        assert!(queue.take().is_none());
        assert!(!queue.pause(Duration::from_secs(60)));
        assert_eq!((queue.totals().lost_records, queue.totals().lost_bytes), (1, 3));
    }
}
