//! What callers are shown: the names below are the contract of `--json`. More may be added, none renamed.

use super::exit::Exit;
use super::gpu::GpuState;
use super::time::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `wharf submit`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Submitted {
    pub job_id: u64,
    pub run_id: u64,
    pub name: String,
    pub warnings: Vec<String>,
}

/// `wharf jobs` and, with `tasks`, `wharf job show`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobView {
    pub job_id: u64,
    pub name: String,
    pub user: String,
    /// WAITING RUNNING STOPPING SUCCEEDED FAILED STOPPED.
    pub state: String,
    pub priority: i32,
    pub chain_id: String,
    /// The newest run.
    pub run_id: u64,
    pub submitted_at: Timestamp,
    pub exit: Option<Exit>,
    /// One sentence: why it waits, or how it ended.
    pub reason: Option<String>,
    pub runs: Vec<RunView>,
    /// Tasks of the run asked for (default: the newest); absent in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks: Option<Vec<TaskView>>,
    /// How many tasks are in RUNNING, and how many there are.
    pub tasks_running: u32,
    pub tasks_total: u32,
    pub gpus_total: u32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunView {
    pub run_id: u64,
    /// From 1.
    pub attempt: u32,
    pub state: String,
    pub node_count: u32,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub exit: Option<Exit>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TaskView {
    /// `JOB.RUN.ROLE.INDEX`.
    pub id: String,
    /// The role's name.
    pub role: String,
    pub index: u32,
    /// WAITING STAGING PREPARING READY RUNNING STOPPING SUCCEEDED FAILED STOPPED.
    pub state: String,
    pub node: Option<String>,
    pub ip: Option<String>,
    pub ports: BTreeMap<String, Vec<u16>>,
    /// UUIDs.
    pub gpus: Vec<String>,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub exit: Option<Exit>,
    /// What the runtime could not enforce, or did otherwise than asked.
    pub notices: Vec<String>,
}

/// `wharf job explain`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    pub job_id: u64,
    pub name: String,
    pub state: String,
    /// One sentence.
    pub summary: String,
    /// Place in the queue, from 1; null unless waiting.
    pub queue_position: Option<u32>,
    pub reasons: Vec<ExplainedReason>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedReason {
    /// Null where the reason concerns no single node.
    pub node: Option<String>,
    /// A word: `gpus`, `gpu_type`, `cpus`, `memory_mb`, `ports`, `node_state`, `back_off`, `queue` ...
    pub reason: String,
    pub need: String,
    pub have: String,
}

/// `wharf nodes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    pub name: String,
    pub address: String,
    /// READY CORDONED DRAINING DRAINED UNREACHABLE.
    pub state: String,
    pub reason: Option<String>,
    pub gpus_total: u32,
    pub gpus_free: u32,
    pub cpus: u32,
    pub memory_mb: u64,
    pub labels: BTreeMap<String, String>,
    pub version: String,
    pub node_uid: String,
    pub last_heartbeat: Option<Timestamp>,
}

/// `wharf gpus`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GpuView {
    pub node: String,
    pub uuid: String,
    pub index: u32,
    pub model: String,
    pub memory_mb: u64,
    pub memory_used_mb: Option<u64>,
    pub utilization: Option<u32>,
    pub temperature_c: Option<u32>,
    pub power_w: Option<u32>,
    pub state: GpuState,
    /// The task that holds it.
    pub task: Option<String>,
    pub mig_parent: Option<String>,
    pub faults: Vec<u64>,
}

/// A log record: `text` if the bytes are UTF-8, else `base64`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LogView {
    pub time: Timestamp,
    /// `stdout`, `stderr`, or `gap` for output that was lost, with the count in `text`.
    pub stream: String,
    pub sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base64: Option<String>,
    /// Resumes after this record; concerns this record's task alone.
    pub cursor: String,
    /// `JOB.RUN.ROLE.INDEX`.
    pub task: String,
    pub role: String,
    pub index: u32,
}
