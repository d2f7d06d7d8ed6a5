//! What crosses between controller and agents, and how it can be refused.

use super::fault::Fault;
use super::gpu::GpuSample;
use super::ids::{Generation, GpuUuid, JournalId, NodeName, NodeUid, TaskId, Term};
use super::level::Level;
use super::principal::Principal;
use super::remediation::{GoingOut, Permit};
use super::task::{Inventory, TaskStatus};

/// Goes with every command to an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandHeader {
    pub cluster_id: String,
    pub term: Term,
    pub generation: Generation,
    pub request_id: String,
    /// Time left for the command, in milliseconds, when it was sent.
    pub deadline_ms: u32,
    pub principal: Principal,
    /// What the controller speaks.
    pub level: Level,
}

/// An agent introduces itself.
#[derive(Debug, Clone, PartialEq)]
pub struct Registration {
    pub name: NodeName,
    pub node_uid: NodeUid,
    pub journal_id: JournalId,
    /// Where the agent listens: `HOST:PORT` or `unix:PATH`.
    pub address: String,
    /// What tasks of other nodes connect to.
    pub task_ip: String,
    pub version: String,
    pub inventory: Inventory,
    /// The cluster the agent remembers; empty at its first start.
    pub cluster_id: String,
    pub term: Term,
    /// What the agent speaks.
    pub level: Level,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    pub cluster_id: String,
    pub term: Term,
    pub heartbeat_ms: u32,
    /// What the controller speaks.
    pub level: Level,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Heartbeat {
    pub node_uid: NodeUid,
    pub journal_id: JournalId,
    pub samples: Vec<(GpuUuid, GpuSample)>,
    /// How far each task's state is, in a line for people, where there is something to tell; of the moment.
    pub progress: Vec<(TaskId, String)>,
    /// Of the node's faults as they are now; 0 is an agent that tells none.
    pub faults_version: u64,
    /// The faults themselves, where the controller has another version.
    pub faults: Option<Vec<Fault>>,
    /// The node is about to take itself out because of a fault, or has.
    pub going_out: Option<GoingOut>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeartbeatReply {
    pub term: Term,
    /// The controller does not know this agent (any more).
    pub register_again: bool,
    /// Of the node's faults as the controller has them; 0 is none.
    pub faults_version: u64,
    /// Whether the node may take itself out, where it has asked; none also of controllers that know no permits.
    pub permit: Option<Permit>,
}

/// A status and its place in the agent's journal.
#[derive(Debug, Clone, PartialEq)]
pub struct SequencedStatus {
    pub sequence: u64,
    pub status: TaskStatus,
}

/// The kind of a refusal or failure: what crosses ports. `rpc` and `cli` map it exhaustively.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The caller's input is wrong; `violations` says where.
    Invalid,
    NotFound,
    AlreadyExists,
    /// Not now, given the state of things; asking again without a change will not help.
    Refused,
    /// An older term or generation, or another cluster's.
    Stale,
    NotAllowed,
    /// A bound is reached: a full queue, too many bytes.
    Exhausted,
    /// A cursor older than what is kept.
    OutOfRange,
    Unavailable,
    DeadlineExceeded,
    Internal,
}

impl ErrorKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Refused => "refused",
            Self::Stale => "stale",
            Self::NotAllowed => "not_allowed",
            Self::Exhausted => "exhausted",
            Self::OutOfRange => "out_of_range",
            Self::Unavailable => "unavailable",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Internal => "internal",
        }
    }
}

/// One wrong field.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Violation {
    /// Path in the input, e.g. `taskRoles[1].gpuNumber`.
    pub field: String,
    pub message: String,
    /// What was there, shortened.
    pub found: String,
    /// What would be right.
    pub allowed: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message)?;
        if !self.found.is_empty() {
            write!(f, "; found {}", self.found)?;
        }
        if !self.allowed.is_empty() {
            write!(f, "; allowed: {}", self.allowed)?;
        }
        Ok(())
    }
}

/// A refusal or failure that crosses a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub kind: ErrorKind,
    /// One sentence that names the operation and the object.
    pub message: String,
    pub violations: Vec<Violation>,
    /// Worth asking again after this long.
    pub retry_after_ms: Option<u64>,
    /// Of a veto: the promised ports that somebody else has.
    pub busy_ports: Vec<u16>,
}

impl Error {
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), violations: Vec::new(), retry_after_ms: None, busy_ports: Vec::new() }
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, message)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }
}
