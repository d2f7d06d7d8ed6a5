//! What a job asks of its containers, beside image, command and resources. Processes have no use for it.

use serde::{Deserialize, Serialize};

/// Of all containers of a job.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ContainerSpec {
    pub pull: PullPolicy,
    pub network: Network,
    /// `USER`, `UID`, `USER:GROUP` or `UID:GID`; `None`: the image's.
    pub user: Option<String>,
    /// The container's own file system cannot be written; volumes and `/tmp` can.
    pub read_only_root: bool,
    /// Added to the runtime's default set; names without `CAP_`, in upper case, e.g. `SYS_PTRACE`.
    pub capabilities: Vec<String>,
    pub ulimits: Vec<Ulimit>,
    /// Most processes and threads; `None`: the node's.
    pub pids_limit: Option<u32>,
    /// The node's InfiniBand devices, with the right to lock memory. A node without them is a notice.
    pub infiniband: bool,
    /// Only the CPUs next to the task's GPUs.
    pub numa_cpus: bool,
}

/// When an image is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    /// When the node has none of that name.
    #[default]
    Missing,
    /// Before every task; an unchanged image costs one question to the registry.
    Always,
    Never,
}

impl PullPolicy {
    pub const ALL: [Self; 3] = [Self::Missing, Self::Always, Self::Never];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Always => "always",
            Self::Never => "never",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|policy| policy.as_str() == text)
    }
}

/// The network a container sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The node's own: a task's ports are the node's.
    #[default]
    Host,
    /// A network of the runtime; the task's ports are published under the same numbers.
    Bridge,
}

impl Network {
    pub const ALL: [Self; 2] = [Self::Host, Self::Bridge];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Bridge => "bridge",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|network| network.as_str() == text)
    }
}

/// A limit of the kernel on each process, by its name without `RLIMIT_`, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    pub name: String,
    /// -1 is no limit.
    pub soft: i64,
    pub hard: i64,
}

/// Names of limits that can be set.
pub const ULIMIT_NAMES: [&str; 15] = [
    "as",
    "core",
    "cpu",
    "data",
    "fsize",
    "locks",
    "memlock",
    "msgqueue",
    "nice",
    "nofile",
    "nproc",
    "rss",
    "rtprio",
    "sigpending",
    "stack",
];

/// The four URIs of a job, after substitution; empty where the job has none.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct JobFiles {
    /// Three lines: registry, user name, password. Read on the node; its content is never kept.
    pub auth_file: String,
    pub code_dir: String,
    pub data_dir: String,
    pub output_dir: String,
}
