//! A machine in memory: tasks that live on while agents come and go, and a runtime that can fail and hang.

use crate::api::stream::{ExecSession, ExecSpec};
use crate::domain::exit::{Exit, ExitClass};
use crate::domain::gpu::Gpu;
use crate::domain::ids::TaskId;
use crate::domain::task::TaskSpec;
use crate::domain::time::Timestamp;
use crate::runtime::{
    Adopted, Launch, Notices, Recorded, Records, Runtime, RuntimeError, RuntimeEvent, RuntimeEventKind,
};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

#[derive(Debug, Clone)]
pub struct Machine {
    state: Arc<Mutex<State>>,
    /// Everything that hangs looks here whether it may go on.
    released: Arc<watch::Sender<u64>>,
}

#[derive(Debug, Default)]
struct State {
    tasks: BTreeMap<TaskId, Adopted>,
    calls: Vec<(&'static str, TaskId)>,
    env: Vec<(TaskId, Vec<(String, String)>)>,
    hangs: BTreeSet<(&'static str, TaskId)>,
    fails: BTreeMap<&'static str, (String, bool)>,
    /// Calls that panic, and how many of them.
    panics: BTreeMap<&'static str, u32>,
    notices: Vec<String>,
    logs: Option<PathBuf>,
    records: Records,
    /// Tasks end like this as soon as they start.
    ends: Option<Exit>,
    /// Ends only when told, also after a stop.
    stubborn: bool,
    leases: Vec<(TaskId, Duration)>,
    processes: BTreeMap<TaskId, i32>,
}

#[derive(Debug)]
pub struct Scripted {
    machine: Machine,
    events: mpsc::Sender<RuntimeEvent>,
}

impl Default for Machine {
    fn default() -> Self {
        Self { state: Arc::default(), released: Arc::new(watch::channel(0).0) }
    }
}

impl Machine {
    pub fn runtime(&self) -> (Arc<Scripted>, mpsc::Receiver<RuntimeEvent>) {
        let (events, receiver) = mpsc::channel(1024);
        (Arc::new(Scripted { machine: self.clone(), events }), receiver)
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap())
    }

    /// The task's own process.
    pub fn set_process(&self, id: TaskId, pid: i32) {
        self.with(|state| state.processes.insert(id, pid));
    }

    pub fn hang(&self, operation: &'static str, id: TaskId) {
        self.with(|state| state.hangs.insert((operation, id)));
    }

    pub fn unhang(&self) {
        self.with(|state| state.hangs.clear());
        self.released.send_modify(|count| *count += 1);
    }

    pub fn fail(&self, operation: &'static str, message: &str, user_error: bool) {
        self.with(|state| state.fails.insert(operation, (message.to_owned(), user_error)));
    }

    pub fn panic(&self, operation: &'static str, times: u32) {
        self.with(|state| state.panics.insert(operation, times));
    }

    /// What staging says.
    pub fn set_notices(&self, notices: Vec<String>) {
        self.with(|state| state.notices = notices);
    }

    pub fn set_logs(&self, dir: PathBuf) {
        self.with(|state| state.logs = Some(dir));
    }

    pub fn set_recorded(&self, found: Vec<Recorded>) {
        self.set_records(Records { found, ..Records::default() });
    }

    pub fn set_records(&self, records: Records) {
        self.with(|state| state.records = records);
    }

    pub fn mend(&self) {
        self.with(|state| state.fails.clear());
    }

    pub fn set_short(&self) {
        self.set_ends(Exit::success());
    }

    pub fn set_ends(&self, exit: Exit) {
        self.with(|state| state.ends = Some(exit));
    }

    pub fn set_stubborn(&self) {
        self.with(|state| state.stubborn = true);
    }

    /// Changes what is there without anybody being told, as while the agent is away.
    pub fn put(&self, id: TaskId, what: Adopted) {
        self.with(|state| state.tasks.insert(id, what));
    }

    pub fn has(&self, id: TaskId) -> bool {
        self.with(|state| state.tasks.contains_key(&id))
    }

    pub fn count(&self, operation: &'static str, id: TaskId) -> usize {
        self.with(|state| state.calls.iter().filter(|call| **call == (operation, id)).count())
    }

    pub fn env_of(&self, id: TaskId) -> Option<Vec<(String, String)>> {
        self.with(|state| state.env.iter().find(|(task, _)| *task == id).map(|(_, env)| env.clone()))
    }

    pub fn leases(&self) -> Vec<(TaskId, Duration)> {
        self.with(|state| state.leases.clone())
    }
}

/// As a program that fails by itself.
pub fn failed() -> Exit {
    Exit { code: Some(1), ..Exit::without_status(ExitClass::User, "the command ended with status 1") }
}

pub fn stopped() -> Exit {
    Exit { signal: Some(15), ..Exit::without_status(ExitClass::Stopped, "stopped by SIGTERM") }
}

impl Scripted {
    async fn call(&self, operation: &'static str, id: TaskId) -> Result<(), RuntimeError> {
        let mut released = self.machine.released.subscribe();
        let (hangs, fails) = self.machine.with(|state| {
            state.calls.push((operation, id));
            (state.hangs.contains(&(operation, id)), state.fails.get(operation).cloned())
        });
        let panics = self.machine.with(|state| match state.panics.get_mut(operation) {
            Some(times) if *times > 0 => {
                *times -= 1;
                true
            }
            _ => false,
        });
        assert!(!panics, "a scripted panic of {operation}");
        if hangs {
            let _ = released.changed().await;
        }
        match fails {
            Some((message, user_error)) => Err(RuntimeError { operation, task: id, message, user_error }),
            None => Ok(()),
        }
    }

    pub async fn tell(&self, id: TaskId, kind: RuntimeEventKind) {
        // The agent may have gone.
        let _ = self.events.send(RuntimeEvent { id, kind }).await;
    }

    async fn end(&self, id: TaskId, exit: Exit) {
        let at = Timestamp(9);
        let told = self.machine.with(|state| match state.tasks.get(&id).cloned() {
            None | Some(Adopted::Ended { .. } | Adopted::Gone) => false,
            Some(alive) => {
                let started_at = if let Adopted::Running { started_at } = alive { Some(started_at) } else { None };
                state.tasks.insert(id, Adopted::Ended { started_at, at, exit: exit.clone() });
                true
            }
        });
        if told {
            self.tell(id, RuntimeEventKind::Exited { at, exit }).await;
        }
    }
}

#[async_trait]
impl Runtime for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }

    async fn stage(&self, task: &TaskSpec) -> Result<Notices, RuntimeError> {
        self.tell(task.id, RuntimeEventKind::Staging { note: "half of it".to_owned() }).await;
        self.call("stage", task.id).await?;
        let more = self.machine.with(|state| state.notices.clone());
        Ok(Notices(std::iter::once("staged".to_owned()).chain(more).collect()))
    }

    async fn prepare(&self, task: &TaskSpec, _gpus: &[Gpu]) -> Result<Notices, RuntimeError> {
        self.call("prepare", task.id).await?;
        self.machine.put(task.id, Adopted::Waiting);
        Ok(Notices::default())
    }

    async fn launch(&self, id: TaskId, launch: &Launch) -> Result<(), RuntimeError> {
        self.call("launch", id).await?;
        let at = Timestamp(5);
        let ends = self.machine.with(|state| {
            state.env.push((id, launch.env.clone()));
            state.tasks.insert(id, Adopted::Running { started_at: at });
            state.ends.clone()
        });
        self.tell(id, RuntimeEventKind::Started { at }).await;
        if let Some(exit) = ends {
            self.end(id, exit).await;
        }
        Ok(())
    }

    async fn stop(&self, id: TaskId, _grace: Duration) -> Result<(), RuntimeError> {
        self.call("stop", id).await?;
        if !self.machine.with(|state| state.stubborn) {
            self.end(id, stopped()).await;
        }
        Ok(())
    }

    async fn remove(&self, id: TaskId) -> Result<(), RuntimeError> {
        self.call("remove", id).await?;
        self.machine.with(|state| state.tasks.remove(&id));
        Ok(())
    }

    async fn adopt(&self, task: &TaskSpec) -> Result<Adopted, RuntimeError> {
        self.call("adopt", task.id).await?;
        Ok(self.machine.with(|state| state.tasks.get(&task.id).cloned().unwrap_or(Adopted::Gone)))
    }

    async fn renew_lease(&self, id: TaskId, sent_boottime: Duration) -> Result<(), RuntimeError> {
        self.call("renew_lease", id).await?;
        self.machine.with(|state| state.leases.push((id, sent_boottime)));
        Ok(())
    }

    async fn exec(&self, id: TaskId, _exec: ExecSpec) -> Result<ExecSession, RuntimeError> {
        self.call("exec", id).await?;
        let (stdin, _) = mpsc::channel(1);
        let (_, output) = mpsc::channel(1);
        Ok(ExecSession { input: stdin, output })
    }

    fn process_of(&self, id: TaskId) -> Option<i32> {
        self.machine.with(|state| state.processes.get(&id).copied())
    }

    fn log_dir(&self, id: TaskId) -> PathBuf {
        let logs = self.machine.with(|state| state.logs.clone());
        logs.unwrap_or_else(|| PathBuf::from("/nonexistent/wharf-agent-test")).join(id.to_string())
    }

    async fn clear_work(&self, id: TaskId) -> Result<(), RuntimeError> {
        self.call("clear_work", id).await
    }

    async fn purge(&self, id: TaskId) -> Result<(), RuntimeError> {
        self.call("purge", id).await
    }

    async fn recorded(&self, _: Duration) -> Result<Records, RuntimeError> {
        Ok(self.machine.with(|state| state.records.clone()))
    }

    async fn list(&self) -> Result<Vec<TaskId>, RuntimeError> {
        Ok(self.machine.with(|state| state.tasks.keys().copied().collect()))
    }
}
