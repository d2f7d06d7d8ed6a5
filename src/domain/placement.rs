//! Where a job wants its tasks: on which nodes, close together or far apart.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A job's wishes; the default leaves everything to the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PlacementSpec {
    pub nodes: NodeSelector,
    /// `None`: as the controller is configured.
    pub arrangement: Option<Arrangement>,
}

/// How the tasks of a gang share nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arrangement {
    /// As few and as full nodes as possible: whole nodes stay free for those who need them.
    #[default]
    Pack,
    /// As many nodes as possible, the emptiest first.
    Spread,
}

impl Arrangement {
    pub const ALL: [Self; 2] = [Self::Pack, Self::Spread];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pack => "pack",
            Self::Spread => "spread",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|arrangement| arrangement.as_str() == text)
    }
}

/// Which nodes a job may have. Everything that is named must hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeSelector {
    /// The node has each of these labels with one of the values; [`ANY`] is any value.
    pub labels: BTreeMap<String, Vec<String>>,
    /// The node has none of these labels with one of the values.
    pub without: BTreeMap<String, Vec<String>>,
    /// The node's name is one of these, unless there are none; `*` at the end stands for anything.
    pub names: Vec<String>,
    /// The node's name is none of these.
    pub avoid: Vec<String>,
}

/// Longest list in a sentence.
const MAX_TEXT_BYTES: usize = 400;
/// Values of one label in a sentence.
const MAX_VALUES: usize = 8;

/// Stands for any value of a label.
pub const ANY: &str = "*";

/// What keeps a node out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    Labels,
    Name,
}

impl NodeSelector {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether a node of this name with these labels may be had.
    pub fn check(&self, name: &str, labels: &BTreeMap<String, String>) -> Result<(), Mismatch> {
        let named = |patterns: &[String]| patterns.iter().any(|pattern| matches(pattern, name));
        if named(&self.avoid) || (!self.names.is_empty() && !named(&self.names)) {
            return Err(Mismatch::Name);
        }
        let has = |(key, values): (&String, &Vec<String>)| has(labels, key, values);
        if self.labels.iter().all(has) && !self.without.iter().any(has) { Ok(()) } else { Err(Mismatch::Labels) }
    }

    /// `zone is a, disk is ssd or nvme, spot is not there`: what is asked of labels.
    pub fn wanted_labels(&self) -> String {
        let wanted = self.labels.iter().map(|(key, values)| words(key, "is", values));
        let unwanted = self.without.iter().map(|(key, values)| words(key, "is not", values));
        listed(wanted.chain(unwanted))
    }

    /// `zone is b, no disk`: what a node has of the labels that keep it out.
    pub fn found_labels(&self, labels: &BTreeMap<String, String>) -> String {
        let missing = self.labels.iter().filter(|(key, values)| !has(labels, key, values));
        let unwanted = self.without.iter().filter(|(key, values)| has(labels, key, values));
        let found = |(key, _): (&String, &Vec<String>)| match labels.get(key) {
            Some(value) => format!("{key} is {value}"),
            None => format!("no {key}"),
        };
        listed(missing.chain(unwanted).map(found))
    }

    /// `one of gpu-01, gpu-1*, not gpu-13`: what is asked of names.
    pub fn wanted_names(&self) -> String {
        let words = |what: &str, names: &[String]| {
            (!names.is_empty()).then(|| format!("{what} {}", listed(names.iter().cloned())))
        };
        let wanted = [words("one of", &self.names), words("not", &self.avoid)];
        wanted.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }
}

/// With commas between; a selector may hold more than anybody reads, and it is told of every node.
fn listed(parts: impl Iterator<Item = String>) -> String {
    let (mut text, mut left_out) = (String::new(), 0);
    for part in parts {
        if text.len() + part.len() > MAX_TEXT_BYTES {
            left_out += 1;
            continue;
        }
        text.push_str(if text.is_empty() { "" } else { ", " });
        text.push_str(&part);
    }
    match (left_out, text.is_empty()) {
        (0, _) => text,
        (_, true) => format!("{left_out} things"),
        (_, false) => format!("{text} and {left_out} more"),
    }
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == name, |start| name.starts_with(start))
}

fn has(labels: &BTreeMap<String, String>, key: &str, values: &[String]) -> bool {
    labels.get(key).is_some_and(|have| values.iter().any(|value| value == ANY || value == have))
}

/// `is` is what stands between the label and its values.
fn words(key: &str, is: &str, values: &[String]) -> String {
    if values.iter().any(|value| value == ANY) {
        return format!("{key} {is} there");
    }
    let more = values.len().saturating_sub(MAX_VALUES);
    let some = values[..values.len() - more].join(" or ");
    if more > 0 { format!("{key} {is} {some} or {more} others") } else { format!("{key} {is} {some}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(text: &str) -> NodeSelector {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_a_selector_admits() {
        let labels: BTreeMap<String, String> =
            [("zone", "a"), ("disk", "ssd"), ("spot", "")].map(|(key, value)| (key.into(), value.into())).into();
        for (text, expected) in [
            ("{}", Ok(())),
            (r#"{"labels": {"zone": ["a"]}}"#, Ok(())),
            (r#"{"labels": {"zone": ["b"]}}"#, Err(Mismatch::Labels)),
            (r#"{"labels": {"zone": ["a"], "disk": ["nvme", "ssd"]}}"#, Ok(())),
            (r#"{"labels": {"zone": ["a"], "disk": ["nvme"]}}"#, Err(Mismatch::Labels)),
            (r#"{"labels": {"rdma": ["*"]}}"#, Err(Mismatch::Labels)),
            (r#"{"labels": {"spot": ["*"]}}"#, Ok(())),
            (r#"{"without": {"spot": ["*"]}}"#, Err(Mismatch::Labels)),
            (r#"{"without": {"rdma": ["*"], "zone": ["b"]}}"#, Ok(())),
            (r#"{"without": {"zone": ["a", "b"]}}"#, Err(Mismatch::Labels)),
            (r#"{"names": ["gpu-01"]}"#, Ok(())),
            (r#"{"names": ["gpu-0"]}"#, Err(Mismatch::Name)),
            (r#"{"names": ["gpu-0*"]}"#, Ok(())),
            (r#"{"names": ["*"], "avoid": ["gpu-01"]}"#, Err(Mismatch::Name)),
            (r#"{"avoid": ["gpu-1*"]}"#, Ok(())),
        ] {
            assert_eq!(selector(text).check("gpu-01", &labels), expected, "{text}");
        }
    }

    #[test]
    fn it_says_what_it_wants_and_finds() {
        let wants = selector(
            r#"{"labels": {"disk": ["nvme", "ssd"], "rdma": ["*"]}, "without": {"spot": ["*"], "zone": ["b"]}, "names": ["a", "b*"], "avoid": ["c"]}"#,
        );
        assert_eq!(wants.wanted_labels(), "disk is nvme or ssd, rdma is there, spot is not there, zone is not b");
        assert_eq!(wants.wanted_names(), "one of a, b*, not c");
        let labels = BTreeMap::from([("disk".to_owned(), "hdd".to_owned()), ("zone".to_owned(), "b".to_owned())]);
        assert_eq!(wants.found_labels(&labels), "disk is hdd, no rdma, zone is b");
    }

    #[test]
    fn it_never_says_more_than_anybody_reads() {
        let many = |count: usize, length: usize| (0..count).map(move |i| format!("{i:0length$}"));
        let wants = NodeSelector {
            labels: many(256, 128).map(|key| (key, many(256, 256).collect())).collect(),
            without: many(256, 100).map(|key| (key, vec!["a".to_owned(); 20])).collect(),
            names: many(256, 10).collect(),
            avoid: many(256, 10).collect(),
        };
        let texts = [wants.wanted_labels(), wants.wanted_names(), wants.found_labels(&BTreeMap::new())];
        assert!(texts.iter().all(|text| (1..1000).contains(&text.len()) && text.contains(" more")), "{texts:?}");
        assert!(texts[0].contains("or 12 others"), "{}", texts[0]);
    }
}
