//! Views to show, and a controller that answers from a script, for tests.

use crate::api::ControllerApi;
use crate::api::controller::{EventFilter, JobFilter, Submit};
use crate::api::stream::{Answers, ExecSession, ExecSpec, LogBatch, LogQuery};
use crate::domain::command::*;
use crate::domain::event::Event;
use crate::domain::ids::{JournalId, NodeUid, TaskId};
use crate::domain::node::NodeChange;
use crate::domain::principal::Principal;
use crate::domain::time::Timestamp;
use crate::domain::view::*;
use async_trait::async_trait;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

pub fn job(id: u64) -> JobView {
    JobView {
        job_id: id,
        name: "train".into(),
        user: "alice".into(),
        state: "RUNNING".into(),
        priority: 0,
        chain_id: "0b0e3c1c-0000-4000-8000-000000000000".into(),
        run_id: id,
        submitted_at: Timestamp(1_763_819_350_000_000_000),
        exit: None,
        reason: None,
        runs: Vec::new(),
        tasks: None,
        tasks_running: 0,
        tasks_total: 1,
        gpus_total: 0,
        retries: RetriesView::default(),
        next_run_at: None,
    }
}

pub fn task(job: u64, run: u64, index: u32) -> TaskView {
    TaskView {
        id: format!("{job}.{run}.0.{index}"),
        role: "worker".into(),
        index,
        state: "RUNNING".into(),
        node: Some("n0".into()),
        ip: Some("10.0.0.7".into()),
        ports: BTreeMap::new(),
        gpus: Vec::new(),
        started_at: None,
        ended_at: None,
        exit: None,
        notices: Vec::new(),
        progress: None,
        held_until: None,
    }
}

pub fn with_tasks(mut job: JobView, count: u32) -> JobView {
    job.tasks = Some((0..count).map(|index| task(job.job_id, job.run_id, index)).collect());
    job.tasks_total = count;
    job
}

pub fn with_runs(mut job: JobView, runs: &[u64]) -> JobView {
    let run = |(i, id): (usize, &u64)| RunView {
        run_id: *id,
        attempt: i as u32 + 1,
        state: "FAILED".into(),
        node_count: 1,
        started_at: None,
        ended_at: None,
        exit: None,
    };
    job.runs = runs.iter().enumerate().map(run).collect();
    job.run_id = *runs.last().unwrap();
    job
}

type Batch = Result<LogBatch, Error>;
type Log = (Vec<Batch>, bool);

/// What it is asked for beyond its script is not found.
#[derive(Debug, Clone, Default)]
pub struct Scripted {
    logs: Arc<Mutex<HashMap<TaskId, VecDeque<Log>>>>,
    queries: Arc<Mutex<Vec<LogQuery>>>,
    /// Streams that never end.
    held: Arc<Mutex<Vec<mpsc::Sender<Batch>>>>,
    jobs: Arc<Mutex<HashMap<String, JobView>>>,
    submits: Arc<Mutex<VecDeque<Result<Submitted, Error>>>>,
    submitted: Arc<Mutex<Vec<Submit>>>,
}

impl Scripted {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn shared(&self) -> Arc<dyn ControllerApi> {
        Arc::new(self.clone())
    }

    /// The next stream of a task; with `open` it does not end by itself.
    pub fn log(&self, task: TaskId, batches: Vec<Batch>, open: bool) {
        self.logs.lock().unwrap().entry(task).or_default().push_back((batches, open));
    }

    pub fn queries(&self) -> Vec<LogQuery> {
        self.queries.lock().unwrap().clone()
    }

    pub fn job(&self, job: JobView) {
        self.jobs.lock().unwrap().insert(job.job_id.to_string(), job);
    }

    /// The next answer to a submit.
    pub fn submit_answer(&self, answer: Result<Submitted, Error>) {
        self.submits.lock().unwrap().push_back(answer);
    }

    pub fn submitted(&self) -> Vec<Submit> {
        self.submitted.lock().unwrap().clone()
    }
}

fn unscripted<T>() -> Result<T, Error> {
    Err(Error::not_found("the script does not say"))
}

#[async_trait]
impl ControllerApi for Scripted {
    async fn submit(&self, _: &Principal, submit: Submit) -> Result<Submitted, Error> {
        self.submitted.lock().unwrap().push(submit);
        self.submits.lock().unwrap().pop_front().unwrap_or_else(unscripted)
    }

    async fn list_jobs(&self, _: &Principal, _: JobFilter, _: u32, _: &str) -> Result<(Vec<JobView>, String), Error> {
        unscripted()
    }

    async fn get_job(&self, _: &Principal, job: &str, run: Option<i64>) -> Result<JobView, Error> {
        let Some(mut view) = self.jobs.lock().unwrap().get(job).cloned() else { return unscripted() };
        let shown = run.map_or(view.run_id, |run| run as u64);
        view.tasks = Some(vec![task(view.job_id, shown, 0)]);
        Ok(view)
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

    async fn logs(&self, _: &Principal, query: LogQuery) -> Result<Answers<LogBatch>, Error> {
        let next = self.logs.lock().unwrap().get_mut(&query.task).and_then(VecDeque::pop_front);
        self.queries.lock().unwrap().push(query);
        let Some((batches, open)) = next else { return unscripted() };
        let (sender, answers) = mpsc::channel(batches.len().max(1));
        batches.into_iter().for_each(|batch| sender.try_send(batch).unwrap());
        if open {
            self.held.lock().unwrap().push(sender);
        }
        Ok(answers)
    }

    async fn exec(&self, _: &Principal, _: TaskId, _: ExecSpec) -> Result<ExecSession, Error> {
        unscripted()
    }

    async fn register(&self, _: &Principal, _: Registration) -> Result<Registered, Error> {
        unscripted()
    }

    async fn heartbeat(&self, _: &Principal, _: Heartbeat) -> Result<HeartbeatReply, Error> {
        unscripted()
    }

    async fn report(&self, _: &Principal, _: NodeUid, _: JournalId, _: Vec<SequencedStatus>) -> Result<u64, Error> {
        unscripted()
    }
}
