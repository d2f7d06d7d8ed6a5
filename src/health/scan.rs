//! A whole kernel log, read afterwards.

use super::kernel_log::{Parser, Record};
use super::table::Table;
use super::{Change, Faults, Heard, Limits, heard};
use crate::domain::fault::{Fault, FaultId};

/// Most faults of a log.
const MAX_FAULTS: usize = 4096;

/// Lines go in one after another; faults come out at the end. Takes no more memory for a longer log.
#[derive(Debug)]
pub struct Scan {
    table: Table,
    parser: Parser,
    faults: Faults,
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
        Self { table, parser: Parser::default(), faults, lines: 0, understood: 0, suppressed: 0, dropped: 0 }
    }

    /// The next line, in any form that [`Record::from_line`] knows.
    pub fn line(&mut self, line: &str) {
        self.lines = self.lines.saturating_add(1);
        let record = Record::from_line(line);
        for seen in self.parser.parse(&record) {
            self.understood = self.understood.saturating_add(1);
            match heard(seen, &record, self.lines, &self.table, &|_| None) {
                Heard::Observation(observation) => {
                    let changes = self.faults.observe(*observation);
                    let dropped = changes.iter().filter(|change| matches!(change, Change::Dropped(_))).count();
                    self.dropped = self.dropped.saturating_add(dropped as u64);
                }
                Heard::Identity { pci, uuid } => self.faults.identify(pci, uuid),
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
