//! What the controller can be asked by users, operators and agents.

use super::stream::{Answers, ExecSession, ExecSpec, LogBatch, LogQuery};
use crate::domain::access::token::{Token, TokenId};
use crate::domain::access::{CertificateRequest, IssuedCertificate, NewToken, TokenView};
use crate::domain::checked::CheckedNode;
use crate::domain::command::{Error, Heartbeat, HeartbeatReply, Registered, Registration, SequencedStatus};
use crate::domain::event::Event;
use crate::domain::fault::{Fault, FaultId};
use crate::domain::ids::{JournalId, NodeName, NodeUid, TaskId};
use crate::domain::node::NodeChange;
use crate::domain::principal::Principal;
use crate::domain::ssh::SshAccess;
use crate::domain::time::Timestamp;
use crate::domain::view::{Explanation, GpuView, JobView, NodeDetail, NodeView, Submitted};
use async_trait::async_trait;

/// The fleet. `job` arguments are texts: digits (a job id), a name of the caller's (unfinished first, else
/// newest), or `USER/NAME`.
#[async_trait]
pub trait ControllerApi: std::fmt::Debug + Send + Sync + 'static {
    /// Validates everything, then queues; durable before it answers. With `dry_run` nothing is queued and both
    /// ids are 0. The same `request_id` of one user again gets the first answer.
    async fn submit(&self, who: &Principal, submit: Submit) -> Result<Submitted, Error>;

    /// Jobs, newest first, without tasks, and the token of the next page (empty: no more).
    async fn list_jobs(
        &self,
        who: &Principal,
        filter: JobFilter,
        page_size: u32,
        token: &str,
    ) -> Result<(Vec<JobView>, String), Error>;

    /// One job with the tasks of one run: `run` is a run id, -1 for the previous, `None` for the newest.
    async fn get_job(&self, who: &Principal, job: &str, run: Option<i64>) -> Result<JobView, Error>;

    async fn explain_job(&self, who: &Principal, job: &str) -> Result<Explanation, Error>;

    /// Asks for the end and answers at once; stopping an ended job changes nothing.
    async fn stop_job(&self, who: &Principal, job: &str, grace_ms: Option<u64>) -> Result<JobView, Error>;

    async fn list_nodes(&self, who: &Principal) -> Result<Vec<NodeView>, Error>;

    /// One node with its GPUs and the tasks on it.
    async fn describe_node(&self, who: &Principal, node: &str) -> Result<NodeDetail, Error>;

    /// An operator's word on a node: durable before it answers, with the node as it is then. A drain goes on by itself.
    async fn change_node(&self, who: &Principal, node: &str, change: NodeChange) -> Result<NodeView, Error>;

    async fn list_gpus(&self, who: &Principal, node: Option<&str>) -> Result<Vec<GpuView>, Error>;

    /// Hardware faults as nodes have told them, by node and id; `all`: cleared ones too.
    async fn list_faults(&self, _who: &Principal, _node: Option<&str>, _all: bool) -> Result<Vec<Fault>, Error> {
        Err(Error::refused("this controller keeps no faults"))
    }

    /// An operator says that a fault is over: its node is told, and answers with the fault as it is then. `node`: whose,
    /// where two nodes have the id.
    async fn clear_fault(&self, _who: &Principal, id: FaultId, _node: Option<&str>) -> Result<Fault, Error> {
        Err(Error::refused(format!("fault {id}: this controller keeps no faults")))
    }

    /// The same of [`AgentApi::check_health`](super::AgentApi::check_health), by the node's agent.
    async fn check_node(
        &self,
        _who: &Principal,
        node: &str,
        _gpus: Vec<String>,
        _deep: bool,
    ) -> Result<CheckedNode, Error> {
        Err(Error::refused(format!("node {node}: this controller asks no node for checks")))
    }

    async fn watch(&self, who: &Principal, filter: EventFilter) -> Result<Answers<Event>, Error>;

    async fn logs(&self, who: &Principal, query: LogQuery) -> Result<Answers<LogBatch>, Error>;

    async fn exec(&self, who: &Principal, task: TaskId, exec: ExecSpec) -> Result<ExecSession, Error>;

    /// What lets the owner of a job, an operator or an admin log in to its tasks.
    async fn ssh_access(&self, _who: &Principal, job: &str) -> Result<SshAccess, Error> {
        Err(Error::refused(format!("{job}: this controller keeps no keys")))
    }

    /// From agents. A second live agent of one name is refused.
    async fn register(&self, who: &Principal, registration: Registration) -> Result<Registered, Error>;

    async fn heartbeat(&self, who: &Principal, heartbeat: Heartbeat) -> Result<HeartbeatReply, Error>;

    /// Answers with the sequence up to which everything is durable here.
    async fn report(
        &self,
        who: &Principal,
        node_uid: NodeUid,
        journal_id: JournalId,
        statuses: Vec<SequencedStatus>,
    ) -> Result<u64, Error>;

    /// Whom a token of a user, an operator or an admin stands for. Not carried over gRPC.
    async fn authenticate(&self, _token: &Token) -> Result<Principal, Error> {
        Err(no_access())
    }

    /// Whether the certificate with this number may speak for the node. Not carried over gRPC.
    async fn admit_node(&self, _node: &NodeName, _number: u64, _expires_at: Timestamp) -> Result<(), Error> {
        Err(no_access())
    }

    /// The caller as the controller knows them, and the cluster's id.
    async fn who_am_i(&self, _who: &Principal) -> Result<(Principal, String), Error> {
        Err(no_access())
    }

    /// Makes a token, durable before it is shown, for the only time.
    async fn create_token(&self, _who: &Principal, _token: NewToken) -> Result<(TokenView, Token), Error> {
        Err(no_access())
    }

    async fn list_tokens(&self, _who: &Principal) -> Result<Vec<TokenView>, Error> {
        Err(no_access())
    }

    /// From now on it proves nothing.
    async fn revoke_token(&self, _who: &Principal, _id: &TokenId) -> Result<TokenView, Error> {
        Err(no_access())
    }

    /// A machine with a token of a node gets a certificate for its key.
    async fn join(&self, _token: &Token, _request: CertificateRequest) -> Result<IssuedCertificate, Error> {
        Err(no_access())
    }

    /// An agent gets a new certificate for its node.
    async fn renew(&self, _who: &Principal, _csr_pem: String) -> Result<IssuedCertificate, Error> {
        Err(no_access())
    }
}

fn no_access() -> Error {
    Error::refused("this controller keeps no tokens and no certificates")
}

#[derive(Clone, PartialEq, Eq, Default)]
pub struct Submit {
    /// For messages, and to tell the format.
    pub file_name: String,
    pub content: Vec<u8>,
    pub request_id: String,
    pub dry_run: bool,
}

impl std::fmt::Debug for Submit {
    /// Secrets may be in the file.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { file_name, content, request_id, dry_run } = self;
        let bytes = content.len();
        write!(f, "Submit {{ {file_name:?}: {bytes} bytes, request_id: {request_id:?}, dry_run: {dry_run} }}")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct JobFilter {
    /// Ended jobs too.
    pub all: bool,
    pub user: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventFilter {
    /// Only events after this sequence number; `None`: from the oldest kept.
    pub after: Option<u64>,
    pub follow: bool,
    pub job: Option<String>,
    pub node: Option<String>,
}
