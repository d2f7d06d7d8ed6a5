//! `extras.wharf.nodes` and `extras.wharf.placement`: `{"nodes": {"labels": {"zone": "a", "disk": ["ssd", "nvme"]},
//! "without": {"spot": "*"}, "names": ["gpu-0*"], "avoid": ["gpu-07"]}, "placement": "pack" | "spread"}`.

use super::super::fields::{Fields, entries};
use super::super::json::{Node, Value, join};
use super::super::report::{Report, as_text};
use crate::domain::placement::{ANY, Arrangement, NodeSelector, PlacementSpec};
use std::collections::BTreeMap;

const PATH: &str = "extras.wharf.nodes";
const KNOWN: [&str; 4] = ["labels", "without", "names", "avoid"];
/// Labels in one selector, values of one label, names in one list.
const MAX_ENTRIES: usize = 256;
/// As long as an agent's labels may be.
const MAX_LABEL_BYTES: usize = 128;
const MAX_VALUE_BYTES: usize = 256;

/// Reads both before it gives up, so that all mistakes are named.
pub(super) fn read(wharf: &Fields<'_>, report: &mut Report<'_>) -> Option<PlacementSpec> {
    let arrangement = arrangement(wharf, report);
    let nodes = match wharf.get("nodes") {
        None => Some(NodeSelector::default()),
        Some(node) => selector(node, report),
    };
    Some(PlacementSpec { nodes: nodes?, arrangement: arrangement? })
}

fn arrangement(wharf: &Fields<'_>, report: &mut Report<'_>) -> Option<Option<Arrangement>> {
    let Some(node) = wharf.get("placement") else { return Some(None) };
    let known = as_text(node).and_then(Arrangement::parse);
    if known.is_none() {
        report.wrong("extras.wharf.placement", node, "is no known choice", "\"pack\" or \"spread\"");
    }
    known.map(Some)
}

fn selector(node: &Node, report: &mut Report<'_>) -> Option<NodeSelector> {
    let fields = Fields::of(node, PATH, &KNOWN, report)?;
    let labels = labels(&fields, "labels", report);
    let without = self::labels(&fields, "without", report);
    let names = names(&fields, "names", report);
    let avoid = self::names(&fields, "avoid", report);
    fields.warn_unknown(report);
    Some(NodeSelector { labels: labels?, without: without?, names: names?, avoid: avoid? })
}

/// `{"LABEL": "VALUE"}` or `{"LABEL": ["VALUE", ...]}`.
fn labels(fields: &Fields<'_>, name: &str, report: &mut Report<'_>) -> Option<BTreeMap<String, Vec<String>>> {
    let Some(node) = fields.get(name) else { return Some(BTreeMap::new()) };
    let path = fields.path(name);
    let Value::Object(members) = &node.value else {
        report.wrong_kind(&path, node, "an object", "an object of labels: {\"zone\": \"a\", \"disk\": [\"ssd\"]}");
        return None;
    };
    if members.len() > MAX_ENTRIES {
        report.wrong(&path, node, "is too long", format!("at most {MAX_ENTRIES} labels"));
        return None;
    }
    let mut labels = Some(BTreeMap::new());
    for member in members {
        let path = join(&path, &member.key);
        let values = if is_label(&member.key) {
            values(&member.node, &path, report)
        } else {
            let allowed = format!("1 to {MAX_LABEL_BYTES} letters, digits, '.', '-', '_', '/'");
            report.wrong(&path, &member.node, "is not under the name of a label", allowed);
            None
        };
        match (&mut labels, values) {
            (Some(labels), Some(values)) => drop(labels.insert(member.key.clone(), values)),
            _ => labels = None,
        }
    }
    labels
}

fn is_label(key: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'/');
    (1..=MAX_LABEL_BYTES).contains(&key.len()) && key.bytes().all(word)
}

fn values(node: &Node, path: &str, report: &mut Report<'_>) -> Option<Vec<String>> {
    let allowed = format!("a value, or a list of values of which one must be there; \"{ANY}\" is any");
    let values = match &node.value {
        Value::Array(nodes) => texts(nodes, path, &allowed, report)?,
        _ => vec![text(node, path, &allowed, report)?],
    };
    if values.is_empty() || values.len() > MAX_ENTRIES {
        report.wrong(path, node, "has no values, or too many", format!("1 to {MAX_ENTRIES} values"));
        return None;
    }
    Some(values)
}

/// Names of nodes, each with `*` at the end if that stands for more.
fn names(fields: &Fields<'_>, name: &str, report: &mut Report<'_>) -> Option<Vec<String>> {
    let Some(node) = fields.get(name) else { return Some(Vec::new()) };
    let path = fields.path(name);
    let nodes = entries(node, &path, report)?;
    let allowed = "names of nodes, with '*' at the end for any that begin so";
    if nodes.is_empty() || nodes.len() > MAX_ENTRIES {
        report.wrong(&path, node, "has no names, or too many", format!("1 to {MAX_ENTRIES} {allowed}"));
        return None;
    }
    let names = texts(nodes, &path, allowed, report)?;
    for (i, name) in names.iter().enumerate() {
        if name.is_empty() || name.trim_end_matches('*').contains('*') || name.ends_with("**") {
            report.wrong(&format!("{path}[{i}]"), &nodes[i], "is not the name of nodes", allowed);
            return None;
        }
    }
    Some(names)
}

fn texts(nodes: &[Node], path: &str, allowed: &str, report: &mut Report<'_>) -> Option<Vec<String>> {
    // All are looked at before the first that is wrong ends it.
    let texts: Vec<Option<String>> =
        nodes.iter().enumerate().map(|(i, node)| text(node, &format!("{path}[{i}]"), allowed, report)).collect();
    texts.into_iter().collect()
}

fn text(node: &Node, path: &str, allowed: &str, report: &mut Report<'_>) -> Option<String> {
    let text = as_text(node).filter(|text| text.len() <= MAX_VALUE_BYTES && !text.chars().any(char::is_control));
    if text.is_none() {
        report.wrong(path, node, "is no text that fits", allowed);
    }
    text.map(str::to_owned)
}
