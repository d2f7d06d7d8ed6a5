//! Faults for people: one line each.

use crate::cli::table;
use crate::domain::fault::{Fault, FaultKind, FaultState, Part};
use crate::health::Scan;

/// Widest line.
const LINE: usize = 100;

/// A table, or a sentence where there is nothing to show.
pub fn text(scan: &Scan) -> String {
    if scan.faults().next().is_none() {
        return format!("no faults in {} lines\n", scan.lines);
    }
    const HEADINGS: [&str; 7] = ["WHEN", "WHERE", "WHAT", "COUNT", "VERDICT", "ACTION", "PID"];
    let mut rows = table::table(HEADINGS);
    table::right(&mut rows, &[3]);
    let cells: Vec<[String; 7]> = scan.faults().map(cells).collect();
    // What is left of a line is the process's; everything else has to be seen whole.
    let width = |column: usize| {
        let longest = cells.iter().map(|cells| cells[column].chars().count()).max();
        longest.unwrap_or(0).max(HEADINGS[column].len()) + 2
    };
    let rest = LINE.saturating_sub((0..6).map(width).sum::<usize>() + 2).max(HEADINGS[6].len());
    for [when, place, what, count, verdict, action, process] in cells {
        table::row(&mut rows, [when, place, what, count, verdict, action, table::short(&process, rest)]);
    }
    table::text(&rows)
}

fn cells(fault: &Fault) -> [String; 7] {
    let place = place(fault);
    let place = match &fault.node {
        // Of several machines: nearly all of them have but one PCI domain.
        Some(node) => format!("{} {}", table::short(&node.0, 8), place.strip_prefix("0000:").unwrap_or(&place)),
        None => place,
    };
    let action = match fault.state {
        FaultState::Active => fault.action.to_string(),
        FaultState::Cleared => "cleared".to_owned(),
    };
    [
        when(fault),
        table::short(&place, 22),
        what(fault),
        fault.count.to_string(),
        fault.verdict.to_string(),
        action,
        process(fault),
    ]
}

/// What the table cannot show.
pub fn remarks(scan: &Scan) -> Vec<String> {
    let mut remarks = Vec::new();
    if scan.suppressed > 0 {
        remarks.push(format!("the kernel left out {} lines or more: counts are lower bounds", scan.suppressed));
    }
    if scan.dropped > 0 {
        remarks
            .push(format!("{} faults are not shown: there were too many, and these asked for least", scan.dropped));
    }
    remarks
}

/// The day and time it was first seen, or the time since the boot.
pub fn when(fault: &Fault) -> String {
    if let Some(time) = fault.first_seen {
        return time.to_rfc3339().get(5..19).map(|time| time.replace('T', " ")).unwrap_or_default();
    }
    let seconds = |us: u64| format!("+{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000);
    fault.first_seen_boot_us.map_or_else(|| "-".to_owned(), seconds)
}

pub fn place(fault: &Fault) -> String {
    let subject = &fault.subject;
    let mut place = match (subject.pci, &subject.device) {
        // As the driver writes it: GPUs and switches have one function.
        (Some(pci), _) => pci.to_string().trim_end_matches(".0").to_owned(),
        (None, Some(device)) => device.clone(),
        (None, None) if subject.part == Part::Node => "host".to_owned(),
        (None, None) => "?".to_owned(),
    };
    if let Some(link) = subject.link {
        place.push_str(&format!(" link {link}"));
    }
    if let Some(instance) = subject.gpu_instance {
        place.push_str(&format!(" MIG {instance}"));
        if let Some(compute) = subject.compute_instance {
            place.push_str(&format!(".{compute}"));
        }
    }
    place
}

pub fn what(fault: &Fault) -> String {
    match (fault.kind, fault.code) {
        (FaultKind::Xid, Some(code)) => format!("Xid {code}"),
        (FaultKind::Sxid, Some(code)) => format!("SXid {code}"),
        (kind, _) => kind.to_string(),
    }
}

fn process(fault: &Fault) -> String {
    match (&fault.process, fault.pid) {
        (Some(name), Some(pid)) => format!("{pid} {name}"),
        (None, Some(pid)) => pid.to_string(),
        (Some(name), None) => name.clone(),
        (None, None) => "-".to_owned(),
    }
}
