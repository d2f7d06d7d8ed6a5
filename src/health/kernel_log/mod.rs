//! Kernel messages: what the drivers of GPUs, switches, buses, memory and disks say about hardware.
//!
//! ```text
//!  /dev/kmsg ──Record::kmsg──┐
//!                            ├─> Record ──Parser──> Seen { event, line } ──> health::Observation
//!  dmesg, journal ─from_line─┘
//! ```
//!
//! Everything is untrusted text of bounded length: parsers look at words, never index blindly, keep nothing that grows,
//! and take a line for what it says only if it *begins* as the kernel's lines do, so that a program cannot log a fault.

mod events;
mod host;
mod line;
mod network;
mod nvrm;
mod pcie;
mod record;
mod storage;
mod sxid;
#[cfg(test)]
mod tests;
mod words;
mod xid;

pub use events::{
    AerSeverity, DiskTrouble, Event, Lockup, MachineCheckSeverity, NicTrouble, Sxid, SxidSeverity, Xid, XidDetail,
};
pub use record::Record;

use crate::domain::pci::PciAddress;

/// Most that is understood of one message: longer ones are cut. The kernel's own limit is 2048 bytes.
pub const MAX_TEXT_BYTES: usize = 8192;
/// Most events of one message.
const MAX_EVENTS: usize = 64;
/// Longest name of a process by the kernel.
const MAX_COMM_BYTES: usize = 15;
/// Lines after "The NVIDIA GPU ..." in which the sentence has to end.
const SENTENCE_LINES: u8 = 4;

/// Something that a line said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub event: Event,
    /// The line without time and priority.
    pub line: String,
}

/// Turns messages into events. Remembers only what a sentence over several lines needs.
#[derive(Debug, Default)]
pub struct Parser {
    /// A sentence about this GPU has begun: how many lines it may still take.
    begun: Option<(PciAddress, u8)>,
}

impl Parser {
    pub fn parse(&mut self, record: &Record<'_>) -> Vec<Seen> {
        let mut seen = Vec::new();
        if record.is_a_programs() && is_forwarded(&record.text) {
            return seen;
        }
        for line in believed(words::cut(&record.text, MAX_TEXT_BYTES)) {
            for message in messages(line) {
                if seen.len() == MAX_EVENTS {
                    return seen;
                }
                seen.extend(self.message(message).map(|event| Seen { event, line: message.to_owned() }));
            }
        }
        seen
    }

    fn message(&mut self, text: &str) -> Option<Event> {
        if let Some(rest) = text.strip_prefix("NVRM: ") {
            return xid::parse(rest).or_else(|| nvrm::parse(rest)).or_else(|| self.sentence(rest));
        }
        self.begun = None;
        sxid::parse(text)
            .or_else(|| pcie::parse(text))
            .or_else(|| network::parse(text))
            .or_else(|| storage::parse(text))
            .or_else(|| host::parse(text))
    }

    /// "The NVIDIA GPU 0000:b3:00.0 | (PCI ID: ...) installed in this system has | fallen off the bus and is not
    /// responding to commands.": one sentence on one to three lines.
    fn sentence(&mut self, rest: &str) -> Option<Event> {
        if let Some(subject) = rest.strip_prefix("The NVIDIA GPU ") {
            let place = subject.split([' ', '(']).next().unwrap_or_default();
            self.begun = place.trim_end_matches(':').parse().ok().map(|pci| (pci, SENTENCE_LINES));
        }
        let (pci, lines) = self.begun.take()?;
        if rest.contains("fallen off the bus") {
            return Some(Event::FallenOff { pci });
        }
        self.begun = lines.checked_sub(1).map(|lines| (pci, lines));
        None
    }
}

/// The lines of one message that the kernel has begun itself. NVIDIA's driver writes several at once and begins each as
/// its own; else a new line may be in the name of a file or a process that somebody has chosen. And a line that begins with a process (`NAME[77]: segfault
/// at ...`) begins with up to 15 bytes of anybody's choice.
fn believed(text: &str) -> impl Iterator<Item = &str> {
    let is_drivers = |line: &str| line.starts_with("NVRM: ");
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty()).peekable();
    let several = lines.peek().is_some_and(|first| is_drivers(first));
    let begun = move |(at, line): &(usize, &str)| *at == 0 || several && is_drivers(line);
    lines.enumerate().filter(begun).map(|(_, line)| line).filter(|line| !is_about_a_process(line))
}

/// Whether a program has passed on what any other may have said, as journald does: `NAME[PID]: ` with a name that anybody
/// chose, of any length. No driver writes a number in brackets with a colon behind it.
fn is_forwarded(text: &str) -> bool {
    text.match_indices('[').any(|(at, _)| {
        let rest = &text[at + 1..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        digits > 0 && rest[digits..].starts_with("]: ")
    })
}

/// Whether it begins as `NAME[PID]: ` or `NAME[PID] `.
pub fn is_about_a_process(line: &str) -> bool {
    let ends_name = |at: &usize| {
        let rest = &line[at + 1..];
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        digits > 0 && ["]:", "] "].iter().any(|end| rest[digits..].starts_with(end))
    };
    line.match_indices('[').map(|(at, _)| at).take_while(|at| *at <= MAX_COMM_BYTES).any(|at| ends_name(&at))
}

/// The messages of one line: several ones where the driver's were put behind each other. Another program's line that
/// tells of the driver's is left whole.
fn messages(line: &str) -> Vec<&str> {
    if !line.starts_with("NVRM: ") {
        return vec![line];
    }
    let mut starts: Vec<usize> =
        line.match_indices("NVRM: ").map(|(at, _)| at).filter(|at| *at > 0 && xid::is_header(&line[*at..])).collect();
    starts.insert(0, 0);
    starts.truncate(MAX_EVENTS);
    let ends = starts.iter().skip(1).copied().chain([line.len()]);
    starts.iter().zip(ends).map(|(start, end)| line[*start..end].trim()).collect()
}
