//! Lines as machines, drivers and tools write them, and lines that nobody should write.

mod bus;
mod forged;
mod gone;
mod host;
mod noise;
mod xids;

use super::*;
use crate::domain::pci::PciAddress;

const SAMPLES: &str = include_str!("../../../tests/data/kernel-log/samples.log");

fn events(line: &str) -> Vec<Event> {
    Parser::default().parse(&Record::from_line(line)).into_iter().map(|seen| seen.event).collect()
}

#[track_caller]
fn only(line: &str) -> Event {
    let mut events = events(line);
    assert_eq!(events.len(), 1, "{line}: {events:?}");
    events.remove(0)
}

#[track_caller]
fn xid(line: &str) -> Xid {
    match only(line) {
        Event::Xid(xid) => xid,
        other => panic!("{line}: {other:?}"),
    }
}

fn pci(text: &str) -> Option<PciAddress> {
    text.parse().ok()
}

#[test]
fn every_sample_is_understood() {
    // What says nothing about hardware by itself: the second half of a sentence, and a switch that was opened.
    const SILENT: [&str; 2] = ["NVRM: this kernel module has the version", "nvidia-nvswitch2: open (major=510)"];
    const SILENT_LINES: usize = 2;
    let mut parser = Parser::default();
    let (mut xids, mut understood) = (0, 0);
    for line in SAMPLES.lines() {
        let record = Record::from_line(line);
        let seen = parser.parse(&record);
        if SILENT.iter().any(|silent| line.contains(silent)) {
            assert_eq!(seen, [], "{line}");
            continue;
        }
        assert_eq!(seen.len(), 1, "{line}: {seen:?}");
        understood += 1;
        let Some((_, head)) = line.split_once("NVRM: Xid (") else { continue };
        let Event::Xid(xid) = &seen[0].event else { panic!("{line}: {seen:?}") };
        xids += 1;
        // Found another way: the number behind the parenthesis.
        let code: String = head.split("): ").nth(1).unwrap().chars().take_while(char::is_ascii_digit).collect();
        assert_eq!(xid.code.to_string(), code, "{line}");
        assert_eq!(xid.pci.is_none(), line.contains("PCI:..."), "{line}");
        assert_eq!(xid.pid.is_none(), !line.contains("pid=") || line.contains("pid='<unknown>'"), "{line}");
        assert_eq!(xid.process.is_none(), !line.contains("name=") || line.contains("name=<unknown>"), "{line}");
    }
    let lines = SAMPLES.lines().filter(|line| line.contains("NVRM: Xid (")).count();
    assert_eq!((xids, understood), (lines, SAMPLES.lines().count() - SILENT_LINES));
}
