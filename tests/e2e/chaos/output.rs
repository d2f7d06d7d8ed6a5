//! Whether a task's output is what it wrote: every byte, in order and once, or counted by a gap.

use super::workload::LINES;
use serde_json::Value;

/// Of a numbered line, on either stream.
const LINE: u64 = 14;

/// A record of the log.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    Stdout(String),
    Stderr(String),
    /// Bytes of both streams.
    Gap(u64),
}

impl Piece {
    /// As `wharf logs --json` prints it.
    pub fn parse(record: &Value) -> Option<Self> {
        let text = record["text"].as_str()?.to_owned();
        Some(match record["stream"].as_str()? {
            "stdout" => Self::Stdout(text),
            "stderr" => Self::Stderr(text),
            "gap" => Self::Gap(text.split(' ').next()?.parse().ok()?),
            _ => return None,
        })
    }
}

/// What is known of how much a task wrote.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wrote {
    /// It came to its end after so many lines on stdout.
    Exactly(u64),
    /// It was killed after it had written these, and before it had written another tick.
    AtLeast(u64),
    /// Its shim was killed, which may have held some of it.
    AtMost(u64),
}

/// One stream of a log.
#[derive(Debug, Default)]
struct Stream {
    /// Bytes so far, lost ones too.
    position: u64,
    missing: u64,
    /// There was a gap since the last bytes.
    unsure: bool,
}

fn byte(word: &str, step: u64, position: u64) -> u8 {
    let number = (position / LINE + 1) * step;
    format!("{word} {number:09}\n").as_bytes()[(position % LINE) as usize]
}

impl Stream {
    fn take(&mut self, word: &str, step: u64, text: &str, lost: u64) -> Result<(), String> {
        let fits = |start: u64| text.bytes().zip(start..).all(|(found, at)| found == byte(word, step, at));
        let most = if self.unsure { lost } else { 0 };
        let Some(skipped) = (0..=most).find(|skipped| fits(self.position + skipped)) else {
            let found: String = text.chars().take(40).collect();
            return Err(format!("byte {} of {word}: found {found:?}", self.position));
        };
        self.missing += skipped;
        self.position += skipped + text.len() as u64;
        self.unsure = false;
        Ok(())
    }
}

/// Says what is wrong with it.
pub fn check(pieces: &[Piece], wrote: Wrote) -> Result<(), String> {
    let (mut out, mut err, mut lost) = (Stream::default(), Stream::default(), 0);
    for piece in pieces {
        match piece {
            Piece::Stdout(text) => out.take("out", 1, text, lost)?,
            Piece::Stderr(text) => err.take("err", LINES, text, lost)?,
            Piece::Gap(bytes) => {
                lost += bytes;
                (out.unsure, err.unsure) = (true, true);
            }
        }
    }
    let (least, most) = match wrote {
        Wrote::Exactly(lines) => (lines, lines),
        Wrote::AtLeast(lines) => (lines, lines + LINES),
        Wrote::AtMost(lines) => (0, lines + LINES),
    };
    let bytes = |lines: u64| (lines + lines / LINES) * LINE;
    let (found, missing) = (out.position + err.position, out.missing + err.missing);
    // What a gap at the end has swallowed.
    let all = found - missing + lost;
    let right = if matches!(wrote, Wrote::AtMost(_)) {
        found <= bytes(most)
    } else {
        missing <= lost && (bytes(least)..=bytes(most)).contains(&all)
    };
    let counted = format!("{all} bytes, {lost} of them in gaps, of {} to {}", bytes(least), bytes(most));
    if right { Ok(()) } else { Err(counted) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(word: &str, numbers: impl Iterator<Item = u64>) -> String {
        numbers.map(|number| format!("{word} {number:09}\n")).collect()
    }

    fn whole() -> Vec<Piece> {
        vec![
            Piece::Stdout(lines("out", 1..=4)),
            Piece::Stderr(lines("err", [3].into_iter())),
            Piece::Stdout(lines("out", 5..=6)),
            Piece::Stderr(lines("err", [6].into_iter())),
        ]
    }

    #[test]
    fn whole_output_is_right_and_what_is_taken_away_put_in_or_repeated_is_not() {
        assert_eq!(check(&whole(), Wrote::Exactly(6)), Ok(()));
        for i in 0..whole().len() {
            let mut less = whole();
            less.remove(i);
            assert!(check(&less, Wrote::Exactly(6)).is_err(), "without piece {i}");
            let mut twice = whole();
            twice.insert(i, whole()[i].clone());
            assert!(check(&twice, Wrote::Exactly(6)).is_err(), "with piece {i} twice");
        }
        let mut other = whole();
        other[2] = Piece::Stdout("out 000000005\nout 000000007\n".to_owned());
        assert!(check(&other, Wrote::Exactly(6)).is_err());
    }

    #[test]
    fn a_gap_counts_exactly_what_is_missing() {
        let with_gap = |gap: u64| {
            let mut pieces = whole();
            pieces[2] = Piece::Gap(gap);
            pieces
        };
        assert_eq!(check(&with_gap(28), Wrote::Exactly(6)), Ok(()));
        assert!(check(&with_gap(27), Wrote::Exactly(6)).is_err());
        assert!(check(&with_gap(29), Wrote::Exactly(6)).is_err());
        // In the middle of a line, and bytes that come behind it all the same.
        let mut split = whole();
        split[0] = Piece::Stdout(lines("out", 1..=4)[..50].to_owned());
        split.insert(1, Piece::Gap(6));
        assert_eq!(check(&split, Wrote::Exactly(6)), Ok(()));
    }

    #[test]
    fn who_was_killed_may_have_written_one_tick_more() {
        assert_eq!(check(&whole(), Wrote::AtLeast(6)), Ok(()));
        assert_eq!(check(&whole(), Wrote::AtLeast(3)), Ok(()));
        assert!(check(&whole(), Wrote::AtLeast(9)).is_err());
        assert!(check(&whole(), Wrote::AtLeast(0)).is_err());
        assert_eq!(check(&whole()[..1], Wrote::AtMost(6)), Ok(()));
        assert!(check(&whole(), Wrote::AtMost(0)).is_err());
    }
}
