//! JSON as people write it in job files: strict JSON plus `//` and `/* */` comments and trailing commas.
//! A reader of our own, because a job file's errors need what general readers drop: where a value stands,
//! numbers as written, and keys that appear twice. It knows nothing about jobs.

mod check;
mod lines;
mod number;
mod reader;
mod write;

pub use check::{check, join};
pub use lines::Lines;
pub use number::{Integer, integer};
pub use reader::read;
pub use write::{quote, shorten, to_text};

/// A value and the byte offset where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    pub at: usize,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Null,
    Bool(bool),
    /// As written: `1.0`, `1e400` and integers of any length survive.
    Number(String),
    String(String),
    Array(Vec<Node>),
    /// In the file's order, duplicates included.
    Object(Vec<Member>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub key: String,
    pub key_at: usize,
    pub node: Node,
}

impl Value {
    /// What kind of value this is, for messages.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::String(_) => "a text",
            Self::Array(_) => "a list",
            Self::Object(_) => "an object",
        }
    }
}
