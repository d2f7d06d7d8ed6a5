//! Runs tasks behind a shim: the trait, and one folder per way of doing it.
//!
//! A runtime keeps no decisions. The agent tells it what to do, in this order for one task:
//! `stage`, `prepare` (everything up to the barrier), `launch`, and `stop` at any time; `remove` at the end.
//! What happens on its own arrives on the event channel that the runtime was built with.

#[cfg(test)]
pub mod contract;
pub mod docker;
pub mod process;
mod rights;
mod shimmed;

pub use shimmed::{LogRing, StartError};

use crate::api::stream::{ExecSession, ExecSpec};
use crate::domain::exit::Exit;
use crate::domain::gpu::Gpu;
use crate::domain::ids::{Generation, TaskId};
use crate::domain::secret::TaskSecrets;
use crate::domain::task::TaskSpec;
use crate::domain::time::Timestamp;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// What a runtime tells the agent without being asked.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimeEvent {
    pub id: TaskId,
    pub kind: RuntimeEventKind,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RuntimeEventKind {
    /// How far staging is, in a line for people; at most a few in a second, and some may be missing.
    Staging { note: String },
    /// The user's command runs.
    Started { at: Timestamp },
    /// It has failed, and its shim keeps the task as it is until then; `why` says so in a sentence. May come again.
    Held { until: Timestamp, why: String },
    /// The command ended, its output is drained to disk and nothing of the task runs any more.
    /// `exit.class` is success, user, platform, or stopped (the stop was ours). A lease that ran out
    /// is the platform's: the job is to be run elsewhere.
    Exited { at: Timestamp, exit: Exit },
}

/// What preparing or adopting found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Notices(pub Vec<String>);

/// On whose word a task is prepared. Containers have it as labels; nothing else depends on it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// Empty: not known.
    pub cluster_id: String,
    pub generation: Generation,
}

/// What is left of a task that an earlier agent process started.
#[derive(Debug, Clone, PartialEq)]
pub enum Adopted {
    /// At its barrier, waiting for launch.
    Waiting,
    Running {
        started_at: Timestamp,
    },
    Ended {
        started_at: Option<Timestamp>,
        at: Timestamp,
        exit: Exit,
    },
    /// Nothing is left, and no record of an end: its class is platform.
    Gone,
}

/// What the records beside a task say of it, for an agent whose own are lost.
#[derive(Debug, Clone, PartialEq)]
pub struct Recorded {
    pub spec: TaskSpec,
    pub generation: Generation,
    /// When its command began, if it did.
    pub started_at: Option<Timestamp>,
    /// It has not been removed.
    pub present: bool,
}

/// What lies beside the tasks of a machine.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Records {
    pub found: Vec<Recorded>,
    /// Tasks whose records are there and could not be read, and why: whether they run is not known.
    pub unread: BTreeMap<TaskId, String>,
}

/// The last word before the user's command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Launch {
    /// The environment of the command, in order; later entries of one name win. `secrets.env` follows.
    pub env: Vec<(String, String)>,
    pub secrets: TaskSecrets,
}

/// Why a runtime refused or failed. `user_error` ends the job; everything else is the platform's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{operation} {task}: {message}")]
pub struct RuntimeError {
    /// `stage`, `prepare`, `launch` ...
    pub operation: &'static str,
    pub task: TaskId,
    pub message: String,
    /// The job asked for something that cannot be: retrying elsewhere would not help.
    pub user_error: bool,
}

/// Runs tasks. Implementations: [`docker`], [`process`].
#[async_trait]
pub trait Runtime: std::fmt::Debug + Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// Fetches what the task needs (images, code). Holds nothing. Idempotent.
    async fn stage(&self, task: &TaskSpec) -> Result<Notices, RuntimeError>;

    /// Creates the task up to its barrier: its shim waits for [`Runtime::launch`]. `gpus` are the devices of
    /// `task.gpus`. Leaves nothing behind on error.
    async fn prepare(&self, task: &TaskSpec, gpus: &[Gpu]) -> Result<Notices, RuntimeError>;

    /// The same, told on whose word. Runtimes that mark what they make for people override it.
    async fn prepare_decided(
        &self,
        task: &TaskSpec,
        gpus: &[Gpu],
        _decision: &Decision,
    ) -> Result<Notices, RuntimeError> {
        self.prepare(task, gpus).await
    }

    /// Says "go". Returns when the shim has the command; `Started` or `Exited` follows as an event. Idempotent.
    async fn launch(&self, id: TaskId, launch: &Launch) -> Result<(), RuntimeError>;

    /// Asks the task to end: SIGTERM to its process group, SIGKILL to all of it after `grace`. Returns when the
    /// shim has been told; `Exited` follows. A task at its barrier ends at once. Idempotent.
    async fn stop(&self, id: TaskId, grace: Duration) -> Result<(), RuntimeError>;

    /// Ends whatever is left of the task and returns once it is really gone. Its log stays until
    /// [`Runtime::purge`]. Idempotent; unknown tasks are gone.
    async fn remove(&self, id: TaskId) -> Result<(), RuntimeError>;

    /// Deletes what a removed task leaves beside its log, such as its working folder. Idempotent. [`Runtime::purge`]
    /// does it too; this is for what need not be kept as long as a log.
    async fn clear_work(&self, id: TaskId) -> Result<(), RuntimeError>;

    /// Takes over what an earlier process of this agent prepared or launched. Later ends arrive as events.
    async fn adopt(&self, task: &TaskSpec) -> Result<Adopted, RuntimeError>;

    /// The same, told for which decision the task was prepared. Runtimes whose records of a task tell that, and may be
    /// from before they did, override it.
    async fn adopt_decided(&self, task: &TaskSpec, _generation: Generation) -> Result<Adopted, RuntimeError> {
        self.adopt(task).await
    }

    /// Renews the lease of a running task, as counted from `sent` on CLOCK_BOOTTIME.
    async fn renew_lease(&self, id: TaskId, sent_boottime: Duration) -> Result<(), RuntimeError>;

    async fn exec(&self, id: TaskId, exec: ExecSpec) -> Result<ExecSession, RuntimeError>;

    /// The task whose command runs in the container of this id. Never waits.
    fn task_of_container(&self, _container: &str) -> Option<TaskId> {
        None
    }

    /// A process of the task's that sees the machine as its command does. Never waits.
    fn process_of(&self, _id: TaskId) -> Option<i32> {
        None
    }

    /// The folder with the task's log segments and exit record; see `logs`.
    fn log_dir(&self, id: TaskId) -> PathBuf;

    /// Deletes the log and records of a removed task.
    async fn purge(&self, id: TaskId) -> Result<(), RuntimeError>;

    /// Tasks that have anything on this machine, journalled or not.
    async fn list(&self) -> Result<Vec<TaskId>, RuntimeError>;

    /// What the tasks' own records say. Asks nobody but this machine's disk; what it has not answered within `limit` is
    /// unread.
    async fn recorded(&self, _limit: Duration) -> Result<Records, RuntimeError> {
        Ok(Records::default())
    }
}

/// The runtime of the tasks in this state directory whose shims may still run: another one must not take them for gone.
/// Blocking.
pub fn unfinished(state_dir: &std::path::Path) -> Option<String> {
    shimmed::layout::unfinished(state_dir)
}
