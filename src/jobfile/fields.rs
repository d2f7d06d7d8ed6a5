//! Typed reading of one object's fields: each method answers with a value, or records what is wrong and
//! answers `None`, so that a reader can go on and find the next mistake.

use super::json::{Integer, Member, Node, Value, integer, join, quote};
use super::report::{MAX_FOUND_CHARS, MAX_REPORTED, Report};
use crate::domain::nearest::nearest;
use std::ops::RangeInclusive;

/// An object of the file with its path.
#[derive(Debug)]
pub struct Fields<'a> {
    path: String,
    at: usize,
    members: &'a [Member],
    /// Keys that mean something here.
    known: &'a [&'a str],
}

impl<'a> Fields<'a> {
    /// The members of an object; anything else is a violation.
    pub fn of(node: &'a Node, path: &str, known: &'a [&'a str], report: &mut Report<'_>) -> Option<Self> {
        let Value::Object(members) = &node.value else {
            report.wrong_kind(path, node, "an object", "an object: {...}");
            return None;
        };
        Some(Self { path: path.to_owned(), at: node.at, members, known })
    }

    pub fn path(&self, name: &str) -> String {
        join(&self.path, name)
    }

    /// The value of a key; the first where the key appears twice, which is a violation already.
    pub fn get(&self, name: &str) -> Option<&'a Node> {
        self.members.iter().find(|member| member.key == name).map(|member| &member.node)
    }

    /// The value of a key that must be there.
    pub fn require(&self, name: &str, allowed: &str, report: &mut Report<'_>) -> Option<&'a Node> {
        let node = self.get(name);
        if node.is_none() {
            let is_near = |member: &&Member| nearest(&member.key, self.known.iter().copied()) == Some(name);
            // No guessing for what will only be counted.
            let looked_at = if report.lists_violations() { MAX_REPORTED } else { 0 };
            let alike = self.unknown().take(looked_at).find(is_near);
            let found = alike.map_or_else(String::new, |member| quote(&member.key, MAX_FOUND_CHARS));
            report.violation(
                &self.path(name),
                alike.map_or(self.at, |member| member.key_at),
                "is missing",
                found,
                allowed,
            );
        }
        node
    }

    /// A text that must be there.
    pub fn required_text(&self, name: &str, allowed: &str, report: &mut Report<'_>) -> Option<(&'a str, &'a Node)> {
        let node = self.require(name, allowed, report)?;
        self.text_of(name, node, allowed, report)
    }

    /// A text that may be absent, which reads as the empty text.
    pub fn optional_text(&self, name: &str, allowed: &str, report: &mut Report<'_>) -> Option<(&'a str, usize)> {
        match self.get(name) {
            None => Some(("", self.at)),
            Some(node) => self.text_of(name, node, allowed, report).map(|(text, node)| (text, node.at)),
        }
    }

    fn text_of(
        &self,
        name: &str,
        node: &'a Node,
        allowed: &str,
        report: &mut Report<'_>,
    ) -> Option<(&'a str, &'a Node)> {
        let Value::String(text) = &node.value else {
            report.wrong_kind(&self.path(name), node, "a text", allowed);
            return None;
        };
        Some((text, node))
    }

    /// An integer that must be there.
    pub fn required_integer(&self, name: &str, range: RangeInclusive<i64>, report: &mut Report<'_>) -> Option<i64> {
        let node = self.require(name, &integers(&range), report)?;
        self.integer_of(name, node, &range, &integers(&range), report)
    }

    /// An integer that may be absent.
    pub fn optional_integer(
        &self,
        name: &str,
        default: i64,
        range: RangeInclusive<i64>,
        report: &mut Report<'_>,
    ) -> Option<i64> {
        match self.get(name) {
            None => Some(default),
            Some(node) => self.integer_of(name, node, &range, &integers(&range), report),
        }
    }

    /// A value as an integer: also `1.0`, and `"1"` as OpenPAI's own validation took it.
    pub fn integer_of(
        &self,
        name: &str,
        node: &Node,
        range: &RangeInclusive<i64>,
        allowed: &str,
        report: &mut Report<'_>,
    ) -> Option<i64> {
        let path = self.path(name);
        let read = match &node.value {
            Value::Number(text) => integer(text),
            Value::String(text) => integer(text.trim()),
            _ => None,
        };
        let message = match read {
            Some(Integer::Exact(value)) => match i64::try_from(value) {
                Ok(value) if range.contains(&value) => return Some(value),
                _ if value < i128::from(*range.start()) => "is too small",
                _ => "is too large",
            },
            Some(Integer::Huge) => "is out of range",
            Some(Integer::Fraction) => "is not an integer",
            None => {
                report.wrong_kind(&path, node, "an integer", allowed);
                return None;
            }
        };
        report.wrong(&path, node, message, allowed);
        None
    }

    /// Every key nobody knows is a warning with the nearest known one.
    pub fn warn_unknown(&self, report: &mut Report<'_>) {
        for member in self.unknown() {
            // No guessing for what will only be counted.
            let near = if report.lists_warnings() { nearest(&member.key, self.known.iter().copied()) } else { None };
            let hint = near.map_or_else(String::new, |name| format!("; did you mean {name}?"));
            report.warn(&self.path(&member.key), member.key_at, format_args!("unknown field, ignored{hint}"));
        }
    }

    fn unknown(&self) -> impl Iterator<Item = &'a Member> {
        self.members.iter().filter(|member| !self.known.contains(&member.key.as_str()))
    }
}

fn integers(range: &RangeInclusive<i64>) -> String {
    format!("an integer from {} to {}", range.start(), range.end())
}

/// A list's entries; anything else is a violation.
pub fn entries<'a>(node: &'a Node, path: &str, report: &mut Report<'_>) -> Option<&'a [Node]> {
    let Value::Array(nodes) = &node.value else {
        report.wrong_kind(path, node, "a list", "a list: [...]");
        return None;
    };
    Some(nodes)
}
