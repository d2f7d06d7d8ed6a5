//! The Controller service over an implementation of [`ControllerApi`].

use super::call::{Call, Gate};
use super::convert::{
    self, MAX_LINE_BYTES, MAX_SENTENCE_BYTES, MAX_WORD_BYTES, each, filled, maybe, required, text, texts,
};
use super::exec;
use super::generated as pb;
use super::generated::controller_server::Controller;
use super::stream::{Replies, log_messages, single};
use crate::api::controller::{ControllerApi, Submit};
use crate::api::stream::LogBatch;
use crate::domain::access::CertificateRequest;
use crate::domain::access::token::TokenId;
use crate::domain::command::{Error, Registration};
use crate::domain::event::Event;
use crate::domain::fault::FaultId;
use async_trait::async_trait;
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};

#[derive(Debug)]
pub(super) struct ControllerService {
    api: Arc<dyn ControllerApi>,
    gate: Gate,
}

impl ControllerService {
    pub(super) fn new(api: Arc<dyn ControllerApi>, gate: Gate) -> Self {
        Self { api, gate }
    }
}

fn job(call: &Call<'_>, job: Option<pb::JobRef>) -> Result<String, Error> {
    let job = call.parsed(required(job, "job"))?;
    call.parsed(filled(job.text, "job.text", MAX_LINE_BYTES))
}

#[async_trait]
impl Controller for ControllerService {
    async fn submit(&self, request: Request<pb::SubmitRequest>) -> Result<Response<pb::SubmitReply>, Status> {
        let (call, request) = self.gate.open("Submit", request);
        let answer = async {
            let who = call.principal(request.principal).await?;
            let submit = Submit {
                file_name: call.parsed(text(request.file_name, "file_name", MAX_LINE_BYTES))?,
                content: request.content,
                request_id: call.parsed(text(request.request_id, "request_id", MAX_WORD_BYTES))?,
                dry_run: request.dry_run,
            };
            call.about(submit.file_name.clone());
            if submit.dry_run {
                call.is_trial();
            }
            self.api.submit(&who, submit).await
        };
        call.answer(answer.await)
    }

    async fn list_jobs(&self, request: Request<pb::ListJobsRequest>) -> Result<Response<pb::ListJobsReply>, Status> {
        let (call, request) = self.gate.open("ListJobs", request);
        let answer = async {
            let who = call.principal(request.principal).await?;
            let filter = call.parsed(convert::job_filter(request.all, request.user))?;
            let token = call.parsed(text(request.page_token, "page_token", MAX_LINE_BYTES))?;
            let (jobs, next_page_token) = self.api.list_jobs(&who, filter, request.page_size, &token).await?;
            Ok(pb::ListJobsReply { jobs: jobs.into_iter().map(Into::into).collect(), next_page_token })
        };
        call.reply(answer.await)
    }

    async fn get_job(&self, request: Request<pb::GetJobRequest>) -> Result<Response<pb::Job>, Status> {
        let (call, request) = self.gate.open("GetJob", request);
        let answer = async {
            let who = call.principal(request.principal).await?;
            self.api.get_job(&who, &job(&call, request.job)?, request.run).await
        };
        call.answer(answer.await)
    }

    async fn explain_job(
        &self,
        request: Request<pb::ExplainJobRequest>,
    ) -> Result<Response<pb::ExplainJobReply>, Status> {
        let (call, request) = self.gate.open("ExplainJob", request);
        let answer = async {
            let who = call.principal(request.principal).await?;
            self.api.explain_job(&who, &job(&call, request.job)?).await
        };
        call.answer(answer.await)
    }

    async fn stop_job(&self, request: Request<pb::StopJobRequest>) -> Result<Response<pb::Job>, Status> {
        let (call, request) = self.gate.open("StopJob", request);
        let answer = async {
            let who = call.principal(request.principal).await?;
            let job = job(&call, request.job)?;
            call.about(format!("job {job}"));
            self.api.stop_job(&who, &job, request.grace_ms).await
        };
        call.answer(answer.await)
    }

    async fn get_ssh_access(
        &self,
        request: Request<pb::GetSshAccessRequest>,
    ) -> Result<Response<pb::SshAccess>, Status> {
        let (call, request) = self.gate.open("GetSshAccess", request);
        let answer = async {
            let who = call.principal(request.principal).await?;
            let job = job(&call, request.job)?;
            call.about(format!("job {job}"));
            self.api.ssh_access(&who, &job).await
        };
        call.answer(answer.await)
    }

    async fn list_nodes(
        &self,
        request: Request<pb::ListNodesRequest>,
    ) -> Result<Response<pb::ListNodesReply>, Status> {
        let (call, request) = self.gate.open("ListNodes", request);
        let answer = async {
            let who = call.principal(request.principal).await?;
            let nodes = self.api.list_nodes(&who).await?;
            Ok(pb::ListNodesReply { nodes: nodes.into_iter().map(Into::into).collect() })
        };
        call.reply(answer.await)
    }

    async fn describe_node(
        &self,
        request: Request<pb::DescribeNodeRequest>,
    ) -> Result<Response<pb::NodeDetail>, Status> {
        let (call, request) = self.gate.open("DescribeNode", request);
        let answer = async {
            let who = call.principal(request.principal).await?;
            let node = call.parsed(filled(request.node, "node", MAX_WORD_BYTES))?;
            Ok(self.api.describe_node(&who, &node).await?.into())
        };
        call.reply(answer.await)
    }

    async fn change_node(&self, request: Request<pb::ChangeNodeRequest>) -> Result<Response<pb::Node>, Status> {
        let (call, request) = self.gate.open("ChangeNode", request);
        let answer = async {
            let who = call.principal(request.principal).await?;
            let node = call.parsed(filled(request.node, "node", MAX_WORD_BYTES))?;
            let change = call.parsed(convert::node_change::parse(request.change))?;
            call.about(format!("node {node}: {change:?}"));
            Ok(self.api.change_node(&who, &node, change).await?.into())
        };
        call.reply(answer.await)
    }

    async fn list_gpus(&self, request: Request<pb::ListGpusRequest>) -> Result<Response<pb::ListGpusReply>, Status> {
        let (call, request) = self.gate.open("ListGpus", request);
        let answer = async {
            let who = call.principal(request.principal).await?;
            let node = call.parsed(maybe(request.node, "node", MAX_WORD_BYTES))?;
            let gpus = self.api.list_gpus(&who, node.as_deref()).await?;
            Ok(pb::ListGpusReply { gpus: gpus.into_iter().map(Into::into).collect() })
        };
        call.reply(answer.await)
    }

    async fn list_faults(&self, request: Request<pb::ListFaultsRequest>) -> Result<Response<pb::FaultList>, Status> {
        let (call, request) = self.gate.open("ListFaults", request);
        let answer = async {
            let who = call.principal(request.principal).await?;
            let node = call.parsed(maybe(request.node, "node", MAX_WORD_BYTES))?;
            Ok(convert::fault::list(self.api.list_faults(&who, node.as_deref(), request.all).await?))
        };
        call.reply(answer.await)
    }

    async fn clear_fault(&self, request: Request<pb::ClearFaultRequest>) -> Result<Response<pb::Fault>, Status> {
        let (call, request) = self.gate.open("ClearFault", request);
        let answer = async {
            let who = call.principal(request.principal).await?;
            let node = call.parsed(maybe(request.node, "node", MAX_WORD_BYTES))?;
            call.about(format!("fault {}", request.id));
            self.api.clear_fault(&who, FaultId(request.id), node.as_deref()).await
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
            let node = call.parsed(filled(request.node, "node", MAX_WORD_BYTES))?;
            let gpus = call.parsed(texts(request.gpus, "gpus", MAX_WORD_BYTES))?;
            call.about(format!("node {node}"));
            self.api.check_node(&who, &node, gpus, request.deep).await
        };
        call.answer(answer.await)
    }

    type WatchStream = Replies<Event, pb::WatchReply>;

    async fn watch(&self, mut request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let claim = request.get_mut().principal.take();
        let (call, request) = self.gate.open("Watch", request);
        let answer = async {
            let who = call.principal(claim).await?;
            self.api.watch(&who, call.parsed(convert::event_filter(request))?).await
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

    async fn register(
        &self,
        mut request: Request<pb::RegisterRequest>,
    ) -> Result<Response<pb::RegisterReply>, Status> {
        let claim = request.get_mut().principal.take();
        let (call, request) = self.gate.open("Register", request);
        let answer = async {
            let who = call.principal(claim).await?;
            let registration: Registration = call.parsed(request.try_into())?;
            call.about(format!("node {}", registration.name));
            self.api.register(&who, registration).await
        };
        call.answer(answer.await)
    }

    async fn heartbeat(
        &self,
        mut request: Request<pb::HeartbeatRequest>,
    ) -> Result<Response<pb::HeartbeatReply>, Status> {
        let claim = request.get_mut().principal.take();
        let (call, request) = self.gate.open("Heartbeat", request);
        let answer = async {
            let who = call.principal(claim).await?;
            self.api.heartbeat(&who, call.parsed(request.try_into())?).await
        };
        call.answer(answer.await)
    }

    async fn report(&self, request: Request<pb::ReportRequest>) -> Result<Response<pb::ReportReply>, Status> {
        let (call, request) = self.gate.open("Report", request);
        let answer = async {
            let who = call.principal(request.principal).await?;
            let (node_uid, journal_id) = call.parsed(convert::node::journal(request.node_uid, request.journal_id))?;
            let statuses = call.parsed(each(request.statuses, "statuses"))?;
            let acknowledged = self.api.report(&who, node_uid, journal_id, statuses).await?;
            Ok(pb::ReportReply { acknowledged })
        };
        call.reply(answer.await)
    }

    async fn who_am_i(&self, request: Request<pb::WhoAmIRequest>) -> Result<Response<pb::WhoAmIReply>, Status> {
        let (call, request) = self.gate.open("WhoAmI", request);
        let answer = async {
            let who = call.principal(request.principal).await?;
            let (principal, cluster_id) = self.api.who_am_i(&who).await?;
            Ok(pb::WhoAmIReply { principal: Some(principal.into()), cluster_id })
        };
        call.reply(answer.await)
    }

    async fn create_token(
        &self,
        mut request: Request<pb::CreateTokenRequest>,
    ) -> Result<Response<pb::CreateTokenReply>, Status> {
        let claim = request.get_mut().principal.take();
        let (call, request) = self.gate.open("CreateToken", request);
        let answer = async {
            let who = call.principal(claim).await?;
            let (token, secret) =
                self.api.create_token(&who, call.parsed(convert::access::new_token(request))?).await?;
            let whose = token.subject.as_deref().unwrap_or("-");
            call.about(format!("token {} of {whose}, role {}", token.id, token.role.as_str()));
            Ok(pb::CreateTokenReply { token: Some(token.into()), secret: secret.to_string() })
        };
        call.reply(answer.await)
    }

    async fn list_tokens(
        &self,
        request: Request<pb::ListTokensRequest>,
    ) -> Result<Response<pb::ListTokensReply>, Status> {
        let (call, request) = self.gate.open("ListTokens", request);
        let answer = async {
            let who = call.principal(request.principal).await?;
            let tokens = self.api.list_tokens(&who).await?;
            Ok(pb::ListTokensReply { tokens: tokens.into_iter().map(Into::into).collect() })
        };
        call.reply(answer.await)
    }

    async fn revoke_token(&self, request: Request<pb::RevokeTokenRequest>) -> Result<Response<pb::Token>, Status> {
        let (call, request) = self.gate.open("RevokeToken", request);
        let answer = async {
            let who = call.principal(request.principal).await?;
            let id = call.parsed(filled(request.id, "id", MAX_WORD_BYTES))?;
            call.about(format!("token {id}"));
            self.api.revoke_token(&who, &TokenId(id)).await
        };
        call.answer(answer.await)
    }

    async fn join(&self, request: Request<pb::JoinRequest>) -> Result<Response<pb::CertificateReply>, Status> {
        let (call, request) = self.gate.open("Join", request);
        let answer = async {
            let token = call.joining_token()?;
            let node = call.parsed(filled(request.node, "node", MAX_WORD_BYTES))?;
            let csr_pem = call.parsed(filled(request.csr_pem, "csr_pem", MAX_SENTENCE_BYTES))?;
            call.about(format!("node {node} by token {}", token.id));
            self.api.join(&token, CertificateRequest { node, csr_pem }).await
        };
        call.answer(answer.await)
    }

    async fn renew(&self, request: Request<pb::RenewRequest>) -> Result<Response<pb::CertificateReply>, Status> {
        let (call, request) = self.gate.open("Renew", request);
        let answer = async {
            let who = call.principal(request.principal).await?;
            let csr_pem = call.parsed(filled(request.csr_pem, "csr_pem", MAX_SENTENCE_BYTES))?;
            self.api.renew(&who, csr_pem).await
        };
        call.answer(answer.await)
    }
}
