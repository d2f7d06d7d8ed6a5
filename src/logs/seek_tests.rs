//! Where reading begins: tables of tails and times.

use super::cursor::{Cursor, Place};
use super::reader::Start;
use super::testing::{RingWriter, read_all, sum, task};
use super::{seek, segment};
use crate::api::stream::StreamFilter;
use crate::domain::time::Timestamp;
use crate::shim::record::Kind;

/// Output, the selected stream, lines wanted, and what is then read.
type Case = (&'static [(Kind, &'static str)], StreamFilter, u32, &'static str);

#[test]
fn tails_are_counted_in_lines_of_the_selected_stream() {
    let table: &[Case] = &[
        (&[(Kind::Stdout, "a\nb\nc\n")], StreamFilter::All, 2, "b\nc\n"),
        (&[(Kind::Stdout, "a\nb\nc")], StreamFilter::All, 2, "b\nc"),
        (&[(Kind::Stdout, "a\nb\nc")], StreamFilter::All, 0, ""),
        (&[(Kind::Stdout, "a\nb\nc\n")], StreamFilter::All, 3, "a\nb\nc\n"),
        (&[(Kind::Stdout, "a\nb\nc\n")], StreamFilter::All, 900, "a\nb\nc\n"),
        (&[(Kind::Stdout, "a\n"), (Kind::Stdout, "\n"), (Kind::Stdout, "\n")], StreamFilter::All, 2, "\n\n"),
        (&[(Kind::Stdout, "a\nb"), (Kind::Stdout, "b"), (Kind::Stdout, "b\n")], StreamFilter::All, 1, "bbb\n"),
        (&[(Kind::Stdout, "a\nb\n"), (Kind::Stderr, "e\nf\ng\n")], StreamFilter::Stdout, 1, "b\n"),
        (&[(Kind::Stderr, "e\nf\n"), (Kind::Stdout, "a\nb\n")], StreamFilter::Stderr, 1, "f\n"),
        (&[(Kind::Stdout, "a\nb\n"), (Kind::Stderr, "e\n")], StreamFilter::All, 2, "b\ne\n"),
        (&[(Kind::Stdout, "a\n")], StreamFilter::Stderr, 2, ""),
        (&[], StreamFilter::All, 2, ""),
    ];
    for segment_bytes in [1, 1 << 20] {
        for (output, stream, lines, expected) in table {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = RingWriter::new(dir.path(), 9, segment_bytes);
            for (kind, text) in *output {
                writer.output(*kind, text.as_bytes());
            }
            let start = Start { tail: Some(*lines), stream: *stream, ..Start::default() };
            let found = String::from_utf8(sum(&read_all(dir.path(), start, 1 << 20)).0).unwrap();
            assert_eq!(found, *expected, "{lines} lines of {output:?}, {stream:?}");
        }
    }
}

#[test]
fn a_tail_longer_than_what_is_left_begins_without_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RingWriter::new(dir.path(), 2, 1);
    for text in ["a\n", "b\n", "c\n"] {
        writer.output(Kind::Stdout, text.as_bytes());
    }
    let records = read_all(dir.path(), Start { tail: Some(9), ..Start::default() }, 1 << 20);
    assert_eq!(sum(&records), (b"b\nc\n".to_vec(), 0, 0));
    assert_eq!(sum(&read_all(dir.path(), Start::default(), 1 << 20)), (b"b\nc\n".to_vec(), 2, 1));
}

#[test]
fn a_tail_is_not_pushed_on_by_what_is_written_while_it_is_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = RingWriter::new(dir.path(), 9, 1 << 20);
    writer.output(Kind::Stdout, b"a\n");
    let before = writer.offset();
    writer.output(Kind::Stdout, b"b\n");
    let segments = segment::list(dir.path()).unwrap();
    let now = segments.last().unwrap().length().unwrap();
    writer.output(Kind::Stdout, b"c\n");
    assert_eq!(seek::tail(&segments, now, StreamFilter::All, 1).unwrap().offset, before);
    // Half of a record is none.
    assert_eq!(seek::tail(&segments, now + 1, StreamFilter::All, 1).unwrap().offset, before);
}

#[test]
fn a_clock_that_was_set_back_hides_nothing() {
    // The clock is set back before, inside and after the segment that holds what is asked for.
    for segment_bytes in [1, 100, 150, 300, 1 << 20] {
        for back_at in 1..9 {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = RingWriter::new(dir.path(), 20, segment_bytes);
            writer.time_ns = 1000;
            let mut expected = String::new();
            for number in 0..10 {
                if number == back_at {
                    writer.time_ns -= 500;
                }
                let text = format!("{number}\n");
                writer.output(Kind::Stdout, text.as_bytes());
                if writer.time_ns >= 1001 {
                    expected.push_str(&text);
                }
            }
            let start = Start { since: Some(Timestamp(1001)), ..Start::default() };
            let found = String::from_utf8(sum(&read_all(dir.path(), start, 1 << 20)).0).unwrap();
            assert_eq!(found, expected, "set back before {back_at}, segments of {segment_bytes}");
        }
    }
}

#[test]
fn since_is_inclusive_and_joins_with_the_other_starts() {
    for segment_bytes in [1, 150, 1 << 20] {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = RingWriter::new(dir.path(), 9, segment_bytes);
        for text in ["1\n", "2\n", "3\n", "4\n", "5\n"] {
            writer.output(Kind::Stdout, text.as_bytes());
        }
        let read = |start| String::from_utf8(sum(&read_all(dir.path(), start, 1 << 20)).0).unwrap();
        for (time, expected) in
            [(0, "1\n2\n3\n4\n5\n"), (1, "1\n2\n3\n4\n5\n"), (3, "3\n4\n5\n"), (5, "5\n"), (6, "")]
        {
            assert_eq!(read(Start { since: Some(Timestamp(time)), ..Start::default() }), expected, "since {time}");
        }
        let both = Start { since: Some(Timestamp(2)), tail: Some(2), ..Start::default() };
        assert_eq!(read(both), "4\n5\n");
        let both = Start { since: Some(Timestamp(5)), tail: Some(2), ..Start::default() };
        assert_eq!(read(both), "5\n");
        let place = Place { sequence: 3, offset: 6 };
        let resumed = Start {
            since: Some(Timestamp(2)),
            ..Start { after: Some(Cursor { task: task(), place }), ..Start::default() }
        };
        assert_eq!(read(resumed), "4\n5\n");
    }
}
