//! One record as the kernel shows it. Pure.
//!
//! `prio,seq,usec,flags[,more];text`, then lines that begin with a space: what the kernel knows about the record
//! besides (`SUBSYSTEM=pci`, `DEVICE=+pci:0000:1b:00.0`). What cannot be printed is `\xNN`; a newline inside of the text
//! too. The form is the kernel's `Documentation/ABI/testing/dev-kmsg`.

/// One record of the kernel's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Counts every record since the boot, from 0.
    pub sequence: u64,
    /// Microseconds of the kernel's own clock since the boot.
    pub at_boot_us: u64,
    /// 0 (emergency) to 7 (debug).
    pub priority: u8,
    /// 0 is the kernel; programs that write to its log have others.
    pub facility: u32,
    /// One or several lines.
    pub text: String,
    /// The lines that followed the text, without their space.
    pub continuation: Vec<String>,
    /// The kernel wrote a line in parts, and this is one of them.
    pub is_fragment: bool,
}

impl Record {
    /// `None`: this is no record.
    pub(crate) fn parse(raw: &[u8]) -> Option<Self> {
        let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
        let end = raw.iter().position(|byte| *byte == b';')?;
        let header = std::str::from_utf8(&raw[..end]).ok()?;
        let mut fields = header.split(',');
        let prefix: u32 = fields.next()?.parse().ok()?;
        let sequence = fields.next()?.parse().ok()?;
        let at_boot_us = fields.next()?.parse().ok()?;
        let flags = fields.next()?;
        let mut lines = raw[end + 1..].split(|byte| *byte == b'\n');
        let text = unescape(lines.next().unwrap_or_default());
        let continuation = lines.map(|line| unescape(line.strip_prefix(b" ").unwrap_or(line))).collect();
        Some(Self {
            sequence,
            at_boot_us,
            priority: u8::try_from(prefix & 7).unwrap_or_default(),
            facility: prefix >> 3,
            text,
            continuation,
            // `+` is what kernels before 3.16 wrote for all parts but the first.
            is_fragment: flags.contains(['c', '+']),
        })
    }
}

/// Text that is not UTF-8 even so keeps what is.
fn unescape(escaped: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((first, after)) = rest.split_first() {
        match escape(rest) {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[4..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn escape(text: &[u8]) -> Option<u8> {
    let [b'\\', b'x', high, low, ..] = text else { return None };
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(*high)? << 4 | digit(*low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_record_with_all_its_parts() {
        let raw = b"6,339,5140900,-,caller=T1;nvidia 0000:1b:00.0: a\\x0ab \\x5cx41 \\xc3\\xa9\n \
            SUBSYSTEM=pci\n DEVICE=+pci:0000:1b:00.0\n";
        let expected = Record {
            sequence: 339,
            at_boot_us: 5_140_900,
            priority: 6,
            facility: 0,
            text: "nvidia 0000:1b:00.0: a\nb \\x41 é".to_owned(),
            continuation: vec!["SUBSYSTEM=pci".to_owned(), "DEVICE=+pci:0000:1b:00.0".to_owned()],
            is_fragment: false,
        };
        assert_eq!(Record::parse(raw), Some(expected));
        let fragment = Record::parse(b"30,1,2,c;part").unwrap();
        assert_eq!((fragment.priority, fragment.facility, fragment.is_fragment), (6, 3, true));
        let empty = Record::parse(b"4,7,8,-;\n").unwrap();
        assert_eq!((empty.text.as_str(), empty.continuation.len()), ("", 0));
    }

    #[test]
    fn what_is_no_record_is_none() {
        for raw in ["", "\n", "6,1,2,-", "6,1,2;text", "x,1,2,-;text", "6,-1,2,-;text", " SUBSYSTEM=pci", "é;;"] {
            assert_eq!(Record::parse(raw.as_bytes()), None, "{raw:?}");
        }
    }

    #[test]
    fn what_only_looks_like_an_escape_is_text() {
        for text in ["\\", "\\x", "\\x4", "\\xg1", "\\y41", "a\\"] {
            assert_eq!(unescape(text.as_bytes()), text);
        }
    }

    /// As the kernel does it.
    fn escaped(text: &str) -> String {
        let one = |byte: u8| match byte {
            b'\\' | 0..32 | 127.. => format!("\\x{byte:02x}"),
            byte => char::from(byte).to_string(),
        };
        text.bytes().map(one).collect()
    }

    proptest! {
        #[test]
        fn every_text_comes_back(text: String, sequence: u64, at_boot_us: u64, prefix in 0u32..192) {
            let raw = format!("{prefix},{sequence},{at_boot_us},-;{}\n", escaped(&text));
            let record = Record::parse(raw.as_bytes()).unwrap();
            prop_assert_eq!(record.text, text);
            prop_assert_eq!((record.sequence, record.at_boot_us), (sequence, at_boot_us));
            prop_assert_eq!(record.facility * 8 + u32::from(record.priority), prefix);
        }

        #[test]
        fn no_bytes_make_it_fall(raw: Vec<u8>) {
            let _ = Record::parse(&raw);
        }
    }
}
