//! The agent's handle: `AgentApi` over a bounded channel to the actor.
//!
//! Cheap to clone. It may not touch the state of a task: it asks, waits no longer than the caller allows, and
//! serves streams from what the actor hands out.

use super::message::{Action, Reply, Request, TaskAccess};
use crate::api::AgentApi;
use crate::api::agent::{NodeInfo, WatchedStatus};
use crate::api::stream::{Answers, ExecSession, ExecSpec, LogBatch, LogQuery};
use crate::domain::checked::CheckedNode;
use crate::domain::command::{CommandHeader, Error, ErrorKind, Violation};
use crate::domain::fault::{Fault, FaultId};
use crate::domain::ids::TaskId;
use crate::domain::metrics::Sample;
use crate::domain::principal::Principal;
use crate::domain::secret::TaskSecrets;
use crate::domain::task::{TaskSpec, TaskState, TaskStatus};
use crate::runtime::Runtime;
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Largest page of `list_tasks`, and the default.
pub const MAX_PAGE: u32 = 1000;
/// For questions to the actor, which waits for nothing: only a stuck machine misses it.
const QUESTION_DEADLINE: Duration = Duration::from_secs(10);
/// For commands whose header says nothing about the time left.
const DEFAULT_COMMAND_DEADLINE: Duration = Duration::from_secs(300);
/// After a command that was not done in time.
const LATE_RETRY_MS: u64 = 1000;
/// For a look at every GPU of the node, and at the memory of each.
const CHECK_DEADLINE: Duration = Duration::from_secs(900);
/// For starting a command beside a task.
const EXEC_DEADLINE: Duration = Duration::from_secs(30);

/// One node, for everybody in this process; see [`AgentApi`].
#[derive(Debug, Clone)]
pub struct AgentHandle {
    pub(super) node: String,
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) runtime: Arc<dyn Runtime>,
    /// A place for each log stream that may be served.
    pub(super) log_streams: Arc<Semaphore>,
    pub(super) tracker: TaskTracker,
    pub(super) cancel: CancellationToken,
}

impl AgentHandle {
    async fn command(&self, header: CommandHeader, action: Action) -> Result<TaskStatus, Error> {
        // Zero is what protobuf reads for "not set".
        let allowed = match header.deadline_ms {
            0 => DEFAULT_COMMAND_DEADLINE,
            ms => Duration::from_millis(u64::from(ms)),
        };
        let what = format!("{} {}", action.verb(), action.id());
        self.ask(&what, allowed, |reply| Request::Command { header, action: Box::new(action), reply }).await?
    }

    async fn ask<T>(
        &self,
        what: &str,
        allowed: Duration,
        question: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(question(reply)).map_err(|error| self.not_taken(what, &error))?;
        match tokio::time::timeout(allowed, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(self.shutting_down(what)),
            Err(_) => {
                let message = format!("{what}: node {} is not done after {} ms", self.node, allowed.as_millis());
                // What takes long is no reason to take the agent for gone.
                let retry_after_ms = Some(LATE_RETRY_MS);
                Err(Error { retry_after_ms, ..Error::new(ErrorKind::DeadlineExceeded, message) })
            }
        }
    }

    fn not_taken(&self, what: &str, error: &mpsc::error::TrySendError<Request>) -> Error {
        match error {
            mpsc::error::TrySendError::Full(_) => {
                let mut error =
                    Error::new(ErrorKind::Exhausted, format!("{what}: node {} has too much to answer", self.node));
                error.retry_after_ms = Some(500);
                error
            }
            mpsc::error::TrySendError::Closed(_) => self.shutting_down(what),
        }
    }

    fn shutting_down(&self, what: &str) -> Error {
        let mut error = Error::unavailable(format!("{what}: the agent of node {} is shutting down", self.node));
        error.retry_after_ms = Some(1000);
        error
    }

    async fn access(&self, what: &str, id: TaskId) -> Result<TaskAccess, Error> {
        self.ask(what, QUESTION_DEADLINE, |reply| Request::Task { id, reply })
            .await?
            .ok_or_else(|| super::output::unknown(what, &self.node))
    }
}

#[async_trait]
impl AgentApi for AgentHandle {
    async fn stage(&self, header: CommandHeader, task: TaskSpec) -> Result<TaskStatus, Error> {
        self.command(header, Action::Stage(task)).await
    }

    async fn prepare(&self, header: CommandHeader, task: TaskSpec) -> Result<TaskStatus, Error> {
        self.command(header, Action::Prepare(task)).await
    }

    async fn launch(
        &self,
        header: CommandHeader,
        id: TaskId,
        env: Vec<(String, String)>,
        secrets: TaskSecrets,
    ) -> Result<TaskStatus, Error> {
        self.command(header, Action::Launch { id, env, secrets }).await
    }

    async fn stop(&self, header: CommandHeader, id: TaskId, grace_ms: u64) -> Result<TaskStatus, Error> {
        self.command(header, Action::Stop { id, grace_ms }).await
    }

    async fn release(&self, header: CommandHeader, id: TaskId) -> Result<TaskStatus, Error> {
        self.command(header, Action::Release { id }).await
    }

    async fn list_tasks(
        &self,
        _who: &Principal,
        page_size: u32,
        token: &str,
    ) -> Result<(Vec<TaskStatus>, String), Error> {
        let after = if token.is_empty() { None } else { Some(parse_token(token)?) };
        let limit = if page_size == 0 { MAX_PAGE } else { page_size.min(MAX_PAGE) } as usize;
        let question = |reply| Request::List { after, limit, reply };
        let (tasks, more) = self.ask("list tasks", QUESTION_DEADLINE, question).await??;
        let next = tasks.last().filter(|_| more).map_or_else(String::new, |last| last.id.to_string());
        Ok((tasks, next))
    }

    async fn get_node(&self, _who: &Principal) -> Result<NodeInfo, Error> {
        self.ask("get node", QUESTION_DEADLINE, |reply| Request::Node { reply }).await
    }

    async fn watch(&self, _who: &Principal, cursor: Option<String>) -> Result<Answers<WatchedStatus>, Error> {
        let watch = self.ask("watch tasks", QUESTION_DEADLINE, |reply| Request::Watch { cursor, reply }).await??;
        Ok(watch.stream(&self.tracker, self.cancel.clone()))
    }

    async fn logs(&self, _who: &Principal, query: LogQuery) -> Result<Answers<LogBatch>, Error> {
        let task = query.task;
        let access = self.access(&format!("logs of {task}"), task).await?;
        super::output::stream(self, access, query)
    }

    async fn clear_fault(&self, who: &Principal, id: FaultId) -> Result<Fault, Error> {
        let (what, who) = (format!("clear fault {id}"), who.clone());
        self.ask(&what, QUESTION_DEADLINE, |reply| Request::ClearFault { who, id, reply }).await?
    }

    async fn metrics(&self) -> Result<Vec<Sample>, Error> {
        self.ask("metrics", QUESTION_DEADLINE, |reply| Request::Metrics { reply }).await
    }

    async fn check_health(&self, who: &Principal, gpus: Vec<String>, deep: bool) -> Result<CheckedNode, Error> {
        let who = who.clone();
        self.ask("check", CHECK_DEADLINE, |reply| Request::CheckHealth { who, gpus, deep, reply }).await?
    }

    async fn exec(&self, _who: &Principal, task: TaskId, exec: ExecSpec) -> Result<ExecSession, Error> {
        let what = format!("exec in {task}");
        let access = self.access(&what, task).await?;
        if access.status.state != TaskState::Running {
            let message = format!("{what}: the task is {}, a RUNNING one is needed", access.status.state);
            return Err(Error::refused(message));
        }
        match tokio::time::timeout(EXEC_DEADLINE, self.runtime.exec(task, exec)).await {
            Ok(session) => session.map_err(|error| {
                let kind = if error.user_error { ErrorKind::Invalid } else { ErrorKind::Unavailable };
                Error::new(kind, format!("{what}: {}", error.message))
            }),
            Err(_) => {
                let message = format!("{what}: not started within {} s", EXEC_DEADLINE.as_secs());
                Err(Error::new(ErrorKind::DeadlineExceeded, message))
            }
        }
    }
}

fn parse_token(token: &str) -> Result<TaskId, Error> {
    token.parse().map_err(|_| {
        let mut error = Error::new(ErrorKind::Invalid, "list tasks: the page token is malformed");
        error.violations.push(Violation {
            field: "page_token".to_owned(),
            message: "not a token of ListTasks".to_owned(),
            found: token.chars().take(80).collect(),
            allowed: "the next_page_token of an earlier answer, or nothing".to_owned(),
        });
        error
    })
}
