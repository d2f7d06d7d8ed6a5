//! Faults for people: one line each.

use crate::cli::table;
use crate::domain::fault::{Fault, FaultKind, FaultState, Part};
use crate::health::Scan;

/// A table, or a sentence where there is nothing to show.
pub fn text(scan: &Scan) -> String {
    if scan.faults().next().is_none() {
        return format!("no faults in {} lines\n", scan.lines);
    }
    let with_node = scan.faults().any(|fault| fault.node.is_some());
    let mut rows = table::table(["WHEN", "WHERE", "WHAT", "COUNT", "VERDICT", "ACTION", "STATE", "PROCESS"]);
    table::right(&mut rows, &[3]);
    for fault in scan.faults() {
        let node = fault.node.as_ref().filter(|_| with_node).map(|node| format!("{node} ")).unwrap_or_default();
        table::row(
            &mut rows,
            [
                when(fault),
                format!("{}{}", table::short(&node, 20), table::short(&place(fault), 28)),
                what(fault),
                fault.count.to_string(),
                fault.verdict.to_string(),
                fault.action.to_string(),
                state(fault),
                table::short(&process(fault), 22),
            ],
        );
    }
    table::text(&rows)
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

/// The time it was first seen, or the time since the boot.
fn when(fault: &Fault) -> String {
    if let Some(time) = fault.first_seen {
        return time.to_rfc3339().get(..19).map(|time| time.replace('T', " ")).unwrap_or_default();
    }
    let seconds = |us: u64| format!("+{}.{} s", us / 1_000_000, us % 1_000_000 / 100_000);
    fault.first_seen_boot_us.map_or_else(|| "-".to_owned(), seconds)
}

fn place(fault: &Fault) -> String {
    let subject = &fault.subject;
    let mut place = match (subject.pci, &subject.device) {
        (Some(pci), _) => pci.to_string(),
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

fn what(fault: &Fault) -> String {
    match (fault.kind, fault.code) {
        (FaultKind::Xid, Some(code)) => format!("Xid {code}"),
        (FaultKind::Sxid, Some(code)) => format!("SXid {code}"),
        (kind, _) => kind.to_string(),
    }
}

fn state(fault: &Fault) -> String {
    match fault.state {
        FaultState::Active => "active".to_owned(),
        FaultState::Cleared => "cleared".to_owned(),
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
