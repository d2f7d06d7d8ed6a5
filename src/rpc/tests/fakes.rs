//! Implementations of the two services in memory: they note what they were asked and answer with samples.

use super::samples::*;
use crate::api::agent::{AgentApi, NodeInfo, WatchedStatus};
use crate::api::controller::{ControllerApi, EventFilter, JobFilter, Submit};
use crate::api::stream::*;
use crate::domain::command::*;
use crate::domain::event::Event;
use crate::domain::fault::FaultId;
use crate::domain::ids::*;
use crate::domain::level::Level;
use crate::domain::node::NodeChange;
use crate::domain::principal::Principal;
use crate::domain::remediation::Permit;
use crate::domain::secret::TaskSecrets;
use crate::domain::ssh::{SshAccess, SshSeed};
use crate::domain::task::*;
use crate::domain::time::Timestamp;
use crate::domain::view::*;
use async_trait::async_trait;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

/// What a fake was asked, and what became of it.
#[derive(Debug, Default)]
pub(super) struct Notes {
    calls: Mutex<Vec<String>>,
    /// Every call fails with this.
    pub(super) failure: Mutex<Option<Error>>,
    /// Calls that hang were begun, or dropped.
    pub(super) hanging: AtomicUsize,
    pub(super) dropped: AtomicUsize,
    /// Log bytes made so far.
    pub(super) produced: AtomicUsize,
    /// The reader of a stream or of a command went away.
    pub(super) abandoned: AtomicBool,
    /// How many tasks `get_job` answers with.
    pub(super) many_tasks: AtomicUsize,
}

impl Notes {
    fn note(&self, method: &str, who: &Principal, what: &dyn Debug) -> Result<(), Error> {
        self.calls.lock().unwrap().push(format!("{method} {who:?} {what:?}"));
        self.failure.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    pub(super) fn last(&self) -> String {
        self.calls.lock().unwrap().last().cloned().unwrap_or_default()
    }

    pub(super) fn count(&self) -> usize {
        self.calls.lock().unwrap().len()
    }

    /// The form in which a call is noted.
    pub(super) fn form(method: &str, who: &Principal, what: &dyn Debug) -> String {
        format!("{method} {who:?} {what:?}")
    }

    async fn hang(self: &Arc<Self>) {
        struct Guard(Arc<Notes>);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.dropped.fetch_add(1, Ordering::SeqCst);
            }
        }
        let _guard = Guard(self.clone());
        self.hanging.fetch_add(1, Ordering::SeqCst);
        std::future::pending().await
    }

    fn stream<T: Send + 'static>(items: Vec<Result<T, Error>>) -> Answers<T> {
        let (sender, receiver) = mpsc::channel(items.len().max(1));
        for item in items {
            sender.try_send(item).expect("there is room for all");
        }
        receiver
    }

    /// Job 1: samples. Job 2: `LOG_BYTES` of output. Job 3: nothing, for ever. Job 4: an error after one record.
    fn logs(self: &Arc<Self>, query: &LogQuery) -> Answers<LogBatch> {
        match query.task.job.0 {
            1 => Self::stream(batches().into_iter().map(Ok).collect()),
            4 => Self::stream(vec![
                Ok(batches().remove(0)),
                Err(Error::new(ErrorKind::OutOfRange, "the oldest cursor is 1.1.0.1:77.0")),
            ]),
            job => {
                let (sender, receiver) = mpsc::channel(4);
                let notes = self.clone();
                tokio::spawn(async move {
                    if job == 2 {
                        produce(&notes, &sender).await;
                    }
                    if job == 3 {
                        sender.closed().await;
                    }
                    notes.abandoned.store(true, Ordering::SeqCst);
                });
                receiver
            }
        }
    }

    /// Says the argument vector, then every input again on both outputs, then ends with 7.
    fn exec(self: &Arc<Self>, exec: &ExecSpec) -> ExecSession {
        let (sends, mut input) = mpsc::channel::<ExecInput>(4);
        let (sender, output) = mpsc::channel(4);
        let (first, notes) = (format!("{exec:?}").into_bytes(), self.clone());
        tokio::spawn(async move {
            let echo = async {
                sender.send(Ok(ExecOutput::Stdout(first))).await?;
                while let Some(piece) = input.recv().await {
                    let bytes = match piece {
                        ExecInput::Stdin(bytes) => bytes,
                        ExecInput::Eof => continue,
                        // In its own words, so that a test sees it arrive.
                        other => format!("{other:?}").into_bytes(),
                    };
                    sender.send(Ok(ExecOutput::Stderr(bytes))).await?;
                }
                sender.send(Ok(ExecOutput::Exited(7))).await
            };
            tokio::select! {
                _ = echo => {}
                () = sender.closed() => {}
            }
            notes.abandoned.store(sender.is_closed(), Ordering::SeqCst);
        });
        ExecSession { input: sends, output }
    }
}

pub(super) const LOG_BYTES: usize = 100 * 1024 * 1024;
const RECORD_BYTES: usize = 64 * 1024;

async fn produce(notes: &Notes, sender: &mpsc::Sender<Result<LogBatch, Error>>) {
    for sequence in 0..(LOG_BYTES / RECORD_BYTES) as u64 {
        let bytes = vec![sequence as u8; RECORD_BYTES];
        let content = LogContent::Output { stream: LogStream::Stdout, bytes };
        let record = LogRecord { sequence, time: Timestamp(1), content, cursor: format!("2.2.0.1:{sequence}.0") };
        if sender.send(Ok(LogBatch { records: vec![record], exit: None })).await.is_err() {
            return;
        }
        notes.produced.fetch_add(RECORD_BYTES, Ordering::SeqCst);
    }
}

#[derive(Debug, Default)]
pub(super) struct FakeAgent(pub(super) Arc<Notes>);

#[async_trait]
impl AgentApi for FakeAgent {
    async fn stage(&self, header: CommandHeader, task: TaskSpec) -> Result<TaskStatus, Error> {
        self.0.note("stage", &header.principal, &(&header, task))?;
        Ok(status(1))
    }

    /// A job of this name hangs.
    async fn prepare(&self, header: CommandHeader, task: TaskSpec) -> Result<TaskStatus, Error> {
        self.0.note("prepare", &header.principal, &(&header, &task))?;
        if task.job_name == "hang" {
            self.0.hang().await;
        }
        Ok(status(2))
    }

    async fn launch(
        &self,
        header: CommandHeader,
        id: TaskId,
        env: Vec<(String, String)>,
        secrets: TaskSecrets,
    ) -> Result<TaskStatus, Error> {
        self.0.note("launch", &header.principal, &(&header, id, env, revealed(&secrets)))?;
        Ok(status(3))
    }

    async fn stop(&self, header: CommandHeader, id: TaskId, grace_ms: u64) -> Result<TaskStatus, Error> {
        self.0.note("stop", &header.principal, &(&header, id, grace_ms))?;
        Ok(status(4))
    }

    async fn release(&self, header: CommandHeader, id: TaskId) -> Result<TaskStatus, Error> {
        self.0.note("release", &header.principal, &(&header, id))?;
        Ok(status(5))
    }

    async fn list_tasks(
        &self,
        who: &Principal,
        page_size: u32,
        token: &str,
    ) -> Result<(Vec<TaskStatus>, String), Error> {
        self.0.note("list_tasks", who, &(page_size, token))?;
        Ok((vec![status(1), status(2)], "next".into()))
    }

    /// The name is what nobody may be called if the caller is `nonsense`.
    async fn get_node(&self, who: &Principal) -> Result<NodeInfo, Error> {
        self.0.note("get_node", who, &())?;
        Ok(node_info(if who.user == "nonsense" { "" } else { "node-1" }))
    }

    async fn watch(&self, who: &Principal, cursor: Option<String>) -> Result<Answers<WatchedStatus>, Error> {
        self.0.note("watch", who, &cursor)?;
        let one = |i| Ok(WatchedStatus { status: status(i), cursor: format!("j-1:{i}") });
        Ok(Notes::stream(vec![one(1), one(2)]))
    }

    async fn logs(&self, who: &Principal, query: LogQuery) -> Result<Answers<LogBatch>, Error> {
        self.0.note("logs", who, &query)?;
        Ok(self.0.logs(&query))
    }

    async fn exec(&self, who: &Principal, task: TaskId, exec: ExecSpec) -> Result<ExecSession, Error> {
        self.0.note("exec", who, &(task, &exec))?;
        Ok(self.0.exec(&exec))
    }
}

#[derive(Debug, Default)]
pub(super) struct FakeController(pub(super) Arc<Notes>);

#[async_trait]
impl ControllerApi for FakeController {
    async fn submit(&self, who: &Principal, submit: Submit) -> Result<Submitted, Error> {
        self.0.note("submit", who, &(&submit, &submit.content))?;
        Ok(submitted())
    }

    async fn list_jobs(
        &self,
        who: &Principal,
        filter: JobFilter,
        page_size: u32,
        token: &str,
    ) -> Result<(Vec<JobView>, String), Error> {
        self.0.note("list_jobs", who, &(filter, page_size, token))?;
        Ok((vec![job_view(None)], "next".into()))
    }

    async fn get_job(&self, who: &Principal, job: &str, run: Option<i64>) -> Result<JobView, Error> {
        self.0.note("get_job", who, &(job, run))?;
        Ok(job_view(Some(vec![task_view(); self.0.many_tasks.load(Ordering::SeqCst)])))
    }

    async fn explain_job(&self, who: &Principal, job: &str) -> Result<Explanation, Error> {
        self.0.note("explain_job", who, &job)?;
        Ok(explanation())
    }

    async fn stop_job(&self, who: &Principal, job: &str, grace_ms: Option<u64>) -> Result<JobView, Error> {
        self.0.note("stop_job", who, &(job, grace_ms))?;
        Ok(job_view(None))
    }

    async fn list_nodes(&self, who: &Principal) -> Result<Vec<NodeView>, Error> {
        self.0.note("list_nodes", who, &())?;
        Ok(vec![node_view()])
    }

    async fn describe_node(&self, who: &Principal, node: &str) -> Result<NodeDetail, Error> {
        self.0.note("describe_node", who, &node)?;
        Ok(node_detail())
    }

    async fn change_node(&self, who: &Principal, node: &str, change: NodeChange) -> Result<NodeView, Error> {
        self.0.note("change_node", who, &(node, change))?;
        Ok(node_view())
    }

    async fn list_gpus(&self, who: &Principal, node: Option<&str>) -> Result<Vec<GpuView>, Error> {
        self.0.note("list_gpus", who, &node)?;
        Ok(vec![gpu_view()])
    }

    async fn watch(&self, who: &Principal, filter: EventFilter) -> Result<Answers<Event>, Error> {
        self.0.note("watch", who, &filter)?;
        Ok(Notes::stream(vec![Ok(event())]))
    }

    async fn logs(&self, who: &Principal, query: LogQuery) -> Result<Answers<LogBatch>, Error> {
        self.0.note("logs", who, &query)?;
        Ok(self.0.logs(&query))
    }

    async fn exec(&self, who: &Principal, task: TaskId, exec: ExecSpec) -> Result<ExecSession, Error> {
        self.0.note("exec", who, &(task, &exec))?;
        Ok(self.0.exec(&exec))
    }

    async fn ssh_access(&self, who: &Principal, job: &str) -> Result<SshAccess, Error> {
        self.0.note("ssh_access", who, &job)?;
        Ok(SshAccess::of(7, &SshSeed::new([7; 64])))
    }

    async fn register(&self, who: &Principal, registration: Registration) -> Result<Registered, Error> {
        self.0.note("register", who, &registration)?;
        Ok(Registered { cluster_id: "c-1".into(), term: Term(5), heartbeat_ms: 2000, level: Level(4) })
    }

    async fn heartbeat(&self, who: &Principal, heartbeat: Heartbeat) -> Result<HeartbeatReply, Error> {
        self.0.note("heartbeat", who, &heartbeat)?;
        Ok(HeartbeatReply {
            term: Term(5),
            register_again: true,
            faults_version: 9,
            permit: Some(Permit { fault: FaultId(7), refusal: Some("2 of 10 nodes are out".to_owned()) }),
        })
    }

    async fn report(
        &self,
        who: &Principal,
        node_uid: NodeUid,
        journal_id: JournalId,
        statuses: Vec<SequencedStatus>,
    ) -> Result<u64, Error> {
        self.0.note("report", who, &(node_uid, journal_id, statuses))?;
        Ok(77)
    }
}

/// What a task may know and notes do not show by themselves.
pub fn revealed(secrets: &TaskSecrets) -> (Vec<(String, String)>, Option<String>) {
    let env = secrets.env.iter().map(|(name, value)| (name.clone(), value.reveal().to_owned()));
    (env.collect(), secrets.ssh_seed.as_ref().map(SshSeed::reveal))
}
