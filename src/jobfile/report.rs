//! What is found wrong or doubtful in a job file, collected so that a user sees all of it at once.

use super::json::{Lines, Node, Value, shorten};
use crate::domain::command::Violation;

/// Most violations, and most warnings, that one file is answered with. Answers travel in headers of bounded
/// size, and nobody reads the hundred-and-first.
pub const MAX_REPORTED: usize = 100;

/// Longest `found` of a violation, in characters.
pub const MAX_FOUND_CHARS: usize = 80;

/// Violations and warnings of one file, in the order found.
#[derive(Debug)]
pub struct Report<'a> {
    lines: &'a Lines<'a>,
    violations: Vec<Violation>,
    warnings: Vec<String>,
    /// Counted beyond [`MAX_REPORTED`].
    more_violations: usize,
    more_warnings: usize,
}

impl<'a> Report<'a> {
    pub fn new(lines: &'a Lines<'a>) -> Self {
        Self { lines, violations: Vec::new(), warnings: Vec::new(), more_violations: 0, more_warnings: 0 }
    }

    pub fn line(&self, at: usize) -> usize {
        self.lines.line(at)
    }

    /// A value that cannot be.
    pub fn wrong(&mut self, field: &str, node: &Node, message: impl Into<String>, allowed: impl Into<String>) {
        let found = shorten(&node.value, MAX_FOUND_CHARS);
        self.violation(field, node.at, message, found, allowed);
    }

    /// A value of the wrong kind.
    pub fn wrong_kind(&mut self, field: &str, node: &Node, wanted: &str, allowed: impl Into<String>) {
        self.wrong(field, node, format!("is {}, not {wanted}", node.value.kind()), allowed);
    }

    pub fn violation(
        &mut self,
        field: &str,
        at: usize,
        message: impl Into<String>,
        found: impl Into<String>,
        allowed: impl Into<String>,
    ) {
        if self.violations.len() >= MAX_REPORTED {
            self.more_violations += 1;
            return;
        }
        let message = format!("{} (line {})", message.into(), self.line(at));
        self.violations.push(Violation {
            field: field.to_owned(),
            message,
            found: found.into(),
            allowed: allowed.into(),
        });
    }

    pub fn warn(&mut self, field: &str, at: usize, message: impl std::fmt::Display) {
        if self.warnings.len() >= MAX_REPORTED {
            self.more_warnings += 1;
            return;
        }
        self.warnings.push(format!("{field}: {message} (line {})", self.line(at)));
    }

    /// The next warning would still be listed.
    pub fn lists_warnings(&self) -> bool {
        self.warnings.len() < MAX_REPORTED
    }

    /// The next violation would still be listed.
    pub fn lists_violations(&self) -> bool {
        self.violations.len() < MAX_REPORTED
    }

    /// The warnings, or the violations if there is any.
    pub fn finish(mut self, file: &str) -> Result<Vec<String>, Vec<Violation>> {
        if self.more_violations > 0 {
            self.violations.push(Violation {
                field: file.to_owned(),
                message: format!("has {} more errors, not listed", self.more_violations),
                found: String::new(),
                allowed: String::new(),
            });
        }
        if !self.violations.is_empty() {
            return Err(self.violations);
        }
        if self.more_warnings > 0 {
            self.warnings.push(format!("{file}: has {} more warnings, not listed", self.more_warnings));
        }
        Ok(self.warnings)
    }
}

/// Text of a string value.
pub fn as_text(node: &Node) -> Option<&str> {
    if let Value::String(text) = &node.value { Some(text) } else { None }
}
