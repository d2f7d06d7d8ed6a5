//! The thread that puts the task's output on disk: a ring of segments, in batches. It may wait for the disk as long as
//! it likes; nobody waits for it without a deadline.

use super::bell::Bell;
use super::queue::{Entry, Queue, account};
use super::record::{Encoder, MAX_BODY_BYTES, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use super::sys;
use std::fs::File;
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::time::Duration;

/// One write to the kernel is about this big.
const BATCH_BYTES: usize = 1 << 20;
/// A segment holds a few of the biggest records at least.
const LEAST_SEGMENT_BYTES: u64 = 4 * (MAX_BODY_BYTES + RECORD_HEADER_BYTES) as u64 + SEGMENT_HEADER_BYTES as u64;
/// How long after an error (a full disk, mostly) the same bytes are tried again.
const RETRY_AFTER: Duration = Duration::from_millis(200);

struct Writer {
    queue: Arc<Queue>,
    segments: Vec<File>,
    segment_bytes: u64,
    encoder: Encoder,
    /// Encoded, not written yet.
    batch: Vec<u8>,
    /// For every entry in the batch: where it ends, and what to tell the queue once it is written.
    marks: Vec<(usize, (usize, u64, u64))>,
    /// Written to the current segment.
    segment_length: u64,
}

/// The disk had its time: stop.
struct GaveUp;

/// Begins the log and writes until the queue is closed; then rings.
pub fn start(queue: Arc<Queue>, segments: Vec<File>, segment_bytes: u64, bell: Bell) -> std::io::Result<()> {
    let writer = Writer {
        queue: queue.clone(),
        segments,
        segment_bytes: segment_bytes.max(LEAST_SEGMENT_BYTES),
        encoder: Encoder::new(),
        batch: Vec::with_capacity(BATCH_BYTES + 2 * MAX_BODY_BYTES),
        marks: Vec::new(),
        segment_length: 0,
    };
    let run = move || {
        // Having given up is in the totals: what was not written is lost.
        let _ = writer.run();
        queue.finish();
        bell.ring();
    };
    std::thread::Builder::new().name("writer".to_owned()).stack_size(256 * 1024).spawn(run).map(drop)
}

impl Writer {
    fn run(mut self) -> Result<(), GaveUp> {
        // Not a file that can be cut (a test's pipe) is as good as an empty one.
        for file in &self.segments {
            let _ = file.set_len(0);
        }
        self.next_segment()?;
        self.flush()?;
        while let Some(entries) = self.queue.take() {
            for entry in entries {
                self.add(&entry)?;
            }
            self.flush()?;
        }
        // The rest of the ring is as empty as it was found; each of these is a wait for the disk.
        let used = usize::try_from(self.encoder.next_ordinal()).unwrap_or(usize::MAX);
        for file in self.segments.iter().take(used) {
            let _ = file.sync_data();
        }
        Ok(())
    }

    fn add(&mut self, entry: &Entry) -> Result<(), GaveUp> {
        let body_bytes = match entry {
            Entry::Output { bytes, .. } => bytes.len(),
            Entry::Gap { .. } => 16,
        };
        let next = (RECORD_HEADER_BYTES + body_bytes) as u64;
        if self.segment_length + self.batch.len() as u64 + next > self.segment_bytes {
            self.flush()?;
            self.next_segment()?;
        } else if self.batch.len() >= BATCH_BYTES {
            self.flush()?;
        }
        match entry {
            Entry::Output { kind, stamp, bytes } => self.encoder.output(*kind, *stamp, bytes, &mut self.batch),
            Entry::Gap { stamp, lost_records, lost_bytes } => {
                self.encoder.gap(*stamp, *lost_records, *lost_bytes, &mut self.batch);
            }
        }
        self.marks.push((self.batch.len(), account(entry)));
        Ok(())
    }

    /// Empties the next file of the ring and puts its header into the batch, which must be empty.
    fn next_segment(&mut self) -> Result<(), GaveUp> {
        let place = (self.encoder.next_ordinal() % self.segments.len() as u64) as usize;
        let mut file = &self.segments[place];
        // The first round finds empty files. Where cutting fails, so will writing, which tries again.
        let _ = file.set_len(0);
        let _ = file.seek(SeekFrom::Start(0));
        self.segment_length = 0;
        self.encoder.begin_segment(sys::random_u64(), &mut self.batch);
        Ok(())
    }

    /// Writes the batch, however often it takes, and tells the queue as records get done.
    fn flush(&mut self) -> Result<(), GaveUp> {
        let place = (self.encoder.next_ordinal().saturating_sub(1) % self.segments.len() as u64) as usize;
        let mut file = &self.segments[place];
        let (mut done, mut told) = (0, 0);
        while done < self.batch.len() {
            match file.write(&self.batch[done..]) {
                Ok(0) => self.wait()?,
                Ok(length) => done += length,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => self.wait()?,
            }
            let (mut cost, mut records, mut bytes) = (0, 0, 0);
            while let Some((_, mark)) = self.marks.get(told).filter(|(end, _)| *end <= done) {
                cost += mark.0;
                records += mark.1;
                bytes += mark.2;
                told += 1;
            }
            self.queue.wrote(cost, records, bytes);
        }
        self.segment_length += done as u64;
        self.batch.clear();
        self.marks.clear();
        Ok(())
    }

    fn wait(&self) -> Result<(), GaveUp> {
        if self.queue.pause(RETRY_AFTER) { Ok(()) } else { Err(GaveUp) }
    }
}
