//! One segment file: finding it, and reading from it while its writer may be overwriting it.

use crate::domain::command::Error;
use crate::shim::record::{
    Body, Decoded, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, SegmentError, SegmentHeader,
    decode_record, decode_segment_header, find_record,
};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Read at once. Holds several of the largest records.
pub(super) const CHUNK_BYTES: usize = 256 * 1024;
/// More segment files than this in one folder are not looked at.
const MAX_FILES: usize = 1024;

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) header: SegmentHeader,
    file: File,
    path: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    /// This many bytes were read; fewer than [`CHUNK_BYTES`] is the present end of the file.
    Bytes(usize),
    /// The writer has begun another segment in this file: what was read is worthless.
    Replaced,
}

/// The segments that are there, oldest first. None if the folder does not exist (yet).
///
/// Looks twice. The writer may begin segment k+1 in a file that the first look has passed, and k+2 in one that
/// it has not: k+1 would seem lost. What the second look does not see of all that the first proved begun is gone.
pub(super) fn list(dir: &Path) -> Result<Vec<Segment>, Error> {
    look(dir)?;
    look(dir)
}

fn look(dir: &Path) -> Result<Vec<Segment>, Error> {
    let failed = |error: io::Error| Error::internal(format!("list the log segments in {}: {error}", dir.display()));
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut segments = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        if is_segment_name(&entry.file_name()) {
            segments.extend(Segment::open(entry.path())?);
        }
        if segments.len() == MAX_FILES {
            break;
        }
    }
    segments.sort_by_key(|segment| segment.header.ordinal);
    segments.dedup_by_key(|segment| segment.header.ordinal);
    Ok(segments)
}

fn is_segment_name(name: &std::ffi::OsStr) -> bool {
    let index = name.to_str().and_then(|name| name.strip_prefix("log."));
    index.is_some_and(|index| (1..=6).contains(&index.len()) && index.bytes().all(|byte| byte.is_ascii_digit()))
}

impl Segment {
    /// `None` for what holds no segment: empty, being begun, damaged at its start, gone, or not a file.
    fn open(path: PathBuf) -> Result<Option<Self>, Error> {
        let failed = |error: io::Error| Error::internal(format!("open log segment {}: {error}", path.display()));
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if !file.metadata().map_err(failed)?.is_file() {
            return Ok(None);
        }
        match read_header(&file).map_err(failed)? {
            Ok(header) => Ok(Some(Self { header, file, path })),
            Err(SegmentError::NeedMore | SegmentError::Corrupt) => Ok(None),
            Err(SegmentError::UnknownVersion(version)) => Err(Error::refused(format!(
                "read log segment {}: its format has version {version}, this wharf reads up to {}",
                path.display(),
                crate::shim::record::NEWEST_VERSION
            ))),
        }
    }

    /// Bytes in the file now.
    pub(super) fn length(&self) -> Result<u64, Error> {
        self.file.metadata().map(|data| data.len()).map_err(|error| self.failed(&error))
    }

    /// Reads at `position` into `buffer`, which it makes [`CHUNK_BYTES`] long.
    ///
    /// The header is read again afterwards: the writer truncates before it writes anything new, so where the
    /// header is still the old one, so were the bytes.
    pub(super) fn read(&self, position: u64, buffer: &mut Vec<u8>) -> Result<Chunk, Error> {
        buffer.resize(CHUNK_BYTES, 0);
        let count = read_full(&self.file, buffer, position).map_err(|error| self.failed(&error))?;
        match read_header(&self.file).map_err(|error| self.failed(&error))? {
            Ok(header) if header == self.header => Ok(Chunk::Bytes(count)),
            _ => Ok(Chunk::Replaced),
        }
    }

    fn failed(&self, error: &io::Error) -> Error {
        Error::internal(format!("read log segment {}: {error}", self.path.display()))
    }
}

fn read_header(file: &File) -> io::Result<Result<SegmentHeader, SegmentError>> {
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let count = read_full(file, &mut bytes, 0)?;
    Ok(decode_segment_header(&bytes[..count]))
}

/// Reads until the buffer is full or the file ends.
fn read_full(file: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match file.read_at(&mut buffer[count..], position.saturating_add(count as u64)) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

/// What comes next in the bytes of a segment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    Record {
        header: RecordHeader,
        body: Body<'a>,
    },
    /// `skip` bytes are damaged. `known` is the header of the record that they were, if that much is good.
    Damaged {
        known: Option<RecordHeader>,
        skip: usize,
    },
    /// Nothing whole.
    NeedMore,
}

/// Looks at the beginning of `bytes`, in a segment with this salt.
pub(super) fn step(bytes: &[u8], salt: u64) -> Step<'_> {
    match decode_record(bytes, salt) {
        Decoded::Complete { header, body } => Step::Record { header, body },
        Decoded::NeedMore => Step::NeedMore,
        Decoded::CorruptBody { header } => Step::Damaged { known: Some(header), skip: header.total_bytes() },
        Decoded::CorruptHeader => {
            // The last bytes may be the beginning of a good header that is not whole yet.
            let unclear = (bytes.len() + 1).saturating_sub(RECORD_HEADER_BYTES);
            match find_record(bytes, 1, salt).unwrap_or(unclear) {
                0 => Step::NeedMore,
                skip => Step::Damaged { known: None, skip },
            }
        }
    }
}
