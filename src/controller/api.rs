//! The controller as others call it: reads look at the state, changes go through the core.

use super::access;
use super::core::{Controller, Message, Reply, read};
use super::holdings::Holdings;
use super::state::State;
use super::{explain, faults, logs, node_detail, resolve, views};
use crate::api::ControllerApi;
use crate::api::controller::{EventFilter, JobFilter, Submit};
use crate::api::stream::{Answers, ExecSession, ExecSpec, LogBatch, LogQuery};
use crate::domain::access::token::{Token, TokenId};
use crate::domain::access::{CertificateRequest, IssuedCertificate, NewToken, TokenView};
use crate::domain::checked::CheckedNode;
use crate::domain::command::{
    Error, ErrorKind, Heartbeat, HeartbeatReply, Registered, Registration, SequencedStatus,
};
use crate::domain::event::Event;
use crate::domain::fault::{Fault, FaultId};
use crate::domain::ids::{JobId, JournalId, NodeName, NodeUid, TaskId};
use crate::domain::job::Job;
use crate::domain::node::NodeChange;
use crate::domain::principal::{Principal, Role};
use crate::domain::quantity::DEFAULT_GRACE_MS;
use crate::domain::ssh::SshAccess;
use crate::domain::time::Timestamp;
use crate::domain::view::{Explanation, GpuView, JobView, NodeDetail, NodeView, Submitted};
use async_trait::async_trait;
use std::time::Duration;
use tokio::sync::oneshot;

/// A change that has not been answered by then is reported as unknown; asking again is safe.
const DEADLINE: Duration = Duration::from_secs(20);
/// Jobs in one page of a list.
const MAX_PAGE: usize = 500;

impl Controller {
    async fn ask<T>(&self, message: impl FnOnce(Reply<T>) -> Message) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.messages.try_send(message(reply)).map_err(|full| match full {
            tokio::sync::mpsc::error::TrySendError::Full(_) => Error {
                retry_after_ms: Some(500),
                ..Error::new(ErrorKind::Exhausted, "the controller has too much to do; try again")
            },
            tokio::sync::mpsc::error::TrySendError::Closed(_) => ending(),
        })?;
        match tokio::time::timeout(DEADLINE, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ending()),
            Err(_) => Err(Error::new(ErrorKind::DeadlineExceeded, "the controller did not answer in time")),
        }
    }
}

fn ending() -> Error {
    Error::unavailable("the controller is shutting down")
}

/// Jobs after a page token, newest first, and the token of the next page.
pub(super) fn page<'a>(
    state: &'a State,
    filter: &JobFilter,
    page_size: u32,
    token: &str,
) -> Result<(Vec<&'a Job>, String), Error> {
    let below = match token {
        "" => JobId(u64::MAX),
        text => JobId(text.parse().map_err(|_| {
            Error::new(ErrorKind::Invalid, format!("'{text}' is not a page token that a list has given"))
        })?),
    };
    let size = (page_size as usize).clamp(1, MAX_PAGE);
    let mut wanted = state
        .jobs
        .range(..below)
        .rev()
        .map(|(_, job)| job)
        .filter(|job| filter.all || !job.state.is_terminal())
        .filter(|job| filter.user.as_ref().is_none_or(|user| *user == job.user));
    let page: Vec<&Job> = wanted.by_ref().take(size).collect();
    let more = wanted.next().is_some();
    let next = page.last().filter(|_| more).map_or_else(String::new, |last| last.id.to_string());
    Ok((page, next))
}

/// Whether `who` may end what belongs to `owner`: those who look after nodes may.
fn may_end(who: &Principal, owner: &str, what: &str) -> Result<(), Error> {
    let privileged = who.roles.iter().any(|role| matches!(role, Role::Admin | Role::Operator));
    if privileged || who.user == owner {
        return Ok(());
    }
    let message =
        format!("{what} belongs to {owner}; only {owner}, an operator or an admin may do that, not {}", who.user);
    Err(Error::new(ErrorKind::NotAllowed, message))
}

/// Whether `who` may read or enter what belongs to `owner`: output, job files, shells.
pub(super) fn may_enter(who: &Principal, owner: &str, what: &str) -> Result<(), Error> {
    if who.roles.contains(&Role::Admin) || who.user == owner {
        return Ok(());
    }
    let message = format!("{what} belongs to {owner}; only {owner} or an admin may do that, not {}", who.user);
    Err(Error::new(ErrorKind::NotAllowed, message))
}

/// `who`, as the controller speaks for them to an agent, which obeys nobody else.
pub(super) fn relayed(who: &Principal) -> Principal {
    let mut roles = who.roles.clone();
    roles.push(Role::Controller);
    Principal { roles, ..who.clone() }
}

/// Only operators and admins decide about nodes.
fn operators_only(who: &Principal, what: &str) -> Result<(), Error> {
    if who.roles.iter().any(|role| matches!(role, Role::Admin | Role::Operator)) {
        return Ok(());
    }
    let message = format!("{what}: only an operator or an admin may do that, not {}", who.user);
    Err(Error::new(ErrorKind::NotAllowed, message))
}

/// Only admins decide who may call.
fn admins_only(who: &Principal, what: &str) -> Result<(), Error> {
    if who.roles.contains(&Role::Admin) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::NotAllowed, format!("{what}: only an admin may do that, not {}", who.user)))
}

/// Only agents speak for nodes.
fn agents_only(who: &Principal) -> Result<(), Error> {
    if who.roles.contains(&Role::Agent) {
        return Ok(());
    }
    let message = format!("only agents may register and report, and {} is none", who.user);
    Err(Error::new(ErrorKind::NotAllowed, message))
}

#[async_trait]
impl ControllerApi for Controller {
    async fn submit(&self, who: &Principal, submit: Submit) -> Result<Submitted, Error> {
        let who = who.clone();
        self.ask(|reply| Message::Submit { who, submit, reply }).await
    }

    async fn list_jobs(
        &self,
        _who: &Principal,
        filter: JobFilter,
        page_size: u32,
        token: &str,
    ) -> Result<(Vec<JobView>, String), Error> {
        let state = read(&self.shared);
        let (page, next) = page(&state, &filter, page_size, token)?;
        Ok((page.into_iter().map(|job| views::job(&state, job, None)).collect(), next))
    }

    async fn get_job(&self, who: &Principal, job: &str, run: Option<i64>) -> Result<JobView, Error> {
        let state = read(&self.shared);
        let job = resolve::job_ref(&state, who, job)?;
        let run = resolve::run(&state, job, run)?;
        Ok(views::job(&state, job, Some(run)))
    }

    async fn explain_job(&self, who: &Principal, job: &str) -> Result<Explanation, Error> {
        let id = resolve::job_ref(&read(&self.shared), who, job)?.id;
        explain::explain(self, id).await
    }

    async fn stop_job(&self, who: &Principal, job: &str, grace_ms: Option<u64>) -> Result<JobView, Error> {
        let id = {
            let state = read(&self.shared);
            let job = resolve::job_ref(&state, who, job)?;
            may_end(who, &job.user, &format!("job {}", job.id))?;
            job.id
        };
        let (by, grace_ms) = (who.clone(), grace_ms.unwrap_or(DEFAULT_GRACE_MS));
        self.ask(|reply| Message::StopJob { who: by, job: id, grace_ms, reply }).await?;
        self.get_job(who, &id.to_string(), None).await
    }

    async fn list_nodes(&self, _who: &Principal) -> Result<Vec<NodeView>, Error> {
        let state = read(&self.shared);
        Ok(views::nodes(&state))
    }

    async fn describe_node(&self, _who: &Principal, node: &str) -> Result<NodeDetail, Error> {
        let state = read(&self.shared);
        let known = state.nodes.get(&NodeName::from(node)).ok_or_else(|| unknown_node(&state, node))?;
        Ok(node_detail::of(&state, known))
    }

    async fn change_node(&self, who: &Principal, node: &str, change: NodeChange) -> Result<NodeView, Error> {
        operators_only(who, &format!("node {node}"))?;
        let name = {
            let state = read(&self.shared);
            let name = NodeName::from(node);
            state.nodes.get(&name).ok_or_else(|| unknown_node(&state, node))?;
            name
        };
        let who = who.clone();
        self.ask(|reply| Message::ChangeNode { who, node: name, change, reply }).await
    }

    async fn list_gpus(&self, _who: &Principal, node: Option<&str>) -> Result<Vec<GpuView>, Error> {
        let state = read(&self.shared);
        let holdings = Holdings::of(&state);
        if let Some(name) = node {
            let known = state.nodes.get(&NodeName::from(name)).ok_or_else(|| unknown_node(&state, name))?;
            return Ok(views::gpus(&state, known, &holdings));
        }
        Ok(state.nodes.values().flat_map(|node| views::gpus(&state, node, &holdings)).collect())
    }

    async fn list_faults(&self, _who: &Principal, node: Option<&str>, all: bool) -> Result<Vec<Fault>, Error> {
        let state = read(&self.shared);
        let node = node.map(NodeName::from);
        if let Some(name) = node.as_ref().filter(|name| !state.nodes.contains_key(*name)) {
            return Err(unknown_node(&state, &name.0));
        }
        Ok(faults::list(&state, node.as_ref(), all))
    }

    async fn clear_fault(&self, who: &Principal, id: FaultId, node: Option<&str>) -> Result<Fault, Error> {
        operators_only(who, &format!("fault {id}"))?;
        faults::clear(self, who, id, node.map(NodeName::from).as_ref()).await
    }

    async fn check_node(
        &self,
        who: &Principal,
        node: &str,
        gpus: Vec<String>,
        deep: bool,
    ) -> Result<CheckedNode, Error> {
        operators_only(who, &format!("node {node}"))?;
        let address = {
            let state = read(&self.shared);
            let known = state.nodes.get(&NodeName::from(node)).ok_or_else(|| unknown_node(&state, node))?;
            known.registration.address.clone()
        };
        self.parts.dialer.dial(&NodeName::from(node), &address)?.check_health(&relayed(who), gpus, deep).await
    }

    async fn watch(&self, who: &Principal, filter: EventFilter) -> Result<Answers<Event>, Error> {
        let job = match &filter.job {
            Some(text) => Some(resolve::job_ref(&read(&self.shared), who, text)?.id),
            None => None,
        };
        logs::watch(self, filter, job).await
    }

    async fn logs(&self, who: &Principal, query: LogQuery) -> Result<Answers<LogBatch>, Error> {
        let owner = resolve::job(&read(&self.shared), query.task.job)?.user.clone();
        may_enter(who, &owner, &format!("the output of job {}", query.task.job))?;
        logs::logs(self, &relayed(who), query)
    }

    async fn exec(&self, who: &Principal, task: TaskId, exec: ExecSpec) -> Result<ExecSession, Error> {
        let owner = {
            let state = read(&self.shared);
            resolve::job(&state, task.job)?.user.clone()
        };
        may_enter(who, &owner, &format!("job {}", task.job))?;
        logs::agent_of(self, task)?.exec(&relayed(who), task, exec).await
    }

    async fn ssh_access(&self, who: &Principal, job: &str) -> Result<SshAccess, Error> {
        let state = read(&self.shared);
        let job = resolve::job_ref(&state, who, job)?;
        may_enter(who, &job.user, &format!("job {}", job.id))?;
        let none = || Error::refused(format!("job {} has no keys: it is from before jobs had them", job.id));
        Ok(SshAccess::of(job.id.0, job.ssh.as_ref().ok_or_else(none)?))
    }

    async fn register(&self, who: &Principal, registration: Registration) -> Result<Registered, Error> {
        agents_only(who)?;
        let from = NodeName(who.user.clone());
        self.ask(|reply| Message::Register { from, registration, reply }).await
    }

    async fn heartbeat(&self, who: &Principal, heartbeat: Heartbeat) -> Result<HeartbeatReply, Error> {
        agents_only(who)?;
        let from = NodeName(who.user.clone());
        self.ask(|reply| Message::Heartbeat { from, heartbeat, reply }).await
    }

    async fn report(
        &self,
        who: &Principal,
        node_uid: NodeUid,
        _journal_id: JournalId,
        statuses: Vec<SequencedStatus>,
    ) -> Result<u64, Error> {
        agents_only(who)?;
        let from = NodeName(who.user.clone());
        self.ask(|reply| Message::Report { from, node_uid, statuses, reply }).await
    }

    async fn authenticate(&self, token: &Token) -> Result<Principal, Error> {
        access::authenticate(&read(&self.shared).access, token, self.parts.clock.now())
    }

    async fn admit_node(&self, node: &NodeName, number: u64, expires_at: Timestamp) -> Result<(), Error> {
        access::admit(&read(&self.shared).access, node, number, expires_at, self.parts.clock.now())
    }

    async fn who_am_i(&self, who: &Principal) -> Result<(Principal, String), Error> {
        Ok((who.clone(), read(&self.shared).cluster_id.clone()))
    }

    async fn create_token(&self, who: &Principal, asked: NewToken) -> Result<(TokenView, Token), Error> {
        admins_only(who, "tokens")?;
        let (who, chance) = (who.clone(), access::chance()?);
        self.ask(|reply| Message::CreateToken { who, asked, chance, reply }).await
    }

    async fn list_tokens(&self, who: &Principal) -> Result<Vec<TokenView>, Error> {
        admins_only(who, "tokens")?;
        Ok(access::list(&read(&self.shared).access))
    }

    async fn revoke_token(&self, who: &Principal, id: &TokenId) -> Result<TokenView, Error> {
        admins_only(who, "tokens")?;
        let id = id.clone();
        self.ask(|reply| Message::RevokeToken { id, reply }).await
    }

    async fn join(&self, token: &Token, request: CertificateRequest) -> Result<IssuedCertificate, Error> {
        access::may_join(&read(&self.shared).access, token, self.parts.clock.now())?;
        let token = token.clone();
        self.ask(|reply| Message::Join { token, request, reply }).await
    }

    async fn renew(&self, who: &Principal, csr_pem: String) -> Result<IssuedCertificate, Error> {
        agents_only(who)?;
        let node = NodeName(who.user.clone());
        self.ask(|reply| Message::Renew { node, csr_pem, reply }).await
    }
}

fn unknown_node(state: &State, name: &str) -> Error {
    let names = state.nodes.keys().map(|known| known.0.as_str());
    let near = crate::domain::nearest::nearest(name, names)
        .map_or_else(String::new, |near| format!("; '{near}' is the nearest name"));
    Error::not_found(format!("there is no node '{name}'{near}"))
}
