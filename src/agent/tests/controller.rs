//! A controller in memory that loses, refuses, forgets and hangs.

use super::PATIENCE;
use crate::api::controller::{ControllerApi, EventFilter, JobFilter, Submit};
use crate::api::stream::{Answers, ExecSession, ExecSpec, LogBatch, LogQuery};
use crate::domain::command::{
    Error, ErrorKind, Heartbeat, HeartbeatReply, Registered, Registration, SequencedStatus,
};
use crate::domain::event::Event;
use crate::domain::fault::Fault;
use crate::domain::ids::{JournalId, NodeUid, TaskId, Term};
use crate::domain::level::Level;
use crate::domain::node::NodeChange;
use crate::domain::principal::Principal;
use crate::domain::remediation::{GoingOut, Permit};
use crate::domain::task::TaskStatus;
use crate::domain::view::{Explanation, GpuView, JobView, NodeDetail, NodeView, Submitted};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

#[derive(Debug, Default)]
pub struct Scripted {
    seen: Mutex<Seen>,
}

#[derive(Debug)]
pub struct Seen {
    pub term: Term,
    pub level: Level,
    pub registrations: Vec<Registration>,
    pub heartbeats: usize,
    pub heartbeat_ms: u32,
    /// Of the last heartbeat that told any.
    pub faults: Vec<Fault>,
    /// Of the last heartbeat.
    pub progress: Vec<(TaskId, String)>,
    /// Every report as it came: the sequences.
    pub reports: Vec<Vec<u64>>,
    pub statuses: BTreeMap<u64, TaskStatus>,
    /// Takes a report in, then loses the answer.
    pub lose_answers: usize,
    pub hang_reports: bool,
    pub forgets: bool,
    /// What the last heartbeat asked for, and what such are answered; none: as by one that knows no permits.
    pub going_out: Option<GoingOut>,
    pub permit: Option<Result<(), String>>,
    /// Heartbeats get no answer.
    pub loses_heartbeats: bool,
    pub refuses: Option<Error>,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            term: Term(1),
            level: Level::own(),
            registrations: Vec::new(),
            heartbeats: 0,
            heartbeat_ms: 20,
            faults: Vec::new(),
            progress: Vec::new(),
            reports: Vec::new(),
            statuses: BTreeMap::new(),
            lose_answers: 0,
            hang_reports: false,
            forgets: false,
            going_out: None,
            permit: None,
            loses_heartbeats: false,
            refuses: None,
        }
    }
}

impl Scripted {
    pub fn with<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        change(&mut self.seen.lock().unwrap())
    }

    pub async fn until(&self, what: &str, wanted: impl Fn(&Seen) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            while !self.with(|seen| wanted(seen)) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        assert!(waited.await.is_ok(), "waited for: {what}; seen {:?}", self.seen.lock().unwrap());
    }
}

fn unscripted<T>() -> Result<T, Error> {
    Err(Error::internal("not scripted"))
}

#[async_trait]
impl ControllerApi for Scripted {
    async fn submit(&self, _: &Principal, _: Submit) -> Result<Submitted, Error> {
        unscripted()
    }

    async fn list_jobs(&self, _: &Principal, _: JobFilter, _: u32, _: &str) -> Result<(Vec<JobView>, String), Error> {
        unscripted()
    }

    async fn get_job(&self, _: &Principal, _: &str, _: Option<i64>) -> Result<JobView, Error> {
        unscripted()
    }

    async fn explain_job(&self, _: &Principal, _: &str) -> Result<Explanation, Error> {
        unscripted()
    }

    async fn stop_job(&self, _: &Principal, _: &str, _: Option<u64>) -> Result<JobView, Error> {
        unscripted()
    }

    async fn list_nodes(&self, _: &Principal) -> Result<Vec<NodeView>, Error> {
        unscripted()
    }

    async fn describe_node(&self, _: &Principal, _: &str) -> Result<NodeDetail, Error> {
        unscripted()
    }

    async fn change_node(&self, _: &Principal, _: &str, _: NodeChange) -> Result<NodeView, Error> {
        unscripted()
    }

    async fn list_gpus(&self, _: &Principal, _: Option<&str>) -> Result<Vec<GpuView>, Error> {
        unscripted()
    }

    async fn watch(&self, _: &Principal, _: EventFilter) -> Result<Answers<Event>, Error> {
        unscripted()
    }

    async fn logs(&self, _: &Principal, _: LogQuery) -> Result<Answers<LogBatch>, Error> {
        unscripted()
    }

    async fn exec(&self, _: &Principal, _: TaskId, _: ExecSpec) -> Result<ExecSession, Error> {
        unscripted()
    }

    async fn register(&self, _: &Principal, registration: Registration) -> Result<Registered, Error> {
        self.with(|seen| {
            seen.registrations.push(registration);
            match seen.refuses.take() {
                Some(refusal) => Err(refusal),
                None => {
                    seen.forgets = false;
                    Ok(Registered {
                        cluster_id: "c1".to_owned(),
                        term: seen.term,
                        heartbeat_ms: seen.heartbeat_ms,
                        level: seen.level,
                    })
                }
            }
        })
    }

    async fn heartbeat(&self, _: &Principal, heartbeat: Heartbeat) -> Result<HeartbeatReply, Error> {
        self.with(|seen| {
            seen.progress = heartbeat.progress;
            seen.heartbeats += 1;
            seen.going_out = heartbeat.going_out;
            if seen.loses_heartbeats {
                return Err(Error::unavailable("nobody is there"));
            }
            if let Some(faults) = heartbeat.faults {
                seen.faults = faults;
            }
            Ok(HeartbeatReply {
                term: seen.term,
                register_again: seen.forgets,
                faults_version: heartbeat.faults_version,
                permit: heartbeat
                    .going_out
                    .zip(seen.permit.clone())
                    .map(|(out, said)| Permit { fault: out.fault, refusal: said.err() }),
            })
        })
    }

    async fn report(
        &self,
        _: &Principal,
        _: NodeUid,
        _: JournalId,
        statuses: Vec<SequencedStatus>,
    ) -> Result<u64, Error> {
        if self.with(|seen| seen.hang_reports) {
            std::future::pending::<()>().await;
        }
        self.with(|seen| {
            let last = statuses.last().map_or(0, |status| status.sequence);
            seen.reports.push(statuses.iter().map(|status| status.sequence).collect());
            seen.statuses.extend(statuses.into_iter().map(|status| (status.sequence, status.status)));
            if seen.lose_answers > 0 {
                seen.lose_answers -= 1;
                return Err(Error::new(ErrorKind::Unavailable, "the connection was lost"));
            }
            Ok(last)
        })
    }
}
