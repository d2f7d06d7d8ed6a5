//! The thread that reads: opens, puts in order, hands on, waits, and opens again.

use super::cursor;
use super::record::Record;
use super::source::{Next, Source};
use super::{Entry, KernelLogOptions};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tracing::debug;

/// Nobody reads any more.
struct Stopped;

pub(super) struct Reader {
    options: KernelLogOptions,
    entries: Sender<Entry>,
    /// Its other end is closed when nobody reads any more.
    stop: OwnedFd,
    /// The sequence of the first record that was not handed on.
    next: u64,
    /// What was said last about why it cannot be read.
    said: Option<String>,
}

impl Reader {
    pub(super) fn new(options: KernelLogOptions, entries: Sender<Entry>, stop: OwnedFd) -> Self {
        Self { options, entries, stop, next: 0, said: None }
    }

    pub(super) fn run(mut self) {
        self.next = cursor::load(&self.options.cursor, &self.options.boot_id);
        while self.once().is_ok() && !self.is_stopped_within(self.options.retry) {}
    }

    /// Reads until that fails.
    fn once(&mut self) -> Result<(), Stopped> {
        let why = match Source::open(&self.options.path) {
            Ok(source) => self.follow(source)?,
            Err(why) => why,
        };
        if self.said.as_ref() != Some(&why) {
            self.said = Some(why.clone());
            self.send(Entry::Unavailable { why })?;
        }
        Ok(())
    }

    fn follow(&mut self, mut source: Source) -> Result<String, Stopped> {
        let mut is_announced = false;
        loop {
            let next = source.next();
            if !is_announced && next.is_ok() {
                (is_announced, self.said) = (true, None);
                self.send(Entry::Opened { next_sequence: self.next })?;
            }
            match next {
                Ok(Next::Record(raw)) => match Record::parse(raw) {
                    Some(record) => self.hand_on(record)?,
                    None => debug!(raw = %raw.escape_ascii(), "this is no record of the kernel's log"),
                },
                Ok(Next::Overwritten) => {}
                Ok(Next::Nothing) => self.wait(&source)?,
                Err(error) => {
                    return Ok(format!("reading the kernel's log {}: {error}", self.options.path.display()));
                }
            }
        }
    }

    fn hand_on(&mut self, record: Record) -> Result<(), Stopped> {
        // Done before a restart.
        if record.sequence < self.next {
            return Ok(());
        }
        if record.sequence > self.next {
            self.send(Entry::Gap { from: self.next, to: record.sequence - 1 })?;
        }
        self.next = record.sequence.saturating_add(1);
        self.send(Entry::Record(record))
    }

    /// Waits where the consumer is slow: meanwhile the kernel keeps what it has room for.
    fn send(&self, entry: Entry) -> Result<(), Stopped> {
        self.entries.blocking_send(entry).map_err(|_| Stopped)
    }

    fn wait(&self, source: &Source) -> Result<(), Stopped> {
        let mut files =
            [PollFd::new(source.announces(), PollFlags::POLLIN), PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
        match poll(&mut files, PollTimeout::NONE) {
            Ok(_) if files[1].any() == Some(true) => Err(Stopped),
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => {
                debug!(%error, "waiting for the kernel's log");
                if self.is_stopped_within(self.options.retry) { Err(Stopped) } else { Ok(()) }
            }
        }
    }

    fn is_stopped_within(&self, pause: Duration) -> bool {
        let mut files = [PollFd::new(self.stop.as_fd(), PollFlags::POLLIN)];
        let pause = PollTimeout::try_from(pause).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut files, pause);
        files[0].any() == Some(true)
    }
}
