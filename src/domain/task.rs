//! One task as an agent is asked to run it, and what it reports back.

use super::container::{ContainerSpec, JobFiles};
use super::exit::Exit;
use super::ids::{Generation, GpuUuid, TaskId};
use super::spec::CommandStyle;
use super::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Everything an agent needs up to the barrier. The environment follows with Launch, when every task of the
/// gang has its address and ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    pub id: TaskId,
    pub job_name: String,
    /// The submitter.
    pub user: String,
    pub role_name: String,
    pub image: String,
    pub command: String,
    pub command_style: CommandStyle,
    pub cpus: u32,
    pub memory_mb: u64,
    pub shm_mb: u64,
    /// GPUs promised to this task alone.
    pub gpus: Vec<GpuUuid>,
    /// Ports by label, in the order of `RoleSpec::all_ports`.
    pub ports: Vec<AssignedPorts>,
    /// The shim ends the task when no renewal came for this long; none for `on_node_lost = wait`.
    pub lease_s: Option<u32>,
    /// `isDebug`: how long the task is kept as it is after its command has failed; the node may allow less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub debug_hold_s: Option<u32>,
    #[serde(default)]
    pub files: JobFiles,
    #[serde(default)]
    pub container: ContainerSpec,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssignedPorts {
    pub label: String,
    pub ports: Vec<u16>,
}

/// State of one task. Terminal: SUCCEEDED, FAILED, STOPPED.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum TaskState {
    Waiting,
    Staging,
    Preparing,
    /// At the barrier: resources held, waiting for Launch.
    Ready,
    Running,
    Stopping,
    Succeeded,
    Failed,
    Stopped,
}

impl TaskState {
    pub const ALL: [Self; 9] = [
        Self::Waiting,
        Self::Staging,
        Self::Preparing,
        Self::Ready,
        Self::Running,
        Self::Stopping,
        Self::Succeeded,
        Self::Failed,
        Self::Stopped,
    ];

    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Stopped)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "WAITING",
            Self::Staging => "STAGING",
            Self::Preparing => "PREPARING",
            Self::Ready => "READY",
            Self::Running => "RUNNING",
            Self::Stopping => "STOPPING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Stopped => "STOPPED",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// The terminal state that an exit leads to.
    pub const fn of_exit(exit: &Exit) -> Self {
        match exit.class {
            super::exit::ExitClass::Success => Self::Succeeded,
            super::exit::ExitClass::Stopped => Self::Stopped,
            _ => Self::Failed,
        }
    }
}

impl std::fmt::Display for TaskState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An agent's word on one task: the whole state, so that the newest report replaces all older ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    pub id: TaskId,
    pub generation: Generation,
    pub state: TaskState,
    /// The user's command has been started (it may have ended since).
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub exit: Option<Exit>,
    /// GPUs, ports, CPU and memory are still held.
    pub holding: bool,
    /// What could not be enforced, or was done otherwise than asked.
    pub notices: Vec<String>,
    /// How far the state's work is, in a line for people, such as a pull's megabytes. Of the moment: never journalled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    /// The command has failed, and the task is kept as it is until then for somebody to look at: it still runs for
    /// everybody who counts. Only in RUNNING.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_until: Option<Timestamp>,
}

/// What an agent has, as told at registration and when it changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inventory {
    pub cpus: u32,
    pub memory_mb: u64,
    pub gpus: Vec<super::gpu::Gpu>,
    pub topology: super::gpu::Topology,
    /// First and last port for tasks.
    pub ports: (u16, u16),
    pub labels: std::collections::BTreeMap<String, String>,
    /// Name of the runtime: `process`, `docker`.
    pub runtime: String,
    #[serde(default)]
    pub gpu_driver: super::gpu::GpuDriver,
    /// GPUs that new tasks may not have, and why.
    #[serde(default)]
    pub gpu_conditions: Vec<super::gpu::condition::GpuCondition>,
    /// What the agent can be asked for beyond its first version, e.g. [`super::ssh::SEED_FEATURE`].
    #[serde(default)]
    pub features: Vec<String>,
}
