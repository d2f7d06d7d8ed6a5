//! What is said to the node actor: requests from outside, and words from the agent's own tasks.
//!
//! Two channels carry them, so that a flood of requests never holds up a result, a report or a sample.

use super::executor::Outcome;
use super::faults::{Failure, SelfChecked};
use super::gpus::GpuReport;
use super::health::{KernelBatch, LookedAt, Observed};
use super::watch::Watch;
use crate::api::agent::NodeInfo;
use crate::domain::checked::CheckedNode;
use crate::domain::command::{CommandHeader, Error, Heartbeat, Registered, Registration, SequencedStatus};
use crate::domain::exit::Exit;
use crate::domain::fault::{Fault, FaultId};
use crate::domain::ids::TaskId;
use crate::domain::metrics::Sample;
use crate::domain::principal::Principal;
use crate::domain::remediation::{GoingOut, Permit};
use crate::domain::secret::TaskSecrets;
use crate::domain::task::{TaskSpec, TaskStatus};
use crate::runtime::{Records, RuntimeEvent};
use crate::store::{Outcome as CommitOutcome, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Where a command's answer goes. The caller may have gone.
pub type Reply<T> = oneshot::Sender<T>;

/// From `AgentHandle`.
#[derive(Debug)]
pub enum Request {
    Command {
        header: CommandHeader,
        action: Box<Action>,
        reply: Reply<Result<TaskStatus, Error>>,
    },
    /// Tasks in id order after `after`, at most `limit`, and whether there are more.
    List {
        after: Option<TaskId>,
        limit: usize,
        reply: Reply<Result<(Vec<TaskStatus>, bool), Error>>,
    },
    Node {
        reply: Reply<NodeInfo>,
    },
    Watch {
        cursor: Option<String>,
        reply: Reply<Result<Watch, Error>>,
    },
    /// For logs and exec: `None` if the task is unknown.
    Task {
        id: TaskId,
        reply: Reply<Option<TaskAccess>>,
    },
    Metrics {
        reply: Reply<Vec<Sample>>,
    },
    CheckHealth {
        who: Principal,
        /// By UUID or index; none: all.
        gpus: Vec<String>,
        deep: bool,
        reply: Reply<Result<CheckedNode, Error>>,
    },
    ClearFault {
        who: Principal,
        id: FaultId,
        reply: Reply<Result<Fault, Error>>,
    },
}

/// What a controller may command; see `api::AgentApi`.
#[derive(Debug, Clone)]
pub enum Action {
    Stage(TaskSpec),
    Prepare(TaskSpec),
    Launch { id: TaskId, env: Vec<(String, String)>, secrets: TaskSecrets },
    Stop { id: TaskId, grace_ms: u64 },
    Release { id: TaskId },
}

impl Action {
    pub const fn id(&self) -> TaskId {
        match self {
            Self::Stage(spec) | Self::Prepare(spec) => spec.id,
            Self::Launch { id, .. } | Self::Stop { id, .. } | Self::Release { id } => *id,
        }
    }

    /// The word for messages.
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Stage(_) => "stage",
            Self::Prepare(_) => "prepare",
            Self::Launch { .. } => "launch",
            Self::Stop { .. } => "stop",
            Self::Release { .. } => "release",
        }
    }
}

/// A known task, for readers of its output.
#[derive(Debug, Clone)]
pub struct TaskAccess {
    pub status: TaskStatus,
    /// Set once the task has ended and its output is complete.
    pub ended: watch::Receiver<Option<Exit>>,
    /// As long as this lives the log stays.
    pub in_use: Arc<()>,
}

/// From the agent's own tasks.
#[derive(Debug)]
pub enum Inside {
    /// A runtime call came back.
    Done(TaskId, Outcome),
    Committed(Result<CommitOutcome, StoreError>),
    /// Statuses not yet acknowledged, at most this many, oldest first.
    Unreported {
        limit: usize,
        reply: Reply<Vec<SequencedStatus>>,
    },
    /// The controller has everything up to here.
    Acknowledged(u64),
    Registration {
        reply: Reply<Registration>,
    },
    /// A registration succeeded: remembers cluster and term, or says why this controller is not ours.
    Registered {
        registered: Registered,
        reply: Reply<Result<(), Error>>,
    },
    Heartbeat {
        reply: Reply<Heartbeat>,
    },
    /// A heartbeat that was sent at this boot time was answered.
    HeartbeatAnswered {
        sent_boottime: Duration,
        /// The version of this node's faults that the controller has; 0 is none.
        faults_version: u64,
        /// What it asked for, and whether it may.
        asked: Option<GoingOut>,
        permit: Option<Permit>,
    },
    /// The controller did not answer, or not as it should.
    Unheard {
        why: String,
    },
    /// A stretch of the kernel's log.
    Kernel(Box<KernelBatch>),
    /// What other sources of faults have seen.
    Observed(Box<Observed>),
    /// For a round of looking at the hardware.
    LookedAt {
        reply: Reply<LookedAt>,
    },
    /// An end, after whatever may explain it had its time to be heard.
    Ended(Box<RuntimeEvent>),
    /// A round of questions about the GPUs.
    Gpus(Box<GpuReport>),
    /// The check of one GPU.
    SelfChecked(Box<SelfChecked>),
    /// A check that an operator asked for is over; it kept these GPUs from tasks.
    OperatorChecked,
    /// What came of what was done about a fault.
    Remedied {
        fault: FaultId,
        outcome: Result<String, Failure>,
    },
    LeaseRenewed(TaskId),
    /// How much more than its mark the disk of the logs holds.
    DiskLooked {
        excess_bytes: u64,
    },
    /// Everything the runtime has on this machine.
    Listed(Vec<TaskId>),
    /// What there is now of the records that could not be read.
    ReadAgain(Records),
}

/// What the reporter is told without asking: something new, or a reason to register anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReportHint {
    /// The newest durable sequence.
    pub newest: u64,
    /// Grows when there is a reason to register anew: another inventory, a newer term.
    pub register: u64,
    /// Grows when a fault has begun, has grown worse or is over.
    pub faults: u64,
}
