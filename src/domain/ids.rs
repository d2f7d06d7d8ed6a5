//! Typed identifiers. Numbers are sequences of the controller; names come from users and operators.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A job: what a user submitted. Equal to the id of its first run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(pub u64);

/// One attempt at a job, from the same sequence as [`JobId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(pub u64);

/// A node's name: unique among live agents, chosen by the operator (default: the host name).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeName(pub String);

impl NodeName {
    /// What [`NodeName::is_well_formed`] asks for, in words.
    pub const ALLOWED: &'static str = "1 to 253 letters, digits, '.', '-', '_'";

    /// Names become parts of keys and paths; 253 is the most that a host name may have (RFC 1123).
    pub fn is_well_formed(&self) -> bool {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        (1..=253).contains(&self.0.len()) && self.0.bytes().all(word)
    }
}

/// Made once at an agent's first start and kept in its state directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeUid(pub String);

/// One incarnation of an agent's journal: a journal made new, restored or set aside gets another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JournalId(pub String);

/// A GPU or MIG slice by the UUID its driver gives it (`GPU-...`, `MIG-...`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GpuUuid(pub String);

/// One container or process of a run. Numbers only, so that it is safe in any path:
/// `role` is the position of the task role in the job file, from 0. Shown as `JOB.RUN.ROLE.INDEX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    pub job: JobId,
    pub run: RunId,
    pub role: u32,
    pub index: u32,
}

/// Grows with every decision about a task; an agent refuses anything older than it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Generation(pub u64);

/// Grows with every start or change of the leading controller; an agent refuses older ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Term(pub u64);

macro_rules! display_inner {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
display_inner!(JobId, RunId, NodeName, NodeUid, JournalId, GpuUuid, Generation, Term);

macro_rules! from_str {
    ($($name:ident),*) => {$(
        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }
    )*};
}
from_str!(NodeName, NodeUid, JournalId, GpuUuid);

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}.{}", self.job, self.run, self.role, self.index)
    }
}

/// A text that is not `JOB.RUN.ROLE.INDEX`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{found}' is not a task id: four numbers, JOB.RUN.ROLE.INDEX, are expected")]
pub struct InvalidTaskId {
    pub found: String,
}

impl GpuUuid {
    /// For a device that cannot say its UUID: known by its place.
    pub fn placeholder(index: u32) -> Self {
        Self(format!("unknown-{index}"))
    }

    pub fn is_placeholder(&self) -> bool {
        self.0.starts_with("unknown-")
    }
}

impl FromStr for TaskId {
    type Err = InvalidTaskId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidTaskId { found: text.chars().take(80).collect() };
        let mut parts = text.split('.');
        let mut next = || parts.next().ok_or_else(invalid);
        let (job, run, role, index) = (next()?, next()?, next()?, next()?);
        if parts.next().is_some() {
            return Err(invalid());
        }
        let canonical = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if ![job, run, role, index].into_iter().all(canonical) {
            return Err(invalid());
        }
        Ok(Self {
            job: JobId(job.parse().map_err(|_| invalid())?),
            run: RunId(run.parse().map_err(|_| invalid())?),
            role: role.parse().map_err(|_| invalid())?,
            index: index.parse().map_err(|_| invalid())?,
        })
    }
}

impl Serialize for TaskId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TaskId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_ids_survive_text() {
        let id = TaskId { job: JobId(7), run: RunId(9), role: 1, index: 30 };
        assert_eq!(id.to_string(), "7.9.1.30");
        assert_eq!("7.9.1.30".parse(), Ok(id));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "1.2.3", "1.2.3.4.5", "1.2.x.4", "1..3.4", "+1.2.3.4", "1.2.3.99999999999"] {
            assert!(text.parse::<TaskId>().is_err(), "{text}");
        }
    }
}
