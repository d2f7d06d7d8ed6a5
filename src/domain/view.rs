//! What callers are shown: the names below are the contract of `--json`. More may be added, none renamed.

use super::exit::Exit;
use super::gpu::condition::GpuCondition;
use super::gpu::{Gpu, GpuDriver, GpuSample, GpuState, MigSlice};
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
    #[serde(default)]
    pub retries: RetriesView,
    /// The newest run waits, and is not placed before this.
    #[serde(default)]
    pub next_run_at: Option<Timestamp>,
}

/// How often a job was run again, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RetriesView {
    /// After failures of its own: held against `retryCount`.
    pub user: u64,
    pub platform: u64,
    pub hardware: u64,
    /// It asked for it by its exit status.
    pub asked: u64,
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
    /// How far the state's work is, in a line for people; absent where nobody says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// `isDebug`: its command has failed, and all of it is kept until then for somebody to look at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_until: Option<Timestamp>,
}

/// `wharf job explain`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Explanation {
    pub job_id: u64,
    pub name: String,
    pub state: String,
    /// One sentence.
    pub summary: String,
    /// Place in the queue, from 1; null unless waiting.
    pub queue_position: Option<u32>,
    pub reasons: Vec<ExplainedReason>,
    /// How many wait; null unless waiting.
    #[serde(default)]
    pub queue_length: Option<u32>,
    #[serde(default)]
    pub virtual_cluster: String,
    /// The job ahead in the queue that room or quota is kept for, which this one would need.
    #[serde(default)]
    pub behind: Option<u64>,
    /// As long as nodes and limits stay what they are.
    #[serde(default)]
    pub never_possible: bool,
    /// It begins no earlier than this; null where nothing is known.
    #[serde(default)]
    pub earliest: Option<Timestamp>,
    /// What `earliest` follows from, or why nothing is known: one sentence. Empty unless waiting.
    #[serde(default)]
    pub earliest_note: String,
    /// Nodes with reasons that are not in `reasons`, which is bounded.
    #[serde(default)]
    pub nodes_left_out: u32,
    /// Of a placed run, tasks that do not run yet, or no longer.
    #[serde(default)]
    pub tasks: Vec<ExplainedTask>,
    #[serde(default)]
    pub tasks_left_out: u32,
    /// What was decided about the job, in order.
    #[serde(default)]
    pub decisions: Vec<ExplainedDecision>,
    /// Decisions that are not in `decisions`, which is bounded.
    #[serde(default)]
    pub decisions_left_out: u32,
}

/// How far one task is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ExplainedTask {
    /// `JOB.RUN.ROLE.INDEX`.
    pub id: String,
    /// The role's name.
    pub role: String,
    pub index: u32,
    pub node: String,
    /// As in [`TaskView`].
    pub state: String,
    /// One sentence; empty where nobody says.
    pub detail: String,
}

/// One step of a job's way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedDecision {
    pub time: Timestamp,
    /// A dotted word, as of events.
    pub event: String,
    /// `JOB.RUN.ROLE.INDEX`, where it concerns one task.
    pub task: Option<String>,
    pub node: Option<String>,
    /// One sentence.
    pub detail: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedReason {
    /// Null where the reason concerns no single node.
    pub node: Option<String>,
    /// A word: `gpus`, `gpu_type`, `cpus`, `memory_mb`, `ports`, `node_state`, `labels`, `node_name`, `kept_for_gpus`,
    /// `back_off`; of the whole job `gang`, `quota`, `queue`, `reservation`, `never_possible`.
    pub reason: String,
    pub need: String,
    pub have: String,
}

/// `wharf nodes`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
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
    #[serde(default)]
    pub gpu_driver: GpuDriver,
    /// What `state` is, or would be if the agent were heard.
    #[serde(default)]
    pub standing: String,
    /// Who closed it.
    #[serde(default)]
    pub by: Option<String>,
    /// Since when it is closed, or not heard.
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// Of a drain: what still runs then is moved.
    #[serde(default)]
    pub deadline: Option<Timestamp>,
    /// Tasks that hold anything there, or may.
    #[serde(default)]
    pub tasks_held: u32,
}

/// `wharf node show`: the node's own fields, and these.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeDetail {
    #[serde(flatten)]
    pub node: NodeView,
    /// Not promised to any task.
    pub cpus_free: u32,
    pub memory_free_mb: u64,
    pub gpus: Vec<GpuView>,
    /// Whatever holds anything of the node.
    pub tasks: Vec<NodeTask>,
}

/// One task as its node sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeTask {
    /// `JOB.RUN.ROLE.INDEX`.
    pub id: String,
    pub job_id: u64,
    /// The job's name.
    pub job: String,
    pub user: String,
    /// The role's name.
    pub role: String,
    pub index: u32,
    pub state: String,
    /// UUIDs.
    pub gpus: Vec<String>,
    pub cpus: u32,
    pub memory_mb: u64,
    pub started_at: Option<Timestamp>,
}

/// `wharf gpus`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GpuView {
    pub node: String,
    pub uuid: String,
    /// A MIG slice has its device's.
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
    /// Why it is WITHHELD, FAULTY or LOST: one sentence.
    pub reason: Option<String>,
    /// Whose task holds it, of which job, and since when it has run.
    pub user: Option<String>,
    pub job: Option<String>,
    pub since: Option<Timestamp>,
    pub minor: u32,
    pub pci: String,
    pub gpu_type: String,
    pub numa_node: Option<u32>,
    pub power_limit_w: Option<u32>,
    pub sm_clock_mhz: Option<u32>,
    pub memory_clock_mhz: Option<u32>,
    pub fan_percent: Option<u32>,
    pub pstate: Option<u32>,
    pub ecc: Option<bool>,
    pub ecc_errors: Option<u64>,
    pub mig_mode: Option<bool>,
    pub mig: Option<MigSlice>,
}

/// Who holds a GPU.
#[derive(Debug, Clone, PartialEq)]
pub struct GpuHolder {
    /// `JOB.RUN.ROLE.INDEX`.
    pub task: String,
    pub job: Option<String>,
    pub user: Option<String>,
    pub since: Option<Timestamp>,
}

impl GpuView {
    /// What is known of a GPU, put together. Trouble goes before who holds it: an operator has to see it.
    pub fn of(
        node: &str,
        gpu: &Gpu,
        sample: &GpuSample,
        condition: Option<&GpuCondition>,
        holder: Option<GpuHolder>,
    ) -> Self {
        let trouble = condition.filter(|condition| holder.is_none() || condition.state != GpuState::Withheld);
        let held = if holder.is_some() { GpuState::Held } else { GpuState::Free };
        let (task, job, user, since) = holder
            .map_or((None, None, None, None), |holder| (Some(holder.task), holder.job, holder.user, holder.since));
        Self {
            node: node.to_owned(),
            uuid: gpu.uuid.0.clone(),
            index: gpu.index,
            model: gpu.model.clone(),
            memory_mb: gpu.memory_mb,
            memory_used_mb: sample.memory_used_mb,
            utilization: sample.utilization,
            temperature_c: sample.temperature_c,
            power_w: sample.power_w,
            state: trouble.map_or(held, |condition| condition.state),
            task,
            mig_parent: gpu.mig_parent.as_ref().map(|parent| parent.0.clone()),
            faults: Vec::new(),
            reason: trouble.map(|condition| condition.reason.clone()),
            user,
            job,
            since,
            minor: gpu.minor,
            pci: gpu.pci.clone(),
            gpu_type: gpu.gpu_type.clone(),
            numa_node: gpu.numa_node,
            power_limit_w: sample.power_limit_w,
            sm_clock_mhz: sample.sm_clock_mhz,
            memory_clock_mhz: sample.memory_clock_mhz,
            fan_percent: sample.fan_percent,
            pstate: sample.pstate,
            ecc: gpu.ecc,
            ecc_errors: sample.ecc_errors,
            mig_mode: gpu.mig_mode,
            mig: gpu.mig.clone(),
        }
    }
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
