//! The form of a task's log on disk: what the shim writes and the agent reads.
//! Std only: it is compiled into the static shim as well. No IO here; times and salts come in as arguments.
//!
//! A log is a ring of N files, `log.0` to `log.N-1`, of about `segment_bytes` each. The segment with ordinal `o`
//! (0, 1, 2 ...) lives in file `o % N`. To begin one, the writer truncates that file to nothing, writes a segment
//! header and then records, each by whole appends. A writer that starts a log truncates all its files first.
//!
//! ```text
//! segment header, 64 bytes   magic 8 | version u32 | zero u32 | salt u64 | ordinal u64 | first_sequence u64
//!                            | base_offset u64 | lost_records u64 | zero u32 | crc u32 of the 60 before
//! record header, 48 bytes    mark 3 | kind u8 | length u32 | sequence u64 | offset u64 | realtime i64 ns
//!                            | boottime u64 ns | body crc u32 | header crc u32 of the 44 before
//! record body                output: 1 to 65536 bytes; gap: lost_records u64, lost_bytes u64
//! ```
//! All numbers are little-endian. `offset` counts output bytes of both streams since the log began, lost ones
//! included, so that every record says exactly where it belongs: whoever skips damage knows how much is missing.
//! Record checksums start from the segment's salt: output that looks like a record is not taken for one, and
//! neither is what an earlier segment left in the file.
//!
//! Sequences start at 1. A gap record has a sequence of its own; the records lost in it have none.

use super::crc::{crc32c, crc32c_after};

/// The version that is written.
pub const VERSION: u32 = if cfg!(feature = "next-level") { 2 } else { 1 };
/// The newest that is read. A version may use what is zero in the one before it, which passes that over.
pub const NEWEST_VERSION: u32 = VERSION + 1;
/// More output than this goes into several records.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
pub const SEGMENT_HEADER_BYTES: usize = 64;
pub const RECORD_HEADER_BYTES: usize = 48;
const GAP_BODY_BYTES: usize = 16;
const MAGIC: [u8; 8] = *b"wharflog";
const MARK: [u8; 3] = [0xf5, b'w', b'r'];

/// The file of the segment with this ordinal.
pub fn file_name(ordinal: u64, segment_count: u64) -> String {
    format!("log.{}", ordinal % segment_count.max(1))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Stdout,
    Stderr,
    Gap,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Stdout => 1,
            Self::Stderr => 2,
            Self::Gap => 3,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            3 => Some(Self::Gap),
            _ => None,
        }
    }
}

/// When a record was read from the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stamp {
    /// CLOCK_REALTIME, nanoseconds since 1970.
    pub realtime_ns: i64,
    /// CLOCK_BOOTTIME in nanoseconds: survives steps of the wall clock.
    pub boottime_ns: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Any number that the task cannot guess, such as nanoseconds of a clock or random bits.
    pub salt: u64,
    /// How many segments were begun before this one.
    pub ordinal: u64,
    /// Sequence of its first record, which may not have been written yet.
    pub first_sequence: u64,
    /// Output bytes before it, lost ones included.
    pub base_offset: u64,
    /// Records lost in all gaps before it.
    pub lost_records: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    pub kind: Kind,
    /// Bytes of the body.
    pub length: u32,
    pub sequence: u64,
    /// Output bytes before this record, lost ones included.
    pub offset: u64,
    pub stamp: Stamp,
    body_crc: u32,
}

impl RecordHeader {
    /// Header and body together.
    pub fn total_bytes(&self) -> usize {
        RECORD_HEADER_BYTES + self.length as usize
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body<'a> {
    Output(&'a [u8]),
    Gap { lost_records: u64, lost_bytes: u64 },
}

impl Body<'_> {
    /// How far this record moves the offset.
    pub fn output_bytes(&self) -> u64 {
        match self {
            Self::Output(bytes) => bytes.len() as u64,
            Self::Gap { lost_bytes, .. } => *lost_bytes,
        }
    }
}

/// What the bytes at some place of a segment are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded<'a> {
    Complete {
        header: RecordHeader,
        body: Body<'a>,
    },
    /// The beginning of a record, or nothing at all: the writer is not done, or died here.
    NeedMore,
    /// The header is good, the body is damaged: go on after `header.total_bytes()`.
    CorruptBody {
        header: RecordHeader,
    },
    /// Not a record: go on with [`find_record`], or at the next segment.
    CorruptHeader,
}

/// Why a file does not begin with a segment header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentError {
    /// Empty or torn: the writer is about to begin it, or died here.
    NeedMore,
    /// Written by a shim that is newer by more than one version.
    UnknownVersion(u32),
    Corrupt,
}

/// Encodes one log, from its beginning, into buffers that the caller writes out in order.
#[derive(Debug, Clone)]
pub struct Encoder {
    seed: u32,
    next_ordinal: u64,
    next_sequence: u64,
    offset: u64,
    lost_records: u64,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// Of a log with nothing in it. The first call must be [`Encoder::begin_segment`].
    pub const fn new() -> Self {
        Self { seed: 0, next_ordinal: 0, next_sequence: 1, offset: 0, lost_records: 0 }
    }

    /// The ordinal of the segment that [`Encoder::begin_segment`] begins next: says which file to truncate.
    pub const fn next_ordinal(&self) -> u64 {
        self.next_ordinal
    }

    /// Sequence of the last record; 0 for none.
    pub const fn last_sequence(&self) -> u64 {
        self.next_sequence - 1
    }

    /// Output bytes so far, lost ones included.
    pub const fn offset(&self) -> u64 {
        self.offset
    }

    /// Appends a segment header. What follows belongs to that segment.
    pub fn begin_segment(&mut self, salt: u64, out: &mut Vec<u8>) {
        let header = SegmentHeader {
            salt,
            ordinal: self.next_ordinal,
            first_sequence: self.next_sequence,
            base_offset: self.offset,
            lost_records: self.lost_records,
        };
        out.extend_from_slice(&encode_segment_header(&header));
        self.seed = seed(salt);
        self.next_ordinal += 1;
    }

    /// Appends output in records of at most [`MAX_BODY_BYTES`]; no bytes make no record. `kind` is not `Gap`.
    pub fn output(&mut self, kind: Kind, stamp: Stamp, bytes: &[u8], out: &mut Vec<u8>) {
        debug_assert!(kind != Kind::Gap, "gaps have their own function");
        for body in bytes.chunks(MAX_BODY_BYTES) {
            self.record(kind, stamp, body, body.len() as u64, out);
        }
    }

    /// Appends a gap: `lost_records` pieces of output with together `lost_bytes` were never written.
    pub fn gap(&mut self, stamp: Stamp, lost_records: u64, lost_bytes: u64, out: &mut Vec<u8>) {
        let mut body = [0; GAP_BODY_BYTES];
        body[..8].copy_from_slice(&lost_records.to_le_bytes());
        body[8..].copy_from_slice(&lost_bytes.to_le_bytes());
        self.record(Kind::Gap, stamp, &body, lost_bytes, out);
        self.lost_records = self.lost_records.saturating_add(lost_records);
    }

    fn record(&mut self, kind: Kind, stamp: Stamp, body: &[u8], advance: u64, out: &mut Vec<u8>) {
        let mut header = [0; RECORD_HEADER_BYTES];
        header[..3].copy_from_slice(&MARK);
        header[3] = kind.code();
        header[4..8].copy_from_slice(&(body.len() as u32).to_le_bytes());
        header[8..16].copy_from_slice(&self.next_sequence.to_le_bytes());
        header[16..24].copy_from_slice(&self.offset.to_le_bytes());
        header[24..32].copy_from_slice(&stamp.realtime_ns.to_le_bytes());
        header[32..40].copy_from_slice(&stamp.boottime_ns.to_le_bytes());
        header[40..44].copy_from_slice(&crc32c_after(self.seed, body).to_le_bytes());
        let header_crc = crc32c_after(self.seed, &header[..44]);
        header[44..].copy_from_slice(&header_crc.to_le_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(body);
        self.next_sequence += 1;
        self.offset = self.offset.saturating_add(advance);
    }
}

fn encode_segment_header(header: &SegmentHeader) -> [u8; SEGMENT_HEADER_BYTES] {
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    if cfg!(feature = "next-level") {
        bytes[12..16].copy_from_slice(b"more");
    }
    let numbers = [header.salt, header.ordinal, header.first_sequence, header.base_offset, header.lost_records];
    for (position, number) in numbers.into_iter().enumerate() {
        let start = 16 + 8 * position;
        bytes[start..start + 8].copy_from_slice(&number.to_le_bytes());
    }
    let crc = crc32c(&bytes[..60]);
    bytes[60..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// Reads the beginning of a segment file.
pub fn decode_segment_header(bytes: &[u8]) -> Result<SegmentHeader, SegmentError> {
    let Some(bytes) = bytes.get(..SEGMENT_HEADER_BYTES) else {
        return Err(SegmentError::NeedMore);
    };
    if bytes[..8] != MAGIC {
        return Err(SegmentError::Corrupt);
    }
    if crc32c(&bytes[..60]) != u32_at(bytes, 60) {
        return Err(SegmentError::Corrupt);
    }
    match u32_at(bytes, 8) {
        1..=NEWEST_VERSION => Ok(SegmentHeader {
            salt: u64_at(bytes, 16),
            ordinal: u64_at(bytes, 24),
            first_sequence: u64_at(bytes, 32),
            base_offset: u64_at(bytes, 40),
            lost_records: u64_at(bytes, 48),
        }),
        other => Err(SegmentError::UnknownVersion(other)),
    }
}

/// Reads the record at the beginning of `bytes`, in a segment with this salt. Looks at no more than one record.
pub fn decode_record(bytes: &[u8], salt: u64) -> Decoded<'_> {
    let header = match decode_record_header(bytes, salt) {
        Ok(Some(header)) => header,
        Ok(None) => return Decoded::NeedMore,
        Err(NotARecord) => return Decoded::CorruptHeader,
    };
    let Some(body) = bytes.get(RECORD_HEADER_BYTES..header.total_bytes()) else {
        return Decoded::NeedMore;
    };
    if crc32c_after(seed(salt), body) != header.body_crc {
        return Decoded::CorruptBody { header };
    }
    let body = match header.kind {
        Kind::Stdout | Kind::Stderr => Body::Output(body),
        Kind::Gap => Body::Gap { lost_records: u64_at(body, 0), lost_bytes: u64_at(body, 8) },
    };
    Decoded::Complete { header, body }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotARecord;

/// Reads the record header at the beginning of `bytes`; `None` where there is less than one.
pub fn decode_record_header(bytes: &[u8], salt: u64) -> Result<Option<RecordHeader>, NotARecord> {
    let marked = bytes.len().min(MARK.len());
    if bytes[..marked] != MARK[..marked] {
        return Err(NotARecord);
    }
    let Some(bytes) = bytes.get(..RECORD_HEADER_BYTES) else {
        return Ok(None);
    };
    if crc32c_after(seed(salt), &bytes[..44]) != u32_at(bytes, 44) {
        return Err(NotARecord);
    }
    let kind = Kind::from_code(bytes[3]).ok_or(NotARecord)?;
    let length = u32_at(bytes, 4);
    let allowed = match kind {
        Kind::Gap => GAP_BODY_BYTES..=GAP_BODY_BYTES,
        Kind::Stdout | Kind::Stderr => 1..=MAX_BODY_BYTES,
    };
    if !allowed.contains(&(length as usize)) {
        return Err(NotARecord);
    }
    let stamp = Stamp { realtime_ns: u64_at(bytes, 24).cast_signed(), boottime_ns: u64_at(bytes, 32) };
    Ok(Some(RecordHeader {
        kind,
        length,
        sequence: u64_at(bytes, 8),
        offset: u64_at(bytes, 16),
        stamp,
        body_crc: u32_at(bytes, 40),
    }))
}

/// The first place at or after `from` where a good record header begins.
pub fn find_record(bytes: &[u8], from: usize, salt: u64) -> Option<usize> {
    let last = bytes.len().checked_sub(RECORD_HEADER_BYTES)?;
    (from..=last)
        .find(|place| bytes[*place] == MARK[0] && matches!(decode_record_header(&bytes[*place..], salt), Ok(Some(_))))
}

fn seed(salt: u64) -> u32 {
    crc32c(&salt.to_le_bytes())
}

/// The caller has checked that the bytes are there.
fn u64_at(bytes: &[u8], start: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[start..start + 8]);
    u64::from_le_bytes(number)
}

fn u32_at(bytes: &[u8], start: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[start..start + 4]);
    u32::from_le_bytes(number)
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
