//! Finds where to begin reading: by time, or so many lines before the end. Walks from the newest segment back and
//! looks at no more than it must.

use super::cursor::Place;
use super::reader::selected;
use super::segment::{self, Chunk, Segment, Step, step};
use crate::api::stream::StreamFilter;
use crate::domain::command::Error;
use crate::domain::time::Timestamp;
use crate::shim::record::{Body, RecordHeader, SEGMENT_HEADER_BYTES, Stamp};
use std::ops::ControlFlow;

/// A place with nothing but records before `since` in the segments before it; the caller still filters by time.
/// The beginning of the log if even the oldest segment may have such records.
///
/// The wall clock may have been set back meanwhile, so that later records bear earlier times. A segment is passed
/// over only if all of its records are earlier than `since` by the clock of its first record and by the clock of
/// what follows it.
pub(super) fn since(segments: &[Segment], since: Timestamp) -> Result<Place, Error> {
    let mut before: Option<(&Segment, Stamp)> = None;
    for segment in segments {
        // None: just begun, or overwritten meanwhile. The one before it may still hold anything.
        let Some(first) = first_stamp(segment)? else { continue };
        if let Some((earlier, began)) = before.replace((segment, first))
            && latest(began, first) >= since.0
        {
            return Ok(from(earlier, segments));
        }
    }
    Ok(before.map_or_else(Place::default, |(last, _)| from(last, segments)))
}

/// The beginning of a segment; that of the log itself for the oldest, so that what was overwritten shows as a gap.
fn from(segment: &Segment, segments: &[Segment]) -> Place {
    let oldest = segments.first().is_none_or(|oldest| oldest.header.ordinal == segment.header.ordinal);
    if oldest { Place::default() } else { beginning(segment) }
}

fn first_stamp(segment: &Segment) -> Result<Option<Stamp>, Error> {
    let mut first = None;
    walk(segment, segment.length()?, |header, _| {
        first = Some(header.stamp);
        ControlFlow::Break(())
    })?;
    Ok(first)
}

/// No record between these two bears a later time, unless the clock was set forward and back again in between.
fn latest(began: Stamp, next: Stamp) -> i64 {
    let passed = i64::try_from(next.boottime_ns.saturating_sub(began.boottime_ns)).unwrap_or(i64::MAX);
    next.realtime_ns.max(began.realtime_ns.saturating_add(passed))
}

/// The place `lines` lines before the end of the selected output. A last line without its newline is a line.
/// With fewer lines than that, the oldest place there is. The output ends where the newest segment has `newest_bytes`:
/// a task writes on, and who reads up to now would else be sent behind what is to be read.
pub(super) fn tail(
    segments: &[Segment],
    newest_bytes: u64,
    filter: StreamFilter,
    lines: u32,
) -> Result<Place, Error> {
    let mut place = Place::default();
    // Newlines to go back over; unknown until the last byte is seen.
    let mut wanted = None;
    for (index, segment) in segments.iter().rev().enumerate() {
        let end = if index == 0 { newest_bytes } else { segment.length()? };
        let Some(found) = count_newlines(segment, end, filter)? else {
            // Overwritten meanwhile: what is left begins with the segment after it.
            return Ok(place);
        };
        if lines == 0 {
            return Ok(found.end);
        }
        if wanted.is_none() {
            wanted = found.last_byte.map(|last| u64::from(lines) + u64::from(last == b'\n'));
        }
        if let Some(left) = wanted {
            if found.newlines >= left {
                return Ok(after_newline(segment, end, filter, found.newlines - left)?.unwrap_or(place));
            }
            wanted = Some(left - found.newlines);
        }
        place = beginning(segment);
    }
    Ok(place)
}

fn beginning(segment: &Segment) -> Place {
    Place { sequence: segment.header.first_sequence.saturating_sub(1), offset: segment.header.base_offset }
}

struct Counted {
    newlines: u64,
    last_byte: Option<u8>,
    end: Place,
}

/// `None`: the segment was overwritten meanwhile.
fn count_newlines(segment: &Segment, end: u64, filter: StreamFilter) -> Result<Option<Counted>, Error> {
    let mut counted = Counted { newlines: 0, last_byte: None, end: beginning(segment) };
    let whole = walk(segment, end, |header, body| {
        if let (Body::Output(bytes), Some(_)) = (body, selected(header.kind, filter)) {
            counted.newlines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
            counted.last_byte = bytes.last().copied();
        }
        let offset = header.offset.saturating_add(body.output_bytes());
        counted.end = Place { sequence: header.sequence, offset };
        ControlFlow::Continue(())
    })?;
    Ok(whole.then_some(counted))
}

/// The place after newline number `skip`, counted from 0, of the selected output in this segment.
fn after_newline(segment: &Segment, end: u64, filter: StreamFilter, mut skip: u64) -> Result<Option<Place>, Error> {
    let mut place = None;
    let whole = walk(segment, end, |header, body| {
        let (Body::Output(bytes), Some(_)) = (body, selected(header.kind, filter)) else {
            return ControlFlow::Continue(());
        };
        for (position, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
            if skip == 0 {
                let offset = header.offset.saturating_add(position as u64 + 1);
                place = Some(Place { sequence: header.sequence.saturating_sub(1), offset });
                return ControlFlow::Break(());
            }
            skip -= 1;
        }
        ControlFlow::Continue(())
    })?;
    Ok(place.filter(|_| whole))
}

/// Shows every good record that is whole in the first `end` bytes of a segment. False if it was overwritten meanwhile.
fn walk(
    segment: &Segment,
    end: u64,
    mut visit: impl FnMut(&RecordHeader, Body<'_>) -> ControlFlow<()>,
) -> Result<bool, Error> {
    let mut buffer = Vec::new();
    let mut position = SEGMENT_HEADER_BYTES as u64;
    while position < end {
        let Chunk::Bytes(count) = segment.read(position, &mut buffer)? else {
            return Ok(false);
        };
        let count = count.min(usize::try_from(end - position).unwrap_or(usize::MAX));
        let mut done = 0;
        while done < count {
            match step(&buffer[done..count], segment.header.salt) {
                Step::NeedMore => break,
                Step::Damaged { skip, .. } => done += skip,
                Step::Record { header, body } => {
                    if visit(&header, body).is_break() {
                        return Ok(true);
                    }
                    done += header.total_bytes();
                }
            }
        }
        position = position.saturating_add(done as u64);
        if count < segment::CHUNK_BYTES {
            break;
        }
    }
    Ok(true)
}
