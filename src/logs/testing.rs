//! Writes logs as the shim does, for tests.

use crate::api::stream::{LogContent, LogRecord, StreamFilter};
use crate::domain::ids::TaskId;
use crate::logs::cursor::{Cursor, Place};
use crate::logs::reader::{LogReader, Start};
use crate::shim::record::{Encoder, Kind, SEGMENT_HEADER_BYTES, Stamp, file_name};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

pub(super) fn task() -> TaskId {
    "7.8.0.1".parse().expect("it has the form of a task id")
}

#[derive(Debug)]
pub(super) struct RingWriter {
    dir: PathBuf,
    segment_count: u64,
    segment_bytes: usize,
    encoder: Encoder,
    file: Option<File>,
    in_segment: usize,
    pub(super) time_ns: i64,
    boottime_ns: u64,
}

impl RingWriter {
    pub(super) fn new(dir: &Path, segment_count: u64, segment_bytes: usize) -> Self {
        let (dir, encoder) = (dir.to_owned(), Encoder::new());
        Self { dir, segment_count, segment_bytes, encoder, file: None, in_segment: 0, time_ns: 0, boottime_ns: 0 }
    }

    pub(super) fn offset(&self) -> u64 {
        self.encoder.offset()
    }

    pub(super) fn last_sequence(&self) -> u64 {
        self.encoder.last_sequence()
    }

    pub(super) fn output(&mut self, kind: Kind, bytes: &[u8]) {
        self.write(|encoder, stamp, out| encoder.output(kind, stamp, bytes, out));
    }

    pub(super) fn gap(&mut self, lost_records: u64, lost_bytes: u64) {
        self.write(|encoder, stamp, out| encoder.gap(stamp, lost_records, lost_bytes, out));
    }

    fn write(&mut self, encode: impl FnOnce(&mut Encoder, Stamp, &mut Vec<u8>)) {
        let mut out = Vec::new();
        if self.file.is_none() || self.in_segment >= self.segment_bytes {
            let path = self.dir.join(file_name(self.encoder.next_ordinal(), self.segment_count));
            let file = OpenOptions::new().create(true).truncate(true).write(true).open(path).unwrap();
            self.encoder.begin_segment(self.encoder.next_ordinal() ^ 0xabcd_ef01_2345, &mut out);
            (self.file, self.in_segment) = (Some(file), 0);
        }
        self.time_ns += 1;
        self.boottime_ns += 1;
        let stamp = Stamp { realtime_ns: self.time_ns, boottime_ns: self.boottime_ns };
        encode(&mut self.encoder, stamp, &mut out);
        self.in_segment += out.len();
        // The header alone first, now and then: readers meet segments that have no record yet.
        let cut = if out.len().is_multiple_of(2) { SEGMENT_HEADER_BYTES.min(out.len()) } else { 0 };
        let file = self.file.as_mut().unwrap();
        file.write_all(&out[..cut]).unwrap();
        file.write_all(&out[cut..]).unwrap();
    }
}

/// All records from `start`, in batches of about `max_bytes`.
pub(super) fn read_all(dir: &Path, start: Start, max_bytes: usize) -> Vec<LogRecord> {
    let mut reader = LogReader::open(dir, task(), start).unwrap();
    let mut records = Vec::new();
    loop {
        let batch = reader.read_batch(max_bytes).unwrap();
        records.extend(batch.records);
        if batch.end_of_data {
            return records;
        }
    }
}

pub(super) fn after(record: &LogRecord) -> Start {
    Start { after: Some(Cursor::parse(&record.cursor, task()).unwrap()), ..Start::default() }
}

pub(super) fn only(stream: StreamFilter) -> Start {
    Start { stream, ..Start::default() }
}

/// Output put together, bytes lost, and records lost.
pub(super) fn sum(records: &[LogRecord]) -> (Vec<u8>, u64, u64) {
    let mut sum = (Vec::new(), 0, 0);
    for record in records {
        match &record.content {
            LogContent::Output { bytes, .. } => sum.0.extend_from_slice(bytes),
            LogContent::Gap { lost_records, lost_bytes } => {
                sum.1 += lost_bytes;
                sum.2 += lost_records;
            }
        }
    }
    sum
}

/// Byte number `offset` of every test log: so any delivered byte can be checked.
pub(super) fn byte_at(offset: u64) -> u8 {
    if offset.is_multiple_of(23) { b'\n' } else { (offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 | 0x80 }
}

pub(super) fn bytes_at(offset: u64, length: usize) -> Vec<u8> {
    (offset..).take(length).map(byte_at).collect()
}

impl RingWriter {
    /// Goes on with the next bytes of the test pattern.
    pub(super) fn pattern(&mut self, kind: Kind, length: usize) {
        self.output(kind, &bytes_at(self.offset(), length));
    }
}

/// Checks that these records, read after `from`, are the test pattern without a hole and without a wrong byte, and
/// returns the place after them.
pub(super) fn check(mut from: Place, records: &[LogRecord]) -> Place {
    for record in records {
        let length = match &record.content {
            LogContent::Output { bytes, .. } => {
                assert_eq!(*bytes, bytes_at(from.offset, bytes.len()), "record {} after {from:?}", record.sequence);
                assert_eq!(record.sequence, from.sequence + 1, "after {from:?}");
                bytes.len() as u64
            }
            LogContent::Gap { lost_bytes, .. } => *lost_bytes,
        };
        let place = Cursor::parse(&record.cursor, task()).unwrap().place;
        assert_eq!(place.offset, from.offset + length, "record {} after {from:?}", record.sequence);
        assert!(place.sequence >= from.sequence && place.sequence == record.sequence);
        from = place;
    }
    from
}
