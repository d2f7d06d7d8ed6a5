//! Reads one task's log in order, from any place, while it is being written. Blocking IO; nothing async here.

use super::cursor::{Cursor, Place};
use super::seek;
use super::segment::{self, Chunk, Segment, Step, step};
use super::totals;
use crate::api::stream::{LogContent, LogQuery, LogRecord, LogStream, StreamFilter};
use crate::domain::command::Error;
use crate::domain::ids::TaskId;
use crate::domain::time::Timestamp;
use crate::shim::record::{
    Body, Kind, RECORD_HEADER_BYTES, RecordHeader, SEGMENT_HEADER_BYTES, decode_record_header,
};
use std::mem;
use std::path::{Path, PathBuf};

/// Counted for every record beside its bytes, so that a batch of tiny records stays small too.
const RECORD_COST_BYTES: usize = 96;
/// One call reads no more than this, even if a filter drops all of it.
const MAX_CHUNKS_PER_BATCH: usize = 64;

/// Where to begin, and what to deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Start {
    pub after: Option<Cursor>,
    pub stream: StreamFilter,
    /// Only records at or after this time.
    pub since: Option<Timestamp>,
    /// Only the last N lines of what is there now, and what follows.
    pub tail: Option<u32>,
    /// End at what is there now, however fast the task writes.
    pub until_now: bool,
}

impl Start {
    pub fn from_query(query: &LogQuery) -> Result<Self, Error> {
        let after = query.cursor.as_deref().map(|text| Cursor::parse(text, query.task)).transpose()?;
        Ok(Self { after, stream: query.stream, since: query.since, tail: query.tail, until_now: !query.follow })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    pub records: Vec<LogRecord>,
    /// Nothing more is there now. A batch may be empty without it.
    pub end_of_data: bool,
}

#[derive(Debug)]
pub struct LogReader {
    dir: PathBuf,
    task: TaskId,
    stream: StreamFilter,
    since: Option<Timestamp>,
    /// Consumed so far.
    at: Place,
    /// As far as good headers tell that output was written.
    known: Place,
    /// Records lost in the gaps up to there.
    known_lost_records: u64,
    /// Bytes that are no record, since the last good one.
    damaged_bytes: u64,
    /// What was read last ended inside a record.
    torn: bool,
    last_time: Timestamp,
    current: Option<Current>,
    /// Segments before this ordinal are done with.
    least_ordinal: u64,
    /// Ordinal and length of the newest segment when reading began, if reading ends there.
    limit: Option<(u64, u64)>,
    buffer: Vec<u8>,
}

#[derive(Debug)]
struct Current {
    segment: Segment,
    position: u64,
    /// A later segment was seen, so that this one will not grow.
    sealed: bool,
}

enum Progress {
    /// The batch is full.
    Full,
    /// There may be more in this segment.
    More,
    /// Nothing whole is left in this segment now.
    End,
    /// The segment was overwritten.
    Replaced,
}

impl LogReader {
    /// A folder that does not exist yet is a log without records.
    pub fn open(dir: &Path, task: TaskId, start: Start) -> Result<Self, Error> {
        let mut at = start.after.map_or_else(Place::default, |cursor| cursor.place);
        let mut limit = None;
        if start.since.is_some() || start.tail.is_some() || start.until_now {
            let segments = segment::list(dir)?;
            // One and the same "now" for the end of the reading and for the last lines.
            let now = match segments.last() {
                Some(newest) => (newest.header.ordinal, newest.length()?),
                None => (0, 0),
            };
            limit = start.until_now.then_some(now);
            if let Some(since) = start.since {
                at = at.max(seek::since(&segments, since)?);
            }
            if let Some(lines) = start.tail {
                at = at.max(seek::tail(&segments, now.1, start.stream, lines)?);
            }
        }
        Ok(Self {
            dir: dir.to_owned(),
            task,
            stream: start.stream,
            since: start.since,
            at,
            known: Place::default(),
            known_lost_records: 0,
            damaged_bytes: 0,
            torn: false,
            last_time: Timestamp::default(),
            current: None,
            least_ordinal: 0,
            limit,
            buffer: Vec::new(),
        })
    }

    /// What comes next, about `max_bytes` of it (one record may exceed it by its size).
    pub fn read_batch(&mut self, max_bytes: usize) -> Result<Batch, Error> {
        let mut batch = Batch::default();
        let mut left = max_bytes;
        for _ in 0..MAX_CHUNKS_PER_BATCH {
            if self.current.is_none() && !self.enter_next()? {
                batch.end_of_data = true;
                return Ok(batch);
            }
            match self.read_chunk(&mut batch, &mut left)? {
                Progress::Full => return Ok(batch),
                Progress::More => {}
                Progress::Replaced => self.current = None,
                Progress::End if self.at_end()? => {
                    self.check_cursor()?;
                    batch.end_of_data = true;
                    return Ok(batch);
                }
                Progress::End => {}
            }
        }
        Ok(batch)
    }

    /// Gives back the memory that it reads with, until it reads again.
    pub(super) fn forget_buffer(&mut self) {
        self.buffer = Vec::new();
    }

    /// To be called at the end of the data of a log that nobody writes any more: what is known to have been there
    /// and cannot be read, if anything. The exit record tells it exactly; without one, a torn or damaged end without
    /// a good header is estimated by its size.
    pub fn finish(&mut self) -> Result<Option<LogRecord>, Error> {
        let mut damaged_bytes = self.damaged_bytes;
        if let Some(current) = &self.current
            && let Chunk::Bytes(count) = current.segment.read(current.position, &mut self.buffer)?
        {
            match decode_record_header(&self.buffer[..count], current.segment.header.salt) {
                Ok(Some(header)) => self.known = self.known.max(promised_end(&header)),
                Ok(None) | Err(_) => damaged_bytes += count as u64,
            }
        }
        let mut end = self.known;
        if damaged_bytes > 0 {
            end.sequence = end.sequence.saturating_add(1);
            end.offset = end.offset.saturating_add(damaged_bytes.saturating_sub(RECORD_HEADER_BYTES as u64));
        }
        let gap = match self.exact_end() {
            // Delivered or not, all of it is accounted for: what is damaged is not output.
            Some((end, _)) if end.offset <= self.at.offset => None,
            Some((end, lost_records)) => {
                let unread_records = self.known.sequence.saturating_sub(self.at.sequence);
                let mut gap = self.gap_to(end, self.last_time);
                if let LogContent::Gap { lost_records: told, .. } = &mut gap.content {
                    *told = unread_records.saturating_add(lost_records);
                }
                Some(gap)
            }
            None => (end.sequence > self.at.sequence).then(|| self.gap_to(end, self.last_time)),
        };
        (self.damaged_bytes, self.current) = (0, None);
        Ok(gap)
    }

    /// Where the log of an ended task ends by its exit record, and the records lost since the last readable one. The
    /// lost end counts as one more record. `None` if there is no exit record, or one that contradicts the log.
    fn exact_end(&self) -> Option<(Place, u64)> {
        let totals = totals::read(&self.dir)?;
        let offset = totals.bytes.checked_add(totals.lost_bytes).filter(|offset| *offset >= self.known.offset)?;
        let lost_records = totals.lost_records.saturating_sub(self.known_lost_records).max(1);
        let sequence = self.known.sequence.max(self.at.sequence).saturating_add(1);
        Some((Place { sequence, offset }, lost_records))
    }

    /// Opens the segment that holds what follows `at`, or the oldest one after it.
    fn enter_next(&mut self) -> Result<bool, Error> {
        let mut segments = segment::list(&self.dir)?;
        segments.retain(|segment| segment.header.ordinal >= self.least_ordinal);
        let next_sequence = self.at.sequence.saturating_add(1);
        let holds = segments.iter().rposition(|segment| segment.header.first_sequence <= next_sequence);
        let Some(segment) = segments.into_iter().nth(holds.unwrap_or(0)) else {
            return Ok(false);
        };
        if self.limit.is_some_and(|(ordinal, _)| segment.header.ordinal > ordinal) {
            return Ok(false);
        }
        self.least_ordinal = segment.header.ordinal.saturating_add(1);
        self.known = self.known.max(Place {
            sequence: segment.header.first_sequence.saturating_sub(1),
            offset: segment.header.base_offset,
        });
        self.known_lost_records = self.known_lost_records.max(segment.header.lost_records);
        self.damaged_bytes = 0;
        self.current = Some(Current { segment, position: SEGMENT_HEADER_BYTES as u64, sealed: false });
        Ok(true)
    }

    fn read_chunk(&mut self, batch: &mut Batch, left: &mut usize) -> Result<Progress, Error> {
        let Some(mut current) = self.current.take() else {
            return Ok(Progress::End);
        };
        let mut buffer = mem::take(&mut self.buffer);
        let progress = self.read_from(&mut current, &mut buffer, batch, left);
        (self.buffer, self.current) = (buffer, Some(current));
        progress
    }

    fn read_from(
        &mut self,
        current: &mut Current,
        buffer: &mut Vec<u8>,
        batch: &mut Batch,
        left: &mut usize,
    ) -> Result<Progress, Error> {
        let Chunk::Bytes(count) = current.segment.read(current.position, buffer)? else {
            return Ok(Progress::Replaced);
        };
        let count = self.limited(current, count);
        let mut done = 0;
        loop {
            if *left == 0 {
                return Ok(Progress::Full);
            }
            let used = match step(&buffer[done..count], current.segment.header.salt) {
                Step::NeedMore => break,
                Step::Record { header, body } => {
                    let before = batch.records.len();
                    self.accept(&header, body, &mut batch.records)?;
                    for record in &batch.records[before..] {
                        *left = left.saturating_sub(cost_bytes(record));
                    }
                    header.total_bytes()
                }
                Step::Damaged { known, skip } => {
                    match known {
                        Some(header) => self.known = self.known.max(promised_end(&header)),
                        None => self.damaged_bytes += skip as u64,
                    }
                    skip
                }
            };
            done += used;
            current.position = current.position.saturating_add(used as u64);
        }
        self.torn = done < count;
        Ok(if count == segment::CHUNK_BYTES { Progress::More } else { Progress::End })
    }

    fn limited(&self, current: &Current, count: usize) -> usize {
        match self.limit {
            Some((ordinal, length)) if ordinal == current.segment.header.ordinal => {
                let allowed = length.saturating_sub(current.position);
                count.min(usize::try_from(allowed).unwrap_or(usize::MAX))
            }
            _ => count,
        }
    }

    /// Nothing is left in the current segment: is that the end of the data, or is there a later segment?
    fn at_end(&mut self) -> Result<bool, Error> {
        let Some(current) = &mut self.current else {
            return Ok(false);
        };
        if current.sealed {
            self.current = None;
            return Ok(false);
        }
        let ordinal = current.segment.header.ordinal;
        if self.limit.is_some_and(|(last, _)| ordinal >= last) {
            return Ok(true);
        }
        // Read once more after the later one was seen: the writer may have added records in between.
        current.sealed = segment::list(&self.dir)?.iter().any(|segment| segment.header.ordinal > ordinal);
        Ok(!current.sealed)
    }

    /// At the end of the data a log must have at least what the cursor says was consumed. The gap that
    /// [`LogReader::finish`] gives for an unreadable or lost end counts as one more record.
    fn check_cursor(&self) -> Result<(), Error> {
        let known = self.known.sequence;
        if known >= self.at.sequence {
            return Ok(());
        }
        let unreadable = self.torn
            || self.damaged_bytes > 0
            || self.exact_end().is_some_and(|(end, _)| end.offset >= self.at.offset);
        if known.saturating_add(u64::from(unreadable)) < self.at.sequence {
            let last = self.known.sequence;
            return Err(self.cursor().does_not_fit(&format!("the log ends with record {last}")));
        }
        Ok(())
    }

    fn accept(&mut self, header: &RecordHeader, body: Body<'_>, out: &mut Vec<LogRecord>) -> Result<(), Error> {
        let end = Place { sequence: header.sequence, offset: header.offset.saturating_add(body.output_bytes()) };
        if let (Body::Gap { lost_records, .. }, true) = (body, end > self.known) {
            self.known_lost_records = self.known_lost_records.saturating_add(lost_records);
        }
        self.known = self.known.max(end);
        self.damaged_bytes = 0;
        let time = Timestamp::from_nanos(header.stamp.realtime_ns);
        self.last_time = time;
        if header.sequence <= self.at.sequence {
            if header.sequence == self.at.sequence && end.offset > self.at.offset {
                return Err(self.cursor().does_not_fit(&format!("record {} ends at {}", end.sequence, end.offset)));
            }
            return Ok(());
        }
        let in_time = self.since.is_none_or(|since| time >= since);
        let before = Place { sequence: header.sequence - 1, offset: header.offset };
        if before.sequence > self.at.sequence || before.offset > self.at.offset {
            let gap = self.gap_to(before, time);
            out.extend(in_time.then_some(gap));
        }
        let cut = self.at.offset.saturating_sub(header.offset);
        if cut > body.output_bytes() {
            return Err(self.cursor().does_not_fit(&format!("record {} ends at {}", end.sequence, end.offset)));
        }
        self.at = end;
        let consumed = cut > 0 && cut == body.output_bytes();
        if in_time && !consumed {
            out.extend(content(header.kind, body, cut, self.stream).map(|content| self.record(time, content)));
        }
        Ok(())
    }

    fn gap_to(&mut self, end: Place, time: Timestamp) -> LogRecord {
        let lost_records = end.sequence.saturating_sub(self.at.sequence);
        let lost_bytes = end.offset.saturating_sub(self.at.offset);
        self.at = end;
        self.record(time, LogContent::Gap { lost_records, lost_bytes })
    }

    fn record(&self, time: Timestamp, content: LogContent) -> LogRecord {
        LogRecord { sequence: self.at.sequence, time, content, cursor: self.cursor().to_string() }
    }

    /// Where this reader stands.
    pub fn cursor(&self) -> Cursor {
        Cursor { task: self.task, place: self.at }
    }
}

/// Where a record ends whose body cannot be read.
fn promised_end(header: &RecordHeader) -> Place {
    let bytes = if header.kind == Kind::Gap { 0 } else { u64::from(header.length) };
    Place { sequence: header.sequence, offset: header.offset.saturating_add(bytes) }
}

/// What of a record is delivered, without the `cut` bytes that were consumed before.
fn content(kind: Kind, body: Body<'_>, cut: u64, filter: StreamFilter) -> Option<LogContent> {
    match body {
        Body::Gap { lost_records, lost_bytes } => {
            Some(LogContent::Gap { lost_records, lost_bytes: lost_bytes.saturating_sub(cut) })
        }
        Body::Output(bytes) => {
            let stream = selected(kind, filter)?;
            let bytes = bytes.get(usize::try_from(cut).ok()?..)?.to_vec();
            Some(LogContent::Output { stream, bytes })
        }
    }
}

/// The stream of output that a filter lets through.
pub(super) fn selected(kind: Kind, filter: StreamFilter) -> Option<LogStream> {
    match (kind, filter) {
        (Kind::Stdout, StreamFilter::All | StreamFilter::Stdout) => Some(LogStream::Stdout),
        (Kind::Stderr, StreamFilter::All | StreamFilter::Stderr) => Some(LogStream::Stderr),
        _ => None,
    }
}

fn cost_bytes(record: &LogRecord) -> usize {
    RECORD_COST_BYTES
        + match &record.content {
            LogContent::Output { bytes, .. } => bytes.len(),
            LogContent::Gap { .. } => 0,
        }
}
