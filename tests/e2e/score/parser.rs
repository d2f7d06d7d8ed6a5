//! Lines of a corpus, each by itself.

use wharf::health::Scan;
use wharf::health::table::Table;

const CORPUS: [&str; 2] =
    [include_str!("../../data/kernel-log/samples.log"), include_str!("../../data/kernel-log/cousins.log")];
/// Lines of the corpus that say nothing about hardware: the second half of a sentence, and a driver that is opened.
pub(super) const NOT_ABOUT_HARDWARE: usize = 2;

#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) lines: usize,
    pub(super) missed: Vec<&'static str>,
}

pub(super) fn score() -> Parsed {
    let lines: Vec<&str> = CORPUS.iter().flat_map(|text| text.lines()).collect();
    let is_missed = |line: &&&str| {
        let mut scan = Scan::new(Table::builtin().clone());
        scan.line(line);
        scan.understood == 0
    };
    Parsed { lines: lines.len(), missed: lines.iter().filter(is_missed).copied().collect() }
}
