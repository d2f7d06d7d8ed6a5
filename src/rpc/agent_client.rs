//! An agent at the other end of a connection.

use super::channel::{CALL_LIMIT, CHECK_LIMIT, EXEC_LIMIT, OPEN_LIMIT, SLACK, Wire};
use super::convert::{self, each, inner};
use super::credentials::Credentials;
use super::exec;
use super::generated::agent_client::AgentClient as Generated;
use super::generated::{self as pb};
use super::stream;
use super::tls;
use crate::api::agent::{AgentApi, NodeInfo, WatchedStatus};
use crate::api::stream::{Answers, ExecSession, ExecSpec, LogBatch, LogQuery};
use crate::domain::checked::CheckedNode;
use crate::domain::command::{CommandHeader, Error, ErrorKind};
use crate::domain::fault::{Fault, FaultId};
use crate::domain::ids::{NodeName, TaskId};
use crate::domain::principal::Principal;
use crate::domain::quantity::MAX_MESSAGE_BYTES;
use crate::domain::secret::TaskSecrets;
use crate::domain::task::{TaskSpec, TaskStatus};
use async_trait::async_trait;
use prost::Message;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// [`AgentApi`] over gRPC.
#[derive(Debug, Clone)]
pub struct AgentClient {
    wire: Wire,
}

fn client(channel: Channel) -> Generated<Channel> {
    Generated::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES)
}

impl AgentClient {
    /// `address` is `HOST:PORT`, `http://HOST:PORT` or `unix:PATH`. Connects with the first call. Has to be called
    /// inside a tokio runtime.
    pub fn new(address: &str) -> Result<Self, Error> {
        Ok(Self { wire: Wire::new("agent", address, "", &Credentials::default())? })
    }

    /// The same of the agent of `node`, which has to prove it where there is TLS.
    pub fn of_node(node: &NodeName, address: &str, credentials: &Credentials) -> Result<Self, Error> {
        Ok(Self { wire: Wire::new("agent", address, &tls::of_node(&node.0), credentials)? })
    }

    /// A command answers by its own deadline.
    async fn command<M, F, Fut>(
        &self,
        method: &'static str,
        deadline_ms: u32,
        message: M,
        send: F,
    ) -> Result<TaskStatus, Error>
    where
        M: Message,
        F: FnOnce(Generated<Channel>, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<pb::TaskReply>, Status>>,
    {
        if deadline_ms == 0 {
            let text = format!("{method} on the {}: no time was left to send it", self.wire.peer());
            return Err(Error::new(ErrorKind::DeadlineExceeded, text));
        }
        let limit = Duration::from_millis(deadline_ms.into()) + SLACK;
        let send = |channel, request| send(client(channel), request);
        let reply = self.wire.call(method, limit, message, send).await?;
        self.wire.parsed(method, inner(reply.status, "status"))
    }
}

#[async_trait]
impl AgentApi for AgentClient {
    async fn stage(&self, header: CommandHeader, task: TaskSpec) -> Result<TaskStatus, Error> {
        let deadline_ms = header.deadline_ms;
        let message = pb::StageRequest { header: Some(header.into()), task: Some(task.into()) };
        self.command("Stage", deadline_ms, message, |mut c, r| async move { c.stage(r).await }).await
    }

    async fn prepare(&self, header: CommandHeader, task: TaskSpec) -> Result<TaskStatus, Error> {
        let deadline_ms = header.deadline_ms;
        let message = pb::PrepareRequest { header: Some(header.into()), task: Some(task.into()) };
        self.command("Prepare", deadline_ms, message, |mut c, r| async move { c.prepare(r).await }).await
    }

    async fn launch(
        &self,
        header: CommandHeader,
        id: TaskId,
        env: Vec<(String, String)>,
        secrets: TaskSecrets,
    ) -> Result<TaskStatus, Error> {
        let deadline_ms = header.deadline_ms;
        let message = convert::launch_request(header, id, env, secrets);
        self.command("Launch", deadline_ms, message, |mut c, r| async move { c.launch(r).await }).await
    }

    async fn stop(&self, header: CommandHeader, id: TaskId, grace_ms: u64) -> Result<TaskStatus, Error> {
        let deadline_ms = header.deadline_ms;
        let message = pb::StopRequest { header: Some(header.into()), task: id.to_string(), grace_ms };
        self.command("Stop", deadline_ms, message, |mut c, r| async move { c.stop(r).await }).await
    }

    async fn release(&self, header: CommandHeader, id: TaskId) -> Result<TaskStatus, Error> {
        let deadline_ms = header.deadline_ms;
        let message = pb::ReleaseRequest { header: Some(header.into()), task: id.to_string() };
        self.command("Release", deadline_ms, message, |mut c, r| async move { c.release(r).await }).await
    }

    async fn list_tasks(
        &self,
        who: &Principal,
        page_size: u32,
        token: &str,
    ) -> Result<(Vec<TaskStatus>, String), Error> {
        let principal = Some(who.clone().into());
        let message = pb::ListTasksRequest { principal, page_size, page_token: token.to_owned() };
        let send = |channel, request| async move { client(channel).list_tasks(request).await };
        let reply = self.wire.call("ListTasks", CALL_LIMIT, message, send).await?;
        Ok((self.wire.parsed("ListTasks", each(reply.tasks, "tasks"))?, reply.next_page_token))
    }

    async fn get_node(&self, who: &Principal) -> Result<NodeInfo, Error> {
        let message = pb::GetNodeRequest { principal: Some(who.clone().into()) };
        let send = |channel, request| async move { client(channel).get_node(request).await };
        let reply = self.wire.call("GetNode", CALL_LIMIT, message, send).await?;
        self.wire.parsed("GetNode", reply.try_into())
    }

    async fn watch(&self, who: &Principal, cursor: Option<String>) -> Result<Answers<WatchedStatus>, Error> {
        let principal = Some(who.clone().into());
        let message = pb::WatchTasksRequest { principal, cursor: cursor.unwrap_or_default() };
        let send = |channel, request| async move { client(channel).watch(request).await };
        let messages = self.wire.open("Watch", OPEN_LIMIT, message, send).await?;
        Ok(stream::answers(&self.wire, "Watch", messages, ()))
    }

    async fn logs(&self, who: &Principal, query: LogQuery) -> Result<Answers<LogBatch>, Error> {
        let message = convert::logs_request(who.clone(), query);
        let send = |channel, request| async move { client(channel).logs(request).await };
        let messages = self.wire.open("Logs", OPEN_LIMIT, message, send).await?;
        Ok(stream::answers(&self.wire, "Logs", messages, ()))
    }

    async fn clear_fault(&self, who: &Principal, id: FaultId) -> Result<Fault, Error> {
        let message = pb::ClearFaultRequest { principal: Some(who.clone().into()), id: id.0, node: String::new() };
        let send = |channel, request| async move { client(channel).clear_fault(request).await };
        let reply = self.wire.call("ClearFault", CALL_LIMIT, message, send).await?;
        self.wire.parsed("ClearFault", reply.try_into())
    }

    async fn check_health(&self, who: &Principal, gpus: Vec<String>, deep: bool) -> Result<CheckedNode, Error> {
        let (principal, node) = (Some(who.clone().into()), String::new());
        let message = pb::CheckHealthRequest { principal, node, gpus, deep };
        let send = |channel, request| async move { client(channel).check_health(request).await };
        let reply = self.wire.call("CheckHealth", CHECK_LIMIT, message, send).await?;
        self.wire.parsed("CheckHealth", reply.try_into())
    }

    async fn exec(&self, who: &Principal, task: TaskId, exec: ExecSpec) -> Result<ExecSession, Error> {
        let (input, requests) = exec::Requests::new(convert::exec_start(who.clone(), task, exec));
        let send = |channel, request| async move { client(channel).exec(request).await };
        let replies = self.wire.open("Exec", EXEC_LIMIT, requests, send).await?;
        Ok(exec::session(&self.wire, input, replies))
    }
}
