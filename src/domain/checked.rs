//! What a check of a node looked at, what it found, and what it would have allowed.

use super::gpu::health::DeviceHealth;
use super::ids::{GpuUuid, NodeName, TaskId};
use super::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The quick look at one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceCheck {
    pub health: DeviceHealth,
    /// Whether its device node opens, or why not; none where the machine has no such nodes.
    pub node: Option<Result<(), String>>,
}

/// The long look: its memory, and the way there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeepCheck {
    /// Nobody could look, for this reason: no fault of the device.
    NotPossible(String),
    /// The device could not do what any device can.
    Broken(String),
    Looked(MemoryLook),
}

/// What was written to a device's memory, and what came back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemoryLook {
    /// How much was looked at, in MiB.
    pub memory_mb: u64,
    /// Words of 32 bits that came back other than they were written.
    pub wrong_words: u64,
    /// MB/s from the machine to the device, back, and within the device; 0: not measured.
    pub to_device_mb_s: u64,
    pub from_device_mb_s: u64,
    pub within_device_mb_s: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckOutcome {
    Ok,
    /// Cannot be told, or is no fault by itself.
    Noted,
    Failed,
}

impl CheckOutcome {
    pub const ALL: [Self; 3] = [Self::Ok, Self::Noted, Self::Failed];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Noted => "noted",
            Self::Failed => "failed",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == word)
    }
}

impl fmt::Display for CheckOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedThing {
    pub what: String,
    pub found: String,
    pub allowed: String,
    pub outcome: CheckOutcome,
}

impl CheckedThing {
    pub fn new(
        what: impl Into<String>,
        found: impl Into<String>,
        allowed: impl Into<String>,
        outcome: CheckOutcome,
    ) -> Self {
        Self { what: what.into(), found: found.into(), allowed: allowed.into(), outcome }
    }
}

/// One GPU with what was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedGpu {
    pub uuid: GpuUuid,
    pub index: u32,
    pub model: String,
    /// Who holds it.
    pub task: Option<TaskId>,
    pub checks: Vec<CheckedThing>,
}

/// Everything that a check of a node looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedNode {
    pub node: NodeName,
    pub time: Timestamp,
    /// The worst of all.
    pub outcome: CheckOutcome,
    /// What is not of one GPU.
    pub host: Vec<CheckedThing>,
    pub gpus: Vec<CheckedGpu>,
}

impl CheckedNode {
    pub fn new(node: NodeName, time: Timestamp, host: Vec<CheckedThing>, gpus: Vec<CheckedGpu>) -> Self {
        let things = host.iter().chain(gpus.iter().flat_map(|gpu| &gpu.checks));
        let failed = things.clone().any(|thing| thing.outcome == CheckOutcome::Failed);
        let outcome = if failed { CheckOutcome::Failed } else { CheckOutcome::Ok };
        Self { node, time, outcome, host, gpus }
    }
}
