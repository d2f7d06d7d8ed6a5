//! A controller, its store, and agents that keep talking to it: all of it can be killed and started anew.

use super::agent::{Agent, Dialer, Inner, Script};
use super::jobs::submission;
use super::{NOON, PATIENCE, node_agent, user};
use crate::api::ControllerApi;
use crate::controller::core::read;
use crate::controller::{Controller, ControllerParts, ControllerRunning, start};
use crate::domain::command::{Error, Heartbeat};
use crate::domain::ids::{GpuUuid, JobId, JournalId, NodeName, RunId, TaskId};
use crate::domain::retry::HARDWARE_RESTARTS;
use crate::domain::run::{Phase, Run};
use crate::domain::view::JobView;
use crate::scheduler::Policy;
use crate::store::history::EventLog;
use crate::store::sqlite::SqliteStore;
use crate::store::{Range, Store};
use crate::telemetry::clock::ManualClock;
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const LOOK: Duration = Duration::from_millis(2);
/// How often agents say something: also how fast they notice a new controller.
const HEARTBEAT: Duration = Duration::from_millis(20);

pub struct Cluster {
    pub store: Arc<dyn Store>,
    pub history: Arc<EventLog>,
    pub clock: Arc<ManualClock>,
    pub controller: Controller,
    pub agents: Vec<Arc<Agent>>,
    pub keep_ended_jobs: usize,
    pub node_timeout: Duration,
    dialer: Arc<Dialer>,
    running: Option<ControllerRunning>,
    cancel: CancellationToken,
    current: watch::Sender<Controller>,
    links: JoinSet<()>,
    _folder: Arc<tempfile::TempDir>,
}

/// A history that several clusters may share.
pub fn history() -> (Arc<EventLog>, Arc<tempfile::TempDir>) {
    let folder = tempfile::tempdir().unwrap();
    let log = EventLog::open(folder.path().join("events.db"), 10_000).unwrap();
    (Arc::new(log), Arc::new(folder))
}

impl Cluster {
    /// Nodes by name and number of GPUs; all of them have joined.
    pub async fn new(nodes: &[(&str, u32)]) -> Self {
        Self::with(nodes.iter().map(|(name, gpus)| Agent::new(name, *gpus))).await
    }

    /// The same with any agents.
    pub async fn with(agents: impl IntoIterator<Item = Arc<Agent>>) -> Self {
        Self::of(Arc::new(SqliteStore::open_in_memory().unwrap()), history(), agents).await
    }

    pub async fn on(
        store: Arc<dyn Store>,
        history: (Arc<EventLog>, Arc<tempfile::TempDir>),
        nodes: &[(&str, u32)],
    ) -> Self {
        Self::of(store, history, nodes.iter().map(|(name, gpus)| Agent::new(name, *gpus))).await
    }

    /// Any agents, all of which have joined.
    pub async fn of(
        store: Arc<dyn Store>,
        (history, folder): (Arc<EventLog>, Arc<tempfile::TempDir>),
        agents: impl IntoIterator<Item = Arc<Agent>>,
    ) -> Self {
        let (clock, dialer) = (Arc::new(ManualClock::new(NOON)), Arc::new(Dialer::default()));
        let (keep_ended_jobs, node_timeout) = (1000, Duration::from_secs(20));
        let cancel = CancellationToken::new();
        let make = || parts(&store, &history, &dialer, &clock, node_timeout, keep_ended_jobs);
        let (controller, running) = begin(make, &cancel).await;
        let current = watch::channel(controller.clone()).0;
        let mut cluster = Self {
            store,
            history,
            clock,
            controller,
            agents: Vec::new(),
            keep_ended_jobs,
            node_timeout,
            dialer,
            running: Some(running),
            cancel,
            current,
            links: JoinSet::new(),
            _folder: folder,
        };
        agents.into_iter().for_each(|agent| cluster.add(agent));
        let joined = |agent: &Arc<Agent>| agent.see(|inner| inner.registrations > 0);
        cluster.until("every node is there", |c| c.agents.iter().all(|a| joined(a) && c.is_ready(&a.name))).await;
        cluster
    }

    /// Another agent begins to talk.
    pub fn add(&mut self, agent: Arc<Agent>) {
        self.dialer.add(&agent);
        self.agents.push(agent.clone());
        self.links.spawn(talk(agent, self.current.subscribe()));
    }

    pub fn agent(&self, name: &str) -> &Agent {
        self.agents.iter().find(|agent| agent.name.0 == name).expect("there is such a node")
    }

    /// The same for every agent.
    pub fn script(&self, change: impl Fn(&mut Script)) {
        self.agents.iter().for_each(|agent| agent.script(&change));
    }

    /// Ends the controller at once, with whatever it is doing.
    pub async fn kill(&mut self) {
        self.cancel.cancel();
        if let Some(running) = self.running.take() {
            let ended = tokio::time::timeout(PATIENCE, running.join()).await;
            ended.expect("the controller ends in time").expect("nobody took over");
        }
    }

    /// The running controller, which goes on.
    pub fn take_running(&mut self) -> ControllerRunning {
        self.running.take().expect("it runs")
    }

    /// Starts another controller on the same store.
    pub async fn begin(&mut self) {
        self.cancel = CancellationToken::new();
        let make =
            || parts(&self.store, &self.history, &self.dialer, &self.clock, self.node_timeout, self.keep_ended_jobs);
        let (controller, running) = begin(make, &self.cancel).await;
        (self.controller, self.running) = (controller.clone(), Some(running));
        self.current.send_replace(controller);
    }

    /// Why another controller does not start on the same store.
    pub async fn refusal(&self) -> Error {
        let parts =
            parts(&self.store, &self.history, &self.dialer, &self.clock, self.node_timeout, self.keep_ended_jobs);
        start(parts, CancellationToken::new()).await.expect_err("it does not start")
    }

    pub async fn restart(&mut self) {
        self.kill().await;
        self.begin().await;
    }

    pub async fn submit(&self, job: &Value) -> u64 {
        self.controller.submit(&user("ann"), submission(job, "")).await.unwrap().job_id
    }

    pub async fn stop(&self, job: u64) {
        self.controller.stop_job(&user("ann"), &job.to_string(), None).await.unwrap();
    }

    pub async fn job(&self, job: u64) -> JobView {
        self.controller.get_job(&user("ann"), &job.to_string(), None).await.unwrap()
    }

    /// A copy of the newest run, with its tasks.
    pub fn run(&self, job: u64) -> Run {
        let state = read(&self.controller.shared);
        state.runs[&state.jobs[&JobId(job)].newest_run()].clone()
    }

    pub fn phase(&self, job: u64) -> Phase {
        let state = read(&self.controller.shared);
        state.runs[&state.jobs[&JobId(job)].newest_run()].phase
    }

    pub fn is_ready(&self, node: &NodeName) -> bool {
        read(&self.controller.shared).nodes.get(node).is_some_and(|node| node.reachable)
    }

    pub fn state(&self, job: u64) -> &'static str {
        read(&self.controller.shared).jobs.get(&JobId(job)).map_or("", |job| job.state.as_str())
    }

    pub async fn until_phase(&self, job: u64, phase: Phase) {
        self.until(&format!("{phase:?}"), |c| c.phase(job) == phase).await;
    }

    /// Waits for an end, and for everything of the job to be released.
    pub async fn until_ended(&self, job: u64) -> JobView {
        self.until_as_time_passes("the job has ended", |c| c.is_over(job)).await;
        self.job(job).await
    }

    pub fn is_over(&self, job: u64) -> bool {
        let state = read(&self.controller.shared);
        let Some(job) = state.jobs.get(&JobId(job)) else { return false };
        job.state.is_terminal() && job.runs.iter().all(|run| !state.unsettled.contains(run))
    }

    /// Waits; the controller's clock stands still.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Self) -> bool) {
        self.wait(what, Duration::ZERO, wanted).await;
    }

    /// Waits while the controller's clock runs, much faster than real time.
    pub async fn until_as_time_passes(&self, what: &str, wanted: impl Fn(&Self) -> bool) {
        self.wait(what, Duration::from_millis(50), wanted).await;
    }

    async fn wait(&self, what: &str, step: Duration, wanted: impl Fn(&Self) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, async {
            loop {
                let looked = tokio::time::Instant::now();
                if wanted(self) {
                    return;
                }
                self.check();
                self.clock.advance(step);
                // A look at much takes long; the controller shall not wait for that.
                tokio::time::sleep(LOOK.max(looked.elapsed() * 4)).await;
            }
        });
        if waited.await.is_err() {
            let state = read(&self.controller.shared);
            panic!("waited for: {what}; jobs {:#?}, runs {:#?}", state.jobs, state.runs);
        }
        self.check();
    }

    /// Turns of the controller in which nothing that should happen may happen: two ticks at least.
    pub async fn some_ticks(&self) {
        let mut changed = self.controller.changed.clone();
        let start = tokio::time::Instant::now();
        while start.elapsed() < Duration::from_millis(450) {
            changed.changed().await.unwrap();
            self.check();
        }
    }

    /// What must hold at any time: no GPU is promised twice, and no agent was ever asked for what another task holds.
    pub fn check(&self) {
        let state = read(&self.controller.shared);
        let mut seen: HashMap<(&NodeName, &GpuUuid), TaskId> = HashMap::new();
        for run in state.unsettled.iter().filter_map(|id| state.runs.get(id)) {
            let tasks = run.tasks.iter().filter(|task| !task.released);
            let tasks = tasks.map(|task| (run.task_id(task.role, task.index), &task.seat));
            let left = run.leftovers.iter().map(|left| (run.task_id(left.role, left.index), &left.seat));
            for (id, seat) in tasks.chain(left) {
                for gpu in &seat.gpus {
                    let other = seen.insert((&seat.node, gpu), id);
                    assert!(other.is_none(), "{gpu} is promised to {id} and to {other:?}");
                }
            }
        }
        for agent in &self.agents {
            agent.see(|inner| assert!(inner.double.is_empty(), "{}: {:?}", agent.name, inner.double));
        }
    }

    /// Nothing is held or promised anywhere.
    pub async fn check_all_free(&self) {
        for node in self.controller.list_nodes(&user("ann")).await.unwrap() {
            assert_eq!(node.gpus_free, node.gpus_total, "{}", node.name);
        }
        for agent in &self.agents {
            assert_eq!(agent.see(Inner::holding), [], "{}", agent.name);
        }
    }

    /// How often tasks of a run were started, in all.
    pub fn launches(&self, run: RunId) -> Vec<u32> {
        let of = |agent: &Arc<Agent>| {
            agent.see(|inner| {
                let mine = inner.launches.iter().filter(|(id, _)| id.run == run);
                mine.map(|(_, count)| *count).collect::<Vec<_>>()
            })
        };
        self.agents.iter().flat_map(of).collect()
    }

    /// Every running task of a job ends like this.
    pub fn end_tasks(&self, job: u64, exit: &crate::domain::exit::Exit) {
        let run = self.run(job);
        for task in &run.tasks {
            self.agent(&task.seat.node.0).end(run.task_id(task.role, task.index), exit.clone());
        }
    }

    /// Every key that the store has, but for those of the cluster and of nodes.
    pub async fn keys(&self) -> Vec<String> {
        let (entries, _) = self.store.range(Range::prefix("")).await.unwrap();
        let keys = entries.into_iter().map(|entry| entry.key);
        keys.filter(|key| !key.starts_with("meta/") && !key.starts_with("node/")).collect()
    }
}

fn parts(
    store: &Arc<dyn Store>,
    history: &Arc<EventLog>,
    dialer: &Arc<Dialer>,
    clock: &Arc<ManualClock>,
    node_timeout: Duration,
    keep_ended_jobs: usize,
) -> ControllerParts {
    ControllerParts {
        store: store.clone(),
        history: history.clone(),
        dialer: dialer.clone(),
        clock: clock.clone(),
        policy: Policy::default(),
        hardware_restarts: HARDWARE_RESTARTS,
        max_nodes_out_percent: 20,
        default_fs_uri: "hdfs://default:9000".to_owned(),
        heartbeat: HEARTBEAT,
        node_timeout,
        keep_ended_jobs,
        certification: None,
    }
}

/// A store that fails the first commits is asked again, as a supervisor would.
async fn begin(make: impl Fn() -> ControllerParts, cancel: &CancellationToken) -> (Controller, ControllerRunning) {
    for _ in 0..3 {
        if let Ok(started) = start(make(), cancel.clone()).await {
            return started;
        }
    }
    start(make(), cancel.clone()).await.expect("the controller starts")
}

/// What an agent says: who it is, that it lives, and what became of its tasks.
async fn talk(agent: Arc<Agent>, mut current: watch::Receiver<Controller>) {
    let (me, mut registered, mut changes) = (node_agent(&agent.registration().name.0), false, agent.changes());
    loop {
        let controller = current.borrow_and_update().clone();
        if !agent.see(|inner| inner.script.silent) {
            if !registered && let Ok(answer) = controller.register(&me, agent.registration()).await {
                agent.joined(answer);
                registered = true;
            }
            changes.mark_unchanged();
            registered = registered && say(&agent, &controller).await;
        }
        tokio::select! {
            _ = changes.changed() => {}
            _ = current.changed() => {}
            () = tokio::time::sleep(HEARTBEAT) => {}
        }
    }
}

/// Whether the controller knows the agent.
async fn say(agent: &Agent, controller: &Controller) -> bool {
    let me = node_agent(&agent.registration().name.0);
    let (uid, journal) = (agent.uid.lock().unwrap().clone(), JournalId::from("journal"));
    let progress = agent.see(|inner| inner.progress.clone());
    let (node_uid, journal_id) = (uid.clone(), journal.clone());
    let going_out = agent.see(|inner| inner.script.going_out);
    let (samples, faults_version, faults) = (Vec::new(), 0, None);
    let heartbeat = Heartbeat { node_uid, journal_id, samples, progress, faults_version, faults, going_out };
    let known = controller.heartbeat(&me, heartbeat).await.is_ok_and(|reply| {
        agent.answered(reply.permit);
        !reply.register_again
    });
    // It may have fallen silent while it was answered.
    let reports = if agent.see(|inner| inner.script.silent) { Vec::new() } else { agent.reports() };
    if !reports.is_empty()
        && let Ok(sequence) = controller.report(&me, uid, journal, reports).await
    {
        agent.acknowledged(sequence);
    }
    known
}
