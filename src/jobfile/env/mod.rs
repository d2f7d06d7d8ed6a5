//! What a task finds in its environment: OpenPAI's `PAI_*` variables under all the names they ever had, what
//! decides its GPUs, and wharf's own ids. `reference`: OpenPAI's job tutorial v0.11 to v0.14 and SCM's page; where
//! they differ from what OpenPAI's code did, the documents are followed and the code's names are set as well.
//!
//! Set elsewhere, because only the node knows: `PAI_WORK_DIR` (the directory the command starts in) by the shim
//! and `WHARF_TASK_SOCKET` by the agent.
//!
//! Most of it is the same for all tasks of a run and grows with their number, so a gang computes that part once
//! ([`SharedEnvironment::new`]) and adds the rest per task ([`SharedEnvironment::for_task`]).

mod own;
mod shared;
mod size;
#[cfg(test)]
mod tests;

pub use shared::SharedEnvironment;
pub use size::{MAX_ENVIRONMENT_BYTES, environment_bytes_at_most};

use crate::domain::ids::{GpuUuid, JobId, RunId};
use crate::domain::spec::JobSpec;
use crate::domain::task::AssignedPorts;

/// Where one task of a run sits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSeat {
    pub role: u32,
    pub index: u32,
    /// The node's address for other tasks.
    pub ip: String,
    /// In the order of `RoleSpec::all_ports`.
    pub ports: Vec<AssignedPorts>,
    pub gpus: Vec<GpuUuid>,
}

/// A run whose tasks all have their seats.
#[derive(Debug, Clone, Copy)]
pub struct EnvContext<'a> {
    /// After `jobfile::substitute`.
    pub spec: &'a JobSpec,
    /// The submitter.
    pub user: &'a str,
    /// May be empty.
    pub default_fs_uri: &'a str,
    pub job: JobId,
    pub run: RunId,
    /// Every task of the run, in any order.
    pub seats: &'a [TaskSeat],
    /// A container sees only its own GPUs, so CUDA counts them from 0; a process sees all of the node's and needs
    /// their UUIDs.
    pub in_container: bool,
}

/// The seats do not fit the job. A task started with such an environment would wait for peers in vain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeatError {
    #[error("task {index} of role {role} has no seat")]
    Missing { role: u32, index: u32 },
    #[error("task {index} of role {role} has two seats")]
    Twice { role: u32, index: u32 },
    #[error("there is a seat for task {index} of role {role}, which the job does not have")]
    Unknown { role: u32, index: u32 },
    #[error("the seat of task {index} of role {role} does not have the {want} ports of label {label}, but {have}")]
    Ports { role: u32, index: u32, label: String, want: usize, have: usize },
    #[error("the seat of task {index} of role {role} does not have {want} GPUs, but {have}")]
    Gpus { role: u32, index: u32, want: usize, have: usize },
}

/// The whole environment of one task: wharf's variables, then the job's own; no name twice, the job's value wins.
/// For more than one task of a run, [`SharedEnvironment`] does the common part once.
pub fn task_environment(ctx: &EnvContext<'_>, role: u32, index: u32) -> Result<Vec<(String, String)>, SeatError> {
    SharedEnvironment::new(ctx)?.for_task(role, index)
}

/// Ports as OpenPAI writes them: `20001,20002`.
fn port_list(ports: &[u16]) -> String {
    let texts: Vec<String> = ports.iter().map(u16::to_string).collect();
    texts.join(",")
}

/// The first port of a label; empty where there is none.
fn first_port(seat: &TaskSeat, label: &str) -> String {
    let ports = seat.ports.iter().find(|ports| ports.label == label);
    ports.and_then(|ports| ports.ports.first()).map_or_else(String::new, u16::to_string)
}

/// A count that may be off, which is empty.
fn optional(count: Option<u32>) -> String {
    count.map_or_else(String::new, |count| count.to_string())
}
