//! `portList`: labelled ports of a role.

use super::super::fields::{Fields, entries};
use super::super::json::Node;
use super::super::report::Report;
use super::{limits, name};
use crate::domain::spec::PortSpec;
use std::collections::BTreeMap;

const KNOWN: [&str; 3] = ["label", "beginAt", "portNumber"];
const LAST_PORT: i64 = 65535;

pub(super) fn read(role: &Fields<'_>, report: &mut Report<'_>) -> Option<Vec<PortSpec>> {
    let Some(node) = role.get("portList") else { return Some(Vec::new()) };
    let path = role.path("portList");
    let nodes = entries(node, &path, report)?;
    let ports: Vec<Option<PortSpec>> =
        nodes.iter().enumerate().map(|(position, node)| port(node, &format!("{path}[{position}]"), report)).collect();
    let labels_differ = labels_differ(&path, nodes, &ports, report);
    let ranges_differ = ranges_differ(&path, nodes, &ports, report);
    let total: i64 = ports.iter().flatten().map(|port| i64::from(port.count)).sum();
    if total > limits::MAX_PORTS_PER_TASK {
        let allowed = format!("at most {} ports for one task, all labels together", limits::MAX_PORTS_PER_TASK);
        report.violation(&path, node.at, "asks for too many ports", total.to_string(), allowed);
        return None;
    }
    if labels_differ && ranges_differ { ports.into_iter().collect() } else { None }
}

fn port(node: &Node, path: &str, report: &mut Report<'_>) -> Option<PortSpec> {
    let fields = Fields::of(node, path, &KNOWN, report)?;
    let label = name::label(&fields, "label", report);
    let begin_at = fields.required_integer("beginAt", 0..=LAST_PORT, report);
    let count = fields.required_integer("portNumber", 1..=LAST_PORT, report);
    fields.warn_unknown(report);
    let (begin_at, count) = (begin_at?, count?);
    if begin_at > 0 && begin_at + count - 1 > LAST_PORT {
        let message = format!("{count} ports from {begin_at} on go beyond {LAST_PORT}");
        let allowed = format!("beginAt + portNumber - 1 is at most {LAST_PORT}");
        report.violation(path, node.at, message, (begin_at + count - 1).to_string(), allowed);
        return None;
    }
    Some(PortSpec { label: label?, begin_at: u16::try_from(begin_at).ok()?, count: u16::try_from(count).ok()? })
}

/// OpenPAI took the last of several definitions of a label; here it is an error that names both.
fn labels_differ(path: &str, nodes: &[Node], ports: &[Option<PortSpec>], report: &mut Report<'_>) -> bool {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut differ = true;
    for (position, port) in ports.iter().enumerate() {
        let Some(port) = port else { continue };
        let first = *seen.entry(&port.label).or_insert(position);
        if first != position {
            let field = format!("{path}[{position}].label");
            let message = format!("is the label of {path}[{first}] too");
            report.violation(&field, nodes[position].at, message, &port.label, "a label of its own for every entry");
            differ = false;
        }
    }
    differ
}

/// OpenPAI gave overlapping fixed ports to both labels; here it is an error that names both.
fn ranges_differ(path: &str, nodes: &[Node], ports: &[Option<PortSpec>], report: &mut Report<'_>) -> bool {
    let fixed = ports.iter().enumerate().filter_map(|(position, port)| port.as_ref().map(|port| (position, port)));
    let mut fixed: Vec<(u32, u32, usize, &PortSpec)> = fixed
        .filter(|(_, port)| port.begin_at > 0)
        .map(|(position, port)| {
            let first = u32::from(port.begin_at);
            (first, first + u32::from(port.count) - 1, position, port)
        })
        .collect();
    fixed.sort_by_key(|(first, _, position, _)| (*first, *position));
    let mut differ = true;
    // The range that reaches furthest so far: a later one that begins inside any earlier begins inside this.
    let mut furthest: Option<(u32, u32, usize, &PortSpec)> = None;
    for range in fixed {
        if let Some(other) = furthest.filter(|other| range.0 <= other.1) {
            let message =
                format!("overlaps {path}[{}], label {}, ports {}-{}", other.2, other.3.label, other.0, other.1);
            let found = format!("label {}, ports {}-{}", range.3.label, range.0, range.1);
            let allowed = "ports that no other label of the role has";
            report.violation(&format!("{path}[{}]", range.2), nodes[range.2].at, message, found, allowed);
            differ = false;
        }
        if furthest.is_none_or(|other| range.1 > other.1) {
            furthest = Some(range);
        }
    }
    differ
}
