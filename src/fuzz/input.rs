//! Inputs: right ones, and what has become of them.

use proptest::prelude::*;
use proptest::sample::Index;
use std::fmt;
use std::sync::Arc;

/// Pieces that parsers have stumbled over: ends, signs, limits of numbers, beginnings without an end.
const WORDS: [&[u8]; 44] = [
    b"\0",
    b"\xff",
    b"\xc3",
    b"\xf0\x9f\x92\xa9",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\n",
    b"\r\n",
    b"\t",
    b" ",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"\\x",
    b"'",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b";",
    b"=",
    b"//",
    b"/*",
    b"#",
    b"-",
    b"-1",
    b"0",
    b"1e999",
    b"18446744073709551615",
    b"18446744073709551616",
    b"-9223372036854775808",
    b"0x",
    b"%",
    b"%00",
    b"%ff",
    b"../",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\x7f\xff\xff\xff\xff\xff\xff\xff",
    b"PCI:",
    b"pid=",
];

/// One change of an input.
#[derive(Debug, Clone)]
enum Change {
    Flip(Index, u8),
    Cut(Index),
    Remove(Index, Index),
    Double(Index, Index, u8),
    Put(Index, Index),
    /// The rest is that of another input.
    Splice(Index, Index, Index),
}

fn change() -> impl Strategy<Value = Change> {
    let place = any::<Index>;
    prop_oneof![
        4 => (place(), 1..=255_u8).prop_map(|(at, bits)| Change::Flip(at, bits)),
        1 => place().prop_map(Change::Cut),
        2 => (place(), place()).prop_map(|(from, to)| Change::Remove(from, to)),
        2 => (place(), place(), 1..8_u8).prop_map(|(from, to, times)| Change::Double(from, to, times)),
        4 => (place(), place()).prop_map(|(at, word)| Change::Put(at, word)),
        2 => (place(), place(), place()).prop_map(|(at, other, from)| Change::Splice(at, other, from)),
    ]
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let place = |index: &Index, length: usize| index.index(length + 1);
        let range = |from: &Index, to: &Index, length: usize| {
            let (from, to) = (place(from, length), place(to, length));
            from.min(to)..from.max(to)
        };
        match self {
            Self::Flip(at, bits) if !bytes.is_empty() => {
                let at = at.index(bytes.len());
                bytes[at] ^= bits;
            }
            Self::Flip(..) => {}
            Self::Cut(at) => bytes.truncate(place(at, bytes.len())),
            Self::Remove(from, to) => drop(bytes.drain(range(from, to, bytes.len()))),
            Self::Double(from, to, times) => {
                let range = range(from, to, bytes.len());
                let end = range.end;
                let more = bytes[range].repeat(usize::from(*times));
                bytes.splice(end..end, more);
            }
            Self::Put(at, word) => {
                let at = place(at, bytes.len());
                bytes.splice(at..at, WORDS[word.index(WORDS.len())].iter().copied());
            }
            Self::Splice(at, other, from) => {
                let other = &seeds[other.index(seeds.len())];
                bytes.truncate(place(at, bytes.len()));
                bytes.extend_from_slice(&other[place(from, other.len())..]);
            }
        }
    }
}

/// Bytes that a failure shows as far as a person reads.
#[derive(Clone)]
pub(super) struct Input(pub(super) Vec<u8>);

impl Input {
    pub(super) fn beginning(&self) -> String {
        format!("{} bytes, b\"{}\"...", self.0.len(), self.0[..self.0.len().min(60)].escape_ascii())
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(4000)];
        write!(f, "{} bytes: b\"{}\"", self.0.len(), shown.escape_ascii())
    }
}

/// Changed inputs, and bytes that were none.
pub(super) fn inputs(seeds: Vec<Vec<u8>>, most_bytes: usize) -> impl Strategy<Value = Input> {
    let seeds = Arc::new(seeds);
    let changed = (any::<Index>(), prop::collection::vec(change(), 0..6)).prop_map(move |(seed, changes)| {
        let mut bytes = seeds[seed.index(seeds.len())].clone();
        for change in changes {
            change.apply(&mut bytes, &seeds);
            bytes.truncate(most_bytes);
        }
        Input(bytes)
    });
    prop_oneof![15 => changed, 1 => prop::collection::vec(any::<u8>(), 0..256).prop_map(Input)]
}

/// Pieces of right inputs, over and over, behind what comes before them.
pub(super) fn grown(seeds: &[Vec<u8>], most_bytes: usize) -> Vec<Input> {
    let mut grown = Vec::new();
    for word in WORDS {
        grown.push(Input(word.repeat(most_bytes / word.len())));
    }
    for (number, seed) in seeds.iter().enumerate().take(6) {
        for length in [1, 3, 16, 61, seed.len()] {
            let start = (number * 37) % seed.len().max(1);
            let piece = &seed[start..seed.len().min(start + length)];
            if !piece.is_empty() {
                let times = most_bytes.saturating_sub(seed.len()) / piece.len();
                grown.push(Input([&seed[..start], &piece.repeat(times), &seed[start..]].concat()));
            }
        }
    }
    grown
}
