//! The kernel's log as a stream: `/dev/kmsg` from the start of the boot, every record once, and a gap said exactly.
//!
//! ```text
//!  /dev/kmsg ──poll──> reader thread ──bounded queue──> KernelLog::next ──> the consumer
//!                           ^ next sequence                 KernelLog::done ──> cursor thread ──> a file
//! ```
//!
//! The kernel's ring is the buffer: a consumer that is slow makes the reader wait, and what the kernel overwrote
//! meanwhile is a [`Entry::Gap`] with its first and last sequence. What the consumer has done is written down, so that
//! a restart goes on there and a new boot begins at its start; a record may be told again after a crash, and none is
//! left out. A log that is missing or forbidden is said once and tried again.

mod cursor;
mod reader;
mod record;
mod source;

pub use record::Record;

use cursor::Cursor;
use reader::Reader;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, channel};

/// Records that were read and that nobody took; the rest stays with the kernel.
const QUEUE: usize = 256;
/// The end of the last write of the cursor is not waited for longer.
const CLOSING: Duration = Duration::from_secs(2);

/// Which log, and where reading it went on last.
#[derive(Debug, Clone)]
pub struct KernelLogOptions {
    /// `/dev/kmsg`, or a file in its form to which records are appended.
    pub path: PathBuf,
    /// Which boot the log is of; `/proc/sys/kernel/random/boot_id`.
    pub boot_id: String,
    /// The file that keeps how far the log is done.
    pub cursor: PathBuf,
    /// That file is written at most this often.
    pub cursor_interval: Duration,
    /// The pause before a log that cannot be read is tried again.
    pub retry: Duration,
}

impl KernelLogOptions {
    pub fn new(path: PathBuf, boot_id: String, cursor: PathBuf) -> Self {
        Self { path, boot_id, cursor, cursor_interval: Duration::from_secs(1), retry: Duration::from_secs(5) }
    }
}

/// What comes of a log, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// It can be read, also after it could not be; records before `next_sequence` were done in an earlier life.
    Opened { next_sequence: u64 },
    /// One record.
    Record(Record),
    /// The kernel overwrote these records, first and last, before they were read.
    Gap { from: u64, to: u64 },
    /// It cannot be read now: one sentence. Said once, and tried again.
    Unavailable { why: String },
}

/// A log that is being read. Ends when dropped.
#[derive(Debug)]
pub struct KernelLog {
    entries: Receiver<Entry>,
    cursor: Cursor,
    /// Closed with this value, which wakes the reader.
    _stop: OwnedFd,
}

impl KernelLog {
    /// Goes on behind what [`KernelLog::done`] was told in this boot. Never waits. An error: the system has no threads
    /// or pipes left.
    pub fn start(options: KernelLogOptions) -> io::Result<Self> {
        let (wakes, stop) = std::io::pipe()?;
        let (sender, entries) = channel(QUEUE);
        let (path, boot_id) = (options.cursor.clone(), options.boot_id.clone());
        let cursor = Cursor::start(path, boot_id, options.cursor_interval)?;
        let reader = Reader::new(options, sender, wakes.into());
        std::thread::Builder::new().name("kernel-log".to_owned()).spawn(move || reader.run())?;
        Ok(Self { entries, cursor, _stop: stop.into() })
    }

    /// The next entry; waits for one. Nothing is lost when the wait is given up. `None`: the reader has fallen.
    pub async fn next(&mut self) -> Option<Entry> {
        self.entries.recv().await
    }

    /// What has been read already; never waits.
    pub fn ready(&mut self) -> Option<Entry> {
        self.entries.try_recv().ok()
    }

    /// Everything up to and with this record has had its effect, gaps included, and needs not be told again.
    pub fn done(&self, sequence: u64) {
        self.cursor.done(sequence);
    }

    /// Ends, once it is written down what was done; a disk that hangs is not waited for.
    pub async fn close(self) {
        let Self { entries, cursor, _stop } = self;
        drop((entries, _stop));
        let _ = tokio::time::timeout(CLOSING, cursor.close()).await;
    }
}
