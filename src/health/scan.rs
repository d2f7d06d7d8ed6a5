//! A whole kernel log, read afterwards.

use super::kernel_log::{Parser, Record, is_about_a_process};
use super::table::Table;
use super::{Change, Faults, Heard, Limits, heard};
use crate::domain::fault::{Fault, FaultId};
use crate::domain::ids::NodeName;
use std::collections::BTreeMap;

/// Most faults of a log.
const MAX_FAULTS: usize = 4096;

/// Machines of one log whose boots are told apart.
const MAX_MACHINES: usize = 256;
/// Processors print out of order, but never so far.
const OUT_OF_ORDER_US: u64 = 10_000_000;

/// Where one boot of a machine ends and the next one begins.
#[derive(Debug, Default)]
struct Boots {
    /// The time since the boot of the last line of each machine.
    last_us: BTreeMap<String, u64>,
}

impl Boots {
    /// Whether this is the first line of another boot: the kernel's first word, or its clock has begun anew.
    fn is_new(&mut self, record: &Record<'_>) -> bool {
        let host = record.host.unwrap_or_default();
        // So may a program call itself, and a log that is passed on say anything.
        let kernels = !is_about_a_process(&record.text) && !record.is_a_programs();
        let begins = kernels && record.text.starts_with("Linux version ");
        let Some(now) = record.boot_us else { return begins };
        let known = self.last_us.contains_key(host) || self.last_us.len() < MAX_MACHINES;
        let before = if known { self.last_us.insert(host.to_owned(), now) } else { None };
        begins || before.is_some_and(|before| before.saturating_sub(now) > OUT_OF_ORDER_US)
    }
}

/// Lines go in one after another; faults come out at the end. Takes no more memory for a longer log.
#[derive(Debug)]
pub struct Scan {
    table: Table,
    parser: Parser,
    faults: Faults,
    boots: Boots,
    /// Lines so far.
    pub lines: u64,
    /// Lines that said something about hardware.
    pub understood: u64,
    /// Lines that the kernel says it left out.
    pub suppressed: u64,
    /// Faults for which there was no room; the least grave.
    pub dropped: u64,
}

impl Scan {
    pub fn new(table: Table) -> Self {
        let faults = Faults::new(FaultId(1), Limits { faults: MAX_FAULTS, ..Limits::default() });
        Self {
            table,
            parser: Parser::default(),
            faults,
            boots: Boots::default(),
            lines: 0,
            understood: 0,
            suppressed: 0,
            dropped: 0,
        }
    }

    /// The next line, in any form that [`Record::from_line`] knows.
    pub fn line(&mut self, line: &str) {
        self.lines = self.lines.saturating_add(1);
        let record = Record::from_line(line);
        let node = record.host.map(NodeName::from).filter(NodeName::is_well_formed);
        if self.boots.is_new(&record) {
            self.faults.booted(node.as_ref());
        }
        for seen in self.parser.parse(&record) {
            self.understood = self.understood.saturating_add(1);
            match heard(seen, &record, self.lines, &self.table, &|_| None) {
                Heard::Observation(observation) => {
                    let changes = self.faults.observe(*observation);
                    let dropped = changes.iter().filter(|change| matches!(change, Change::Dropped(_))).count();
                    self.dropped = self.dropped.saturating_add(dropped as u64);
                }
                Heard::Identity { pci, uuid } => self.faults.identify(node.as_ref(), pci, uuid),
                Heard::Suppressed { count } => self.suppressed = self.suppressed.saturating_add(count.unwrap_or(1)),
                Heard::Nothing => {}
            }
        }
    }

    /// In the order in which they were first seen.
    pub fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::fault::FaultState;

    fn scanned(lines: &[&str]) -> Vec<(Option<u32>, u64, u64, FaultState)> {
        let mut scan = Scan::new(Table::builtin().clone());
        lines.iter().for_each(|line| scan.line(line));
        scan.faults().map(|fault| (fault.code, fault.count, fault.related, fault.state)).collect()
    }

    #[test]
    fn boots_are_told_apart_by_the_clock_or_by_the_kernels_first_word() {
        use FaultState::{Active, Cleared};
        let (lost, exception, row) = (
            "NVRM: Xid (PCI:0000:52:00): 79, GPU has fallen off the bus.",
            "NVRM: Xid (PCI:0000:52:00): 13, pid=1, name=a, Graphics Exception",
            "NVRM: Xid (PCI:0000:52:00): 63, New row",
        );
        let at = |seconds: u32, text: &str| format!("[{seconds}.0] {text}");
        for boot in [at(0, "Linux version 6.1.0-18-amd64"), at(2, "pci 0000:52:00.0: x")] {
            let (first, second, third) = (at(500, lost), at(30, exception), at(31, row));
            let told = scanned(&[&at(500, exception), &first, &boot, &second, &third, &at(32, exception)]);
            let expected = [
                (Some(13), 1, 0, Cleared),
                (Some(79), 1, 0, Cleared),
                (Some(13), 2, 0, Active),
                (Some(63), 1, 0, Active),
            ];
            assert_eq!(told, expected, "{boot}");
        }
        let spoken = scanned(&[lost, "Linux version 6.1.0-18-amd64", lost]);
        assert_eq!(spoken, [(Some(79), 1, 0, Cleared), (Some(79), 1, 0, Active)]);
        // Processors that print out of order have not booted in between.
        assert_eq!(scanned(&[&at(31, exception), &at(30, exception)]), [(Some(13), 2, 0, Active)]);
    }

    #[test]
    fn each_machine_of_a_log_boots_by_itself() {
        let line = |host: &str, seconds: u32| {
            format!(
                "May 19 07:08:57 {host} kernel: [{seconds}.0] NVRM: Xid (PCI:0000:52:00): 79, GPU has fallen off."
            )
        };
        let told = scanned(&[&line("a", 500), &line("b", 20), &line("a", 501), &line("b", 21)]);
        assert_eq!(told.iter().map(|told| told.1).collect::<Vec<_>>(), [2, 2]);
    }
}
