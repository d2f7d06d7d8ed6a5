//! One of several controllers on one store: it leads, or stands by until it may.
//!
//! ```text
//!   STANDBY --nobody leads, the lead is won--> take the term, load everything --> LEADING
//!   LEADING --the lease was not renewed (etcd away, this process frozen)-------> SUSPENDED   nothing is decided or sent
//!   LEADING --a write found another term---------------------------------------> STANDBY
//!   SUSPENDED --the lead is won again--> LEADING (a new term)      --another leads, as etcd or agents say--> STANDBY
//! ```
//!
//! Exactly one decides: whoever takes the lead raises the term in the store, every transaction of a controller compares
//! it, and agents refuse commands of a lower one. So one that was frozen while another took over can write nothing when
//! it goes on, whatever it believes; the lease only makes it find out soon. A leader that cannot renew its lease still
//! answers what it knows until another one leads: without etcd's quorum there is no other, and tasks run on.

use super::{Controller, ControllerParts, ControllerRunning};
use crate::api::controller::{EventFilter, JobFilter, Submit};
use crate::api::records::JobRecord;
use crate::api::stream::{Answers, ExecSession, ExecSpec, LogBatch, LogQuery};
use crate::api::{ControllerApi, RecordsApi};
use crate::domain::access::token::{Token, TokenId};
use crate::domain::access::{CertificateRequest, IssuedCertificate, NewToken, TokenView};
use crate::domain::checked::CheckedNode;
use crate::domain::command::{
    Error, ErrorKind, Heartbeat, HeartbeatReply, Registered, Registration, SequencedStatus,
};
use crate::domain::event::Event;
use crate::domain::fault::{Fault, FaultId};
use crate::domain::ids::{JournalId, NodeName, NodeUid, TaskId};
use crate::domain::metrics::{self, Sample};
use crate::domain::node::NodeChange;
use crate::domain::principal::Principal;
use crate::domain::ssh::SshAccess;
use crate::domain::time::Timestamp;
use crate::domain::view::{Explanation, GpuView, JobView, NodeDetail, NodeView, Submitted};
use crate::store::etcd::EtcdStore;
use crate::store::etcd::lease::{Attempt, Lead};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Between two looks at who leads.
const LOOK: Duration = Duration::from_millis(300);
/// After a lead that could not be taken up.
const AGAIN: Duration = Duration::from_secs(1);
/// A core that is told to end is in the middle of one batch at most.
const RETIRE: Duration = Duration::from_secs(5);

/// What a leader says of itself, for those who stand by.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Claim {
    /// Where it listens.
    pub address: String,
    /// Of this start of this process.
    pub id: String,
}

/// A controller that leads at times. Cheap to clone; answers for whatever it is at the moment.
#[derive(Debug, Clone)]
pub struct Elected {
    seat: Arc<RwLock<Seat>>,
}

#[derive(Debug, Clone)]
enum Seat {
    Leading(Controller, Arc<Lead>),
    /// The last state that was led, and why it is led no more.
    Suspended(Controller, String),
    /// Who leads, or why that is not known.
    Standby(String),
}

/// What takes part in the election.
#[derive(Debug)]
pub struct Candidate {
    pub store: Arc<EtcdStore>,
    pub claim: Claim,
    /// How long the lead outlives its leader.
    pub lease: Duration,
}

impl Elected {
    /// Stands by; [`Self::run`] takes part.
    pub fn new() -> Self {
        Self { seat: Arc::new(RwLock::new(Seat::Standby("it has just started".to_owned()))) }
    }

    /// Takes part until `cancel`, or until something is wrong with the state itself.
    pub async fn run(
        self,
        candidate: Candidate,
        parts: impl Fn() -> ControllerParts + Send,
        cancel: CancellationToken,
    ) -> Result<(), Error> {
        // Ends what still reads from the last time that this one led.
        let mut streams = cancel.child_token();
        for round in 0_usize.. {
            let claim = serde_json::to_vec(&candidate.claim).map_err(|error| Error::internal(error.to_string()))?;
            let attempt = candidate.store.try_lead(&claim, candidate.lease, parts().clock);
            let attempt = tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                attempt = attempt => attempt,
            };
            match attempt {
                Ok(Attempt::Won(lead)) => {
                    streams.cancel();
                    streams = cancel.child_token();
                    self.lead(lead, parts(), &streams).await?;
                    if cancel.is_cancelled() {
                        return Ok(());
                    }
                }
                Ok(Attempt::Taken(leader)) => {
                    let leader: Claim = serde_json::from_slice(&leader).unwrap_or_default();
                    if leader.id != candidate.claim.id {
                        streams.cancel();
                        self.stand_by(&leader);
                    }
                }
                Err(error) => {
                    self.note_trouble(&error.to_string());
                    let superseded = tokio::select! {
                        () = cancel.cancelled() => return Ok(()),
                        superseded = self.superseded(round) => superseded,
                    };
                    if let Some(node) = superseded {
                        streams.cancel();
                        tracing::warn!(%node, "another controller leads: its agent has registered with it");
                        self.sit(Seat::Standby(format!("unknown, but {node} has registered with another one")));
                    }
                }
            }
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        Ok(())
    }

    /// Whether agents know a later leader than the one that is suspended here.
    async fn superseded(&self, round: usize) -> Option<NodeName> {
        let Seat::Suspended(controller, _) = self.read().clone() else { return None };
        controller.superseded(round).await
    }

    /// Leads for as long as it may. An error is one that another start would meet as well.
    async fn lead(&self, lead: Lead, parts: ControllerParts, streams: &CancellationToken) -> Result<(), Error> {
        let lead = Arc::new(lead);
        let started = tokio::select! {
            started = super::start(parts, streams.clone()) => started,
            why = lead.hold() => Err(Error::unavailable(format!("the lead was lost while the state was read: {why}"))),
        };
        let (controller, mut running) = match started {
            Ok(started) => started,
            Err(error) => {
                give_back(lead).await;
                let away = error.kind == ErrorKind::Unavailable;
                tracing::warn!(%error, "the lead was won and cannot be taken up");
                self.note_trouble(&error.to_string());
                tokio::time::sleep(AGAIN).await;
                return if away { Ok(()) } else { Err(error) };
            }
        };
        self.sit(Seat::Leading(controller.clone(), lead.clone()));
        let lost = tokio::select! {
            why = lead.hold() => {
                tracing::warn!(why, "the lead is lost: nothing is decided here any more");
                self.sit(Seat::Suspended(controller.clone(), why));
                controller.retire();
                true
            }
            ended = running.retired() => {
                // Cancelled, or deposed by another term.
                if let Err(error) = ended {
                    tracing::warn!(%error, "the controller has stepped down");
                    self.sit(Seat::Standby(error.to_string()));
                    streams.cancel();
                }
                false
            }
        };
        if lost {
            self.wait_retired(&mut running).await;
        }
        // The seat holds the lead as well.
        if matches!(&*self.read(), Seat::Leading(..)) {
            self.sit(Seat::Standby("unknown (this controller is ending)".to_owned()));
        }
        give_back(lead).await;
        Ok(())
    }

    async fn wait_retired(&self, running: &mut ControllerRunning) {
        if tokio::time::timeout(RETIRE, running.retired()).await.is_err() {
            tracing::warn!(
                "the controller's core takes its time to end; what it still writes is refused by its term"
            );
        }
    }

    fn stand_by(&self, leader: &Claim) {
        let why = if leader.address.is_empty() { "another program has the store" } else { &leader.address };
        if !matches!(&*self.read(), Seat::Standby(old) if old == why) {
            tracing::info!(leader = why, "standing by");
        }
        self.sit(Seat::Standby(why.to_owned()));
    }

    /// Whoever is suspended stays so: what it knows is all there is to tell.
    pub(crate) fn note_trouble(&self, why: &str) {
        if !matches!(&*self.read(), Seat::Suspended(..)) {
            self.sit(Seat::Standby(format!("unknown ({why})")));
        }
    }

    fn sit(&self, seat: Seat) {
        *self.seat.write().unwrap_or_else(PoisonError::into_inner) = seat;
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Seat> {
        self.seat.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For what changes something: only a leader whose lease holds by its own clock.
    fn leading(&self) -> Result<Controller, Error> {
        match &*self.read() {
            Seat::Leading(controller, lead) if !lead.remaining().is_zero() => Ok(controller.clone()),
            Seat::Leading(..) => Err(away("this controller was frozen or cut off and may lead no more".to_owned())),
            Seat::Suspended(_, why) => {
                Err(away(format!("nothing can be changed until the controllers reach their store again: {why}")))
            }
            Seat::Standby(leader) => Err(away(standing_by(leader))),
        }
    }

    /// For what only looks.
    fn looking(&self) -> Result<Controller, Error> {
        match &*self.read() {
            // Without its lease what it knows may be old, and another may lead already: that is found out in a moment.
            Seat::Leading(controller, _) | Seat::Suspended(controller, _) => Ok(controller.clone()),
            Seat::Standby(leader) => Err(away(standing_by(leader))),
        }
    }

    /// What the service manager is told.
    pub async fn pulse(&self) -> Result<String, Error> {
        let seat = self.read().clone();
        match seat {
            Seat::Leading(controller, _) => Ok(format!("leading: {}", controller.pulse().await?)),
            Seat::Suspended(_, why) => Ok(format!("suspended: {why}")),
            Seat::Standby(leader) => Ok(format!("on standby; the leader: {leader}")),
        }
    }
}

impl Default for Elected {
    fn default() -> Self {
        Self::new()
    }
}

fn standing_by(leader: &str) -> String {
    format!("this controller is on standby; the leader: {leader}")
}

fn away(message: String) -> Error {
    Error { retry_after_ms: Some(500), ..Error::unavailable(message) }
}

/// The next one may lead at once, if nobody here does any more.
async fn give_back(lead: Arc<Lead>) {
    if let Ok(lead) = Arc::try_unwrap(lead) {
        lead.resign().await;
    }
}

#[async_trait]
impl ControllerApi for Elected {
    async fn submit(&self, who: &Principal, submit: Submit) -> Result<Submitted, Error> {
        self.leading()?.submit(who, submit).await
    }

    async fn list_jobs(
        &self,
        who: &Principal,
        filter: JobFilter,
        page_size: u32,
        token: &str,
    ) -> Result<(Vec<JobView>, String), Error> {
        self.looking()?.list_jobs(who, filter, page_size, token).await
    }

    async fn get_job(&self, who: &Principal, job: &str, run: Option<i64>) -> Result<JobView, Error> {
        self.looking()?.get_job(who, job, run).await
    }

    async fn explain_job(&self, who: &Principal, job: &str) -> Result<Explanation, Error> {
        self.looking()?.explain_job(who, job).await
    }

    async fn stop_job(&self, who: &Principal, job: &str, grace_ms: Option<u64>) -> Result<JobView, Error> {
        self.leading()?.stop_job(who, job, grace_ms).await
    }

    async fn list_nodes(&self, who: &Principal) -> Result<Vec<NodeView>, Error> {
        self.looking()?.list_nodes(who).await
    }

    async fn describe_node(&self, who: &Principal, node: &str) -> Result<NodeDetail, Error> {
        self.looking()?.describe_node(who, node).await
    }

    async fn change_node(&self, who: &Principal, node: &str, change: NodeChange) -> Result<NodeView, Error> {
        self.leading()?.change_node(who, node, change).await
    }

    async fn list_gpus(&self, who: &Principal, node: Option<&str>) -> Result<Vec<GpuView>, Error> {
        self.looking()?.list_gpus(who, node).await
    }

    async fn list_faults(&self, who: &Principal, node: Option<&str>, all: bool) -> Result<Vec<Fault>, Error> {
        self.looking()?.list_faults(who, node, all).await
    }

    async fn clear_fault(&self, who: &Principal, id: FaultId, node: Option<&str>) -> Result<Fault, Error> {
        self.leading()?.clear_fault(who, id, node).await
    }

    async fn check_node(
        &self,
        who: &Principal,
        node: &str,
        gpus: Vec<String>,
        deep: bool,
    ) -> Result<CheckedNode, Error> {
        self.leading()?.check_node(who, node, gpus, deep).await
    }

    async fn watch(&self, who: &Principal, filter: EventFilter) -> Result<Answers<Event>, Error> {
        self.looking()?.watch(who, filter).await
    }

    async fn logs(&self, who: &Principal, query: LogQuery) -> Result<Answers<LogBatch>, Error> {
        self.looking()?.logs(who, query).await
    }

    async fn exec(&self, who: &Principal, task: TaskId, exec: ExecSpec) -> Result<ExecSession, Error> {
        self.looking()?.exec(who, task, exec).await
    }

    async fn ssh_access(&self, who: &Principal, job: &str) -> Result<SshAccess, Error> {
        self.looking()?.ssh_access(who, job).await
    }

    async fn register(&self, who: &Principal, registration: Registration) -> Result<Registered, Error> {
        self.leading()?.register(who, registration).await
    }

    async fn heartbeat(&self, who: &Principal, heartbeat: Heartbeat) -> Result<HeartbeatReply, Error> {
        self.leading()?.heartbeat(who, heartbeat).await
    }

    async fn report(
        &self,
        who: &Principal,
        node_uid: NodeUid,
        journal_id: JournalId,
        statuses: Vec<SequencedStatus>,
    ) -> Result<u64, Error> {
        self.leading()?.report(who, node_uid, journal_id, statuses).await
    }

    async fn authenticate(&self, token: &Token) -> Result<Principal, Error> {
        self.looking()?.authenticate(token).await
    }

    async fn admit_node(&self, node: &NodeName, number: u64, expires_at: Timestamp) -> Result<(), Error> {
        self.looking()?.admit_node(node, number, expires_at).await
    }

    async fn who_am_i(&self, who: &Principal) -> Result<(Principal, String), Error> {
        self.looking()?.who_am_i(who).await
    }

    async fn create_token(&self, who: &Principal, token: NewToken) -> Result<(TokenView, Token), Error> {
        self.leading()?.create_token(who, token).await
    }

    async fn list_tokens(&self, who: &Principal) -> Result<Vec<TokenView>, Error> {
        self.leading()?.list_tokens(who).await
    }

    async fn revoke_token(&self, who: &Principal, id: &TokenId) -> Result<TokenView, Error> {
        self.leading()?.revoke_token(who, id).await
    }

    async fn join(&self, token: &Token, request: CertificateRequest) -> Result<IssuedCertificate, Error> {
        self.leading()?.join(token, request).await
    }

    async fn renew(&self, who: &Principal, csr_pem: String) -> Result<IssuedCertificate, Error> {
        self.leading()?.renew(who, csr_pem).await
    }
}

#[async_trait]
impl RecordsApi for Elected {
    async fn metrics(&self) -> Result<Vec<Sample>, Error> {
        match self.leading() {
            Ok(controller) => controller.metrics().await,
            // Of the fleet only the one that leads knows.
            Err(_) => Ok(vec![metrics::build("controller"), Sample::new(&metrics::LEADS, 0.0)]),
        }
    }

    async fn list_records(
        &self,
        who: &Principal,
        filter: JobFilter,
        page_size: u32,
        token: &str,
    ) -> Result<(Vec<JobRecord>, String), Error> {
        self.looking()?.list_records(who, filter, page_size, token).await
    }

    async fn get_record(&self, who: &Principal, job: &str) -> Result<JobRecord, Error> {
        self.looking()?.get_record(who, job).await
    }

    async fn job_file(&self, who: &Principal, job: &str) -> Result<Option<Vec<u8>>, Error> {
        self.looking()?.job_file(who, job).await
    }
}
