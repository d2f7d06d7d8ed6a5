//! Words of others as they may be shown: names and lines of a log hold whatever somebody has put there.

use crate::health::observation::Observation;
use std::fmt::Write;

/// Leaves nothing that would move a cursor, change colours or turn the direction of a terminal's text.
pub fn make_printable(observation: &mut Observation) {
    let texts = [Some(&mut observation.evidence), observation.process.as_mut(), observation.subject.device.as_mut()];
    for text in texts.into_iter().flatten().filter(|text| text.contains(is_unprintable)) {
        *text = escaped(text);
    }
}

/// As the kernel writes it: `\x1b`.
fn escaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => plain.push(' '),
            _ if is_unprintable(c) => {
                let mut bytes = [0; 4];
                for byte in c.encode_utf8(&mut bytes).bytes() {
                    let _ = write!(plain, "\\x{byte:02x}");
                }
            }
            _ => plain.push(c),
        }
    }
    plain
}

fn is_unprintable(c: char) -> bool {
    // The marks and overrides of text that runs from right to left, and ends of lines that are no control characters.
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_written_out() {
        assert_eq!(escaped("a\u{1b}[31mb\tc\r\u{7f}\u{9b}d"), "a\\x1b[31mb c\\x0d\\x7f\\xc2\\x9bd");
        assert_eq!(escaped("x\u{202e}y"), "x\\xe2\\x80\\xaey");
        assert_eq!(escaped("café \\ 中"), "café \\ 中");
    }
}
