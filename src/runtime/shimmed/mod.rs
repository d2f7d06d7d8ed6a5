//! What every runtime that puts tasks under a shim shares: the files of a task, following its shim to the end, asking
//! it to launch, to stop and to renew, taking over what an earlier agent process left. How a task is made, and how what
//! its shim leaves is ended, is the business of a [`Kind`].
//!
//! Files: `preparation` brings a task to its barrier, `supervisor` follows the shim (`wanted` and `ending` are its
//! halves), `takeover` finds what an earlier agent left, `records` what it wrote of all, `removal` ends what is left;
//! `layout`, `tree`, `link`, `process_id`, `hierarchy` know files, folders, sockets, pids, control group mounts.

mod clearing;
pub mod clock;
pub mod disks;
mod ending;
pub mod exec;
mod exit;
pub mod hierarchy;
mod kind;
pub mod layout;
pub mod link;
mod outbox;
mod preparation;
pub mod process_id;
mod records;
mod removal;
pub mod secrets;
pub mod supervisor;
mod takeover;
mod task;
mod tree;
mod wanted;

pub use exit::Promised;
pub use kind::{Failure, Kind, Remains, SetUp};
pub use task::Task;

use super::{Adopted, Decision, Launch, Notices, Records, Runtime, RuntimeError, RuntimeEvent};
use crate::api::stream::{ExecSession, ExecSpec};
use crate::domain::gpu::Gpu;
use crate::domain::ids::{Generation, JobId, RunId, TaskId};
use crate::domain::secret::TaskSecrets;
use crate::domain::ssh::{SEED_VARIABLE, SshSeed};
use crate::domain::task::TaskSpec;
use crate::shim::protocol::Slot as ShimSlot;
use crate::shim::spec::Command;
use async_trait::async_trait;
use disks::Disks;
use layout::{Layout, TaskDir};
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use supervisor::{Request, State};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// One segment is written while another can still be read; one message brings all of them to the shim.
const LOG_SEGMENTS: std::ops::RangeInclusive<u32> = 2..=64;
/// Tasks that are made at the same time: each holds the descriptors of its files until its shim has them.
const MAKING: usize = 8;
/// How long a launch waits for a full disk, and looks again; within the agent's limit for it.
const FULL_DISK_DEADLINE: Duration = Duration::from_secs(6);
const FULL_DISK_PAUSE: Duration = Duration::from_millis(100);
/// Commands that may run beside one task.
pub const MAX_EXEC_SESSIONS: usize = 16;

/// No task is at fault, and the error type asks for one.
const NOBODY: TaskId = TaskId { job: JobId(0), run: RunId(0), role: 0, index: 0 };

/// A task's log: a ring of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRing {
    /// Files, 2 to 64: a shim gets all of them in one message.
    pub segments: u32,
    pub segment_bytes: u64,
}

impl Default for LogRing {
    fn default() -> Self {
        Self { segments: 8, segment_bytes: 64 * 1024 * 1024 }
    }
}

impl LogRing {
    /// The log and the exit record of a task, empty, for its shim.
    pub fn create(self, dir: &TaskDir) -> io::Result<Vec<(ShimSlot, File)>> {
        let segments = dir.create_segments(self.segments)?.into_iter();
        let mut files: Vec<_> = segments.map(|file| (ShimSlot::Segment, file)).collect();
        files.push((ShimSlot::Exit, dir.create_exit()?));
        Ok(files)
    }
}

/// The runtime cannot start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("starting the {runtime} runtime: {message}")]
pub struct StartError {
    pub runtime: &'static str,
    pub message: String,
}

/// Runs tasks under shims. Dropping it leaves the tasks running, for the next one to adopt.
#[derive(Debug)]
pub struct Shimmed<K: Kind> {
    core: Arc<Core<K>>,
    _cancel_on_drop: DropGuard,
}

/// What every operation needs.
#[derive(Debug)]
pub struct Core<K: Kind> {
    pub kind: K,
    pub layout: Layout,
    /// The shim's program.
    pub shim: PathBuf,
    pub log: LogRing,
    pub events: mpsc::Sender<RuntimeEvent>,
    pub tracker: TaskTracker,
    pub cancel: CancellationToken,
    pub disks: Disks,
    making: Semaphore,
    /// Whoever reads the records of all tasks: on a disk that hangs, one thread does.
    reading: Arc<tokio::sync::Mutex<()>>,
    tasks: Mutex<HashMap<TaskId, Slot<K>>>,
}

#[derive(Debug)]
enum Slot<K: Kind> {
    /// Being made; `done` changes or closes when that is over, either way.
    Preparing {
        cancel: CancellationToken,
        done: watch::Receiver<()>,
    },
    Live(Arc<Task<K>>),
}

// Derived, it would ask the same of the kind.
impl<K: Kind> Clone for Slot<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Preparing { cancel, done } => Self::Preparing { cancel: cancel.clone(), done: done.clone() },
            Self::Live(task) => Self::Live(task.clone()),
        }
    }
}

impl<K: Kind> Shimmed<K> {
    /// Installs the shim. Blocking, but brief. Events go to `events`.
    pub fn start(
        kind: K,
        layout: Layout,
        log: LogRing,
        events: mpsc::Sender<RuntimeEvent>,
    ) -> Result<Self, StartError> {
        let failed = |message: String| StartError { runtime: K::NAME, message };
        if !LOG_SEGMENTS.contains(&log.segments) {
            let (found, least, most) = (log.segments, LOG_SEGMENTS.start(), LOG_SEGMENTS.end());
            return Err(failed(format!("log_segments: {found} is not allowed; allowed are {least} to {most}")));
        }
        let program = crate::shim::BINARY;
        let shim = layout.install_shim(program, crate::shim::crc::crc32c(program));
        let cancel = CancellationToken::new();
        let core = Core {
            kind,
            layout,
            shim: shim.map_err(|error| failed(error.to_string()))?,
            log,
            events,
            tracker: TaskTracker::new(),
            cancel: cancel.clone(),
            disks: Disks::new(),
            reading: Arc::default(),
            making: Semaphore::new(MAKING),
            tasks: Mutex::default(),
        };
        let core = Arc::new(core);
        K::started(&core);
        Ok(Self { core, _cancel_on_drop: cancel.drop_guard() })
    }

    /// Stops following tasks and waits until nothing of this runtime runs. The tasks themselves go on.
    pub async fn shut_down(self) {
        self.core.cancel.cancel();
        self.core.tracker.close();
        self.core.tracker.wait().await;
    }
}

#[async_trait]
impl<K: Kind> Runtime for Shimmed<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    async fn stage(&self, task: &TaskSpec) -> Result<Notices, RuntimeError> {
        K::stage(&self.core, task).await
    }

    async fn prepare(&self, task: &TaskSpec, gpus: &[Gpu]) -> Result<Notices, RuntimeError> {
        self.prepare_decided(task, gpus, &Decision::default()).await
    }

    async fn prepare_decided(
        &self,
        task: &TaskSpec,
        gpus: &[Gpu],
        decision: &Decision,
    ) -> Result<Notices, RuntimeError> {
        // On its own, so that a caller that gives up leaves no half-made task.
        let reserved = match self.core.reserve(task) {
            Ok(reserved) => reserved,
            Err(answer) => return answer,
        };
        let (core, spec, gpus, decision) = (self.core.clone(), task.clone(), gpus.to_vec(), decision.clone());
        let work = self.core.tracker.spawn(async move { core.prepare(reserved, &spec, &gpus, &decision).await });
        work.await.map_err(|error| platform("prepare", task.id, error))?
    }

    async fn launch(&self, id: TaskId, launch: &Launch) -> Result<(), RuntimeError> {
        let task = self.core.live("launch", id)?;
        if matches!(*task.state.borrow(), State::Running { .. } | State::Ended { .. }) {
            return Ok(());
        }
        let (launch, seed) = without_seed(launch);
        let command = Arc::new(K::command(&task.record, &launch));
        // First, because it waits for a full disk: the files beside it then find room as well.
        let names = launch.secrets.env.iter().map(|(name, _)| name.clone()).collect();
        let mut file = write_when_there_is_room(id, &task.dir, &command, names).await?;
        if !launch.secrets.env.is_empty() {
            let (command, secrets) = (command.clone(), launch.secrets.env.clone());
            file = blocking("launch", id, move || secrets::in_memory(&command, &secrets)).await?;
        }
        task.secrets.set(launch.secrets.env.clone()).ok();
        if let Some(seed) = seed {
            K::arrange_ssh(&task, &launch, &command, seed).await;
        }
        task.ask("launch", |answer| Request::Launch { command: file, answer }).await?;
        K::running(&self.core, &task);
        Ok(())
    }

    async fn stop(&self, id: TaskId, grace: Duration) -> Result<(), RuntimeError> {
        match self.core.find(id) {
            Some(Slot::Live(task)) => task.ask("stop", |answer| Request::Stop { grace, answer }).await,
            Some(Slot::Preparing { cancel, .. }) => {
                cancel.cancel();
                Ok(())
            }
            None => {
                let dir = self.core.layout.task(id);
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
        self.core.remove(id).await
    }

    async fn adopt(&self, task: &TaskSpec) -> Result<Adopted, RuntimeError> {
        self.core.adopt(task.id).await
    }

    async fn adopt_decided(&self, task: &TaskSpec, generation: Generation) -> Result<Adopted, RuntimeError> {
        let adopted = self.core.adopt(task.id).await?;
        if adopted != Adopted::Gone {
            self.core.complete_record(task.id, generation).await;
        }
        Ok(adopted)
    }

    async fn renew_lease(&self, id: TaskId, sent_boottime: Duration) -> Result<(), RuntimeError> {
        let task = self.core.live("renew_lease", id)?;
        let Some(lease_s) = task.record.spec.lease_s else { return Ok(()) };
        let until_boottime = sent_boottime + Duration::from_secs(lease_s.into());
        task.ask("renew_lease", |answer| Request::Renew { until_boottime, answer }).await
    }

    async fn exec(&self, id: TaskId, exec: ExecSpec) -> Result<ExecSession, RuntimeError> {
        let task = self.core.live("exec", id)?;
        if exec.argv.is_empty() {
            return Err(user_error("exec", id, "argv: empty is not allowed: name a command".to_owned()));
        }
        K::exec(&self.core, &task, exec).await
    }

    fn task_of_container(&self, container: &str) -> Option<TaskId> {
        let tasks = self.core.lock();
        let of =
            |slot: &&Slot<K>| matches!(slot, Slot::Live(task) if K::container(&task.record.facts) == Some(container));
        tasks.values().find(of).and_then(|slot| match slot {
            Slot::Live(task) => Some(task.id),
            Slot::Preparing { .. } => None,
        })
    }

    fn process_of(&self, id: TaskId) -> Option<i32> {
        match self.core.lock().get(&id)? {
            Slot::Live(task) => Some(task.shim.pid),
            Slot::Preparing { .. } => None,
        }
    }

    fn log_dir(&self, id: TaskId) -> PathBuf {
        self.core.layout.task(id).dir
    }

    async fn clear_work(&self, id: TaskId) -> Result<(), RuntimeError> {
        if self.core.find(id).is_some() {
            return Err(platform("clear_work", id, "the task has not been removed"));
        }
        let dir = self.core.layout.task(id);
        blocking("clear_work", id, move || dir.clear_work()).await
    }

    async fn purge(&self, id: TaskId) -> Result<(), RuntimeError> {
        if self.core.find(id).is_some() {
            return Err(platform("purge", id, "the task has not been removed"));
        }
        let dir = self.core.layout.task(id);
        blocking("purge", id, move || dir.remove_state()).await
    }

    /// Removed tasks are among them until they are purged: their log is there.
    async fn list(&self) -> Result<Vec<TaskId>, RuntimeError> {
        let layout = self.core.layout.clone();
        let mut found: BTreeSet<TaskId> =
            blocking("list", NOBODY, move || layout.tasks()).await?.into_iter().collect();
        found.extend(self.core.kind.tasks().await.map_err(|error| platform("list", NOBODY, error))?);
        Ok(found.into_iter().collect())
    }

    async fn recorded(&self, limit: Duration) -> Result<Records, RuntimeError> {
        self.core.recorded(limit).await
    }
}

impl<K: Kind> Core<K> {
    fn find(&self, id: TaskId) -> Option<Slot<K>> {
        self.lock().get(&id).cloned()
    }

    fn live(&self, operation: &'static str, id: TaskId) -> Result<Arc<Task<K>>, RuntimeError> {
        match self.find(id) {
            Some(Slot::Live(task)) => Ok(task),
            Some(Slot::Preparing { .. }) => Err(platform(operation, id, "the task is still being prepared")),
            None => Err(platform(operation, id, "no such task has been prepared or adopted")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, Slot<K>>> {
        // No code panics while it holds this; the map is whole either way.
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits a while for a full disk: the rest of a gang may run already, and would end with this task.
async fn write_when_there_is_room(
    id: TaskId,
    dir: &TaskDir,
    command: &Arc<Command>,
    secret_names: Vec<String>,
) -> Result<File, RuntimeError> {
    let end = Instant::now() + FULL_DISK_DEADLINE;
    let is_full =
        |error: &io::Error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    loop {
        let (dir, command, names) = (dir.clone(), command.clone(), secret_names.clone());
        let write = move || match dir.write_secret_names(&names).and_then(|()| dir.write_command(&command)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if is_full(&error) && Instant::now() < end => Ok(None),
            Err(error) => Err(error),
        };
        if let Some(file) = blocking("launch", id, write).await? {
            return Ok(file);
        }
        tokio::time::sleep(FULL_DISK_PAUSE).await;
    }
}

/// What the command gets, and what its job's keys come from, which no command gets. Controllers of the version before
/// send it as a variable.
fn without_seed(launch: &Launch) -> (Launch, Option<SshSeed>) {
    let mut seed = launch.secrets.ssh_seed.clone();
    let (sent, env): (Vec<_>, Vec<_>) = launch.env.iter().cloned().partition(|(name, _)| name == SEED_VARIABLE);
    seed = seed.or_else(|| sent.iter().find_map(|(_, text)| SshSeed::parse(text)));
    let secrets = TaskSecrets { env: launch.secrets.env.clone(), ssh_seed: None };
    (Launch { env, secrets }, seed)
}

/// Runs what waits for the disk or the kernel where it holds up nobody.
pub async fn blocking<T: Send + 'static>(
    operation: &'static str,
    id: TaskId,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, RuntimeError> {
    let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other);
    done.and_then(|result| result).map_err(|error| platform(operation, id, error))
}

pub fn platform(operation: &'static str, task: TaskId, message: impl ToString) -> RuntimeError {
    RuntimeError { operation, task, message: message.to_string(), user_error: false }
}

pub fn user_error(operation: &'static str, task: TaskId, message: String) -> RuntimeError {
    RuntimeError { user_error: true, ..platform(operation, task, message) }
}
