//! The reader against logs of every shape: overwritten, torn, damaged, and changing under it.

use super::cursor::{Cursor, Place};
use super::reader::{LogReader, Start};
use super::testing::{RingWriter, after, check, only, read_all, sum, task};
use crate::api::stream::{LogContent, StreamFilter};
use crate::domain::command::ErrorKind;
use crate::domain::time::Timestamp;
use crate::shim::record::{Kind, MAX_BODY_BYTES, RECORD_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use proptest::prelude::*;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What a task and its shim do: output on a stream, or a gap.
fn actions() -> impl Strategy<Value = Vec<(u8, usize)>> {
    prop::collection::vec((0..8_u8, prop_oneof![4 => 1..200_usize, 1 => 1..70_000_usize]), 1..60)
}

fn write(writer: &mut RingWriter, actions: &[(u8, usize)]) {
    for (action, length) in actions {
        match action {
            0 => writer.gap(*length as u64 % 7 + 1, *length as u64),
            1 | 2 => writer.pattern(Kind::Stderr, *length),
            _ => writer.pattern(Kind::Stdout, *length),
        }
    }
}

fn at(place: Place) -> Start {
    Start { after: Some(Cursor { task: task(), place }), ..Start::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everything_is_delivered_or_counted(
        actions in actions(), count in 1..5_u64, size in 64..100_000_usize, max in 1..200_000_usize,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = RingWriter::new(dir.path(), count, size);
        write(&mut writer, &actions);
        let records = read_all(dir.path(), Start::default(), max);
        let end = Place { sequence: writer.last_sequence(), offset: writer.offset() };
        prop_assert_eq!(check(Place::default(), &records), end);
        let (bytes, lost_bytes, _) = sum(&records);
        prop_assert_eq!(bytes.len() as u64 + lost_bytes, writer.offset());
        // Every cursor gives exactly the rest.
        for (index, record) in records.iter().enumerate() {
            prop_assert_eq!(&read_all(dir.path(), after(record), max), &records[index + 1..]);
        }
    }

    #[test]
    fn a_cursor_inside_a_record_gives_exactly_the_rest(
        actions in actions(), count in 1..5_u64, size in 64..100_000_usize, cut in 0..70_000_u64,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = RingWriter::new(dir.path(), count, size);
        write(&mut writer, &actions);
        let records = read_all(dir.path(), Start::default(), 1 << 20);
        let end = Place { sequence: writer.last_sequence(), offset: writer.offset() };
        let mut before = Place::default();
        for record in &records {
            let place = Cursor::parse(&record.cursor, task()).unwrap().place;
            let inside = Place { sequence: before.sequence, offset: before.offset + cut.min(place.offset - before.offset - 1) };
            prop_assert_eq!(check(inside, &read_all(dir.path(), at(inside), 1 << 20)), end);
            before = place;
        }
    }

    #[test]
    fn a_cursor_whose_segment_is_overwritten_gives_the_exact_gap(
        first in actions(), then in actions(), count in 1..4_u64, size in 64..20_000_usize,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = RingWriter::new(dir.path(), count, size);
        write(&mut writer, &first);
        let seen = Place { sequence: writer.last_sequence(), offset: writer.offset() };
        write(&mut writer, &then);
        let records = read_all(dir.path(), at(seen), 1 << 20);
        let end = Place { sequence: writer.last_sequence(), offset: writer.offset() };
        prop_assert_eq!(check(seen, &records), end);
        let mut delivered = records.len() as u64;
        if let Some(LogContent::Gap { lost_records, .. }) = records.first().map(|record| record.content.clone())
            && records[0].sequence != seen.sequence + 1
        {
            delivered += lost_records - 1;
        }
        prop_assert_eq!(seen.sequence + delivered, end.sequence);
    }

    #[test]
    fn damaged_bytes_are_never_delivered(
        actions in actions(), size in 64..100_000_usize, damage in prop::collection::vec((any::<u32>(), 1..=255_u8), 1..6),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = RingWriter::new(dir.path(), 3, size);
        write(&mut writer, &actions);
        let end = Place { sequence: writer.last_sequence(), offset: writer.offset() };
        let files: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        for (place, change) in &damage {
            let path = &files[*place as usize % files.len()];
            let mut bytes = std::fs::read(path).unwrap();
            let position = (*place as usize / files.len()) % bytes.len();
            bytes[position] ^= change;
            std::fs::write(path, bytes).unwrap();
        }
        let mut reader = LogReader::open(dir.path(), task(), Start::default()).unwrap();
        let mut records = Vec::new();
        let finished = loop {
            // A flipped version number is the one damage that is an error by its name; its checksum catches it first.
            let batch = reader.read_batch(50_000).unwrap();
            records.extend(batch.records);
            if batch.end_of_data {
                break reader.finish().unwrap();
            }
        };
        let readable = check(Place::default(), &records);
        prop_assert!(readable <= end);
        if readable < end && finished.is_none() {
            // Only a damaged segment header hides a whole segment at the end without a trace.
            prop_assert!(read_all(dir.path(), at(readable), 1 << 20).is_empty());
        }
        for start in [Start { tail: Some(5), ..Start::default() }, Start { since: Some(Timestamp(9)), ..Start::default() }] {
            read_all(dir.path(), start, 1 << 20);
        }
    }

    #[test]
    fn any_bytes_are_survived(files in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..400), 0..4)) {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = RingWriter::new(dir.path(), 9, 64);
        write(&mut writer, &[(1, 10), (1, 10)]);
        let good = std::fs::read(dir.path().join("log.0")).unwrap();
        for (index, bytes) in files.iter().enumerate() {
            // Some begin like a segment, so that what follows is looked at.
            let head = if index % 2 == 0 { &good[..SEGMENT_HEADER_BYTES] } else { &[] };
            std::fs::write(dir.path().join(format!("log.{index}")), [head, bytes].concat()).unwrap();
        }
        let mut reader = LogReader::open(dir.path(), task(), Start { tail: Some(1), ..Start::default() }).unwrap();
        while !reader.read_batch(1000).unwrap().end_of_data {}
        reader.finish().unwrap();
    }
}

#[test]
fn a_torn_tail_waits_and_then_goes_on() {
    let (dir, whole) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut writer = RingWriter::new(whole.path(), 1, 1 << 20);
    write(&mut writer, &[(3, 30), (0, 9), (1, 20)]);
    let bytes = std::fs::read(whole.path().join("log.0")).unwrap();
    let end = Place { sequence: 3, offset: writer.offset() };
    let third = bytes.len() - 20 - RECORD_HEADER_BYTES;
    for cut in 0..bytes.len() {
        std::fs::write(dir.path().join("log.0"), &bytes[..cut]).unwrap();
        let mut reader = LogReader::open(dir.path(), task(), Start::default()).unwrap();
        let batch = reader.read_batch(1 << 20).unwrap();
        assert!(batch.end_of_data, "cut at {cut}");
        let place = check(Place::default(), &batch.records);
        std::fs::write(dir.path().join("log.0"), &bytes).unwrap();
        let batch = reader.read_batch(1 << 20).unwrap();
        assert_eq!(check(place, &batch.records), end, "cut at {cut}");
        assert_eq!(reader.finish().unwrap(), None);
        // The same cut, but the writer never came back.
        std::fs::write(dir.path().join("log.0"), &bytes[..cut]).unwrap();
        let mut reader = LogReader::open(dir.path(), task(), Start::default()).unwrap();
        reader.read_batch(1 << 20).unwrap();
        let lost = reader.finish().unwrap();
        if cut >= third + RECORD_HEADER_BYTES {
            let content = LogContent::Gap { lost_records: 1, lost_bytes: 20 };
            assert_eq!(lost.map(|record| record.content), Some(content), "cut at {cut}");
        } else if cut > third {
            let lost = lost.expect("part of a header is there");
            // The cursor of the estimate is taken back.
            assert_eq!(read_all(dir.path(), after(&lost), 1 << 20), []);
        }
    }
}

#[test]
fn damage_in_the_middle_is_a_gap_of_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RingWriter::new(dir.path(), 1, 1 << 20);
    write(&mut writer, &[(3, 100), (3, 50), (3, 60), (3, 70)]);
    let path = dir.path().join("log.0");
    let bytes = std::fs::read(&path).unwrap();
    let second = SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES + 100;
    // In the mark, the length, the header's checksum, the body.
    for position in [second, second + 4, second + 45, second + RECORD_HEADER_BYTES + 7] {
        let mut damaged = bytes.clone();
        damaged[position] ^= 0x10;
        std::fs::write(&path, damaged).unwrap();
        let records = read_all(dir.path(), Start::default(), 1 << 20);
        assert_eq!(check(Place::default(), &records), Place { sequence: 4, offset: 280 });
        assert_eq!(records[1].content, LogContent::Gap { lost_records: 1, lost_bytes: 50 }, "at {position}");
    }
}

#[test]
fn output_that_imitates_a_record_is_not_taken_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.0");
    let mut other = RingWriter::new(dir.path(), 1, 1 << 20);
    other.output(Kind::Stdout, b"forged");
    let mut forged = std::fs::read(&path).unwrap().split_off(SEGMENT_HEADER_BYTES);
    forged[10] ^= 1;
    let mut writer = RingWriter::new(dir.path(), 1, 1 << 20);
    writer.output(Kind::Stdout, b"begin");
    writer.output(Kind::Stdout, &forged);
    writer.output(Kind::Stdout, b"end");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES + 5] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let (out, lost, _) = sum(&read_all(dir.path(), Start::default(), 1 << 20));
    assert_eq!((out, lost), (b"beginend".to_vec(), forged.len() as u64));
}

#[test]
fn cursors_that_do_not_fit_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RingWriter::new(dir.path(), 2, 1 << 20);
    write(&mut writer, &[(3, 100), (3, 50)]);
    for (sequence, offset) in [(3, 150), (99, 150), (1, 99), (1, 151), (2, 149), (0, 101)] {
        let mut reader = LogReader::open(dir.path(), task(), at(Place { sequence, offset })).unwrap();
        let error = reader.read_batch(1 << 20).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{sequence}.{offset}: {error}");
        assert!(error.message.contains(&format!("7.8.0.1:{sequence}.{offset}")), "{error}");
    }
    for (sequence, offset) in [(0, 0), (0, 100), (1, 100), (1, 150), (2, 150)] {
        let rest = read_all(dir.path(), at(Place { sequence, offset }), 1 << 20);
        assert_eq!(sum(&rest).0.len() as u64, 150 - offset);
    }
}

#[test]
fn a_filter_delivers_one_stream_and_every_gap() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RingWriter::new(dir.path(), 2, 1 << 20);
    writer.output(Kind::Stdout, b"out");
    writer.output(Kind::Stderr, b"err");
    writer.gap(2, 40);
    writer.output(Kind::Stdout, b"put");
    for (stream, expected) in
        [(StreamFilter::All, "outerrput"), (StreamFilter::Stdout, "output"), (StreamFilter::Stderr, "err")]
    {
        let records = read_all(dir.path(), only(stream), 1 << 20);
        assert_eq!(sum(&records), (expected.as_bytes().to_vec(), 40, 2));
        let end = LogReader::open(dir.path(), task(), after(records.last().unwrap())).unwrap().cursor();
        assert!(end.place.sequence >= 3);
    }
}

#[test]
fn batches_are_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RingWriter::new(dir.path(), 4, 1 << 20);
    for _ in 0..20 {
        writer.pattern(Kind::Stdout, MAX_BODY_BYTES);
        writer.pattern(Kind::Stdout, 1);
    }
    let mut reader = LogReader::open(dir.path(), task(), Start::default()).unwrap();
    loop {
        let batch = reader.read_batch(100_000).unwrap();
        assert!(sum(&batch.records).0.len() <= 100_000 + MAX_BODY_BYTES);
        if batch.end_of_data {
            break;
        }
    }
    assert_eq!(reader.cursor().place.offset, writer.offset());
}

#[test]
fn reading_until_now_ends_while_the_task_writes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RingWriter::new(dir.path(), 8, 2000);
    write(&mut writer, &[(3, 900), (3, 900), (3, 900)]);
    let now = writer.offset();
    let mut reader = LogReader::open(dir.path(), task(), Start { until_now: true, ..Start::default() }).unwrap();
    write(&mut writer, &[(3, 900), (3, 900), (3, 900)]);
    while !reader.read_batch(1).unwrap().end_of_data {}
    assert_eq!(reader.cursor().place.offset, now);
}

#[test]
fn a_folder_that_is_not_there_is_an_empty_log() {
    let start = Start { tail: Some(3), until_now: true, ..Start::default() };
    assert_eq!(read_all(Path::new("/nonexistent/log"), start, 1 << 20), []);
}

#[test]
fn other_files_and_links_are_not_read() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut writer = RingWriter::new(other.path(), 1, 1 << 20);
    writer.output(Kind::Stdout, b"x");
    std::os::unix::fs::symlink(other.path().join("log.0"), dir.path().join("log.0")).unwrap();
    std::fs::create_dir(dir.path().join("log.1")).unwrap();
    std::fs::copy(other.path().join("log.0"), dir.path().join("log.old")).unwrap();
    assert_eq!(read_all(dir.path(), Start::default(), 1 << 20), []);
}

#[test]
fn a_reader_races_a_rotating_writer_and_never_delivers_a_wrong_record() {
    for (count, size) in [(1, 3000), (2, 500), (3, 40_000)] {
        let dir = tempfile::tempdir().unwrap();
        let done = AtomicBool::new(false);
        let written = std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let mut reader = LogReader::open(dir.path(), task(), Start::default()).unwrap();
                let mut place = Place::default();
                loop {
                    let last_pass = done.load(Ordering::Acquire);
                    let batch = reader.read_batch(20_000).unwrap();
                    place = check(place, &batch.records);
                    if batch.end_of_data && last_pass {
                        return place;
                    }
                }
            });
            let mut writer = RingWriter::new(dir.path(), count, size);
            let begin = Instant::now();
            for round in 0_usize.. {
                let kind = if round % 3 == 0 { Kind::Stderr } else { Kind::Stdout };
                writer.pattern(kind, round * 37 % 900 + 1);
                if begin.elapsed() > Duration::from_millis(700) {
                    break;
                }
            }
            let end = Place { sequence: writer.last_sequence(), offset: writer.offset() };
            done.store(true, Ordering::Release);
            assert_eq!(reading.join().unwrap(), end);
            end
        });
        assert!(written.sequence > 100, "the writer got somewhere: {written:?}");
    }
}
