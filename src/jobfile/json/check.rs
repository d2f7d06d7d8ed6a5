//! What a syntactically right file can still have wrong anywhere in it: keys that appear twice, and NUL
//! characters, which no path, argument or environment variable can carry.

use super::{Node, Value, quote};
use std::collections::BTreeMap;

/// A key that appears twice in one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DuplicateKey {
    pub path: String,
    pub first_at: usize,
    pub second_at: usize,
}

/// A text, as a key or a value, with a NUL character in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NulText {
    pub path: String,
    pub at: usize,
    pub text: String,
}

/// Looks through everything below `root`, giving up after `limit` findings of either kind.
pub fn check(root: &Node, limit: usize) -> (Vec<DuplicateKey>, Vec<NulText>) {
    let mut walk = Walk { path: Vec::new(), duplicates: Vec::new(), nuls: Vec::new(), limit };
    walk.node(root);
    (walk.duplicates, walk.nuls)
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

struct Walk<'a> {
    path: Vec<Step<'a>>,
    duplicates: Vec<DuplicateKey>,
    nuls: Vec<NulText>,
    limit: usize,
}

impl<'a> Walk<'a> {
    /// Depth is bounded by the reader.
    fn node(&mut self, node: &'a Node) {
        match &node.value {
            Value::String(text) => self.text(text, node.at),
            Value::Array(nodes) => {
                for (position, entry) in nodes.iter().enumerate() {
                    self.path.push(Step::Index(position));
                    self.node(entry);
                    self.path.pop();
                }
            }
            Value::Object(members) => {
                let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
                for member in members {
                    self.path.push(Step::Key(&member.key));
                    self.text(&member.key, member.key_at);
                    let first_at = *seen.entry(&member.key).or_insert(member.key_at);
                    if first_at != member.key_at && self.duplicates.len() < self.limit {
                        self.duplicates.push(DuplicateKey { path: self.path(), first_at, second_at: member.key_at });
                    }
                    self.node(&member.node);
                    self.path.pop();
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn text(&mut self, text: &str, at: usize) {
        if text.contains('\0') && self.nuls.len() < self.limit {
            self.nuls.push(NulText { path: self.path(), at, text: text.to_owned() });
        }
    }

    fn path(&self) -> String {
        self.path.iter().fold(String::new(), |path, step| match step {
            Step::Key(key) => join(&path, key),
            Step::Index(index) => format!("{path}[{index}]"),
        })
    }
}

/// The path of a key below a path: `a.b`, or `a["b c"]` for keys that are no plain word.
pub fn join(path: &str, key: &str) -> String {
    let plain = !key.is_empty()
        && key.chars().count() <= 80
        && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '~' | '.' | '/'));
    match (plain, path) {
        (true, "") => key.to_owned(),
        (true, _) => format!("{path}.{key}"),
        (false, _) => format!("{path}[{}]", quote(key, 80)),
    }
}
