//! What dockerd is asked to create for a task. Pure, but for [`allowed`], [`mounts`] and [`node`], which look at
//! the node's folders and at the machine first.

pub mod allowed;
pub mod mounts;
pub mod nested;
pub mod node;
pub mod place;
pub mod protected;

mod asked;

mod body;
mod limits;
#[cfg(test)]
mod tests;

pub use asked::{asked, asked_early};
pub use body::body;
pub use limits::shim_limits;

use crate::domain::command::Violation;
use crate::domain::gpu::Gpu;
use crate::domain::ids::Generation;
use crate::domain::policy::Refusal;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Labels of a container of ours. Labels travel with `docker commit`: they alone prove nothing.
pub const LABEL_CLUSTER: &str = "wharf.cluster";
pub const LABEL_NODE_UID: &str = "wharf.node_uid";
pub const LABEL_TASK: &str = "wharf.task";
pub const LABEL_GENERATION: &str = "wharf.generation";
pub const LABEL_NONCE: &str = "wharf.nonce";
/// For people who look at `docker ps`.
pub const LABEL_JOB: &str = "wharf.job";
pub const LABEL_USER: &str = "wharf.user";
pub const LABEL_ROLE: &str = "wharf.role";

/// Where a job's code is seen, read-only.
pub const CODE_TARGET: &str = "/pai/code";
/// Where the shim and its socket are seen by what runs beside it. The shim itself is started elsewhere, by a name that no
/// image can know.
pub const SHIM_TARGET: &str = "/.wharf";

/// What is the same for all containers of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeFacts {
    pub cluster_id: String,
    pub node_uid: String,
    /// Most processes and threads of a container.
    pub pids_limit: Option<u32>,
    /// Of the shim; its command has a higher one.
    pub oom_score_adj: i32,
    /// The node has InfiniBand devices, in `/dev/infiniband`.
    pub infiniband: bool,
    /// The GPUs are only played.
    pub simulated_gpus: bool,
    pub gpus: Vec<Gpu>,
    /// CPUs of each NUMA node as the kernel lists them, e.g. `0-15,32-47`.
    pub numa_cpus: BTreeMap<u32, String>,
    /// Nobody in a container may become root: it is not among the node's `policy.users`.
    pub never_root: bool,
}

/// What belongs to one container alone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ShimMounts {
    /// Read-only: path on the node, path in the container.
    pub binds: Vec<(PathBuf, String)>,
    /// The shim in the container, and its arguments.
    pub entrypoint: Vec<String>,
    pub generation: Generation,
    /// Known to the agent's journal, the container's label and nobody else.
    pub nonce: String,
}

/// Why no container can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The job asked for something that cannot be.
    #[error("{0}")]
    Field(Violation),
    /// The node's operator does not allow it.
    #[error("{}", sentences(.0))]
    Refused(Vec<Refusal>),
    #[error("{operation} {}: {error}", path.display())]
    Node { operation: &'static str, path: PathBuf, error: String },
}

impl RequestError {
    /// The job asked for something that cannot be: retrying elsewhere would not help.
    pub fn is_user_error(&self) -> bool {
        matches!(self, Self::Field(_) | Self::Refused(_))
    }

    fn field(field: &str, message: &str, found: impl Into<String>, allowed: impl Into<String>) -> Self {
        let (field, message) = (field.to_owned(), message.to_owned());
        Self::Field(Violation { field, message, found: found.into(), allowed: allowed.into() })
    }
}

fn sentences(refusals: &[Refusal]) -> String {
    refusals.iter().map(ToString::to_string).collect::<Vec<_>>().join("; and ")
}
