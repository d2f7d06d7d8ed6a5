//! The log as a file: the kernel's device, which gives one record at each read, or an ordinary file in its form that
//! others append to. Blocks in nothing but opening and reading.

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::{major, minor};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Above what the kernel makes of a record (8 KiB before 6.0, 2 KiB since).
const LONGEST: usize = 64 * 1024;
/// Linux's `Documentation/admin-guide/devices.txt`: `/dev/kmsg`.
const DEVICE: (u64, u64) = (1, 11);

#[derive(Debug)]
pub(super) enum Next<'a> {
    Record(&'a [u8]),
    /// All has been read; more is announced at [`Source::announces`].
    Nothing,
    /// The kernel needed the room: the next record says by its sequence what is missing.
    Overwritten,
}

#[derive(Debug)]
pub(super) enum Source {
    Device { file: File, buffer: Vec<u8> },
    Growing(Growing),
}

impl Source {
    /// From its first record. An error is one sentence.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let failed = |error: io::Error| {
            let help = match error.kind() {
                ErrorKind::PermissionDenied => {
                    ": it needs root, CAP_SYSLOG, or kernel.dmesg_restrict = 0 and a device that this user may read"
                }
                _ => "",
            };
            format!("opening the kernel's log {}: {error}{help}", path.display())
        };
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
        let what = file.metadata().map_err(failed)?;
        if what.is_file() {
            return Growing::new(file, path).map(Self::Growing).map_err(failed);
        }
        let device = (major(what.rdev()), minor(what.rdev()));
        if what.file_type().is_char_device() && device == DEVICE {
            return Ok(Self::Device { file, buffer: vec![0; LONGEST] });
        }
        let path = path.display();
        Err(if what.file_type().is_char_device() {
            format!(
                "{path} is the device {}:{}, as in some containers, and not the kernel's log (1:11)",
                device.0, device.1
            )
        } else {
            format!("{path} is neither the kernel's log (the device 1:11) nor a file")
        })
    }

    pub(super) fn next(&mut self) -> io::Result<Next<'_>> {
        match self {
            Self::Device { file, buffer } => loop {
                return match file.read(buffer) {
                    Ok(0) => Err(io::Error::other("it has an end, which the kernel's log has not")),
                    Ok(length) => Ok(Next::Record(&buffer[..length])),
                    Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                        Some(Errno::EINTR) => continue,
                        Some(Errno::EAGAIN) => Ok(Next::Nothing),
                        Some(Errno::EPIPE) => Ok(Next::Overwritten),
                        _ => Err(error),
                    },
                };
            },
            Self::Growing(growing) => growing.next(),
        }
    }

    /// Can be read from once there is more.
    pub(super) fn announces(&self) -> BorrowedFd<'_> {
        match self {
            Self::Device { file, .. } => file.as_fd(),
            Self::Growing(growing) => growing.changes.as_fd(),
        }
    }
}

/// A file that only grows. Reads of it may end in the middle of a record.
#[derive(Debug)]
pub(super) struct Growing {
    file: File,
    changes: Inotify,
    buffer: Vec<u8>,
    /// How much of the buffer was given away.
    used: usize,
    /// The rest of this line belongs to one that was too long.
    in_excess: bool,
}

impl Growing {
    fn new(file: File, path: &Path) -> io::Result<Self> {
        let changes = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        changes.add_watch(path, AddWatchFlags::IN_MODIFY)?;
        Ok(Self { file, changes, buffer: Vec::new(), used: 0, in_excess: false })
    }

    fn next(&mut self) -> io::Result<Next<'_>> {
        self.buffer.drain(..self.used);
        self.used = 0;
        // Whatever was announced is about to be read.
        while self.changes.read_events().is_ok() {}
        let mut at_end = false;
        loop {
            if let Some(length) = record_length(&self.buffer, at_end) {
                self.used = length;
                return Ok(Next::Record(&self.buffer[..length]));
            }
            if self.buffer.len() > LONGEST {
                self.in_excess = self.buffer.last() != Some(&b'\n');
                self.buffer.clear();
            }
            if at_end {
                return Ok(Next::Nothing);
            }
            let before = self.buffer.len();
            let room = u64::try_from(LONGEST).unwrap_or(u64::MAX);
            let read = (&mut self.file).take(room).read_to_end(&mut self.buffer);
            at_end = read? == 0;
            if self.in_excess
                && let Some(end) = self.buffer[before..].iter().position(|byte| *byte == b'\n')
            {
                self.buffer.drain(..=before + end);
                self.in_excess = false;
            }
        }
    }
}

/// The first record with the lines that follow it. Whether another follows is known only from the next line, or at the
/// end of what there is.
fn record_length(buffer: &[u8], at_end: bool) -> Option<usize> {
    let mut ends = buffer.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    ends.find(|end| buffer.get(*end).map_or(at_end, |next| *next != b' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_ends_before_the_next() {
        assert_eq!(record_length(b"a\n b\n c\nd\n", false), Some(8));
        assert_eq!(record_length(b"a\n b\n", false), None, "more lines may follow");
        assert_eq!(record_length(b"a\n b\n", true), Some(5));
        assert_eq!(record_length(b"a\n b", true), None, "torn");
        assert_eq!(record_length(b"", true), None);
    }
}
