//! One message of the kernel, whatever form it came in.

use super::line;
use crate::domain::time::Timestamp;
use std::borrow::Cow;

/// One printk: its place, its times as far as they are known, and its text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record<'a> {
    /// Of the kernel's ring buffer.
    pub sequence: Option<u64>,
    /// Since the host was booted, in microseconds.
    pub boot_us: Option<u64>,
    pub time: Option<Timestamp>,
    /// Facility times 8 plus level, as syslog counts. Facility 0 is the kernel itself; the kernel gives everything that is
    /// written to `/dev/kmsg` another one. What root writes there is believed all the same: root needs no such way to
    /// lie, and detection is tried so. What others say and a logging service passes on is not.
    pub priority: Option<u8>,
    /// The machine, where a journal names it.
    pub host: Option<&'a str>,
    /// One line or several.
    pub text: Cow<'a, str>,
}

impl<'a> Record<'a> {
    /// A record as `/dev/kmsg` gives it: `text` is what follows the semicolon, with its escapes and with the lines of
    /// its dictionary, which are left out.
    pub fn kmsg(sequence: u64, boot_us: u64, priority: u8, text: &'a str) -> Self {
        Self {
            sequence: Some(sequence),
            boot_us: Some(boot_us),
            priority: Some(priority),
            text: message(text),
            ..Self::default()
        }
    }

    /// It came through `/dev/kmsg`.
    pub fn is_a_programs(&self) -> bool {
        self.priority.is_some_and(|priority| priority >= 8)
    }

    /// A line of `/dev/kmsg`, `dmesg` (plain, `-T`, `-x`, with ISO times), a journal or a syslog file; a bare message too.
    pub fn from_line(line: &'a str) -> Self {
        line::parse(line)
    }
}

/// The message without its dictionary and escapes.
pub(super) fn message(text: &str) -> Cow<'_, str> {
    if !text.contains('\n') {
        return unescaped(text);
    }
    let lines = text.lines().filter(|line| !is_dictionary(line)).map(unescaped);
    Cow::Owned(lines.collect::<Vec<_>>().join("\n"))
}

/// ` SUBSYSTEM=pci`, ` DEVICE=+pci:0000:9b:00.0`: what a driver says about itself below its message.
fn is_dictionary(line: &str) -> bool {
    let Some((key, _)) = line.strip_prefix(' ').and_then(|rest| rest.split_once('=')) else { return false };
    !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

/// `/dev/kmsg` writes line ends within a message, and everything else that is not ASCII, as `\xNN`.
fn unescaped(text: &str) -> Cow<'_, str> {
    if !text.contains("\\x") {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let (mut plain, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        match escape(&bytes[at..]) {
            Some(byte) => {
                plain.push(byte);
                at += 4;
            }
            None => {
                plain.push(*byte);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&plain).into_owned())
}

fn escape(bytes: &[u8]) -> Option<u8> {
    let [b'\\', b'x', high, low, ..] = bytes else { return None };
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    Some(digit(high)? * 16 + digit(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_in_a_message_are_escaped_and_its_dictionary_is_not_a_message() {
        let record = Record::kmsg(7, 9, 4, "NVRM: a\\x0aNVRM: b\n SUBSYSTEM=pci\n DEVICE=+pci:0000:9b:00.0");
        assert_eq!(record.text, "NVRM: a\nNVRM: b");
        assert_eq!((record.sequence, record.boot_us, record.priority), (Some(7), Some(9), Some(4)));
    }

    #[test]
    fn what_is_no_escape_stays() {
        for text in ["a\\xzz", "\\x", "\\x0", "tail\\", "50% of 3 \\ 4"] {
            assert_eq!(unescaped(text), text);
        }
        assert_eq!(unescaped("caf\\xc3\\xa9 \\xff"), "café \u{fffd}");
        assert_eq!(message(" not a dictionary\nKEY=no blank"), " not a dictionary\nKEY=no blank");
    }
}
