//! What the encoder writes and the decoder makes of it, whole, torn and damaged.

use super::*;

const SALT: u64 = 0x1234_5678_9abc_def0;

fn encoded() -> (Vec<u8>, Encoder) {
    let (mut encoder, mut out) = (Encoder::new(), Vec::new());
    encoder.begin_segment(SALT, &mut out);
    encoder.output(Kind::Stdout, Stamp { realtime_ns: -5, boottime_ns: 7 }, b"hello\n", &mut out);
    encoder.gap(Stamp::default(), 3, 900, &mut out);
    encoder.output(Kind::Stderr, Stamp::default(), b"bye", &mut out);
    (out, encoder)
}

#[test]
fn what_is_encoded_is_decoded() {
    let (bytes, encoder) = encoded();
    let segment = decode_segment_header(&bytes).unwrap();
    assert_eq!((segment.salt, segment.ordinal, segment.first_sequence, segment.base_offset), (SALT, 0, 1, 0));
    let mut rest = &bytes[SEGMENT_HEADER_BYTES..];
    let mut seen = Vec::new();
    while let Decoded::Complete { header, body } = decode_record(rest, SALT) {
        seen.push((header.kind, header.sequence, header.offset, body));
        rest = &rest[header.total_bytes()..];
    }
    let expected = [
        (Kind::Stdout, 1, 0, Body::Output(b"hello\n".as_slice())),
        (Kind::Gap, 2, 6, Body::Gap { lost_records: 3, lost_bytes: 900 }),
        (Kind::Stderr, 3, 906, Body::Output(b"bye".as_slice())),
    ];
    assert_eq!((seen.as_slice(), rest), (expected.as_slice(), &[][..]));
    assert_eq!((encoder.last_sequence(), encoder.offset(), encoder.next_ordinal()), (3, 909, 1));
}

#[test]
fn big_output_is_cut_into_records() {
    let (mut encoder, mut out) = (Encoder::new(), Vec::new());
    encoder.output(Kind::Stdout, Stamp::default(), &vec![b'x'; 2 * MAX_BODY_BYTES + 1], &mut out);
    assert_eq!(encoder.last_sequence(), 3);
    encoder.output(Kind::Stdout, Stamp::default(), b"", &mut out);
    assert_eq!(encoder.last_sequence(), 3);
}

#[test]
fn a_torn_record_needs_more_at_every_cut() {
    let (bytes, _) = encoded();
    let record = &bytes[SEGMENT_HEADER_BYTES..SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES + 6];
    for cut in 0..record.len() {
        assert_eq!(decode_record(&record[..cut], SALT), Decoded::NeedMore, "cut at {cut}");
    }
    for cut in 0..SEGMENT_HEADER_BYTES {
        assert_eq!(decode_segment_header(&bytes[..cut]), Err(SegmentError::NeedMore), "cut at {cut}");
    }
}

#[test]
fn every_flipped_bit_is_found() {
    let (bytes, _) = encoded();
    let record = &bytes[SEGMENT_HEADER_BYTES..SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES + 6];
    for bit in 0..record.len() * 8 {
        let mut damaged = record.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let found = decode_record(&damaged, SALT);
        assert!(matches!(found, Decoded::CorruptHeader | Decoded::CorruptBody { .. }), "bit {bit}: {found:?}");
    }
    for bit in 0..SEGMENT_HEADER_BYTES * 8 {
        let mut damaged = bytes[..SEGMENT_HEADER_BYTES].to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode_segment_header(&damaged), Err(SegmentError::Corrupt), "bit {bit}");
    }
}

#[test]
fn records_of_another_segment_are_not_taken() {
    let (bytes, _) = encoded();
    assert_eq!(decode_record(&bytes[SEGMENT_HEADER_BYTES..], SALT + 1), Decoded::CorruptHeader);
    assert_eq!(find_record(&bytes, 0, SALT + 1), None);
    assert_eq!(find_record(&bytes, 0, SALT), Some(SEGMENT_HEADER_BYTES));
    let second = SEGMENT_HEADER_BYTES + RECORD_HEADER_BYTES + 6;
    assert_eq!(find_record(&bytes, SEGMENT_HEADER_BYTES + 1, SALT), Some(second));
}
