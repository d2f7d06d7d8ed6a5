//! What one node can be asked.

use super::stream::{Answers, ExecSession, ExecSpec, LogBatch, LogQuery};
use crate::domain::checked::CheckedNode;
use crate::domain::command::{CommandHeader, Error};
use crate::domain::fault::{Fault, FaultId};
use crate::domain::ids::{JournalId, NodeName, NodeUid, TaskId, Term};
use crate::domain::metrics::Sample;
use crate::domain::principal::Principal;
use crate::domain::secret::TaskSecrets;
use crate::domain::task::{Inventory, TaskSpec, TaskStatus};
use crate::domain::view::GpuView;
use async_trait::async_trait;

/// One node. Commands are idempotent and end by their header's deadline; see `agent.proto`.
#[async_trait]
pub trait AgentApi: std::fmt::Debug + Send + Sync + 'static {
    async fn stage(&self, header: CommandHeader, task: TaskSpec) -> Result<TaskStatus, Error>;

    /// Answers when the task is READY. An error of kind `Exhausted` is a veto: something promised is not free here.
    async fn prepare(&self, header: CommandHeader, task: TaskSpec) -> Result<TaskStatus, Error>;

    /// `env` is followed by what is in `secrets`.
    async fn launch(
        &self,
        header: CommandHeader,
        id: TaskId,
        env: Vec<(String, String)>,
        secrets: TaskSecrets,
    ) -> Result<TaskStatus, Error>;

    async fn stop(&self, header: CommandHeader, id: TaskId, grace_ms: u64) -> Result<TaskStatus, Error>;

    /// Answers once nothing of the task is left and nothing is held for it. Stop or Release of an unknown task
    /// leaves a tombstone for a day, so that a late Prepare of that generation is refused as stale.
    async fn release(&self, header: CommandHeader, id: TaskId) -> Result<TaskStatus, Error>;

    /// Tasks in id order after `token`, and the token of the next page.
    async fn list_tasks(
        &self,
        who: &Principal,
        page_size: u32,
        token: &str,
    ) -> Result<(Vec<TaskStatus>, String), Error>;

    async fn get_node(&self, who: &Principal) -> Result<NodeInfo, Error>;

    /// Changes of tasks after the cursor (`JOURNAL_ID:SEQUENCE`; `None`: from now on).
    async fn watch(&self, who: &Principal, cursor: Option<String>) -> Result<Answers<WatchedStatus>, Error>;

    async fn logs(&self, who: &Principal, query: LogQuery) -> Result<Answers<LogBatch>, Error>;

    /// An operator says that a fault is over; answers with the fault as it is then.
    async fn clear_fault(&self, _who: &Principal, id: FaultId) -> Result<Fault, Error> {
        Err(Error::refused(format!("fault {id}: this node keeps no faults")))
    }

    /// An operator asks for a look at GPUs, by UUID or index, all of the node's where none is named. `deep`: their memory
    /// too, which is refused for those that tasks hold.
    async fn check_health(&self, _who: &Principal, _gpus: Vec<String>, _deep: bool) -> Result<CheckedNode, Error> {
        Err(Error::refused("check: this node checks no GPUs"))
    }

    async fn exec(&self, who: &Principal, task: TaskId, exec: ExecSpec) -> Result<ExecSession, Error>;

    /// What monitoring reads; see [`crate::domain::metrics`]. Not carried over gRPC.
    async fn metrics(&self) -> Result<Vec<Sample>, Error> {
        Err(Error::refused("this node counts nothing"))
    }
}

/// A node as its agent sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeInfo {
    pub name: NodeName,
    pub node_uid: NodeUid,
    pub journal_id: JournalId,
    pub version: String,
    pub inventory: Inventory,
    pub gpus: Vec<GpuView>,
    /// The highest of a controller that it has registered with; agents of before say 0.
    pub term: Term,
}

#[derive(Debug, Clone, PartialEq)]
pub struct WatchedStatus {
    pub status: TaskStatus,
    pub cursor: String,
}

/// Makes clients of agents by the address they registered (`HOST:PORT` or `unix:PATH`). Does not connect yet. Over a
/// network the agent has to prove that it is the node's.
pub trait AgentDialer: std::fmt::Debug + Send + Sync + 'static {
    fn dial(&self, node: &NodeName, address: &str) -> Result<std::sync::Arc<dyn AgentApi>, Error>;
}
