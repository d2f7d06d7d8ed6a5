//! The fleet of a schedule: who runs, who is down until when, and what is wrong at present.

use super::clock::FleetClock;
use super::gate::{Disk, DiskFaults, Gate};
use super::machine::Machine;
use super::network::{Agents, Leader, Link, ToController};
use super::plan::{Plan, Step};
use crate::agent::{self, AgentParts, Ports, Tuning};
use crate::api::ControllerApi;
use crate::api::controller::{JobFilter, Submit};
use crate::controller::{self, Controller, ControllerParts};
use crate::domain::command::Error;
use crate::domain::ids::NodeName;
use crate::domain::principal::{Principal, Role};
use crate::domain::view::JobView;
use crate::gpu::sim::SimGpus;
use crate::scheduler::Policy;
use crate::store::history::EventLog;
use crate::store::memory::MemoryStore;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const GPUS: &str = "4xH100";
const HEARTBEAT: Duration = Duration::from_secs(2);
const NODE_TIMEOUT: Duration = Duration::from_secs(10);
/// A supervisor starts what has ended with an error anew.
const START_AGAIN: Duration = Duration::from_millis(500);
/// After the last fault: longer than a lease, a back-off and everything that is tried again.
const TO_SETTLE: Duration = Duration::from_secs(3600);
/// How long jobs go on after that before somebody stops those that would go on for ever.
const TO_END: Duration = Duration::from_secs(300);

/// What undoes a fault.
#[derive(Debug, Clone, Copy)]
enum Undo {
    BeginAgent(usize),
    BeginController,
    Heal { node: usize, to_agent: bool, to_controller: bool },
    AgentDisk(usize),
    ControllerDisk,
    Runtime(usize),
}

pub struct Node {
    pub name: String,
    pub machine: Arc<Machine>,
    link: Arc<Link>,
    store: Arc<MemoryStore>,
    disk: Arc<DiskFaults>,
    process: Option<(Gate, CancellationToken)>,
}

pub struct Fleet {
    seed: u64,
    pub clock: Arc<FleetClock>,
    pub nodes: Vec<Node>,
    pub history: Arc<EventLog>,
    store: Arc<MemoryStore>,
    disk: Arc<DiskFaults>,
    leader: Leader,
    controllers: Vec<(Gate, CancellationToken)>,
    undo: Vec<(Instant, Undo)>,
    submitted: u32,
    /// Jobs that somebody wanted to end.
    pub stopped: BTreeSet<u64>,
    pub faults: u64,
    pub rebooted: bool,
}

pub fn user() -> Principal {
    Principal { user: "ann".to_owned(), uid: None, roles: vec![Role::User] }
}

impl Fleet {
    pub async fn start(seed: u64, nodes: usize) -> Self {
        let clock = Arc::new(FleetClock::new());
        let node = |index: usize| {
            let name = format!("n{index}");
            Node {
                machine: Machine::new(&name, clock.clone()),
                name,
                link: Arc::default(),
                store: Arc::default(),
                disk: Arc::default(),
                process: None,
            }
        };
        let nodes: Vec<Node> = (0..nodes).map(node).collect();
        let mut fleet = Self {
            seed,
            clock,
            nodes,
            history: Arc::new(EventLog::in_memory(1_000_000).expect("memory")),
            store: Arc::default(),
            disk: Arc::default(),
            leader: Arc::new(Mutex::new(None)),
            controllers: Vec::new(),
            undo: Vec::new(),
            submitted: 0,
            stopped: BTreeSet::new(),
            faults: 0,
            rebooted: false,
        };
        fleet.begin_controller().await;
        for index in 0..fleet.nodes.len() {
            fleet.begin_agent(index).await;
        }
        fleet
    }

    pub fn leader(&self) -> Option<Controller> {
        self.leader.lock().expect("nobody panics with it").clone()
    }

    fn set_leader(&self, leader: Option<Controller>) {
        *self.leader.lock().expect("nobody panics with it") = leader;
    }

    async fn begin_controller(&mut self) {
        let (gate, cancel) = (Gate::default(), CancellationToken::new());
        let links = self.nodes.iter().map(|node| (node.name.clone(), node.link.clone())).collect::<BTreeMap<_, _>>();
        let parts = ControllerParts {
            store: Arc::new(Disk { store: self.store.clone(), faults: self.disk.clone(), gate: gate.clone() }),
            history: self.history.clone(),
            dialer: Arc::new(Agents { links, gate: gate.clone() }),
            clock: self.clock.clone(),
            policy: Policy::default(),
            hardware_restarts: 5,
            max_nodes_out_percent: 20,
            default_fs_uri: "hdfs://default:9000".to_owned(),
            heartbeat: HEARTBEAT,
            node_timeout: NODE_TIMEOUT,
            keep_ended_jobs: 10_000,
            certification: None,
        };
        match controller::start(parts, cancel.clone()).await {
            Ok((controller, running)) => {
                self.controllers.push((gate, cancel));
                self.set_leader(Some(controller.clone()));
                let leader = self.leader.clone();
                tokio::spawn(async move {
                    // One that was deposed ends by itself; it leads no more.
                    let _ = running.join().await;
                    let mut leader = leader.lock().expect("nobody panics with it");
                    if leader.as_ref().is_some_and(|now| now.is_same(&controller)) {
                        *leader = None;
                    }
                });
            }
            Err(_) => self.later(START_AGAIN, Undo::BeginController),
        }
    }

    fn kill_controllers(&mut self) {
        self.set_leader(None);
        for (gate, cancel) in self.controllers.drain(..) {
            gate.close();
            cancel.cancel();
        }
    }

    async fn begin_agent(&mut self, index: usize) {
        if self.nodes[index].process.is_some() {
            return;
        }
        let (gate, cancel) = (Gate::default(), CancellationToken::new());
        let parts = self.agent_parts(index, &gate);
        match agent::start(parts, cancel.clone()).await {
            Ok((handle, _running)) => {
                let node = &mut self.nodes[index];
                *node.link.agent.lock().expect("nobody panics with it") = Some(handle);
                node.process = Some((gate, cancel));
            }
            Err(_) => self.later(START_AGAIN, Undo::BeginAgent(index)),
        }
    }

    fn agent_parts(&self, index: usize, gate: &Gate) -> AgentParts {
        let node = &self.nodes[index];
        let (runtime, runtime_events) = node.machine.runtime(gate.clone());
        let controller = ToController { link: node.link.clone(), leader: self.leader.clone(), gate: gate.clone() };
        let gpus =
            SimGpus::new(SimGpus::parse(GPUS).expect("a known model"), &format!("{}-{}", self.seed, node.name));
        AgentParts {
            name: NodeName::from(node.name.as_str()),
            address: node.name.clone(),
            task_ip: format!("ip-{}", node.name),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            labels: BTreeMap::new(),
            cpus: 64,
            memory_mb: 400_000,
            ports: (15_000, 15_400),
            runtime,
            runtime_events,
            gpus: Arc::new(gpus),
            gpu_events: None,
            store: Arc::new(Disk { store: node.store.clone(), faults: node.disk.clone(), gate: gate.clone() }),
            controller: Some(Arc::new(controller)),
            clock: self.clock.clone(),
            tuning: Tuning { ports: Ports::Imagined, ..Tuning::default() },
        }
    }

    fn kill_agent(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        *node.link.agent.lock().expect("nobody panics with it") = None;
        node.machine.orphan();
        if let Some((gate, cancel)) = node.process.take() {
            gate.close();
            cancel.cancel();
        }
    }

    fn later(&mut self, after: Duration, undo: Undo) {
        self.undo.push((Instant::now() + after, undo));
    }

    /// Lets time pass; what is due to be undone is undone.
    async fn pass(&mut self, until: Instant) {
        loop {
            let next =
                self.undo.iter().enumerate().min_by_key(|(_, (at, _))| *at).map(|(place, (at, _))| (place, *at));
            match next.filter(|(_, at)| *at <= until) {
                Some((place, at)) => {
                    tokio::time::sleep_until(at).await;
                    let (_, undo) = self.undo.swap_remove(place);
                    self.mend(undo).await;
                }
                None => return tokio::time::sleep_until(until).await,
            }
        }
    }

    async fn mend(&mut self, undo: Undo) {
        match undo {
            Undo::BeginAgent(index) => self.begin_agent(index).await,
            Undo::BeginController if self.leader().is_none() => self.begin_controller().await,
            Undo::BeginController => {}
            Undo::Heal { node, to_agent, to_controller } => {
                let link = &self.nodes[node].link;
                if to_agent {
                    link.to_agent_cut.store(false, Ordering::Release);
                }
                if to_controller {
                    link.to_controller_cut.store(false, Ordering::Release);
                }
            }
            Undo::AgentDisk(index) => self.nodes[index].disk.full.store(false, Ordering::Release),
            Undo::ControllerDisk => self.disk.full.store(false, Ordering::Release),
            Undo::Runtime(index) => drop(self.nodes[index].machine.hung.send_replace(false)),
        }
    }

    /// The whole schedule, and then everything in order again until nothing is left to do.
    pub async fn run(&mut self, plan: &Plan) -> Result<(), String> {
        for (pause, step) in &plan.0 {
            self.pass(Instant::now() + Duration::from_millis((*pause).into())).await;
            self.faults += u64::from(step.is_fault());
            self.act(*step).await;
        }
        while let Some(last) = self.undo.iter().map(|(at, _)| *at).max() {
            self.pass(last).await;
        }
        self.pass(Instant::now() + TO_END).await;
        self.settle().await
    }

    async fn act(&mut self, step: Step) {
        let ms = |ms: u32| Duration::from_millis(ms.into());
        match step {
            Step::Submit { .. } => self.submit(step).await,
            Step::Stop { job } => self.stop(job).await,
            Step::KillAgent { node, away_ms } => {
                self.kill_agent(node as usize);
                self.later(ms(away_ms), Undo::BeginAgent(node as usize));
            }
            Step::Reboot { node, away_ms } => {
                self.rebooted = true;
                self.kill_agent(node as usize);
                self.nodes[node as usize].machine.reboot();
                self.later(ms(away_ms), Undo::BeginAgent(node as usize));
            }
            Step::KillController { away_ms } => {
                self.kill_controllers();
                self.later(ms(away_ms), Undo::BeginController);
            }
            Step::Depose => self.begin_controller().await,
            Step::Cut { node, to_agent, to_controller, ms: lasts } => {
                let link = &self.nodes[node as usize].link;
                link.to_agent_cut.fetch_or(to_agent, Ordering::AcqRel);
                link.to_controller_cut.fetch_or(to_controller, Ordering::AcqRel);
                self.later(ms(lasts), Undo::Heal { node: node as usize, to_agent, to_controller });
            }
            Step::AgentDiskFull { node, ms: lasts } => {
                self.nodes[node as usize].disk.full.store(true, Ordering::Release);
                self.later(ms(lasts), Undo::AgentDisk(node as usize));
            }
            Step::ControllerDiskFull { ms: lasts } => {
                self.disk.full.store(true, Ordering::Release);
                self.later(ms(lasts), Undo::ControllerDisk);
            }
            Step::ControllerAnswersLost { commits } => self.disk.answers_lost.store(commits, Ordering::Release),
            Step::RuntimeHangs { node, ms: lasts } => {
                self.nodes[node as usize].machine.hung.send_replace(true);
                self.later(ms(lasts), Undo::Runtime(node as usize));
            }
            Step::PreparesFail { node, count } => self.nodes[node as usize].machine.fail_prepares(count),
            Step::ClockJumps { seconds } => self.clock.jump(seconds.into()),
        }
        if self.leader().is_none() && !self.undo.iter().any(|(_, undo)| matches!(undo, Undo::BeginController)) {
            self.later(START_AGAIN, Undo::BeginController);
        }
    }

    async fn submit(&mut self, step: Step) {
        let Step::Submit { gang, gpus, lasts_ms, code, heeds_stop, retries, restarts_when_lost } = step else {
            return;
        };
        self.submitted += 1;
        let command = format!("{lasts_ms} {code} {}", u8::from(heeds_stop));
        let role = json!({
            "name": "worker", "taskNumber": gang, "cpuNumber": 1, "memoryMB": 100, "gpuNumber": gpus, "command": command,
        });
        let lost = if restarts_when_lost { "restart" } else { "wait" };
        let job = json!({
            "jobName": format!("job{}", self.submitted), "image": "registry/image:1", "taskRoles": [role],
            "retryCount": retries, "extras": { "wharf": { "onNodeLost": lost, "leaseSeconds": 300 } },
        });
        let submit = Submit {
            file_name: "job.json".to_owned(),
            content: job.to_string().into_bytes(),
            request_id: format!("request-{}", self.submitted),
            dry_run: false,
        };
        if let Some(controller) = self.leader() {
            // As a client does: an answer that did not come is asked for again, and is the same.
            let first = within(controller.submit(&user(), submit.clone())).await;
            let second = within(controller.submit(&user(), submit)).await;
            if let (Some(first), Some(second)) = (first, second) {
                assert_eq!(first.job_id, second.job_id, "one request made two jobs");
            }
        }
    }

    async fn stop(&mut self, job: u32) {
        let Some(controller) = self.leader() else { return };
        let jobs = self.jobs().await;
        if let Some(job) = jobs.get(job as usize % jobs.len().max(1)) {
            self.stopped.insert(job.job_id);
            within(controller.stop_job(&user(), &job.job_id.to_string(), None)).await;
        }
    }

    async fn stop_all(&mut self) {
        for job in self.jobs().await {
            if let (false, Some(controller)) = (is_over(&job), self.leader()) {
                self.stopped.insert(job.job_id);
                within(controller.stop_job(&user(), &job.job_id.to_string(), None)).await;
            }
        }
    }

    /// All jobs of all times.
    pub async fn jobs(&self) -> Vec<JobView> {
        let Some(controller) = self.leader() else { return Vec::new() };
        let all = JobFilter { all: true, user: None };
        within(controller.list_jobs(&user(), all, 1000, "")).await.map_or_else(Vec::new, |(jobs, _)| jobs)
    }

    /// Waits until every job is over and every node has let go of everything.
    async fn settle(&mut self) -> Result<(), String> {
        let until = Instant::now() + TO_SETTLE;
        loop {
            match self.unsettled().await {
                None => return Ok(()),
                Some(what) if Instant::now() > until => return Err(format!("not settled after an hour: {what}")),
                Some(_) => {}
            }
            if self.leader().is_none() {
                self.begin_controller().await;
            }
            // Somebody who was not answered asks again.
            self.stop_all().await;
            self.pass(Instant::now() + Duration::from_secs(5)).await;
        }
    }

    async fn unsettled(&self) -> Option<String> {
        let Some(controller) = self.leader() else { return Some("nobody leads".to_owned()) };
        if let Some(job) = self.jobs().await.iter().find(|job| !is_over(job)) {
            return Some(format!("job {} is {}: {:?}", job.job_id, job.state, job.reason));
        }
        let Some(nodes) = within(controller.list_nodes(&user())).await else { return Some("no answer".to_owned()) };
        let held = |node: &&crate::domain::view::NodeView| {
            node.gpus_free != node.gpus_total || node.tasks_held > 0 || node.state != "READY"
        };
        if let Some(node) = nodes.iter().find(held) {
            return Some(format!("node {} is {}, {} tasks are on it", node.name, node.state, node.tasks_held));
        }
        let left = |node: &&Node| !node.machine.left().is_empty();
        self.nodes.iter().find(left).map(|node| format!("node {} has {:?} left", node.name, node.machine.left()))
    }

    pub async fn end(&mut self) {
        self.kill_controllers();
        for index in 0..self.nodes.len() {
            self.kill_agent(index);
        }
    }
}

pub fn is_over(job: &JobView) -> bool {
    matches!(job.state.as_str(), "SUCCEEDED" | "FAILED" | "STOPPED")
}

/// A caller's patience.
async fn within<T>(call: impl Future<Output = Result<T, Error>>) -> Option<T> {
    tokio::time::timeout(Duration::from_secs(20), call).await.ok()?.ok()
}
