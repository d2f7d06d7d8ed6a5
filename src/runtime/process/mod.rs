//! Tasks as plain processes under the shim: for machines without Docker, for the demo and for tests.
//! Limits and kills go through control groups where the machine lets us; what is not enforced becomes a notice.
//!
//! Files: `preparation` and `setup` make a task up to its barrier, `supervisor` follows the shim (`wanted` and `ending`
//! are its halves), `takeover` finds what an earlier agent left, `removal` and `leftovers` end what is left; `layout`,
//! `tree`, `link`, `cgroup`, `process_id` know files, folders, sockets, groups, pids.

mod account;
mod cgroup;
mod clearing;
mod clock;
mod ending;
mod environment;
mod exec;
mod exit;
mod layout;
mod leftovers;
mod link;
mod outbox;
mod preparation;
mod process_id;
mod removal;
mod setup;
mod supervisor;
mod takeover;
mod task;
mod tree;
mod wanted;

pub use account::RunAs;

use super::{Adopted, Launch, Notices, Runtime, RuntimeError, RuntimeEvent};
use crate::api::stream::{ExecSession, ExecSpec};
use crate::domain::ids::TaskId;
use crate::domain::task::TaskSpec;
use crate::shim::spec::ResourceLimit;
use async_trait::async_trait;
use cgroup::Cgroups;
use layout::Layout;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use supervisor::{Request, State};
use task::Task;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// One segment is written while another can still be read; one message brings all of them to the shim.
const LOG_SEGMENTS: std::ops::RangeInclusive<u32> = 2..=64;
/// Tasks that are made at the same time: each holds the descriptors of its files until its shim has them.
const MAKING: usize = 8;

/// How this node runs processes.
#[derive(Debug, Clone)]
pub struct ProcessConfig {
    /// Log, records and working directories; other users must be able to pass through it.
    pub state_dir: PathBuf,
    /// Sockets; emptied by a reboot.
    pub run_dir: PathBuf,
    /// Control groups of tasks are made below this, in every hierarchy: `wharf/NODE_UID`.
    pub cgroup_parent: String,
    pub run_as: RunAs,
    /// Files of a task's log ring, 2 to 64: a shim gets all of them in one message.
    pub log_segments: u32,
    pub segment_bytes: u64,
    /// Most processes and threads of one task; 0 is no limit.
    pub pids_limit: u32,
    /// The kernel's preference for killing the command rather than its shim.
    pub oom_score_adj: i32,
    /// Of tasks, where the agent's own are others.
    pub open_files: Option<OpenFiles>,
}

/// How many files a process may have open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    pub soft: u64,
    pub hard: u64,
}

impl OpenFiles {
    fn limit(self) -> ResourceLimit {
        ResourceLimit { resource: libc::RLIMIT_NOFILE, soft: self.soft, hard: self.hard }
    }
}

impl ProcessConfig {
    /// With what is right for most nodes.
    pub fn new(state_dir: impl Into<PathBuf>, run_dir: impl Into<PathBuf>, cgroup_parent: impl Into<String>) -> Self {
        Self {
            state_dir: state_dir.into(),
            run_dir: run_dir.into(),
            cgroup_parent: cgroup_parent.into(),
            run_as: RunAs::AgentUser,
            log_segments: 8,
            segment_bytes: 64 * 1024 * 1024,
            pids_limit: 32_768,
            oom_score_adj: 500,
            open_files: None,
        }
    }
}

/// The runtime cannot start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("starting the process runtime: {0}")]
pub struct StartError(pub String);

/// Runs tasks as processes. Dropping it leaves the tasks running, for the next one to adopt.
#[derive(Debug)]
pub struct ProcessRuntime {
    shared: Arc<Shared>,
    _cancel_on_drop: DropGuard,
}

/// What every operation needs.
#[derive(Debug)]
pub(crate) struct Shared {
    config: ProcessConfig,
    layout: Layout,
    cgroups: Cgroups,
    /// The shim's program.
    shim: PathBuf,
    events: mpsc::Sender<RuntimeEvent>,
    making: Semaphore,
    tasks: Mutex<HashMap<TaskId, Slot>>,
    tracker: TaskTracker,
    cancel: CancellationToken,
}

#[derive(Debug, Clone)]
enum Slot {
    /// Being made; `done` changes or closes when that is over, either way.
    Preparing {
        cancel: CancellationToken,
        done: watch::Receiver<()>,
    },
    Live(Arc<Task>),
}

impl ProcessRuntime {
    /// Makes the folders and installs the shim. Blocking, but brief. Events go to `events`.
    pub fn new(config: ProcessConfig, events: mpsc::Sender<RuntimeEvent>) -> Result<Self, StartError> {
        let cgroups = Cgroups::detect(&config.cgroup_parent);
        Self::with_groups(config, events, cgroups)
    }

    fn with_groups(
        config: ProcessConfig,
        events: mpsc::Sender<RuntimeEvent>,
        cgroups: Cgroups,
    ) -> Result<Self, StartError> {
        if !LOG_SEGMENTS.contains(&config.log_segments) {
            let (found, least, most) = (config.log_segments, LOG_SEGMENTS.start(), LOG_SEGMENTS.end());
            return Err(StartError(format!("log_segments: {found} is not allowed; allowed are {least} to {most}")));
        }
        let start = |error: io::Error| StartError(error.to_string());
        let layout = Layout::create(&config.state_dir, &config.run_dir).map_err(start)?;
        let program = crate::shim::BINARY;
        let shim = layout.install_shim(program, crate::shim::crc::crc32c(program)).map_err(start)?;
        let cancel = CancellationToken::new();
        let shared = Shared {
            config,
            layout,
            cgroups,
            shim,
            events,
            making: Semaphore::new(MAKING),
            tasks: Mutex::default(),
            tracker: TaskTracker::new(),
            cancel: cancel.clone(),
        };
        Ok(Self { shared: Arc::new(shared), _cancel_on_drop: cancel.drop_guard() })
    }

    /// Stops following tasks and waits until nothing of this runtime runs. The tasks themselves go on.
    pub async fn shut_down(self) {
        self.shared.cancel.cancel();
        self.shared.tracker.close();
        self.shared.tracker.wait().await;
    }
}

#[async_trait]
impl Runtime for ProcessRuntime {
    fn name(&self) -> &'static str {
        "process"
    }

    async fn stage(&self, task: &TaskSpec) -> Result<Notices, RuntimeError> {
        // Nothing to fetch: a process sees the node as it is. What cannot be is said as early as possible.
        let (shared, spec) = (self.shared.clone(), task.clone());
        let check = move || {
            let dir = shared.layout.task(spec.id);
            environment::work_dir(&spec.image, &dir.work()).map(|found| found.notice)
        };
        let notice = blocking("stage", task.id, move || Ok(check())).await?;
        let notice = notice.map_err(|message| user_error("stage", task.id, message))?;
        Ok(Notices(notice.into_iter().collect()))
    }

    async fn prepare(&self, task: &TaskSpec) -> Result<Notices, RuntimeError> {
        // On its own, so that a caller that gives up leaves no half-made task.
        let (shared, spec) = (self.shared.clone(), task.clone());
        let work = self.shared.tracker.spawn(async move { shared.prepare(&spec).await });
        work.await.map_err(|error| platform("prepare", task.id, error))?
    }

    async fn launch(&self, id: TaskId, launch: &Launch) -> Result<(), RuntimeError> {
        let task = self.shared.live("launch", id)?;
        let command = task.command(launch);
        let dir = task.dir.clone();
        if matches!(*task.state.borrow(), State::Running { .. } | State::Ended { .. }) {
            return Ok(());
        }
        let command = blocking("launch", id, move || dir.write_command(&command)).await?;
        task.ask("launch", |answer| Request::Launch { command, answer }).await
    }

    async fn stop(&self, id: TaskId, grace: Duration) -> Result<(), RuntimeError> {
        match self.shared.find(id) {
            Some(Slot::Live(task)) => task.ask("stop", |answer| Request::Stop { grace, answer }).await,
            Some(Slot::Preparing { cancel, .. }) => {
                cancel.cancel();
                Ok(())
            }
            None => {
                let dir = self.shared.layout.task(id);
                let lives = move || layout::undamaged(dir.read_shim())?.map_or(Ok(false), |shim| shim.is_alive());
                if blocking("stop", id, lives).await? {
                    return Err(platform(
                        "stop",
                        id,
                        "an earlier agent process started it; it must be adopted first",
                    ));
                }
                Ok(())
            }
        }
    }

    async fn remove(&self, id: TaskId) -> Result<(), RuntimeError> {
        self.shared.remove(id).await
    }

    async fn adopt(&self, task: &TaskSpec) -> Result<Adopted, RuntimeError> {
        self.shared.adopt(task.id).await
    }

    async fn renew_lease(&self, id: TaskId, sent_boottime: Duration) -> Result<(), RuntimeError> {
        let task = self.shared.live("renew_lease", id)?;
        let Some(lease_s) = task.record.spec.lease_s else { return Ok(()) };
        let until_boottime = sent_boottime + Duration::from_secs(lease_s.into());
        task.ask("renew_lease", |answer| Request::Renew { until_boottime, answer }).await
    }

    async fn exec(&self, id: TaskId, exec: ExecSpec) -> Result<ExecSession, RuntimeError> {
        let task = self.shared.live("exec", id)?;
        exec::start(&self.shared, &task, exec).await
    }

    fn log_dir(&self, id: TaskId) -> PathBuf {
        self.shared.layout.task(id).dir
    }

    async fn clear_work(&self, id: TaskId) -> Result<(), RuntimeError> {
        if self.shared.find(id).is_some() {
            return Err(platform("clear_work", id, "the task has not been removed"));
        }
        let dir = self.shared.layout.task(id);
        blocking("clear_work", id, move || dir.clear_work()).await
    }

    async fn purge(&self, id: TaskId) -> Result<(), RuntimeError> {
        if self.shared.find(id).is_some() {
            return Err(platform("purge", id, "the task has not been removed"));
        }
        let dir = self.shared.layout.task(id);
        blocking("purge", id, move || dir.remove_state()).await
    }

    /// Removed tasks are among them until they are purged: their log is there.
    async fn list(&self) -> Result<Vec<TaskId>, RuntimeError> {
        let shared = self.shared.clone();
        // No task is at fault; the error type asks for one.
        let nobody =
            TaskId { job: crate::domain::ids::JobId(0), run: crate::domain::ids::RunId(0), role: 0, index: 0 };
        let found = blocking("list", nobody, move || {
            let mut found: BTreeSet<TaskId> = shared.layout.tasks()?.into_iter().collect();
            found.extend(shared.cgroups.tasks());
            Ok(found)
        });
        Ok(found.await?.into_iter().collect())
    }
}

impl Shared {
    fn find(&self, id: TaskId) -> Option<Slot> {
        self.lock().get(&id).cloned()
    }

    fn live(&self, operation: &'static str, id: TaskId) -> Result<Arc<Task>, RuntimeError> {
        match self.find(id) {
            Some(Slot::Live(task)) => Ok(task),
            Some(Slot::Preparing { .. }) => Err(platform(operation, id, "the task is still being prepared")),
            None => Err(platform(operation, id, "no such task has been prepared or adopted")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, Slot>> {
        // No code panics while it holds this; the map is whole either way.
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn blocking<T: Send + 'static>(
    operation: &'static str,
    id: TaskId,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, RuntimeError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other);
    done.and_then(|result| result).map_err(|error| platform(operation, id, error))
}

fn platform(operation: &'static str, task: TaskId, message: impl ToString) -> RuntimeError {
    RuntimeError { operation, task, message: message.to_string(), user_error: false }
}

fn user_error(operation: &'static str, task: TaskId, message: String) -> RuntimeError {
    RuntimeError { user_error: true, ..platform(operation, task, message) }
}

#[cfg(test)]
mod tests;
