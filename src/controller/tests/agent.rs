//! An agent in memory: the real life of a task (`domain::lifecycle`), a machine that obeys at once, and a script of what
//! goes wrong.

use super::NOON;
use crate::api::AgentApi;
use crate::api::agent::{AgentDialer, NodeInfo, WatchedStatus};
use crate::api::stream::{Answers, ExecSession, ExecSpec, LogBatch, LogQuery};
use crate::domain::command::{CommandHeader, Error, ErrorKind, Registered, Registration, SequencedStatus};
use crate::domain::exit::{Exit, ExitClass};
use crate::domain::gpu::{Gpu, Topology};
use crate::domain::ids::{Generation, GpuUuid, JournalId, NodeName, NodeUid, TaskId, Term};
use crate::domain::level::Level;
use crate::domain::lifecycle::{Effect, TaskEvent, TaskRecord, step};
use crate::domain::principal::Principal;
use crate::domain::remediation::{GoingOut, Permit};
use crate::domain::run::Verb;
use crate::domain::secret::{Secret, TaskSecrets};
use crate::domain::ssh::SshSeed;
use crate::domain::task::{Inventory, TaskSpec, TaskState, TaskStatus};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use tokio::sync::watch;

/// What goes wrong on a node, and how its commands behave.
#[derive(Debug, Default)]
pub struct Script {
    /// Commands that are not even looked at until they are taken out of here.
    pub hangs: BTreeSet<Verb>,
    /// Commands that are lost on the way, from now on.
    pub loses: u32,
    /// Commands that are obeyed, but whose answers are lost.
    pub loses_answers_of: BTreeSet<Verb>,
    /// Prepares to veto: something promised is not free.
    pub vetoes: u32,
    /// Ports that are somebody else's: prepares of tasks that were promised any of them are vetoed.
    pub busy_ports: BTreeSet<u16>,
    /// Prepares hold everything and then never come to an end.
    pub stuck_prepare: bool,
    /// Prepares fail by the job's own fault.
    pub user_error: bool,
    /// Stopped tasks go on until the test ends them.
    pub ignores_stop: bool,
    /// How commands end as soon as they are started; none: when the test says so.
    pub exit_at_start: Option<Exit>,
    /// Says nothing to the controller and answers nothing.
    pub silent: bool,
    /// Goes on talking to the controller, and hears nothing of it but answers.
    pub deaf: bool,
    /// Answers everything but questions for its list with this error.
    pub refuses: Option<Error>,
    /// Lists that were asked of it.
    pub lists: u32,
    /// It asks for a permit to take itself out.
    pub going_out: Option<GoingOut>,
    /// Environments are not kept: those of a big gang would take a gigabyte.
    pub forgets_environments: bool,
}

#[derive(Debug, Default)]
pub struct Inner {
    pub script: Script,
    pub tasks: BTreeMap<TaskId, TaskRecord>,
    pub environments: BTreeMap<TaskId, Vec<(String, String)>>,
    /// Seeds that were sent, of the tasks that got one.
    pub ssh_seeds: BTreeMap<TaskId, SshSeed>,
    pub secrets: BTreeMap<TaskId, Vec<(String, Secret)>>,
    /// What it says that it can be asked for.
    pub features: Vec<String>,
    /// How often each task was really started.
    pub launches: BTreeMap<TaskId, u32>,
    /// Every command in the order of arrival.
    pub commands: Vec<(Verb, TaskId, Generation)>,
    /// Promises that came while another task held the same thing.
    pub double: Vec<String>,
    pub registrations: u32,
    /// Told with every heartbeat.
    pub progress: Vec<(TaskId, String)>,
    /// As the last heartbeat's answer had it.
    pub permit: Option<Permit>,
    reports: Vec<SequencedStatus>,
    sequence: u64,
    joined: Option<(String, Term)>,
}

#[derive(Debug)]
pub struct Agent {
    pub name: NodeName,
    pub uid: Mutex<NodeUid>,
    gpus: u32,
    runtime: &'static str,
    task_ip: String,
    inner: Mutex<Inner>,
    changed: watch::Sender<()>,
}

impl Agent {
    pub fn new(name: &str, gpus: u32) -> Arc<Self> {
        Self::made(name, gpus, "process", format!("ip-{name}"))
    }

    /// One that runs tasks in containers.
    pub fn with_containers(name: &str, gpus: u32) -> Arc<Self> {
        Self::made(name, gpus, "docker", format!("ip-{name}"))
    }

    /// One with an address long enough to make a few hundred seats a big plan.
    pub fn with_long_address(name: &str, gpus: u32, bytes: usize) -> Arc<Self> {
        Self::made(name, gpus, "process", format!("{name}-{}", "x".repeat(bytes)))
    }

    fn made(name: &str, gpus: u32, runtime: &'static str, task_ip: String) -> Arc<Self> {
        let uid = Mutex::new(NodeUid(format!("uid-{name}")));
        let (inner, changed) = (Mutex::default(), watch::channel(()).0);
        Arc::new(Self { name: name.into(), uid, gpus, runtime, task_ip, inner, changed })
    }

    pub fn see<T>(&self, look: impl FnOnce(&Inner) -> T) -> T {
        look(&self.inner.lock().unwrap())
    }

    /// A heartbeat was answered.
    pub fn answered(&self, permit: Option<Permit>) {
        self.inner.lock().unwrap().permit = permit;
    }

    /// Changes the agent, which then has something to say.
    pub fn with<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let result = change(&mut self.inner.lock().unwrap());
        self.changed.send_replace(());
        result
    }

    pub fn script(&self, change: impl FnOnce(&mut Script)) {
        self.with(|inner| change(&mut inner.script));
    }

    /// A running command ends.
    pub fn end(&self, task: TaskId, exit: Exit) {
        self.with(|inner| inner.apply(task, TaskEvent::Exited { at: NOON, exit }).expect("facts are not refused"));
    }

    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub fn registration(&self) -> Registration {
        let (cluster_id, term) = self.see(|inner| inner.joined.clone()).unwrap_or_default();
        Registration {
            name: self.name.clone(),
            node_uid: self.uid.lock().unwrap().clone(),
            journal_id: JournalId::from("journal"),
            address: format!("{}:7601", self.name),
            task_ip: self.task_ip.clone(),
            version: "0.1.0".to_owned(),
            inventory: self.inventory(),
            cluster_id,
            term,
            level: Level::own(),
        }
    }

    pub fn joined(&self, registered: Registered) {
        self.with(|inner| {
            inner.registrations += 1;
            inner.joined = Some((registered.cluster_id, registered.term));
        });
    }

    pub fn reports(&self) -> Vec<SequencedStatus> {
        self.see(|inner| inner.reports.clone())
    }

    pub fn acknowledged(&self, sequence: u64) {
        self.inner.lock().unwrap().reports.retain(|report| report.sequence > sequence);
    }

    fn inventory(&self) -> Inventory {
        let gpu = |index| Gpu {
            uuid: GpuUuid(format!("GPU-{}-{index}", self.name)),
            index,
            minor: index,
            model: "NVIDIA H100".to_owned(),
            gpu_type: "H100".to_owned(),
            memory_mb: 81_920,
            pci: format!("00000000:{index:02x}:00.0"),
            numa_node: None,
            mig_parent: None,
            ..Gpu::default()
        };
        Inventory {
            cpus: 10_000,
            memory_mb: 10_000_000,
            gpus: (0..self.gpus).map(gpu).collect(),
            topology: Topology::default(),
            ports: (15000, 29999),
            labels: BTreeMap::new(),
            runtime: self.runtime.to_owned(),
            gpu_driver: Default::default(),
            gpu_conditions: Vec::new(),
            features: self.see(|inner| inner.features.clone()),
        }
    }

    async fn command(
        &self,
        verb: Verb,
        header: &CommandHeader,
        id: TaskId,
        obey: impl FnOnce(&mut Inner) -> Result<TaskStatus, Error> + Send,
    ) -> Result<TaskStatus, Error> {
        let mut changes = self.changes();
        self.with(|inner| inner.commands.push((verb, id, header.generation)));
        let held_up = || self.see(|inner| inner.script.hangs.contains(&verb));
        while held_up() {
            changes.changed().await.expect("the agent is there");
        }
        self.with(|inner| {
            if inner.script.silent || inner.script.deaf {
                return Err(Error::unavailable("the connection was refused"));
            }
            if let Some(error) = &inner.script.refuses {
                return Err(error.clone());
            }
            if inner.script.loses > 0 {
                inner.script.loses -= 1;
                return Err(Error::unavailable("the connection was lost"));
            }
            if inner.joined.as_ref().is_some_and(|(_, term)| header.term < *term) {
                return Err(Error::new(ErrorKind::Stale, "an older term"));
            }
            let result = obey(inner);
            if inner.script.loses_answers_of.contains(&verb) {
                return Err(Error::unavailable("the connection was lost"));
            }
            result
        })
    }
}

impl Inner {
    pub fn apply(&mut self, id: TaskId, event: TaskEvent) -> Result<TaskStatus, Error> {
        let before = self.tasks.get(&id).cloned().unwrap_or_else(|| TaskRecord::unknown(id));
        let (next, effects) = step(&before, event, NOON)?;
        if effects.contains(&Effect::Hold) {
            self.admit(&next)?;
        }
        let generation = next.generation;
        self.tasks.insert(id, next);
        for effect in effects {
            match effect {
                Effect::Stage => self.fact(id, TaskEvent::StageDone { generation, notices: Vec::new() }),
                Effect::Prepare if self.script.stuck_prepare => {}
                Effect::Prepare if self.script.user_error => {
                    let error = "the image has no such user".to_owned();
                    self.fact(
                        id,
                        TaskEvent::PrepareFailed { generation, error, user_error: true, busy_ports: Vec::new() },
                    );
                }
                Effect::Prepare => self.fact(id, TaskEvent::PrepareDone { generation, notices: Vec::new() }),
                Effect::Launch => {
                    *self.launches.entry(id).or_default() += 1;
                    self.fact(id, TaskEvent::Started { at: NOON });
                    if let Some(exit) = self.script.exit_at_start.clone() {
                        self.fact(id, TaskEvent::Exited { at: NOON, exit });
                    }
                }
                Effect::Stop { .. } if self.script.ignores_stop => {}
                Effect::Stop { .. } => {
                    let exit =
                        Exit { signal: Some(15), ..Exit::without_status(ExitClass::Stopped, "it was stopped") };
                    self.fact(id, TaskEvent::Exited { at: NOON, exit });
                }
                Effect::Remove => self.fact(id, TaskEvent::Removed { generation }),
                Effect::Report => self.report(id),
                Effect::Hold | Effect::Unhold | Effect::Cancel => {}
            }
        }
        Ok(self.tasks[&id].status())
    }

    fn fact(&mut self, id: TaskId, event: TaskEvent) {
        self.apply(id, event).expect("facts are not refused");
    }

    fn report(&mut self, id: TaskId) {
        self.sequence += 1;
        self.reports.push(SequencedStatus { sequence: self.sequence, status: self.tasks[&id].status() });
    }

    /// A promise that cannot be kept is a veto, and is remembered: no test here expects one.
    fn admit(&mut self, wanted: &TaskRecord) -> Result<(), Error> {
        let Some(claim) = wanted.claim() else { return Ok(()) };
        let holding = self.tasks.values().filter(|task| task.holding && task.id != wanted.id);
        for (holder, held) in holding.filter_map(|task| Some((task.id, task.claim()?))) {
            let gpu = claim.gpus.iter().any(|gpu| held.gpus.contains(gpu));
            let port = claim.ports.iter().any(|port| held.ports.contains(port));
            if gpu || port {
                let message = format!("task {} was promised what task {holder} holds", wanted.id);
                self.double.push(message.clone());
                return Err(Error::new(ErrorKind::Exhausted, message));
            }
        }
        Ok(())
    }

    /// Holding tasks.
    pub fn holding(&self) -> Vec<TaskId> {
        self.tasks.values().filter(|task| task.holding).map(|task| task.id).collect()
    }

    pub fn count(&self, verb: Verb) -> usize {
        self.commands.iter().filter(|(sent, ..)| *sent == verb).count()
    }
}

fn unscripted<T>() -> Result<T, Error> {
    Err(Error::internal("not scripted"))
}

#[async_trait]
impl AgentApi for Agent {
    async fn stage(&self, header: CommandHeader, task: TaskSpec) -> Result<TaskStatus, Error> {
        let (id, generation) = (task.id, header.generation);
        self.command(Verb::Stage, &header, id, |inner| {
            inner.apply(id, TaskEvent::StageAsked { generation, spec: task })
        })
        .await
    }

    async fn prepare(&self, header: CommandHeader, task: TaskSpec) -> Result<TaskStatus, Error> {
        let (id, generation) = (task.id, header.generation);
        let prepared = self.command(Verb::Prepare, &header, id, |inner| {
            if inner.script.vetoes > 0 {
                inner.script.vetoes -= 1;
                return Err(Error::new(ErrorKind::Exhausted, "a GPU is in use by somebody else"));
            }
            let promised = task.ports.iter().flat_map(|label| label.ports.iter().copied());
            let busy_ports: Vec<u16> = promised.filter(|port| inner.script.busy_ports.contains(port)).collect();
            if let Some(port) = busy_ports.first() {
                let message = format!("port {port} cannot be bound: address already in use");
                return Err(Error { busy_ports, ..Error::new(ErrorKind::Exhausted, message) });
            }
            inner.apply(id, TaskEvent::PrepareAsked { generation, spec: task })
        });
        let status = prepared.await?;
        match status.state {
            TaskState::Preparing => std::future::pending().await,
            // As the agent says it: whose fault it was is in the kind.
            TaskState::Failed => {
                Err(Error::new(ErrorKind::Invalid, status.exit.map_or_else(String::new, |e| e.reason)))
            }
            _ => Ok(status),
        }
    }

    async fn launch(
        &self,
        header: CommandHeader,
        id: TaskId,
        env: Vec<(String, String)>,
        secrets: TaskSecrets,
    ) -> Result<TaskStatus, Error> {
        let generation = header.generation;
        self.command(Verb::Launch, &header, id, |inner| {
            inner.secrets.insert(id, secrets.env);
            inner.ssh_seeds.extend(secrets.ssh_seed.map(|seed| (id, seed)));
            if !inner.script.forgets_environments {
                inner.environments.insert(id, env);
            }
            inner.apply(id, TaskEvent::LaunchAsked { generation })
        })
        .await
    }

    async fn stop(&self, header: CommandHeader, id: TaskId, grace_ms: u64) -> Result<TaskStatus, Error> {
        let generation = header.generation;
        self.command(Verb::Stop, &header, id, |inner| inner.apply(id, TaskEvent::StopAsked { generation, grace_ms }))
            .await
    }

    async fn release(&self, header: CommandHeader, id: TaskId) -> Result<TaskStatus, Error> {
        let generation = header.generation;
        self.command(Verb::Release, &header, id, |inner| inner.apply(id, TaskEvent::ReleaseAsked { generation }))
            .await
    }

    async fn list_tasks(
        &self,
        _: &Principal,
        page_size: u32,
        token: &str,
    ) -> Result<(Vec<TaskStatus>, String), Error> {
        let after: Option<TaskId> = token.parse().ok();
        self.with(|inner| inner.script.lists += 1);
        if self.see(|inner| inner.script.deaf) {
            return Err(Error::unavailable("the connection was refused"));
        }
        self.with(|inner| {
            let mut kept = inner.tasks.values().filter(|task| !task.released && Some(task.id) > after);
            let page: Vec<TaskStatus> = kept.by_ref().take(page_size as usize).map(TaskRecord::status).collect();
            let next =
                page.last().filter(|_| kept.next().is_some()).map_or_else(String::new, |last| last.id.to_string());
            Ok((page, next))
        })
    }

    async fn get_node(&self, _: &Principal) -> Result<NodeInfo, Error> {
        unscripted()
    }

    async fn watch(&self, _: &Principal, _: Option<String>) -> Result<Answers<WatchedStatus>, Error> {
        unscripted()
    }

    async fn logs(&self, _: &Principal, _: LogQuery) -> Result<Answers<LogBatch>, Error> {
        unscripted()
    }

    async fn exec(&self, _: &Principal, _: TaskId, _: ExecSpec) -> Result<ExecSession, Error> {
        unscripted()
    }
}

/// Finds agents by the address they registered.
#[derive(Debug, Default)]
pub struct Dialer {
    agents: Mutex<BTreeMap<String, Arc<Agent>>>,
}

impl Dialer {
    pub fn add(&self, agent: &Arc<Agent>) {
        self.agents.lock().unwrap().insert(agent.registration().address, agent.clone());
    }
}

impl AgentDialer for Dialer {
    fn dial(&self, _node: &NodeName, address: &str) -> Result<Arc<dyn AgentApi>, Error> {
        match self.agents.lock().unwrap().get(address) {
            Some(agent) => Ok(agent.clone()),
            None => Err(Error::unavailable(format!("nobody listens at {address}"))),
        }
    }
}
