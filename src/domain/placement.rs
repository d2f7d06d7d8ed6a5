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
        wanted.chain(unwanted).collect::<Vec<_>>().join(", ")
    }

    /// `zone is b, no disk`: what a node has of the labels that keep it out.
    pub fn found_labels(&self, labels: &BTreeMap<String, String>) -> String {
        let missing = self.labels.iter().filter(|(key, values)| !has(labels, key, values));
        let unwanted = self.without.iter().filter(|(key, values)| has(labels, key, values));
        let found = |(key, _): (&String, &Vec<String>)| match labels.get(key) {
            Some(value) => format!("{key} is {value}"),
            None => format!("no {key}"),
        };
        missing.chain(unwanted).map(found).collect::<Vec<_>>().join(", ")
    }

    /// `one of gpu-01, gpu-1*, not gpu-13`: what is asked of names.
    pub fn wanted_names(&self) -> String {
        let mut wanted = Vec::new();
        if !self.names.is_empty() {
            wanted.push(format!("one of {}", self.names.join(", ")));
        }
        if !self.avoid.is_empty() {
            wanted.push(format!("not {}", self.avoid.join(", ")));
        }
        wanted.join(", ")
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
    let any = values.iter().any(|value| value == ANY);
    format!("{key} {is} {}", if any { "there".to_owned() } else { values.join(" or ") })
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
}
