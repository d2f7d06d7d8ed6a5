//! The Agent service over an implementation of [`AgentApi`].

use super::call::{Call, Gate};
use super::convert::{self, MAX_LINE_BYTES, MAX_WORD_BYTES, inner, text, texts};
use super::exec;
use super::generated as pb;
use super::generated::agent_server::Agent;
use super::stream::{Replies, log_messages, single};
use crate::api::agent::{AgentApi, WatchedStatus};
use crate::api::stream::LogBatch;
use crate::domain::command::Error;
use crate::domain::fault::FaultId;
use crate::domain::secret::TaskSecrets;
use crate::domain::task::TaskStatus;
use async_trait::async_trait;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

/// Most tasks on one page.
const MAX_PAGE: u32 = 1000;

#[derive(Debug)]
pub(super) struct AgentService {
    api: Arc<dyn AgentApi>,
    gate: Gate,
}

impl AgentService {
    pub(super) fn new(api: Arc<dyn AgentApi>, gate: Gate) -> Self {
        Self { api, gate }
    }
}

type TaskAnswer = Result<Response<pb::TaskReply>, Status>;

fn task_reply(call: &Call<'_>, answer: Result<TaskStatus, Error>) -> TaskAnswer {
    call.reply(answer.map(|status| pb::TaskReply { status: Some(status.into()) }))
}

#[async_trait]
impl Agent for AgentService {
    async fn stage(&self, request: Request<pb::StageRequest>) -> TaskAnswer {
        let (call, request) = self.gate.open("Stage", request);
        let answer = async {
            let header = call.header(request.header).await?;
            self.api.stage(header, call.parsed(inner(request.task, "task"))?).await
        };
        task_reply(&call, answer.await)
    }

    async fn prepare(&self, request: Request<pb::PrepareRequest>) -> TaskAnswer {
        let (call, request) = self.gate.open("Prepare", request);
        let answer = async {
            let header = call.header(request.header).await?;
            self.api.prepare(header, call.parsed(inner(request.task, "task"))?).await
        };
        task_reply(&call, answer.await)
    }

    async fn launch(&self, request: Request<pb::LaunchRequest>) -> TaskAnswer {
        let (call, request) = self.gate.open("Launch", request);
        let answer = async {
            let header = call.header(request.header).await?;
            let task = call.parsed(convert::task_id(&request.task, "task"))?;
            let ssh_seed = call.parsed(convert::ssh_seed(&request.ssh_seed))?;
            let (env, secret_env) = call.parsed(convert::launch_variables(request.env, &request.secret_names))?;
            self.api.launch(header, task, env, TaskSecrets { env: secret_env, ssh_seed }).await
        };
        task_reply(&call, answer.await)
    }

    async fn stop(&self, request: Request<pb::StopRequest>) -> TaskAnswer {
        let (call, request) = self.gate.open("Stop", request);
        let answer = async {
            let header = call.header(request.header).await?;
            let task = call.parsed(convert::task_id(&request.task, "task"))?;
            self.api.stop(header, task, request.grace_ms).await
        };
        task_reply(&call, answer.await)
    }

    async fn release(&self, request: Request<pb::ReleaseRequest>) -> TaskAnswer {
        let (call, request) = self.gate.open("Release", request);
        let answer = async {
            let header = call.header(request.header).await?;
            let task = call.parsed(convert::task_id(&request.task, "task"))?;
            self.api.release(header, task).await
        };
        task_reply(&call, answer.await)
    }

    async fn list_tasks(
        &self,
        request: Request<pb::ListTasksRequest>,
    ) -> Result<Response<pb::ListTasksReply>, Status> {
        let (call, request) = self.gate.open("ListTasks", request);
        let answer = async {
            let who = call.principal(request.principal).await?;
            let size = if request.page_size == 0 { MAX_PAGE } else { request.page_size.min(MAX_PAGE) };
            let token = call.parsed(text(request.page_token, "page_token", MAX_LINE_BYTES))?;
            let (tasks, next_page_token) = self.api.list_tasks(&who, size, &token).await?;
            Ok(pb::ListTasksReply { tasks: tasks.into_iter().map(Into::into).collect(), next_page_token })
        };
        call.reply(answer.await)
    }

    async fn get_node(&self, request: Request<pb::GetNodeRequest>) -> Result<Response<pb::GetNodeReply>, Status> {
        let (call, request) = self.gate.open("GetNode", request);
        let answer = async {
            let who = call.principal(request.principal).await?;
            self.api.get_node(&who).await
        };
        call.answer(answer.await)
    }

    type WatchStream = Replies<WatchedStatus, pb::WatchTasksReply>;

    async fn watch(&self, request: Request<pb::WatchTasksRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (call, request) = self.gate.open("Watch", request);
        let answer = async {
            let who = call.principal(request.principal).await?;
            let cursor = call.parsed(convert::maybe(request.cursor, "cursor", MAX_WORD_BYTES))?;
            self.api.watch(&who, cursor).await
        };
        call.stream(answer.await, single)
    }

    type LogsStream = Replies<LogBatch, pb::LogsReply>;

    async fn logs(&self, mut request: Request<pb::LogsRequest>) -> Result<Response<Self::LogsStream>, Status> {
        let claim = request.get_mut().principal.take();
        let (call, request) = self.gate.open("Logs", request);
        let answer = async {
            let who = call.principal(claim).await?;
            self.api.logs(&who, call.parsed(convert::log_query(request))?).await
        };
        call.stream(answer.await, log_messages)
    }

    async fn clear_fault(&self, request: Request<pb::ClearFaultRequest>) -> Result<Response<pb::Fault>, Status> {
        let (call, request) = self.gate.open("ClearFault", request);
        let answer = async {
            let who = call.principal(request.principal).await?;
            self.api.clear_fault(&who, FaultId(request.id)).await
        };
        call.answer(answer.await)
    }

    async fn check_health(
        &self,
        request: Request<pb::CheckHealthRequest>,
    ) -> Result<Response<pb::CheckHealthReply>, Status> {
        let (call, request) = self.gate.open("CheckHealth", request);
        let answer = async {
            let who = call.principal(request.principal).await?;
            let gpus = call.parsed(texts(request.gpus, "gpus", MAX_WORD_BYTES))?;
            self.api.check_health(&who, gpus, request.deep).await
        };
        call.answer(answer.await)
    }

    type ExecStream = exec::Session;

    async fn exec(&self, request: Request<Streaming<pb::ExecRequest>>) -> Result<Response<Self::ExecStream>, Status> {
        let (call, mut requests) = self.gate.open("Exec", request);
        let answer = async {
            let (who, task, spec) = exec::start(&call, &mut requests).await?;
            call.about(format!("task {task}"));
            self.api.exec(&who, task, spec).await
        };
        call.exec(answer.await, requests)
    }
}
