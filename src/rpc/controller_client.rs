//! The controller at the other end of a connection, at one of several addresses.

use super::channel::{CALL_LIMIT, CHECK_LIMIT, EXEC_LIMIT, OPEN_LIMIT, Wire};
use super::convert::{self, Parsed, each, inner};
use super::credentials::Credentials;
use super::exec;
use super::generated as pb;
use super::generated::controller_client::ControllerClient as Generated;
use super::status::never_sent;
use super::stream;
use super::tls;
use crate::api::controller::{ControllerApi, EventFilter, JobFilter, Submit};
use crate::api::stream::{Answers, ExecSession, ExecSpec, LogBatch, LogQuery};
use crate::domain::access::token::{Token, TokenId};
use crate::domain::access::{CertificateRequest, IssuedCertificate, NewToken, TokenView};
use crate::domain::checked::CheckedNode;
use crate::domain::command::{
    Error, ErrorKind, Heartbeat, HeartbeatReply, Registered, Registration, SequencedStatus,
};
use crate::domain::event::Event;
use crate::domain::fault::{Fault, FaultId};
use crate::domain::ids::{JournalId, NodeUid, TaskId};
use crate::domain::node::NodeChange;
use crate::domain::principal::Principal;
use crate::domain::quantity::MAX_MESSAGE_BYTES;
use crate::domain::ssh::SshAccess;
use crate::domain::view::{Explanation, GpuView, JobView, NodeDetail, NodeView, Submitted};
use async_trait::async_trait;
use prost::Message;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

/// The first wait for one of several controllers; one that is frozen must not hold up what another can answer.
const FIRST_LIMIT: Duration = Duration::from_secs(3);
/// A change of leader takes less, usually.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(10);
/// Between rounds meanwhile.
const PAUSE: Duration = Duration::from_millis(300);

/// [`ControllerApi`] over gRPC. An address that is unavailable or does not answer in time is followed by the next; the
/// one that answered last is asked first.
#[derive(Debug)]
pub struct ControllerClient {
    wires: Vec<Wire>,
    preferred: AtomicUsize,
}

fn client(channel: Channel) -> Generated<Channel> {
    Generated::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES)
}

impl ControllerClient {
    /// `addresses` are `HOST:PORT`, `http://HOST:PORT` or `unix:PATH`, at least one. Connects with the first call.
    /// Has to be called inside a tokio runtime.
    pub fn new<S: AsRef<str>>(addresses: &[S]) -> Result<Self, Error> {
        Self::with(addresses, &Credentials::default())
    }

    /// The same, with what proves who calls and whom to believe.
    pub fn with<S: AsRef<str>>(addresses: &[S], credentials: &Credentials) -> Result<Self, Error> {
        if addresses.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "no address of a controller is given"));
        }
        let wire = |address: &S| Wire::new("controller", address.as_ref(), tls::CONTROLLER, credentials);
        let wires = addresses.iter().map(wire).collect::<Result<_, _>>()?;
        Ok(Self { wires, preferred: AtomicUsize::new(0) })
    }

    /// Asks one address after the other until one is available. Where there are several, one that hangs gets little
    /// time at first, and while a controller on standby says that the lead is changing, all are asked again.
    async fn each_in_turn<'a, T, F, Fut>(&'a self, ask: F) -> Result<T, Error>
    where
        F: Fn(&'a Wire, Option<Duration>) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let deadline = Instant::now() + TAKEOVER_LIMIT;
        let several = self.wires.len() > 1;
        let mut limit = several.then_some(FIRST_LIMIT);
        loop {
            let first = self.preferred.load(Ordering::Relaxed);
            let mut failures: Vec<Error> = Vec::new();
            for i in 0..self.wires.len() {
                let at = (first + i) % self.wires.len();
                match ask(&self.wires[at], limit).await {
                    // One that hangs is as good as one that is away, where there is another.
                    Err(error) if matches!(error.kind, ErrorKind::Unavailable | ErrorKind::DeadlineExceeded) => {
                        failures.push(error);
                    }
                    answer => {
                        self.preferred.store(at, Ordering::Relaxed);
                        return answer;
                    }
                }
            }
            let hung = failures.iter().any(|error| error.kind == ErrorKind::DeadlineExceeded);
            let changing = several && failures.iter().any(|error| error.retry_after_ms.is_some());
            if limit.is_some() && hung && !changing {
                // Nobody else answers for it, so it gets all its time.
                limit = None;
            } else if !changing || Instant::now() + PAUSE >= deadline {
                return Err(all_failed(failures));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn call<M, T, D, F, Fut>(
        &self,
        method: &'static str,
        message: M,
        send: F,
        parse: fn(T) -> Parsed<D>,
    ) -> Result<D, Error>
    where
        M: Message + Clone,
        F: Fn(Generated<Channel>, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let (send, message) = (&send, &message);
        self.each_in_turn(|wire, limit| async move {
            let send = |channel, request| send(client(channel), request);
            let reply = wire.call(method, limit.unwrap_or(CALL_LIMIT), message.clone(), send).await?;
            wire.parsed(method, parse(reply))
        })
        .await
    }
}

#[async_trait]
impl ControllerApi for ControllerClient {
    async fn submit(&self, who: &Principal, submit: Submit) -> Result<Submitted, Error> {
        let Submit { file_name, content, mut request_id, dry_run } = submit;
        if request_id.is_empty() && self.wires.len() > 1 {
            // The next controller may be asked after the first took the job and could not say so.
            request_id = uuid::Uuid::new_v4().to_string();
        }
        let principal = Some(who.clone().into());
        let message = pb::SubmitRequest { principal, file_name, content, request_id, dry_run };
        self.call("Submit", message, |mut c, r| async move { c.submit(r).await }, Submitted::try_from).await
    }

    async fn list_jobs(
        &self,
        who: &Principal,
        filter: JobFilter,
        page_size: u32,
        token: &str,
    ) -> Result<(Vec<JobView>, String), Error> {
        let JobFilter { all, user } = filter;
        let principal = Some(who.clone().into());
        let (user, page_token) = (user.unwrap_or_default(), token.to_owned());
        let message = pb::ListJobsRequest { principal, all, user, page_size, page_token };
        let parse = |reply: pb::ListJobsReply| Ok((each(reply.jobs, "jobs")?, reply.next_page_token));
        self.call("ListJobs", message, |mut c, r| async move { c.list_jobs(r).await }, parse).await
    }

    async fn get_job(&self, who: &Principal, job: &str, run: Option<i64>) -> Result<JobView, Error> {
        let message = pb::GetJobRequest { principal: Some(who.clone().into()), job: Some(job_ref(job)), run };
        self.call("GetJob", message, |mut c, r| async move { c.get_job(r).await }, JobView::try_from).await
    }

    async fn explain_job(&self, who: &Principal, job: &str) -> Result<Explanation, Error> {
        let message = pb::ExplainJobRequest { principal: Some(who.clone().into()), job: Some(job_ref(job)) };
        self.call("ExplainJob", message, |mut c, r| async move { c.explain_job(r).await }, Explanation::try_from)
            .await
    }

    async fn stop_job(&self, who: &Principal, job: &str, grace_ms: Option<u64>) -> Result<JobView, Error> {
        let message = pb::StopJobRequest { principal: Some(who.clone().into()), job: Some(job_ref(job)), grace_ms };
        self.call("StopJob", message, |mut c, r| async move { c.stop_job(r).await }, JobView::try_from).await
    }

    async fn ssh_access(&self, who: &Principal, job: &str) -> Result<SshAccess, Error> {
        let message = pb::GetSshAccessRequest { principal: Some(who.clone().into()), job: Some(job_ref(job)) };
        let send = |mut c: Generated<Channel>, r| async move { c.get_ssh_access(r).await };
        self.call("GetSshAccess", message, send, SshAccess::try_from).await
    }

    async fn list_nodes(&self, who: &Principal) -> Result<Vec<NodeView>, Error> {
        let message = pb::ListNodesRequest { principal: Some(who.clone().into()) };
        let parse = |reply: pb::ListNodesReply| each(reply.nodes, "nodes");
        self.call("ListNodes", message, |mut c, r| async move { c.list_nodes(r).await }, parse).await
    }

    async fn describe_node(&self, who: &Principal, node: &str) -> Result<NodeDetail, Error> {
        let message = pb::DescribeNodeRequest { principal: Some(who.clone().into()), node: node.to_owned() };
        self.call("DescribeNode", message, |mut c, r| async move { c.describe_node(r).await }, NodeDetail::try_from)
            .await
    }

    async fn change_node(&self, who: &Principal, node: &str, change: NodeChange) -> Result<NodeView, Error> {
        let change = Some(convert::node_change::message(change));
        let message = pb::ChangeNodeRequest { principal: Some(who.clone().into()), node: node.to_owned(), change };
        self.call("ChangeNode", message, |mut c, r| async move { c.change_node(r).await }, NodeView::try_from).await
    }

    async fn list_gpus(&self, who: &Principal, node: Option<&str>) -> Result<Vec<GpuView>, Error> {
        let node = node.unwrap_or_default().to_owned();
        let message = pb::ListGpusRequest { principal: Some(who.clone().into()), node };
        let parse = |reply: pb::ListGpusReply| each(reply.gpus, "gpus");
        self.call("ListGpus", message, |mut c, r| async move { c.list_gpus(r).await }, parse).await
    }

    async fn list_faults(&self, who: &Principal, node: Option<&str>, all: bool) -> Result<Vec<Fault>, Error> {
        let node = node.unwrap_or_default().to_owned();
        let message = pb::ListFaultsRequest { principal: Some(who.clone().into()), node, all };
        let parse = |reply: pb::FaultList| Ok(convert::fault::parsed(reply));
        self.call("ListFaults", message, |mut c, r| async move { c.list_faults(r).await }, parse).await
    }

    async fn clear_fault(&self, who: &Principal, id: FaultId, node: Option<&str>) -> Result<Fault, Error> {
        let node = node.unwrap_or_default().to_owned();
        let message = pb::ClearFaultRequest { principal: Some(who.clone().into()), id: id.0, node };
        self.call("ClearFault", message, |mut c, r| async move { c.clear_fault(r).await }, Fault::try_from).await
    }

    async fn check_node(
        &self,
        who: &Principal,
        node: &str,
        gpus: Vec<String>,
        deep: bool,
    ) -> Result<CheckedNode, Error> {
        let (principal, node) = (Some(who.clone().into()), node.to_owned());
        let message = &pb::CheckHealthRequest { principal, node, gpus, deep };
        let send = |channel, request| async move { client(channel).check_health(request).await };
        self.each_in_turn(|wire, _| async move {
            let reply = wire.call("CheckHealth", CHECK_LIMIT, message.clone(), send).await?;
            wire.parsed("CheckHealth", CheckedNode::try_from(reply))
        })
        .await
    }

    async fn watch(&self, who: &Principal, filter: EventFilter) -> Result<Answers<Event>, Error> {
        let EventFilter { after, follow, job, node } = filter;
        let (job, node) = (job.unwrap_or_default(), node.unwrap_or_default());
        let message = &pb::WatchRequest { principal: Some(who.clone().into()), after, follow, job, node };
        let send = |channel, request| async move { client(channel).watch(request).await };
        self.each_in_turn(|wire, limit| async move {
            let messages = wire.open("Watch", limit.unwrap_or(OPEN_LIMIT), message.clone(), send).await?;
            Ok(stream::answers(wire, "Watch", messages, ()))
        })
        .await
    }

    async fn logs(&self, who: &Principal, query: LogQuery) -> Result<Answers<LogBatch>, Error> {
        let message = &convert::logs_request(who.clone(), query);
        let send = |channel, request| async move { client(channel).logs(request).await };
        self.each_in_turn(|wire, limit| async move {
            let messages = wire.open("Logs", limit.unwrap_or(OPEN_LIMIT), message.clone(), send).await?;
            Ok(stream::answers(wire, "Logs", messages, ()))
        })
        .await
    }

    async fn exec(&self, who: &Principal, task: TaskId, exec: ExecSpec) -> Result<ExecSession, Error> {
        let start = &convert::exec_start(who.clone(), task, exec);
        let send = |channel, request| async move { client(channel).exec(request).await };
        self.each_in_turn(|wire, limit| async move {
            let (input, requests) = exec::Requests::new(start.clone());
            let replies = wire.open("Exec", limit.unwrap_or(EXEC_LIMIT), requests, send).await?;
            Ok(exec::session(wire, input, replies))
        })
        .await
    }

    async fn register(&self, who: &Principal, registration: Registration) -> Result<Registered, Error> {
        let message = convert::node::register_request(who.clone(), registration);
        self.call("Register", message, |mut c, r| async move { c.register(r).await }, Registered::try_from).await
    }

    async fn heartbeat(&self, who: &Principal, heartbeat: Heartbeat) -> Result<HeartbeatReply, Error> {
        let message = convert::node::heartbeat_request(who.clone(), heartbeat);
        self.call("Heartbeat", message, |mut c, r| async move { c.heartbeat(r).await }, HeartbeatReply::try_from)
            .await
    }

    async fn report(
        &self,
        who: &Principal,
        node_uid: NodeUid,
        journal_id: JournalId,
        statuses: Vec<SequencedStatus>,
    ) -> Result<u64, Error> {
        let message = pb::ReportRequest {
            principal: Some(who.clone().into()),
            node_uid: node_uid.0,
            journal_id: journal_id.0,
            statuses: statuses.into_iter().map(Into::into).collect(),
        };
        let parse = |reply: pb::ReportReply| Ok(reply.acknowledged);
        self.call("Report", message, |mut c, r| async move { c.report(r).await }, parse).await
    }

    async fn who_am_i(&self, who: &Principal) -> Result<(Principal, String), Error> {
        let message = pb::WhoAmIRequest { principal: Some(who.clone().into()) };
        let parse = |reply: pb::WhoAmIReply| Ok((inner(reply.principal, "principal")?, reply.cluster_id));
        self.call("WhoAmI", message, |mut c, r| async move { c.who_am_i(r).await }, parse).await
    }

    async fn create_token(&self, who: &Principal, token: NewToken) -> Result<(TokenView, Token), Error> {
        let NewToken { role, subject, ttl_s, uses } = token;
        let (role, ttl_s) = (role.as_str().to_owned(), ttl_s.unwrap_or(0));
        let message = pb::CreateTokenRequest { principal: Some(who.clone().into()), role, subject, ttl_s, uses };
        let send = |mut c: Generated<Channel>, r| async move { c.create_token(r).await };
        self.call("CreateToken", message, send, convert::access::created).await
    }

    async fn list_tokens(&self, who: &Principal) -> Result<Vec<TokenView>, Error> {
        let message = pb::ListTokensRequest { principal: Some(who.clone().into()) };
        let parse = |reply: pb::ListTokensReply| each(reply.tokens, "tokens");
        self.call("ListTokens", message, |mut c, r| async move { c.list_tokens(r).await }, parse).await
    }

    async fn revoke_token(&self, who: &Principal, id: &TokenId) -> Result<TokenView, Error> {
        let message = pb::RevokeTokenRequest { principal: Some(who.clone().into()), id: id.0.clone() };
        self.call("RevokeToken", message, |mut c, r| async move { c.revoke_token(r).await }, TokenView::try_from)
            .await
    }

    /// The token goes with the connection: `_token` is the server's.
    async fn join(&self, _token: &Token, request: CertificateRequest) -> Result<IssuedCertificate, Error> {
        let CertificateRequest { node, csr_pem } = request;
        let message = pb::JoinRequest { node, csr_pem };
        self.call("Join", message, |mut c, r| async move { c.join(r).await }, convert::access::issued).await
    }

    async fn renew(&self, who: &Principal, csr_pem: String) -> Result<IssuedCertificate, Error> {
        let message = pb::RenewRequest { principal: Some(who.clone().into()), csr_pem };
        self.call("Renew", message, |mut c, r| async move { c.renew(r).await }, convert::access::issued).await
    }
}

/// What is said when no address would answer.
fn all_failed(mut failures: Vec<Error>) -> Error {
    if failures.len() == 1 {
        return failures.remove(0);
    }
    // What may have been sent goes first, so that the whole does not read as if nothing had been.
    failures.sort_by_key(never_sent);
    let retry_after_ms = failures.iter().filter_map(|error| error.retry_after_ms).min();
    let messages: Vec<String> = failures.into_iter().map(|error| error.message).collect();
    Error { retry_after_ms, ..Error::unavailable(messages.join("; ")) }
}

fn job_ref(text: &str) -> pb::JobRef {
    pb::JobRef { text: text.to_owned() }
}
